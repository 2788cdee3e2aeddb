//! `/admin/v1/models`.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::wire::{Deleted, edit, etag, if_match, invalid, page_by_name};
use crate::admin::{Admin, AdminError, ModelPatch, NewModel, mark_of_model};
use crate::api::data::ModelView;
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::domain::ids::{InvalidModelId, ModelId};
use crate::models::ModelEntry;

/// Models.
pub(super) struct ModelsApi {
    admin: Arc<Admin>,
}

/// A new model.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct NewModelRequest {
    /// Its id: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or a digit. Also the name of its folder.
    id: String,
    /// Its name for people.
    title: Option<String>,
    /// What it is for.
    description: Option<String>,
}

/// What is to be changed of a model: what is left out stays, `null` removes.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct ModelPatchRequest {
    /// Its name for people.
    #[serde(default)]
    title: MaybeUndefined<String>,
    /// What it is for.
    #[serde(default)]
    description: MaybeUndefined<String>,
}

/// A page of models.
#[derive(Object)]
struct ModelPageView {
    /// In the order of their ids.
    items: Vec<ModelView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum ModelResponse {
    /// The model
    #[oai(status = 200)]
    Is(Json<ModelView>, #[oai(header = "ETag")] String),
    /// Made
    #[oai(status = 201)]
    Made(
        Json<ModelView>,
        #[oai(header = "ETag")] String,
        #[oai(header = "Location")] String,
    ),
}

impl ModelsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/models")]
impl ModelsApi {
    /// All models
    #[oai(path = "/", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<ModelPageView>, ApiError> {
        let (limit, after) = page_by_name::<ModelId>(limit.0, after.0.as_deref())?;
        let (models, more) = self.admin.models(after.as_ref(), limit);
        let last = models.last().filter(|_| more);
        Ok(Json(ModelPageView {
            next: last.map(|model| model.id.to_string()),
            items: models.iter().map(|model| ModelView::of(model)).collect(),
        }))
    }

    /// Make a model that has no version yet
    #[oai(path = "/", method = "post")]
    async fn create(
        &self,
        call: Call<Operator>,
        body: JsonBody<NewModelRequest>,
    ) -> Result<ModelResponse, ApiError> {
        let NewModelRequest {
            id,
            title,
            description,
        } = body.0;
        let new = NewModel {
            id: given_model(&id)?,
            title,
            description,
        };
        let model = self.admin.create_model(&call.actor, new).await?;
        Ok(ModelResponse::Made(
            Json(ModelView::single(&model)),
            etag(mark_of_model(&model)),
            format!("/admin/v1/models/{}", model.id),
        ))
    }

    /// One model, with its labels
    #[oai(path = "/:model", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        model: Path<String>,
    ) -> Result<ModelResponse, ApiError> {
        Ok(is(&*self.admin.model(&model_in_path(&model)?)?))
    }

    /// Change a model's texts, in its `model.toml` (merge patch; `If-Match` where given)
    #[oai(path = "/:model", method = "patch")]
    async fn change(
        &self,
        request: &Request,
        call: Call<Operator>,
        model: Path<String>,
        body: JsonBody<ModelPatchRequest>,
    ) -> Result<ModelResponse, ApiError> {
        let patch = ModelPatch {
            title: edit(body.0.title),
            description: edit(body.0.description),
        };
        let (id, expected) = (model_in_path(&model)?, if_match(request)?);
        let changed = self
            .admin
            .change_model(&call.actor, &id, patch, expected)
            .await?;
        Ok(is(&changed))
    }

    /// Delete a model with its versions, aliases and everything else in its folder
    #[oai(path = "/:model", method = "delete")]
    async fn delete(
        &self,
        request: &Request,
        call: Call<Operator>,
        model: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let (id, expected) = (model_in_path(&model)?, if_match(request)?);
        self.admin.delete_model(&call.actor, &id, expected).await?;
        Ok(Deleted::Gone)
    }
}

fn is(model: &ModelEntry) -> ModelResponse {
    ModelResponse::Is(Json(ModelView::single(model)), etag(mark_of_model(model)))
}

/// The id of a model that is to be: what is none is a mistake.
pub(super) fn given_model(text: &str) -> Result<ModelId, ApiError> {
    text.parse()
        .map_err(|error: InvalidModelId| invalid(format!("the model's id is {text:?}; {error}")))
}

/// The id of a model in a path: what is none names none.
pub(super) fn model_in_path(text: &str) -> Result<ModelId, ApiError> {
    text.parse()
        .map_err(|_| AdminError::NoModel(text.to_owned()).into())
}
