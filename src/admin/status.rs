//! How the gateway is: what serves, what does not and why, and whether the store answers.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::actor::Deed;
use super::{Actor, Admin, AdminError};
use crate::config::{ConfigError, Reloaded};
use crate::models::VersionState;
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
    /// Models in the catalog.
    pub models: usize,
    /// Versions by state, in the order of [`VersionState`].
    pub versions: Vec<(&'static str, usize)>,
    /// What is wrong, in words an operator can act on; empty where all is well.
    pub degraded: Vec<String>,
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
        let mut degraded = Vec::new();
        if let Some(since) = contact.away_since {
            let since = since.to_rfc3339();
            degraded.push(format!(
                "the database has not answered since {since}: keys, limits and models stay as they were then"
            ));
        }
        let log = self.predictions.log().map(|log| log.status());
        degraded.extend(log.iter().flat_map(wrong_with));
        let archive = self.predictions.archive().map(|archive| archive.status());
        degraded.extend(archive.as_ref().and_then(wrong_with_archive));
        for model in catalog.models.values() {
            for (number, entry) in &model.versions {
                let failed = entry.state == VersionState::Failed;
                let pending = entry.pending.as_ref();
                let pending = pending.filter(|pending| pending.state == VersionState::Failed);
                let reason = match pending {
                    Some(pending) => pending.reason.as_deref(),
                    None if failed => entry.reason.as_deref(),
                    None => continue,
                };
                degraded.push(format!(
                    "models/{}/versions/{number} failed: {}",
                    model.id,
                    reason.unwrap_or("no reason is known")
                ));
            }
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

/// What is wrong with the prediction log, in words an operator can act on.
fn wrong_with(log: &LogStatus) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(reason) = &log.trouble {
        wrong.push(format!(
            "the prediction spool cannot be written, answers go out unlogged: {reason}"
        ));
    }
    if log.away.is_some() {
        wrong.push(format!(
            "the database does not take predictions: {} bytes of them wait in the spool",
            log.waiting_bytes
        ));
    }
    wrong
}

/// What is wrong with the archive of pictures.
fn wrong_with_archive(archive: &ArchiveStatus) -> Option<String> {
    let since = archive.away_since?.to_rfc3339();
    Some(format!(
        "{} since {since}: {} pictures wait, {} were not kept",
        archive
            .trouble
            .as_deref()
            .unwrap_or("the archive of pictures takes none"),
        archive.waiting,
        archive.dropped_full + archive.dropped_failed
    ))
}
