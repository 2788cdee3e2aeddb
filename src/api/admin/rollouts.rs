//! `/admin/v1/models/{model}/rollout`.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;
use serde_json::Value;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::models::model_in_path;
use super::wire::{etag, if_match, time};
use crate::admin::{Admin, Standing, mark_of_rollout};
use crate::api::json::{JsonBody, OptionalJson};
use crate::api::problem::ApiError;
use crate::domain::error::ErrorKind;
use crate::domain::ids::ModelId;
use crate::domain::rollout::{Arm, ArmFigures, Canary, Order, Rollout, Rule};

/// Rollouts.
pub(super) struct RolloutsApi {
    admin: Arc<Admin>,
}

/// How a model's traffic is shared. What is said to be only shown is passed over when it is sent.
#[derive(Default, Object)]
#[oai(skip_serializing_if_is_none)]
struct RolloutRuleView {
    /// `latest` (the highest number that is live), `pinned` (one version), `split` (versions side by side) or `canary` (a
    /// candidate that gets more and more of a baseline's traffic by itself, or is taken back).
    mode: String,
    /// Of `pinned`: the version.
    version: Option<u64>,
    /// Of `split`: the versions and their shares. The first is the baseline: it gets the traffic of an arm that is not live.
    arms: Option<Vec<ArmView>>,
    /// Of `canary`: the version that serves who does not get the candidate.
    baseline: Option<u64>,
    /// Of `canary`: the version that is tried.
    candidate: Option<u64>,
    /// Of `canary`: the candidate's shares in percent, rising; `[1, 10, 50, 100]` where left out. After the last it is promoted.
    steps: Option<Vec<f64>>,
    /// Of `canary`: answers of the candidate, over all replicas, after which a step is over if the guards hold; 500 where left
    /// out.
    step_requests: Option<u64>,
    /// Of `canary`: what has to hold; an error rate of 0.01 where left out.
    guards: Option<GuardsView>,
    /// Of `canary`: the part of the candidate's pictures that also runs on the baseline, to compare the answers; 0.1 where left
    /// out.
    agreement_sample: Option<f64>,
    /// Of `canary`: aliases that name the candidate once it is promoted.
    promote_aliases: Option<Vec<String>>,
    /// Of `split` and `canary`: what stays with its arm: `none`, `key` (where left out), `image` or `header:<name>`. A request
    /// without the key or header is assigned by itself.
    sticky_by: Option<String>,
    /// A version that also runs on a sample of the pictures; nobody waits for it.
    shadow: Option<ShadowView>,
    /// Of `split` and `canary`, only shown: the salt. It is another one, and all are assigned anew, when the arms or `sticky_by`
    /// change, and stays when only weights or steps do.
    experiment: Option<String>,
    /// Of `canary`, only shown: `running`, `paused` (it does not move on, but still rolls back), `promoted` or `rolled_back`.
    state: Option<String>,
    /// Of `canary`, only shown: the step that it is at, or ended at, from 0.
    step: Option<u64>,
    /// Of `canary`, only shown: the candidate's share now, in percent.
    share: Option<f64>,
    /// Of `canary`, only shown: when it began.
    begun_at: Option<String>,
    /// Of `canary`, only shown: since when it is where it is.
    since: Option<String>,
    /// Of `canary`, only shown: why it is where it is.
    reason: Option<String>,
    /// Of `canary`, only shown: what its arms did at its step until now, over all replicas; left out while the database is away.
    figures: Option<CanaryFiguresView>,
    /// Of `canary`, only shown: what it waits for.
    waits_for: Option<Vec<String>>,
}

