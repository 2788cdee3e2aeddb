//! How the gateway is: what serves, what does not and why, and whether the store answers.

use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::actor::Deed;
use super::{Actor, Admin, AdminError};
use crate::config::{ConfigError, Reloaded};
use crate::model_store::RemoteStatus;
use crate::models::{ModelEntry, VersionState};
use crate::predictions::{ArchiveStatus, LogStatus};

/// How the gateway is.
#[derive(Clone, Debug)]
pub struct GatewayStatus {
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Seconds since then.
    pub uptime_s: i64,
    /// The store.
    pub store: StoreStatus,
    /// The prediction log of this replica; `None` where predictions are not logged.
    pub log: Option<LogStatus>,
    /// The archive of pictures, as this replica sees it; `None` where there is none.
    pub archive: Option<ArchiveStatus>,
    /// The bucket of models, as this replica sees it; `None` where models are in a folder.
    pub bucket: Option<RemoteStatus>,
    /// Models in the catalog.
    pub models: usize,
    /// Versions by state, in the order of [`VersionState`].
    pub versions: Vec<(&'static str, usize)>,
    /// What is wrong; empty where all is well.
    pub degraded: Vec<Degraded>,
}

/// Something that is wrong and does not stop the gateway from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Which of the things that can be wrong.
    pub reason: Reason,
    /// In words an operator can act on.
    pub detail: String,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The database does not answer.
    StoreAway,
    /// Predictions wait for the database.
    LogWaiting,
    /// More than half of the spool is full.
    LogFilling,
    /// Predictions cannot be written: answers go out unlogged.
    LogFailing,
    /// Predictions were lost in the last minutes.
    LogLost,
    /// The archive takes no pictures.
    ArchiveAway,
    /// A version cannot be served.
    VersionFailed,
    /// The collector takes no traces or no metrics.
    TelemetryAway,
    /// The bucket of models does not answer, or refuses.
    ModelsAway,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::StoreAway,
        Self::LogWaiting,
        Self::LogFilling,
        Self::LogFailing,
        Self::LogLost,
        Self::ArchiveAway,
        Self::VersionFailed,
        Self::TelemetryAway,
        Self::ModelsAway,
    ];

    /// The name that programs compare.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StoreAway => "store_away",
            Self::LogWaiting => "log_waiting",
            Self::LogFilling => "log_filling",
            Self::LogFailing => "log_failing",
            Self::LogLost => "log_lost",
            Self::ArchiveAway => "archive_away",
            Self::VersionFailed => "version_failed",
            Self::TelemetryAway => "telemetry_away",
            Self::ModelsAway => "models_away",
        }
    }

    fn with(self, detail: String) -> Degraded {
        Degraded {
            reason: self,
            detail,
        }
    }
}

/// How long it is told that predictions were lost.
const LOSS_IS_TOLD: TimeDelta = TimeDelta::minutes(10);

/// What was known of lost predictions when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Losses {
    lost: u64,
    last_at: Option<DateTime<Utc>>,
}

impl Losses {
    /// How many were lost, where there were any in the last minutes.
    fn recent(&mut self, lost: u64, now: DateTime<Utc>) -> Option<u64> {
        if lost > self.lost {
            (self.lost, self.last_at) = (lost, Some(now));
        }
        let is_recent = self.last_at.is_some_and(|at| now - at < LOSS_IS_TOLD);
        is_recent.then_some(lost)
    }
}

/// How the store is.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// The database and its version.
    pub engine: String,
    /// Since when it does not answer; `None` where it does.
    pub away_since: Option<DateTime<Utc>>,
    /// The revision in force here.
    pub revision: i64,
}

/// Settings that can be read anew.
pub trait Reload: Send + Sync {
    /// Reads them and puts in force what may change. Blocks.
    ///
    /// # Errors
    /// On an unknown key or a bad value, by name; then all stays as it is.
    fn reload(&self) -> Result<Reloaded, ConfigError>;
}

const STATES: [VersionState; 7] = [
    VersionState::Waiting,
    VersionState::Loading,
    VersionState::Testing,
    VersionState::Live,
    VersionState::Failed,
    VersionState::Draining,
    VersionState::Unloaded,
];

impl Admin {
    /// How the gateway is. Asks nobody: it says what is known.
    #[must_use]
    pub fn status(&self) -> GatewayStatus {
        let now = self.clock.now();
        let catalog = self.manager.catalog().load();
        let contact = self.follower.contact();
        let all = || {
            let models = catalog.models.values();
            models.flat_map(|model| model.versions.values())
        };
        let count = |state: VersionState| all().filter(|entry| entry.state == state).count();
        let log = self.predictions.log().map(|log| log.status());
        let archive = self.predictions.archive().map(|archive| archive.status());
        let mut degraded = Vec::new();
        if let Some(since) = contact.away_since {
            let since = since.to_rfc3339();
            degraded.push(Reason::StoreAway.with(format!(
                "the database has not answered since {since}: keys, limits and models stay as they were then"
            )));
        }
        if let Some(log) = &log {
            degraded.extend(wrong_with(log));
            let losses = self.losses.lock();
            let mut losses = losses.unwrap_or_else(PoisonError::into_inner);
            degraded.extend(losses.recent(log.lost, now).map(lost));
        }
        degraded.extend(archive.as_ref().and_then(wrong_with_archive));
        let bucket = self.editor.bucket();
        degraded.extend(bucket.as_ref().and_then(wrong_with_bucket));
        degraded.extend(catalog.models.values().flat_map(|model| failures(model)));
        if self.metrics.is_collector_away() {
            let detail = "the collector does not take traces or metrics: what is traced meanwhile may be lost";
            degraded.push(Reason::TelemetryAway.with(detail.to_owned()));
        }
        GatewayStatus {
            started_at: self.started_at,
            uptime_s: (now - self.started_at).num_seconds(),
            store: StoreStatus {
                engine: self.store.engine().to_owned(),
                away_since: contact.away_since,
                revision: contact.revision,
            },
            log,
            archive,
            bucket,
            models: catalog.models.len(),
            versions: STATES.map(|state| (state.as_str(), count(state))).to_vec(),
            degraded,
        }
    }

