//! What stands, as metrics: read when somebody asks, so that what is gone is not told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::canary::Standing;
use super::{Admin, AdminError, Degraded, Reason};
use crate::domain::ids::ModelId;
use crate::domain::rollout::{Canary, Rollout, Rule};
use crate::model_store::RemoteStatus;
use crate::models::ModelEntry;
use crate::predictions::{ArchiveStatus, LogStatus};
use crate::telemetry::metrics::{DEGRADED_HELP, Page, Source, real, real_size};

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

impl Admin {
    /// All metrics, as Prometheus reads them. Blocks for milliseconds.
    ///
    /// # Errors
    /// Never, but for a fault of ours.
    pub fn metrics_text(&self) -> Result<String, AdminError> {
        let text = self.metrics.page().text();
        text.map_err(|error| AdminError::Failed(error.to_string()))
    }
}

impl Source for Admin {
    fn tell(&self, page: &mut Page) {
        let catalog = self.manager.catalog().load();
        for model in catalog.models.values() {
            tell_shares(page, model);
            if let Some(canary) = model.rollout.canary() {
                let looked = self.looks.of(&model.id, canary);
                tell_canary(page, &model.id, canary, looked.as_ref());
            }
        }
        let status = self.status();
        tell_degraded(page, &status.degraded);
        page.gauge(
            "lensgate_store_up",
            "1 while the database answers.",
            &[],
            f64::from(status.store.away_since.is_none()),
        );
        self.tell_store(page);
        if let Some(log) = &status.log {
            let now = self.clock.now().timestamp_millis();
            tell_log(page, log, now);
        }
        if let Some(archive) = &status.archive {
            tell_archive(page, archive);
        }
        tell_bucket(page, status.bucket.as_ref());
    }
}

impl Admin {
    fn tell_store(&self, page: &mut Page) {
        let condition = self.store.condition();
        for (state, count) in [("idle", condition.idle), ("used", condition.used)] {
            page.gauge(
                "lensgate_store_connections",
                "Connections to the database.",
                &[("state", state)],
                real_size(count),
            );
        }
        page.gauge(
            "lensgate_store_connections_limit",
            "Connections to the database that there may be.",
            &[],
            real_size(condition.limit),
        );
        for (outcome, count) in [("done", condition.done), ("failed", condition.failed)] {
            page.counter(
                "lensgate_store_calls_total",
                "Calls to the database.",
                &[("outcome", outcome)],
                count,
            );
        }
    }
}

fn tell_degraded(page: &mut Page, degraded: &[Degraded]) {
    for reason in Reason::ALL {
        let is_so = degraded.iter().any(|one| one.reason == reason);
        page.gauge(
            "lensgate_degraded",
            DEGRADED_HELP,
            &[("reason", reason.as_str())],
            f64::from(is_so),
        );
    }
}

fn tell_log(page: &mut Page, log: &LogStatus, now_ms: i64) {
    let outcomes = [
        ("spooled", log.spooled),
        ("stored", log.stored),
        ("unlogged", log.unlogged),
        ("late", log.late),
        ("lost", log.lost),
        ("damaged", log.damaged),
        ("refused", log.refused),
        ("expired", log.expired),
    ];
    for (outcome, count) in outcomes {
        page.counter(
            "lensgate_log_records_total",
            "Predictions by what the log did with them.",
            &[("outcome", outcome)],
            count,
        );
    }
    page.gauge(
        "lensgate_log_waiting_bytes",
        "Bytes that wait in the spool for the database.",
        &[],
        real(log.waiting_bytes),
    );
    page.gauge(
        "lensgate_log_limit_bytes",
        "Bytes that may wait in the spool.",
        &[],
        real(log.limit_bytes),
    );
    let lag = log.waiting_since_ms.map_or(0, |since| now_ms - since);
    page.gauge(
        "lensgate_log_lag_seconds",
        "For how long the oldest prediction has been waiting for the database.",
        &[],
        real(u64::try_from(lag).unwrap_or_default()) / 1e3,
    );
    for state in LogStatus::STATES {
        page.gauge(
            "lensgate_log_state",
            "1 for the state of the prediction log.",
            &[("state", state)],
            f64::from(state == log.state()),
        );
    }
}

