//! The operators' use cases: tenants, keys, tokens, models, callbacks, the audit, and what happens.
//!
//! Called by `api` with an [`Actor`] whose role was checked there. Each change goes to the store with its audit entry, and is
//! in force here before the call returns. Knows no HTTP.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::callbacks::Outbox;
use crate::domain::clock::Clock;
use crate::model_store::StoreEditor;
use crate::models::ModelManager;
use crate::predictions::{Predictions, Tally};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

mod actor;
mod aliases;
mod announcer;
mod audit;
mod callbacks;
mod canary;
mod error;
mod events;
mod first;
mod follower;
mod keys;
mod metrics;
mod models;
mod predictions;
mod report;
mod rollouts;
mod status;
mod tenants;
mod text;
mod tokens;
mod uploads;
mod versions;

pub use actor::Actor;
pub use canary::Standing;
pub use error::AdminError;
pub use events::{Event, EventBus};
pub use first::{FirstSecrets, NewSecrets, fill};
pub use follower::Follower;
pub use keys::{KeyPatch, NewKey, create_key};
pub use models::{ModelPatch, NewModel, mark_of_model, mark_of_version};
pub use report::ReportTimes;
pub use rollouts::mark_of_rollout;
pub use status::{Degraded, GatewayStatus, Reason, Reload, StoreStatus};
pub use tenants::{NewTenant, TenantPatch};
pub use tokens::NewToken;
pub use uploads::{Incoming, IncomingPart, Uploaded};
pub use versions::VersionAt;

pub use crate::model_store::RemoteStatus;
pub use crate::store::{AuditFilter, DeliveryFilter, Listing, Page};

/// What operators do.
pub struct Admin {
    store: Arc<dyn Store>,
    manager: Arc<ModelManager>,
    editor: StoreEditor,
    /// Held while it is looked what needs a model's files, and these are changed: one change after the other.
    changing: tokio::sync::Mutex<()>,
    /// Changes that go on to their end, whoever still waits for them.
    tasks: TaskTracker,
    follower: Arc<Follower>,
    predictions: Predictions,
    outbox: Arc<Outbox>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    looks: metrics::LastLooks,
    losses: std::sync::Mutex<status::Losses>,
    /// This replica, where one of several decides.
    replica: Uuid,
    settings: Arc<dyn Reload>,
    events: EventBus,
    clock: Arc<dyn Clock>,
    started_at: DateTime<Utc>,
}

/// What the use cases work on.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What loads models.
    pub manager: Arc<ModelManager>,
    /// What changes their files.
    pub editor: StoreEditor,
    /// What brings the store's changes into force here.
    pub follower: Arc<Follower>,
    /// The prediction log.
    pub predictions: Predictions,
    /// What tenants are told.
    pub outbox: Arc<Outbox>,
    /// What rollouts are judged by.
    pub tally: Arc<Tally>,
    /// The instruments.
    pub metrics: Arc<Metrics>,
    /// The settings that may change.
    pub settings: Arc<dyn Reload>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Admin {
    /// The use cases over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            store: parts.store,
            manager: parts.manager,
            editor: parts.editor,
            changing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            events: parts.follower.events(),
            follower: parts.follower,
            predictions: parts.predictions,
            outbox: parts.outbox,
            tally: parts.tally,
            metrics: parts.metrics,
            looks: metrics::LastLooks::default(),
            losses: std::sync::Mutex::default(),
            replica: Uuid::now_v7(),
            settings: parts.settings,
            started_at: parts.clock.now(),
            clock: parts.clock,
        }
    }

    /// Where the events are heard.
    #[must_use]
    pub fn events(&self) -> &EventBus {
        &self.events
    }

    /// Waits for the changes that are under way although nobody waits for their outcome. Nothing new may begin.
    pub async fn rest(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Does `work` to its end, also where the caller leaves in its middle: files and the store must not part.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<T, AdminError> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|error| Err(AdminError::Failed(error.to_string())))
    }

    /// Brings what the store holds into force here.
    async fn in_force(&self) -> Result<(), AdminError> {
        Ok(self.follower.catch_up().await?)
    }

    fn tell(&self, kind: &'static str, subject: &str, about: serde_json::Value) {
        self.events.tell(kind, subject, about, self.clock.now());
    }
}

/// How often a change without `If-Match` is made anew when others are faster.
const TRIES: u32 = 5;

/// Tries of a change that reads before it writes: where the caller named no version, it is made anew if somebody came in
/// between.
struct Tries {
    left: u32,
}

impl Tries {
    fn of(expected: Option<i64>) -> Self {
        Self {
            left: if expected.is_none() { TRIES } else { 1 },
        }
    }

    /// Whether to try once more.
    fn again<T>(&mut self, outcome: &Result<T, AdminError>) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0 && matches!(outcome, Err(AdminError::Stale))
    }
}

/// The version, if it is the one that the caller expects.
fn still(expected: Option<i64>, version: i64) -> Result<i64, AdminError> {
    match expected {
        Some(expected) if expected != version => Err(AdminError::Stale),
        _ => Ok(version),
    }
}

/// What a merge patch (RFC 7396) says of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edit<T> {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It becomes this.
    Set(T),
}

impl<T> Edit<T> {
    fn put(self, value: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Remove => *value = None,
            Self::Set(new) => *value = Some(new),
        }
    }

    fn try_map<U>(
        self,
        map: impl FnOnce(T) -> Result<U, AdminError>,
    ) -> Result<Edit<U>, AdminError> {
        Ok(match self {
            Self::Keep => Edit::Keep,
            Self::Remove => Edit::Remove,
            Self::Set(value) => Edit::Set(map(value)?),
        })
    }
}