/// What a candidate has to hold. What is left out is not looked at.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct GuardsView {
    /// The most errors (5xx) of its requests at the step, from 0 to 1.
    max_error_rate: Option<f64>,
    /// How much longer than the baseline's 95th percentile its own may be; answers from the cache do not count.
    max_p95_ratio: Option<f64>,
    /// How often at least it names the baseline's class, from 0 to 1.
    min_agreement: Option<f64>,
    /// How often at least it is right where there is feedback, from 0 to 1.
    min_accuracy: Option<f64>,
    /// How much less often than the baseline it may be right where there is feedback, from 0 to 1.
    max_accuracy_drop: Option<f64>,
}

/// A version that also runs.
#[derive(Object)]
struct ShadowView {
    /// The version; it must be live when it is sent.
    version: u64,
    /// The part of the pictures, from 0 to 1; 0.1 where left out.
    sample: f64,
}

/// What a canary's arms did at its step.
#[derive(Object)]
struct CanaryFiguresView {
    /// What the baseline did.
    baseline: ArmFiguresView,
    /// What the candidate did.
    candidate: ArmFiguresView,
}

/// What an arm did.
#[derive(Object)]
struct ArmFiguresView {
    /// Pictures that it answered.
    answers: u64,
    /// Pictures that it failed to answer (5xx).
    errors: u64,
    /// The 95th percentile of the answers' time in the engine, in milliseconds, up to 9 % too high; those from the cache left
    /// out.
    p95_ms: Option<f64>,
    /// Answers that the baseline was asked for, too.
    compared: u64,
    /// Of these, those with the same class.
    agreed: u64,
    /// Answers since the canary's beginning whose true label is known.
    labels: u64,
    /// Of these, those that are right.
    correct: u64,
}

/// An order to a canary.
#[derive(Deserialize, Object)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct CanaryOrder {
    /// Why; it is kept with the canary and in the audit.
    reason: Option<String>,
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
        let id = model_in_path(&model)?;
        let rollout = self.admin.rollout(&id)?;
        Ok(self.answer(&id, &rollout).await)
    }

    /// Share a model's traffic otherwise (`If-Match` where given); in force at once. A canary begins at its first step
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
        let rollout = put.await?;
        Ok(self.answer(&id, &rollout).await)
    }

    /// Give a canary's candidate all the traffic now
    #[oai(path = "/:model/rollout/promote", method = "post")]
    async fn promote(
        &self,
        call: Call<Operator>,
        request: &Request,
        model: Path<String>,
        body: OptionalJson<CanaryOrder>,
    ) -> Result<RolloutResponse, ApiError> {
        self.order(&call, request, &model, (Order::Promote, body))
            .await
    }

    /// Give a canary's baseline all the traffic now
    #[oai(path = "/:model/rollout/rollback", method = "post")]
    async fn rollback(
        &self,
        call: Call<Operator>,
        request: &Request,
        model: Path<String>,
        body: OptionalJson<CanaryOrder>,
    ) -> Result<RolloutResponse, ApiError> {
        self.order(&call, request, &model, (Order::RollBack, body))
            .await
    }

    /// Keep a canary where it is; it still rolls back by itself
    #[oai(path = "/:model/rollout/pause", method = "post")]
    async fn pause(
        &self,
        call: Call<Operator>,
        request: &Request,
        model: Path<String>,
        body: OptionalJson<CanaryOrder>,
    ) -> Result<RolloutResponse, ApiError> {
        self.order(&call, request, &model, (Order::Pause, body))
            .await
    }

    /// Let a paused canary move on
    #[oai(path = "/:model/rollout/resume", method = "post")]
    async fn resume(
        &self,
        call: Call<Operator>,
        request: &Request,
        model: Path<String>,
        body: OptionalJson<CanaryOrder>,
    ) -> Result<RolloutResponse, ApiError> {
        self.order(&call, request, &model, (Order::Resume, body))
            .await
    }
}

