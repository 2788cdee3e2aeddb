//! `/admin/v1/tenants`.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Administrator, Call, Viewer};
use super::wire::{Deleted, edit, etag, id_in_path, if_match, page, time};
use crate::admin::{Admin, NewTenant, TenantPatch};
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::domain::tenant::Tenant;

/// Tenants.
pub(super) struct TenantsApi {
    admin: Arc<Admin>,
}

/// A new tenant.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct NewTenantRequest {
    /// Its name, 1 to 200 characters; no two tenants have the same.
    name: String,
    /// Where events are sent, and results that nobody waits for: an `http://` or `https://` address of the open internet.
    callback_url: Option<String>,
    /// The kinds of events that are sent there: `prediction.completed` (of asynchronous predictions alone: answers that were
    /// given at once are not sent again), `version.live`, `version.failed` (of models that one of the tenant's keys may use),
    /// `rollout.promoted`, `rollout.rolled_back`. All, where left out.
    events: Option<Vec<String>>,
}

/// What is to be changed of a tenant: what is left out stays, `null` removes.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct TenantPatchRequest {
    /// Its name.
    name: Option<String>,
    /// Where events are sent, and results that nobody waits for: an `http://` or `https://` address of the open internet.
    #[serde(default)]
    callback_url: MaybeUndefined<String>,
    /// The kinds of events that are sent there.
    #[serde(default)]
    events: MaybeUndefined<Vec<String>>,
}

/// A tenant.
#[derive(Object)]
struct TenantView {
    /// Its id.
    id: String,
    /// Its name.
    name: String,
    /// Where events are sent, and results that nobody waits for: an `http://` or `https://` address of the open internet.
    callback_url: Option<String>,
    /// The kinds of events that are sent there; empty for all.
    events: Vec<String>,
    /// When it was made.
    created_at: String,
    /// When it was last changed.
    updated_at: String,
}

/// A page of tenants.
#[derive(Object)]
struct TenantsView {
    /// In the order they were made.
    items: Vec<TenantView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum TenantResponse {
    /// The tenant
    #[oai(status = 200)]
    Is(Json<TenantView>, #[oai(header = "ETag")] String),
    /// Made
    #[oai(status = 201)]
    Made(Json<TenantView>, #[oai(header = "ETag")] String),
}

impl TenantsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/tenants")]
impl TenantsApi {
    /// All tenants
    #[oai(path = "/", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<TenantsView>, ApiError> {
        let page = page(limit.0, after.0.as_deref())?;
        let listing = self.admin.tenants(page).await?;
        Ok(Json(TenantsView {
            items: listing.items.iter().map(TenantView::of).collect(),
            next: listing.next.map(|next| next.to_string()),
        }))
    }

    /// Make a tenant
    #[oai(path = "/", method = "post")]
    async fn create(
        &self,
        call: Call<Administrator>,
        body: JsonBody<NewTenantRequest>,
    ) -> Result<TenantResponse, ApiError> {
        let NewTenantRequest {
            name,
            callback_url,
            events,
        } = body.0;
        let new = NewTenant {
            name,
            callback_url,
            events: events.unwrap_or_default(),
        };
        let tenant = self.admin.create_tenant(&call.actor, new).await?;
        Ok(TenantResponse::Made(
            Json(TenantView::of(&tenant)),
            etag(tenant.version),
        ))
    }

    /// One tenant
    #[oai(path = "/:id", method = "get")]
    async fn get(&self, _call: Call<Viewer>, id: Path<String>) -> Result<TenantResponse, ApiError> {
        let tenant = self.admin.tenant(id_in_path(&id, "tenant")?).await?;
        Ok(is(&tenant))
    }

    /// Change a tenant (merge patch; `If-Match` where given)
    #[oai(path = "/:id", method = "patch")]
    async fn change(
        &self,
        request: &Request,
        call: Call<Administrator>,
        id: Path<String>,
        body: JsonBody<TenantPatchRequest>,
    ) -> Result<TenantResponse, ApiError> {
        let patch = TenantPatch {
            name: body.0.name,
            callback_url: edit(body.0.callback_url),
            events: edit(body.0.events),
        };
        let id = id_in_path(&id, "tenant")?;
        let changed = self
            .admin
            .change_tenant(&call.actor, id, patch, if_match(request)?);
        Ok(is(&changed.await?))
    }

    /// Delete a tenant with its keys and what they have used
    #[oai(path = "/:id", method = "delete")]
    async fn delete(
        &self,
        request: &Request,
        call: Call<Administrator>,
        id: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let id = id_in_path(&id, "tenant")?;
        let deleted = self
            .admin
            .delete_tenant(&call.actor, id, if_match(request)?);
        deleted.await?;
        Ok(Deleted::Gone)
    }
}

fn is(tenant: &Tenant) -> TenantResponse {
    TenantResponse::Is(Json(TenantView::of(tenant)), etag(tenant.version))
}

impl TenantView {
    fn of(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id.to_string(),
            name: tenant.name.clone(),
            callback_url: tenant.callback_url.clone(),
            events: tenant.events.clone(),
            created_at: time(tenant.created_at),
            updated_at: time(tenant.updated_at),
        }
    }
}
