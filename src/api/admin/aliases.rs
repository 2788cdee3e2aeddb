//! `/admin/v1/models/{model}/aliases`.

use std::sync::Arc;

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::models::model_in_path;
use super::wire::{Deleted, invalid, page_by_name};
use crate::admin::{Admin, AdminError};
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::domain::ids::{Alias, InvalidAlias, VersionNumber};

/// Aliases.
pub(super) struct AliasesApi {
    admin: Arc<Admin>,
}

/// What an alias is to name.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct AliasRequest {
    /// A version that is there.
    version: u64,
}

/// An alias.
#[derive(Object)]
struct AliasView {
    /// Its name.
    alias: String,
    /// The version that it names.
    version: u64,
}

/// A page of aliases.
#[derive(Object)]
struct AliasPageView {
    /// In the order of their names.
    items: Vec<AliasView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum AliasResponse {
    /// Moved, or where it was
    #[oai(status = 200)]
    Is(Json<AliasView>),
    /// Made
    #[oai(status = 201)]
    Made(Json<AliasView>),
}

impl AliasesApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/models")]
impl AliasesApi {
    /// A model's aliases
    #[oai(path = "/:model/aliases", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        model: Path<String>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<AliasPageView>, ApiError> {
        let (limit, after) = page_by_name::<Alias>(limit.0, after.0.as_deref())?;
        let id = model_in_path(&model)?;
        let (aliases, more) = self.admin.aliases(&id, after.as_ref(), limit)?;
        let last = aliases.last().filter(|_| more);
        Ok(Json(AliasPageView {
            next: last.map(|(alias, _)| alias.to_string()),
            items: aliases
                .iter()
                .map(|(alias, version)| AliasView::of(alias, *version))
                .collect(),
        }))
    }

    /// Let an alias name a version; in force at once
    #[oai(path = "/:model/aliases/:alias", method = "put")]
    async fn put(
        &self,
        call: Call<Operator>,
        model: Path<String>,
        alias: Path<String>,
        body: JsonBody<AliasRequest>,
    ) -> Result<AliasResponse, ApiError> {
        let id = model_in_path(&model)?;
        let alias: Alias = alias.parse().map_err(|error: InvalidAlias| {
            invalid(format!("the alias is {:?}; {error}", alias.0))
        })?;
        let number = body.0.version;
        let version: VersionNumber = number
            .to_string()
            .parse()
            .map_err(|_| AdminError::NoVersion(id.clone(), number.to_string()))?;
        let before = self
            .admin
            .put_alias(&call.actor, &id, &alias, version)
            .await?;
        let view = Json(AliasView::of(&alias, version));
        Ok(match before {
            Some(_) => AliasResponse::Is(view),
            None => AliasResponse::Made(view),
        })
    }

    /// Delete an alias
    #[oai(path = "/:model/aliases/:alias", method = "delete")]
    async fn delete(
        &self,
        call: Call<Operator>,
        model: Path<String>,
        alias: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let id = model_in_path(&model)?;
        let alias: Alias = alias.parse().map_err(|_| AdminError::NotFound("alias"))?;
        self.admin.delete_alias(&call.actor, &id, &alias).await?;
        Ok(Deleted::Gone)
    }
}

impl AliasView {
    fn of(alias: &Alias, version: VersionNumber) -> Self {
        Self {
            alias: alias.to_string(),
            version: version.get(),
        }
    }
}