impl RolloutsApi {
    async fn order(
        &self,
        call: &Call<Operator>,
        request: &Request,
        model: &Path<String>,
        (order, body): (Order, OptionalJson<CanaryOrder>),
    ) -> Result<RolloutResponse, ApiError> {
        let id = model_in_path(model)?;
        let reason = body.0.reason;
        if reason.as_ref().is_some_and(|reason| {
            reason.trim().is_empty() || reason.len() > LONGEST_REASON || reason.contains('\0')
        }) {
            let detail =
                format!("`reason` must have 1 to {LONGEST_REASON} bytes, none of them NUL");
            return Err(ApiError::new(ErrorKind::BadRequest, detail));
        }
        let how = (reason, if_match(request)?);
        let rollout = self.admin.order(&call.actor, &id, order, how).await?;
        Ok(self.answer(&id, &rollout).await)
    }

    async fn answer(&self, id: &ModelId, rollout: &Rollout) -> RolloutResponse {
        let mut view = RolloutRuleView::of(rollout);
        if let Some(canary) = rollout.canary() {
            let standing = self.admin.standing(id, canary).await.ok();
            view.figures = standing.as_ref().map(CanaryFiguresView::of);
            let waits_for = standing.map(|standing| standing.waits_for);
            view.waits_for = waits_for.filter(|_| canary.is_open());
        }
        RolloutResponse::Is(Json(view), etag(mark_of_rollout(rollout)))
    }
}

/// Bytes of the longest reason for an order.
const LONGEST_REASON: usize = 1000;

impl RolloutRuleView {
    fn of(rollout: &Rollout) -> Self {
        let shadow = rollout.shadow.map(|shadow| ShadowView {
            version: shadow.version.get(),
            sample: shadow.sample,
        });
        let common = Self {
            mode: rollout.mode().to_owned(),
            shadow,
            sticky_by: rollout.sticky_by().map(ToString::to_string),
            ..Self::default()
        };
        match &rollout.rule {
            Rule::Latest => common,
            Rule::Pinned { version } => Self {
                version: Some(version.get()),
                ..common
            },
            Rule::Split(split) => Self {
                arms: Some(split.arms.iter().map(ArmView::of).collect()),
                experiment: Some(split.experiment.to_string()),
                ..common
            },
            Rule::Canary(canary) => Self::of_canary(canary, common),
        }
    }

    fn of_canary(canary: &Canary, common: Self) -> Self {
        let guards = &canary.guards;
        let aliases = canary.promote_aliases.iter();
        Self {
            baseline: Some(canary.baseline.get()),
            candidate: Some(canary.candidate.get()),
            steps: Some(canary.steps.clone()),
            step_requests: Some(canary.step_requests),
            guards: Some(GuardsView {
                max_error_rate: guards.max_error_rate,
                max_p95_ratio: guards.max_p95_ratio,
                min_agreement: guards.min_agreement,
                min_accuracy: guards.min_accuracy,
                max_accuracy_drop: guards.max_accuracy_drop,
            }),
            agreement_sample: Some(canary.agreement_sample),
            promote_aliases: Some(aliases.map(ToString::to_string).collect()),
            experiment: Some(canary.experiment.to_string()),
            state: Some(canary.stage.state.as_str().to_owned()),
            step: Some(canary.step()),
            share: Some(canary.share()),
            begun_at: Some(time(canary.begun_at)),
            since: Some(time(canary.stage.since)),
            reason: canary.stage.reason.clone(),
            ..common
        }
    }
}

impl ArmView {
    fn of(arm: &Arm) -> Self {
        Self {
            version: arm.version.get(),
            weight: arm.weight,
        }
    }
}

impl CanaryFiguresView {
    fn of(standing: &Standing) -> Self {
        let arm = |did: &ArmFigures| ArmFiguresView {
            answers: did.answers,
            errors: did.errors,
            p95_ms: did.latencies.p95(),
            compared: did.compared,
            agreed: did.agreed,
            labels: did.labels,
            correct: did.correct,
        };
        Self {
            baseline: arm(&standing.baseline),
            candidate: arm(&standing.candidate),
        }
    }
}
