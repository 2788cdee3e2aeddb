//! `/admin/v1/tenants/{id}/callback-secrets`: what signs a tenant's callbacks.

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Administrator, Call, Viewer};
use super::wire::{Deleted, id_in_path, time};
use crate::admin::Admin;
use crate::api::json::OptionalJson;
use crate::api::problem::ApiError;
use crate::domain::callback::CallbackSecret;

/// Secrets of callbacks.
pub(super) struct CallbackSecretsApi {
    admin: Arc<Admin>,
}

/// How long the older secrets go on where the caller does not say: a day.
const USUAL_OVERLAP: u64 = 24 * 3600;

/// Another secret.
#[derive(Object, Deserialize, Default)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct NewCallbackSecretRequest {
    /// Seconds for which the older secrets go on signing beside the new one, up to 90 days; 86400 where left out.
    overlap_s: Option<u64>,
}

/// A secret without what signs.
#[derive(Object)]
struct CallbackSecretView {
    /// Its id.
    id: String,
    /// When it was made.
    created_at: String,
    /// When it ends; `null` for the one in use.
    expires_at: Option<String>,
}

/// A secret, which is shown this once.
#[derive(Object)]
struct NewCallbackSecretView {
    #[oai(flatten)]
    view: CallbackSecretView,
    /// The secret: `whsec_` and base64. It cannot be shown again.
    secret: String,
}

/// The secrets of a tenant.
#[derive(Object)]
struct CallbackSecretsView {
    /// Those that sign now, in the order they were made.
    items: Vec<CallbackSecretView>,
    /// Always `null`: there are few.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum Made {
    /// Made
    #[oai(status = 201)]
    Secret(Json<NewCallbackSecretView>),
}

impl CallbackSecretsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/tenants")]
impl CallbackSecretsApi {
    /// The secrets that sign a tenant's callbacks, without what signs
    #[oai(path = "/:id/callback-secrets", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        id: Path<String>,
    ) -> Result<Json<CallbackSecretsView>, ApiError> {
        let tenant = id_in_path(&id, "tenant")?;
        let secrets = self.admin.callback_secrets(tenant).await?;
        Ok(Json(CallbackSecretsView {
            items: secrets.iter().map(CallbackSecretView::of).collect(),
            next: None,
        }))
    }

    /// Make another secret; it is in the answer and nowhere else, and signs from now on
    #[oai(path = "/:id/callback-secrets", method = "post")]
    async fn create(
        &self,
        call: Call<Administrator>,
        id: Path<String>,
        body: OptionalJson<NewCallbackSecretRequest>,
    ) -> Result<Made, ApiError> {
        let tenant = id_in_path(&id, "tenant")?;
        let overlap = Duration::from_secs(body.0.overlap_s.unwrap_or(USUAL_OVERLAP));
        let made = self
            .admin
            .create_callback_secret(&call.actor, tenant, overlap);
        let made = made.await?;
        Ok(Made::Secret(Json(NewCallbackSecretView {
            view: CallbackSecretView::of(&made),
            secret: made.secret,
        })))
    }

    /// Delete a secret: it signs nothing from now on
    #[oai(path = "/:id/callback-secrets/:secret_id", method = "delete")]
    async fn delete(
        &self,
        call: Call<Administrator>,
        id: Path<String>,
        secret_id: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let tenant = id_in_path(&id, "tenant")?;
        let secret = id_in_path(&secret_id, "callback secret")?;
        let deleted = self
            .admin
            .delete_callback_secret(&call.actor, tenant, secret);
        deleted.await?;
        Ok(Deleted::Gone)
    }
}

impl CallbackSecretView {
    fn of(secret: &CallbackSecret) -> Self {
        Self {
            id: secret.id.to_string(),
            created_at: time(secret.created_at),
            expires_at: secret.expires_at.map(time),
        }
    }
}
