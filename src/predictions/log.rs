//! The log as the request path sees it: a record is handed over and is in a file a moment later, whatever the database does.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::record;
use super::spool::{LARGEST, Position, Spool, SpoolSettings};
use crate::config::PredictionsConfig;
use crate::domain::clock::Clock;
use crate::domain::prediction::{Prediction, time_of};
use crate::domain::tenant::TenantId;
use crate::store::{PredictionFilter, PredictionMark};

/// How many look through the spool at the same time: it may be large, and a look reads all of it.
const MOST_LOOKS: usize = 2;

/// How long an answer waits for its record.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("the prediction spool {folder} cannot be used: {reason}")]
pub struct LogError {
    /// The folder that the settings name.
    folder: String,
    /// The system's reason.
    reason: std::io::Error,
}

/// What happened to predictions since the start, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Bytes that the database does not have yet.
    pub waiting_bytes: u64,
    /// Bytes that may wait.
    pub limit_bytes: u64,
    /// Since when the oldest of what waits does, in milliseconds since 1970 and at worst a batch too early; `None` where
    /// nothing waits.
    pub waiting_since_ms: Option<i64>,
    /// Predictions that were written to the spool.
    pub spooled: u64,
    /// Predictions that the database took.
    pub stored: u64,
    /// Predictions whose answers went out although they could not be written.
    pub unlogged: u64,
    /// Predictions whose answers did not wait any longer; written or unlogged a little later.
    pub late: u64,
    /// Predictions that were lost before the database had them, as the spool was full.
    pub lost: u64,
    /// Records that were found damaged, or torn at their end by a crash.
    pub damaged: u64,
    /// Predictions that the database takes in no form.
    pub refused: u64,
    /// Predictions that were older than is kept when the database could take them.
    pub expired: u64,
    /// Why the spool cannot be written.
    pub trouble: Option<String>,
    /// Why the database does not take predictions.
    pub away: Option<String>,
}

impl LogStatus {
    /// The states that it may be in.
    pub const STATES: [&'static str; 3] = ["ok", "waiting", "failing"];

    /// `failing` where the spool cannot be written, `waiting` where the database takes nothing, else `ok`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (&self.trouble, &self.away) {
            (Some(_), _) => "failing",
            (None, Some(_)) => "waiting",
            (None, None) => "ok",
        }
    }
}

/// Counts of what the writer does.
#[derive(Debug, Default)]
pub(super) struct WriterCounts {
    pub(super) stored: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) away: std::sync::Mutex<Option<String>>,
    /// When the oldest of what was read last was asked, in milliseconds since 1970.
    pub(super) oldest_ms: AtomicI64,
}

/// Predictions on their way to the database.
#[derive(Debug)]
pub struct PredictionLog {
    spool: Spool,
    late: AtomicU64,
    looks: Semaphore,
    pub(super) writer: WriterCounts,
}

/// Predictions out of the spool.
pub(super) struct Waiting {
    /// In the order in which they were handed over.
    pub(super) predictions: Vec<Prediction>,
    /// Where the next ones begin; `None` where nothing was read.
    pub(super) end: Option<Position>,
}

