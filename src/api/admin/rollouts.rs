//! `/admin/v1/models/{model}/rollout`.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde_json::Value;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::models::model_in_path;
use super::wire::{etag, if_match};
use crate::admin::{Admin, mark_of_rollout};
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::domain::rollout::{Arm, Rollout};

/// Rollouts.
pub(super) struct RolloutsApi {
    admin: Arc<Admin>,
}

/// How a model's traffic is shared.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct RolloutRuleView {
    /// `latest` (the highest number that is live), `pinned` (one version) or `split` (versions side by side).
    mode: String,
    /// Of `pinned`: the version.
    version: Option<u64>,
    /// Of `split`: the versions and their shares. The first is the baseline: it gets the traffic of an arm that is not live.
    arms: Option<Vec<ArmView>>,
    /// Of `split`: what stays with its arm: `none`, `key` (where left out), `image` or `header:<name>`. A request without the
    /// key or header is assigned by itself.
    sticky_by: Option<String>,
    /// Of `split`: the salt. It is another one, and all are assigned anew, when the arms or `sticky_by` change, and stays when
    /// only weights do. Passed over when it is sent.
    experiment: Option<String>,
}

/// A version and its share.
#[derive(Object)]
struct ArmView {
    /// The version; it must be live when it is sent.
    version: u64,
    /// Its share, as a part of the sum of all.
    weight: f64,
}

#[derive(ApiResponse)]
enum RolloutResponse {
    /// The rollout that is in force
    #[oai(status = 200)]
    Is(Json<RolloutRuleView>, #[oai(header = "ETag")] String),
}

impl RolloutsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/models")]
impl RolloutsApi {
    /// How a model's traffic is shared
    #[oai(path = "/:model/rollout", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        model: Path<String>,
    ) -> Result<RolloutResponse, ApiError> {
        let rollout = self.admin.rollout(&model_in_path(&model)?)?;
        Ok(RolloutResponse::of(&rollout))
    }

    /// Share a model's traffic otherwise (`If-Match` where given); in force at once
    #[oai(path = "/:model/rollout", method = "put")]
    async fn put(
        &self,
        call: Call<Operator>,
        request: &Request,
        model: Path<String>,
        body: JsonBody<Value, RolloutRuleView>,
    ) -> Result<RolloutResponse, ApiError> {
        let id = model_in_path(&model)?;
        let put = self
            .admin
            .put_rollout(&call.actor, &id, &body.0, if_match(request)?);
        Ok(RolloutResponse::of(&put.await?))
    }
}

impl RolloutResponse {
    fn of(rollout: &Rollout) -> Self {
        Self::Is(
            Json(RolloutRuleView::of(rollout)),
            etag(mark_of_rollout(rollout)),
        )
    }
}

impl RolloutRuleView {
    fn of(rollout: &Rollout) -> Self {
        let (version, split) = match rollout {
            Rollout::Latest => (None, None),
            Rollout::Pinned { version } => (Some(version.get()), None),
            Rollout::Split(split) => (None, Some(split)),
        };
        let arm = |arm: &Arm| ArmView {
            version: arm.version.get(),
            weight: arm.weight,
        };
        Self {
            mode: rollout.mode().to_owned(),
            version,
            arms: split.map(|split| split.arms.iter().map(arm).collect()),
            sticky_by: split.map(|split| split.sticky_by.to_string()),
            experiment: split.map(|split| split.experiment.to_string()),
        }
    }
}
