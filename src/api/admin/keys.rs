//! `/admin/v1/keys`.

use std::sync::Arc;
use std::time::Duration;

use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Administrator, Call, Viewer};
use super::wire::{
    Deleted, edit, edit_with, etag, given_time, id, id_in_path, if_match, invalid, page, time,
};
use crate::access::Access;
use crate::admin::{Admin, KeyPatch, NewKey};
use crate::api::json::{JsonBody, OptionalJson};
use crate::api::problem::ApiError;
use crate::domain::api_key::{ApiKey, KeyLimits, LimitMode};
use crate::domain::tenant::TenantId;

/// API keys.
pub(super) struct KeysApi {
    admin: Arc<Admin>,
    access: Arc<Access>,
}

/// A new key. What is left out is not limited.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct NewKeyRequest {
    /// The tenant whose key it is.
    tenant_id: String,
    /// Its name for people, 1 to 200 characters.
    name: String,
    /// `classify`, `feedback`, `read`; all, where left out.
    scopes: Option<Vec<String>>,
    /// The models it may use, `*` for any characters; all, where left out.
    models: Option<Vec<String>>,
    /// Pictures a second in the long run; a batch costs as many as it has.
    requests_per_second: Option<f64>,
    /// Pictures at once after a pause; one second's worth, where left out.
    burst: Option<u32>,
    /// Pictures a day (UTC).
    images_per_day: Option<u64>,
    /// Bytes of one picture, where that is less than the gateway's own limit.
    max_image_bytes: Option<u64>,
    /// `enforce`, or `observe`: what is over a limit is counted and logged, and goes through.
    limit_mode: Option<String>,
    /// When it ends, RFC 3339; never, where left out.
    expires_at: Option<String>,
}

/// What is to be changed of a key: what is left out stays, `null` brings the default back.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct KeyPatchRequest {
    /// Its name for people.
    name: Option<String>,
    /// What it may be used for.
    #[serde(default)]
    scopes: MaybeUndefined<Vec<String>>,
    /// The models it may use.
    #[serde(default)]
    models: MaybeUndefined<Vec<String>>,
    /// Pictures a second in the long run.
    #[serde(default)]
    requests_per_second: MaybeUndefined<f64>,
    /// Pictures at once after a pause.
    #[serde(default)]
    burst: MaybeUndefined<u32>,
    /// Pictures a day (UTC).
    #[serde(default)]
    images_per_day: MaybeUndefined<u64>,
    /// Bytes of one picture.
    #[serde(default)]
    max_image_bytes: MaybeUndefined<u64>,
    /// `enforce` or `observe`.
    #[serde(default)]
    limit_mode: MaybeUndefined<String>,
    /// When it ends, RFC 3339.
    #[serde(default)]
    expires_at: MaybeUndefined<String>,
}

/// How a key is rotated.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    /// Seconds for which the old secret still opens; 0 where left out.
    overlap_s: Option<u64>,
}

/// A key without its secret.
#[derive(Object)]
struct KeyView {
    /// Its id.
    id: String,
    /// The tenant whose key it is.
    tenant_id: String,
    /// Its name for people.
    name: String,
    /// The first characters of the secret; empty for a short one of the settings.
    hint: String,
    /// What it may be used for.
    scopes: Vec<String>,
    /// The models it may use.
    models: Vec<String>,
    /// Pictures a second in the long run.
    requests_per_second: Option<f64>,
    /// Pictures at once after a pause.
    burst: Option<u32>,
    /// Pictures a day (UTC).
    images_per_day: Option<u64>,
    /// Pictures of today (UTC), as this replica knows it.
    images_today: u64,
    /// Bytes of one picture.
    max_image_bytes: Option<u64>,
    /// `enforce` or `observe`.
    limit_mode: String,
    /// When it ends.
    expires_at: Option<String>,
    /// Until when the secret before the last rotation still opens.
    previous_secret_until: Option<String>,
    /// When it was made.
    created_at: String,
    /// When it was last changed.
    updated_at: String,
    /// When it last opened something, to within seconds.
    last_used_at: Option<String>,
}

/// A key with its secret, which is shown this once.
#[derive(Object)]
struct NewKeyView {
    #[oai(flatten)]
    view: KeyView,
    /// The secret. It cannot be shown again.
    secret: String,
}