impl PredictionLog {
    /// Opens the spool, with what another process left in it.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn open(config: &PredictionsConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LogError> {
        let settings = SpoolSettings {
            max_bytes: config.spool_max_bytes,
            fsync: config.fsync,
        };
        let opened = Spool::open(&config.spool, settings, clock);
        let spool = opened.map_err(|reason| failed(&config.spool, reason))?;
        Ok(Arc::new(Self {
            spool,
            late: AtomicU64::new(0),
            looks: Semaphore::new(MOST_LOOKS),
            writer: WriterCounts::default(),
        }))
    }

    /// Hands a prediction over, and waits until it is written or it is time to answer in any case. Of one that is larger
    /// than a record may be, long texts and the list of classes are cut.
    pub async fn record(&self, prediction: &Prediction) {
        let mut encoded = record::encode(prediction);
        if encoded.len() > LARGEST {
            encoded = record::encode(&record::shortened(prediction.clone()));
        }
        let Some(handed_over) = self.spool.hand_over(&encoded) else {
            return;
        };
        // What fails is counted and said by the spool.
        let written = tokio::time::timeout(LONGEST_WAIT, handed_over.written()).await;
        if written.is_err() {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What of these requests the database does not have yet, in no order; of each prediction what `part` takes of it.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub async fn waiting_of<T: Send + 'static>(
        self: &Arc<Self>,
        requests: impl IntoIterator<Item = Uuid>,
        part: impl Fn(Prediction) -> T + Send + 'static,
    ) -> Result<Vec<T>, std::io::Error> {
        // No request of ours has another kind of id.
        let ours = |id: &Uuid| id.get_version_num() == 7;
        let requests: HashSet<Uuid> = requests.into_iter().filter(ours).collect();
        let first = requests.iter().map(|&id| time_of(id)).min();
        let Some(first) = first else {
            return Ok(Vec::new());
        };
        let first = u64::try_from(first.timestamp_millis()).unwrap_or_default();
        self.look_back(move |spool| {
            let mut found = Vec::new();
            spool.look_back(|records, begun| {
                let wanted = |record: &&[u8]| {
                    record::request_of(record).is_some_and(|id| requests.contains(&id))
                };
                let decoded = records.filter(wanted).filter_map(record::decode);
                found.extend(decoded.map(&part));
                // What lies in front was handed over before the first of them came.
                begun < first
            })?;
            Ok(found)
        })
        .await
    }

    /// The `limit` newest before `after` that the database does not have yet, newest first, without those that are purged.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub async fn waiting(
        self: &Arc<Self>,
        filter: PredictionFilter,
        after: Option<PredictionMark>,
        purges: Arc<Purges>,
        limit: usize,
    ) -> Result<Vec<Prediction>, std::io::Error> {
        self.look_back(move |spool| {
            let mut found: Vec<Prediction> = Vec::new();
            spool.look_back(|records, begun| {
                let wanted = records.filter_map(record::decode).filter(|one| {
                    after.is_none_or(|after| PredictionMark::of(one) < after)
                        && filter.holds_for(one)
                        && !is_purged(&purges, one.asked.tenant, one.asked.request_id)
                });
                found.extend(wanted);
                found.sort_by_key(|one| Reverse(PredictionMark::of(one)));
                found.truncate(limit);
                // What lies in front is older than all of these.
                let last = found.last().map(|last| last.at().timestamp_millis());
                let last = last.and_then(|last| u64::try_from(last).ok());
                found.len() == limit && last.is_some_and(|last| last > begun)
            })?;
            Ok(found)
        })
        .await
    }

    /// Whether the database has all.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.spool.waiting() == 0
    }

    async fn look_back<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Spool) -> Result<Vec<T>, std::io::Error> + Send + 'static,
    ) -> Result<Vec<T>, std::io::Error> {
        if self.is_drained() {
            return Ok(Vec::new());
        }
        let looks = self.looks.acquire().await;
        let _turn = looks.map_err(std::io::Error::other)?;
        let log = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || look(&log.spool)).await;
        looked.map_err(std::io::Error::other)?
    }

    /// Reads what the database is to have next.
    pub(super) async fn read(self: &Arc<Self>, most: usize) -> Result<Waiting, std::io::Error> {
        let log = Arc::clone(self);
        let read = move || {
            let batched = log.spool.read(most)?;
            let decoded = batched.records.iter().map(|record| record::decode(record));
            let predictions: Vec<Prediction> = decoded.flatten().collect();
            let undecoded = batched.records.len() - predictions.len();
            if undecoded > 0 {
                log.writer
                    .refused
                    .fetch_add(count(undecoded), Ordering::Relaxed);
                tracing::error!(
                    undecoded,
                    "the spool holds records that are no predictions: they are left out"
                );
            }
            Ok(Waiting {
                predictions,
                end: batched.end,
            })
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(std::io::Error::other)?
    }

    /// All up to `end` is in the database.
    pub(super) async fn advance(self: &Arc<Self>, end: Position) -> Result<(), std::io::Error> {
        let log = Arc::clone(self);
        let advanced = tokio::task::spawn_blocking(move || log.spool.advance(end)).await;
        advanced.map_err(std::io::Error::other)?
    }

    /// Waits until something was handed over.
    pub(super) async fn written(&self) {
        self.spool.written().await;
    }

    fn waiting_since(&self) -> Option<i64> {
        let known = self.writer.oldest_ms.load(Ordering::Relaxed);
        (!self.is_drained() && known > 0).then_some(known)
    }

    /// What happened since the start, and what waits.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = self.spool.counts();
        let away = self.writer.away.lock();
        LogStatus {
            waiting_bytes: self.spool.waiting(),
            limit_bytes: self.spool.max_bytes(),
            waiting_since_ms: self.waiting_since(),
            spooled: of(&counts.written),
            stored: of(&self.writer.stored),
            unlogged: of(&counts.failed),
            late: of(&self.late),
            lost: of(&counts.shed),
            damaged: of(&counts.damaged),
            refused: of(&self.writer.refused),
            expired: of(&self.writer.expired),
            trouble: self.spool.trouble(),
            away: away
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone(),
        }
    }
}

/// Until when predictions of tenants are deleted.
pub(super) type Purges = HashMap<TenantId, DateTime<Utc>>;

/// Whether a request is one that its tenant's deletion was to reach.
pub(super) fn is_purged(purges: &Purges, tenant: TenantId, request_id: Uuid) -> bool {
    let until = purges.get(&tenant);
    until.is_some_and(|until| time_of(request_id) <= *until)
}

fn failed(folder: &Path, reason: std::io::Error) -> LogError {
    LogError {
        folder: folder.display().to_string(),
        reason,
    }
}

pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