fn tell_archive(page: &mut Page, archive: &ArchiveStatus) {
    let outcomes = [
        ("stored", archive.stored),
        ("dropped_full", archive.dropped_full),
        ("dropped_too_large", archive.dropped_too_large),
        ("dropped_failed", archive.dropped_failed),
    ];
    for (outcome, count) in outcomes {
        page.counter(
            "lensgate_archive_pictures_total",
            "Pictures by what the archive did with them.",
            &[("outcome", outcome)],
            count,
        );
    }
    page.gauge(
        "lensgate_archive_waiting_bytes",
        "Bytes of pictures that wait to be put into the archive.",
        &[],
        real(archive.waiting_bytes),
    );
}

/// Models in a folder are always there.
fn tell_bucket(page: &mut Page, bucket: Option<&RemoteStatus>) {
    let status = bucket.cloned().unwrap_or_default();
    page.gauge(
        "lensgate_model_store_up",
        "1 while the bucket of models answers, or models are in a folder.",
        &[],
        f64::from(status.away_since.is_none()),
    );
    let [done, failed] = status.looks;
    for (outcome, count) in [("done", done), ("failed", failed)] {
        page.counter(
            "lensgate_model_store_looks_total",
            "Looks at the bucket of models.",
            &[("outcome", outcome)],
            count,
        );
    }
    page.gauge(
        "lensgate_model_store_cached_bytes",
        "Bytes of models from the bucket on this machine.",
        &[],
        real(status.cached_bytes),
    );
}

fn tell_shares(page: &mut Page, model: &ModelEntry) {
    let mut tell = |version: &str, arm: &str, share: f64| {
        page.gauge(
            "lensgate_rollout_share_ratio",
            "The part of a model's traffic that its rollout gives to a version, 0 to 1.",
            &[
                ("model", model.id.as_str()),
                ("version", version),
                ("arm", arm),
            ],
            share,
        );
    };
    let Rollout { rule, .. } = &model.rollout;
    let whole = match rule {
        Rule::Latest => model.live().map(|version| version.number).max(),
        Rule::Pinned { version } => Some(*version),
        Rule::Split(_) | Rule::Canary(_) => None,
    };
    if let Some(version) = whole {
        tell(&version.to_string(), "", 1.0);
    }
    let sum: f64 = model.rollout.arms().map(|arm| arm.weight).sum();
    for arm in model.rollout.arms() {
        let name = model.rollout.arm_of(arm.version);
        let name = name.map(|name| name.to_string()).unwrap_or_default();
        tell(&arm.version.to_string(), &name, arm.weight / sum);
    }
}

fn tell_canary(page: &mut Page, model: &ModelId, canary: &Canary, looked: Option<&Standing>) {
    let model = ("model", model.as_str());
    page.gauge(
        "lensgate_canary_state",
        "1 for the state that a model's canary is in: running, paused, promoted or rolled_back.",
        &[model, ("state", canary.stage.state.as_str())],
        1.0,
    );
    page.gauge(
        "lensgate_canary_step",
        "The step that a model's canary is at, or ended at, from 0.",
        &[model],
        real(canary.step()),
    );
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
        let (arm, version) = (("arm", arm.as_str()), ("version", version.as_str()));
        for (figure, n) in [
            ("answers", did.answers),
            ("errors", did.errors),
            ("compared", did.compared),
            ("agreed", did.agreed),
            ("labels", did.labels),
            ("correct", did.correct),
        ] {
            page.gauge(
                "lensgate_canary_figures",
                "What the arms of a canary did, over all replicas, when it was last looked at: at its step, labels since its \
                 beginning. Told by the replica that decides.",
                &[model, version, arm, ("figure", figure)],
                real(n),
            );
        }
        if let Some(p95) = did.latencies.p95() {
            page.gauge(
                "lensgate_canary_p95_seconds",
                "The 95th percentile of the time in the engine of a canary's arm at its step, up to 9 % too high.",
                &[model, version, arm],
                p95 / 1e3,
            );
        }
    }
}
