//! What stands, as metrics: read when somebody asks, so that what is gone is not told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::canary::Standing;
use super::{Admin, AdminError};
use crate::domain::ids::ModelId;
use crate::domain::rollout::{Canary, Rollout, Rule};
use crate::models::ModelEntry;
use crate::telemetry::metrics::Reading;

/// How canaries stood when they were last looked at here, with their runs.
#[derive(Default)]
pub(super) struct LastLooks(Mutex<BTreeMap<ModelId, (Uuid, Standing)>>);

impl LastLooks {
    fn known(&self) -> MutexGuard<'_, BTreeMap<ModelId, (Uuid, Standing)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, model: &ModelId, canary: &Canary, standing: Standing) {
        self.known().insert(model.clone(), (canary.run, standing));
    }

    fn of(&self, model: &ModelId, canary: &Canary) -> Option<Standing> {
        let known = self.known();
        let (_, standing) = known.get(model).filter(|(run, _)| *run == canary.run)?;
        Some(standing.clone())
    }
}

/// The metrics of rollouts.
struct Rollouts {
    share: Reading,
    state: Reading,
    step: Reading,
    figures: Reading,
    p95: Reading,
}

impl Admin {
    /// All metrics, as Prometheus reads them.
    ///
    /// # Errors
    /// Never, but for a fault of ours.
    pub fn metrics_text(&self) -> Result<String, AdminError> {
        let catalog = self.manager.catalog().load();
        let mut rollouts = Rollouts::new();
        for model in catalog.models.values() {
            rollouts.share_of(model);
            if let Some(canary) = model.rollout.canary() {
                let looked = self.looks.of(&model.id, canary);
                rollouts.canary_of(&model.id, canary, looked.as_ref());
            }
        }
        let is_there = |model: &str| {
            model
                .parse::<ModelId>()
                .is_ok_and(|id| catalog.models.contains_key(&id))
        };
        let text = self.metrics.text(&rollouts.all(), is_there);
        text.map_err(|error| AdminError::Failed(error.to_string()))
    }
}

impl Rollouts {
    fn new() -> Self {
        Self {
            share: Reading::new(
                "lensgate_rollout_share_ratio",
                "The part of a model's traffic that its rollout gives to a version, 0 to 1.",
                &["model", "version", "arm"],
            ),
            state: Reading::new(
                "lensgate_canary_state",
                "1 for the state that a model's canary is in: running, paused, promoted or rolled_back.",
                &["model", "state"],
            ),
            step: Reading::new(
                "lensgate_canary_step",
                "The step that a model's canary is at, or ended at, from 0.",
                &["model"],
            ),
            figures: Reading::new(
                "lensgate_canary_figures",
                "What the arms of a canary did, over all replicas, when it was last looked at: at its step, labels since its \
                 beginning. Told by the replica that decides.",
                &["model", "version", "arm", "figure"],
            ),
            p95: Reading::new(
                "lensgate_canary_p95_seconds",
                "The 95th percentile of the time in the engine of a canary's arm at its step, up to 9 % too high.",
                &["model", "version", "arm"],
            ),
        }
    }

    fn all(self) -> [Reading; 5] {
        [self.share, self.state, self.step, self.figures, self.p95]
    }

    fn share_of(&mut self, model: &ModelEntry) {
        let Rollout { rule, .. } = &model.rollout;
        let whole = match rule {
            Rule::Latest => model.live().map(|version| version.number).max(),
            Rule::Pinned { version } => Some(*version),
            Rule::Split(_) | Rule::Canary(_) => None,
        };
        if let Some(version) = whole {
            let version = version.to_string();
            self.share.add(&[model.id.as_str(), &version, ""], 1.0);
        }
        let sum: f64 = model.rollout.arms().map(|arm| arm.weight).sum();
        for arm in model.rollout.arms() {
            let name = model.rollout.arm_of(arm.version);
            let name = name.map(|name| name.to_string()).unwrap_or_default();
            let labels = [model.id.as_str(), &arm.version.to_string(), &name];
            self.share.add(&labels, arm.weight / sum);
        }
    }

    fn canary_of(&mut self, model: &ModelId, canary: &Canary, looked: Option<&Standing>) {
        let model = model.as_str();
        let state = canary.stage.state.as_str();
        self.state.add(&[model, state], 1.0);
        self.step.add(&[model], real(canary.step()));
        let Some(Standing {
            baseline,
            candidate,
            ..
        }) = looked
        else {
            return;
        };
        for ((arm, version), did) in canary.versions().into_iter().zip([baseline, candidate]) {
            let (arm, version) = (arm.to_string(), version.to_string());
            for (figure, n) in [
                ("answers", did.answers),
                ("errors", did.errors),
                ("compared", did.compared),
                ("agreed", did.agreed),
                ("labels", did.labels),
                ("correct", did.correct),
            ] {
                self.figures.add(&[model, &version, &arm, figure], real(n));
            }
            if let Some(p95) = did.latencies.p95() {
                self.p95.add(&[model, &version, &arm], p95 / 1e3);
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
fn real(count: u64) -> f64 {
    count as f64
}