    /// Reads the settings anew, has every model looked at now, and what failed tried again.
    ///
    /// # Errors
    /// When a setting cannot be used, by name, or the store is away, for the audit; the models are looked at in any case.
    pub async fn reload(&self, actor: &Actor) -> Result<Reloaded, AdminError> {
        self.manager.rescan();
        let settings = Arc::clone(&self.settings);
        let reloaded = tokio::task::spawn_blocking(move || settings.reload())
            .await
            .map_err(|_| {
                AdminError::Failed("the settings were not read to their end".to_owned())
            })?;
        let reloaded = reloaded.map_err(|error| AdminError::Invalid(error.without_places()))?;
        let now = self.clock.now();
        let deed = Deed {
            action: "gateway.reload",
            target: "gateway".to_owned(),
            before: None,
            after: Some(json!({
                "changed": reloaded.changed,
                "needs_restart": reloaded.needs_restart,
            })),
        };
        self.store.record(&actor.did(deed, now)).await?;
        self.tell("gateway.reloading", "gateway", json!({}));
        Ok(reloaded)
    }
}

/// What is wrong with the prediction log.
fn wrong_with(log: &LogStatus) -> Vec<Degraded> {
    let mut wrong = Vec::new();
    if let Some(reason) = &log.trouble {
        wrong.push(Reason::LogFailing.with(format!(
            "the prediction spool cannot be written, answers go out unlogged: {reason}"
        )));
    }
    if log.away.is_some() {
        wrong.push(Reason::LogWaiting.with(format!(
            "the database does not take predictions: {} bytes of them wait in the spool",
            log.waiting_bytes
        )));
    }
    if log.waiting_bytes > log.limit_bytes / 2 {
        wrong.push(Reason::LogFilling.with(format!(
            "the prediction spool holds {} of {} bytes: when it is full, the oldest predictions are lost",
            log.waiting_bytes, log.limit_bytes
        )));
    }
    wrong
}

fn lost(count: u64) -> Degraded {
    Reason::LogLost.with(format!(
        "{count} predictions were lost since the start, the last of them a few minutes ago, as the spool was full"
    ))
}

/// The versions of a model that cannot be served.
fn failures(model: &ModelEntry) -> Vec<Degraded> {
    let mut failures = Vec::new();
    for (number, entry) in &model.versions {
        let failed = entry.state == VersionState::Failed;
        let pending = entry.pending.as_ref();
        let pending = pending.filter(|pending| pending.state == VersionState::Failed);
        let reason = match pending {
            Some(pending) => pending.reason.as_deref(),
            None if failed => entry.reason.as_deref(),
            None => continue,
        };
        failures.push(Reason::VersionFailed.with(format!(
            "models/{}/versions/{number} failed: {}",
            model.id,
            reason.unwrap_or("no reason is known")
        )));
    }
    failures
}

/// What is wrong with the bucket of models.
fn wrong_with_bucket(bucket: &RemoteStatus) -> Option<Degraded> {
    let since = bucket.away_since?.to_rfc3339();
    let trouble = bucket.trouble.as_deref().unwrap_or("no look at it ended");
    Some(Reason::ModelsAway.with(format!("{trouble}; since {since} models stay as they were")))
}

/// What is wrong with the archive of pictures.
fn wrong_with_archive(archive: &ArchiveStatus) -> Option<Degraded> {
    let since = archive.away_since?.to_rfc3339();
    Some(Reason::ArchiveAway.with(format!(
        "{} since {since}: {} pictures wait, {} were not kept",
        archive
            .trouble
            .as_deref()
            .unwrap_or("the archive of pictures takes none"),
        archive.waiting,
        archive.dropped_full + archive.dropped_failed
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_for_a_while() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
        let mut losses = Losses::default();
        assert_eq!(losses.recent(0, now), None);
        assert_eq!(losses.recent(3, now), Some(3));
        let later = now + LOSS_IS_TOLD - TimeDelta::seconds(1);
        assert_eq!(losses.recent(3, later), Some(3));
        assert_eq!(losses.recent(3, now + LOSS_IS_TOLD), None);
        assert_eq!(losses.recent(4, now + LOSS_IS_TOLD), Some(4));
    }

    #[test]
    fn what_is_wrong_with_the_log_is_told_by_name() {
        let reasons = |log: &LogStatus| -> Vec<&str> {
            let wrong = wrong_with(log).into_iter();
            wrong.map(|one| one.reason.as_str()).collect()
        };
        let well = LogStatus {
            waiting_bytes: 50,
            limit_bytes: 100,
            ..LogStatus::default()
        };
        assert!(reasons(&well).is_empty());
        let wrong = LogStatus {
            waiting_bytes: 51,
            trouble: Some("no space".to_owned()),
            away: Some("gone".to_owned()),
            ..well
        };
        let all = ["log_failing", "log_waiting", "log_filling"];
        assert_eq!(reasons(&wrong), all);
    }
}