/// A page of keys.
#[derive(Object)]
struct KeysView {
    /// In the order they were made.
    items: Vec<KeyView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum KeyResponse {
    /// The key
    #[oai(status = 200)]
    Is(Json<KeyView>, #[oai(header = "ETag")] String),
}

#[derive(ApiResponse)]
enum SecretResponse {
    /// Rotated
    #[oai(status = 200)]
    Rotated(Json<NewKeyView>, #[oai(header = "ETag")] String),
    /// Made
    #[oai(status = 201)]
    Made(Json<NewKeyView>, #[oai(header = "ETag")] String),
}

impl KeysApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
            access: Arc::clone(&plane.access),
        }
    }

    fn view(&self, key: &ApiKey) -> KeyView {
        let used = self.access.use_of(key.id);
        KeyView {
            id: key.id.to_string(),
            tenant_id: key.tenant.to_string(),
            name: key.name.clone(),
            hint: key.hint.clone(),
            scopes: key
                .scopes
                .iter()
                .map(|scope| scope.as_str().to_owned())
                .collect(),
            models: key.models.iter().map(ToString::to_string).collect(),
            requests_per_second: key.limits.requests_per_second,
            burst: key.limits.burst,
            images_per_day: key.limits.images_per_day,
            images_today: used.images_today,
            max_image_bytes: key.limits.max_image_bytes,
            limit_mode: key.limits.mode.as_str().to_owned(),
            expires_at: key.expires_at.map(time),
            previous_secret_until: key.previous.map(|(_, until)| time(until)),
            created_at: time(key.created_at),
            updated_at: time(key.updated_at),
            last_used_at: used.last_at.max(key.last_used_at).map(time),
        }
    }

    fn is(&self, key: &ApiKey) -> KeyResponse {
        KeyResponse::Is(Json(self.view(key)), etag(key.version))
    }
}

#[OpenApi(prefix_path = "/admin/v1/keys")]
impl KeysApi {
    /// All keys, or one tenant's, without their secrets
    #[oai(path = "/", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// The keys of this tenant alone.
        tenant_id: Query<Option<String>>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<KeysView>, ApiError> {
        let page = page(limit.0, after.0.as_deref())?;
        let tenant = tenant_id.0.map(|text| id::<TenantId>("tenant_id", &text));
        let listing = self.admin.keys(tenant.transpose()?, page).await?;
        Ok(Json(KeysView {
            items: listing.items.iter().map(|key| self.view(key)).collect(),
            next: listing.next.map(|next| next.to_string()),
        }))
    }

    /// Make a key; its secret is in the answer and nowhere else
    #[oai(path = "/", method = "post")]
    async fn create(
        &self,
        call: Call<Administrator>,
        body: JsonBody<NewKeyRequest>,
    ) -> Result<SecretResponse, ApiError> {
        let new = new_key(body.0)?;
        let (key, secret) = self.admin.create_key(&call.actor, new).await?;
        let view = NewKeyView {
            view: self.view(&key),
            secret,
        };
        Ok(SecretResponse::Made(Json(view), etag(key.version)))
    }

    /// One key, without its secret
    #[oai(path = "/:id", method = "get")]
    async fn get(&self, _call: Call<Viewer>, id: Path<String>) -> Result<KeyResponse, ApiError> {
        let key = self.admin.key(id_in_path(&id, "key")?).await?;
        Ok(self.is(&key))
    }

    /// Change a key (merge patch; `If-Match` where given); its callers keep what they have used
    #[oai(path = "/:id", method = "patch")]
    async fn change(
        &self,
        request: &Request,
        call: Call<Administrator>,
        id: Path<String>,
        body: JsonBody<KeyPatchRequest>,
    ) -> Result<KeyResponse, ApiError> {
        let patch = patch(body.0)?;
        let id = id_in_path(&id, "key")?;
        let changed = self
            .admin
            .change_key(&call.actor, id, patch, if_match(request)?);
        Ok(self.is(&changed.await?))
    }

    /// Revoke a key
    #[oai(path = "/:id", method = "delete")]
    async fn delete(
        &self,
        request: &Request,
        call: Call<Administrator>,
        id: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let id = id_in_path(&id, "key")?;
        let deleted = self.admin.delete_key(&call.actor, id, if_match(request)?);
        deleted.await?;
        Ok(Deleted::Gone)
    }

    /// Give a key a new secret; it is in the answer and nowhere else
    #[oai(path = "/:id/rotate", method = "post")]
    async fn rotate(
        &self,
        request: &Request,
        call: Call<Administrator>,
        id: Path<String>,
        /// Seconds for which the old secret still opens; may also stand in the body.
        overlap_s: Query<Option<u64>>,
        body: OptionalJson<RotateRequest>,
    ) -> Result<SecretResponse, ApiError> {
        let overlap = overlap_s.0.or(body.0.overlap_s).unwrap_or(0);
        let overlap = Duration::from_secs(overlap);
        let id = id_in_path(&id, "key")?;
        let rotated = self
            .admin
            .rotate_key(&call.actor, id, overlap, if_match(request)?);
        let (key, secret) = rotated.await?;
        let view = NewKeyView {
            view: self.view(&key),
            secret,
        };
        Ok(SecretResponse::Rotated(Json(view), etag(key.version)))
    }
}

fn new_key(request: NewKeyRequest) -> Result<NewKey, ApiError> {
    let expires_at = request
        .expires_at
        .map(|text| given_time("expires_at", &text));
    let mode = request.limit_mode.map(|text| limit_mode(&text));
    Ok(NewKey {
        tenant: id("tenant_id", &request.tenant_id)?,
        name: request.name,
        scopes: request.scopes,
        models: request.models,
        limits: KeyLimits {
            requests_per_second: request.requests_per_second,
            burst: request.burst,
            images_per_day: request.images_per_day,
            max_image_bytes: request.max_image_bytes,
            mode: mode.transpose()?.unwrap_or_default(),
        },
        expires_at: expires_at.transpose()?,
    })
}

fn patch(request: KeyPatchRequest) -> Result<KeyPatch, ApiError> {
    Ok(KeyPatch {
        name: request.name,
        scopes: edit(request.scopes),
        models: edit(request.models),
        requests_per_second: edit(request.requests_per_second),
        burst: edit(request.burst),
        images_per_day: edit(request.images_per_day),
        max_image_bytes: edit(request.max_image_bytes),
        limit_mode: edit_with(request.limit_mode, |text| limit_mode(&text))?,
        expires_at: edit_with(request.expires_at, |text| given_time("expires_at", &text))?,
    })
}

fn limit_mode(text: &str) -> Result<LimitMode, ApiError> {
    text.parse()
        .map_err(|error| invalid(format!("`limit_mode` is {text:?}; {error}")))
}
