//! What was predicted, out of the store and out of what this replica's spool still holds: a prediction is there for who asks
//! for it as soon as its answer is.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::log::{Purges, is_purged};
use super::{Archive, PredictionLog};
use crate::domain::error::ErrorKind;
use crate::domain::operator::AuditEntry;
use crate::domain::prediction::Prediction;
use crate::domain::tenant::TenantId;
use crate::store::{PredictionFilter, PredictionMark, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Reads and deletes predictions.
#[derive(Clone)]
pub struct Predictions {
    store: Arc<dyn Store>,
    log: Option<Arc<PredictionLog>>,
    archive: Option<Arc<Archive>>,
    /// The deletions that were seen last, for when the store is away.
    purges: Arc<Mutex<Arc<Purges>>>,
    /// Where joined labels are counted.
    pub(super) metrics: Arc<Metrics>,
}

/// Why predictions were not read or deleted; the texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The database cannot be reached.
    #[error("the database is away: {0}")]
    Away(String),
    /// The database or the spool holds what it should not.
    #[error("{0}")]
    Failed(String),
}

impl ReadError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Away(_) => ErrorKind::StoreUnavailable,
            Self::Failed(_) => ErrorKind::Internal,
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => Self::Away(cause),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("the prediction spool cannot be read: {error}"))
    }
}

/// Some predictions, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The predictions.
    pub items: Vec<Prediction>,
    /// The `after` of the next page; `None` where this is the last.
    pub next: Option<PredictionMark>,
}

impl Predictions {
    /// Over the store, and the log of this replica where there is one.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, log: Option<Arc<PredictionLog>>) -> Self {
        Self {
            store,
            log,
            archive: None,
            purges: Arc::default(),
            metrics: Arc::default(),
        }
    }

    /// The same; joined labels are counted into `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// The same, with the archive of pictures where there is one.
    #[must_use]
    pub fn with_archive(self, archive: Option<Arc<Archive>>) -> Self {
        Self { archive, ..self }
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The archive of pictures.
    #[must_use]
    pub fn archive(&self) -> Option<&Arc<Archive>> {
        self.archive.as_ref()
    }

    /// The log of this replica.
    #[must_use]
    pub fn log(&self) -> Option<&Arc<PredictionLog>> {
        self.log.as_ref()
    }

    /// The pictures of a request, in their order; of any tenant, or of one alone.
    ///
    /// # Errors
    /// When the store is away and the spool does not have it either.
    pub async fn find(
        &self,
        request_id: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Vec<Prediction>, ReadError> {
        // The spool first: what leaves it meanwhile is in the store then.
        let mut found = match &self.log {
            Some(log) => log.waiting_of([request_id], |one| one).await?,
            None => Vec::new(),
        };
        found.retain(|one| tenant.is_none_or(|tenant| one.asked.tenant == tenant));
        if !found.is_empty() {
            let purges = self.purges_or_seen().await?;
            found.retain(|one| !is_purged(&purges, one.asked.tenant, request_id));
        }
        match self.store.find_predictions(request_id, tenant).await {
            Ok(stored) => found.extend(stored),
            Err(StoreError::Unavailable(_)) if !found.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
        found.sort_by_key(|one| one.index);
        found.dedup_by_key(|one| one.index);
        Ok(found)
    }

    /// A page of the predictions that a filter leaves, newest first.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn list(
        &self,
        filter: &PredictionFilter,
        after: Option<PredictionMark>,
        limit: u32,
    ) -> Result<Page, ReadError> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = match &self.log {
            Some(log) if !log.is_drained() => {
                // What was deleted may still be in the spool, from which it goes nowhere.
                let purges = self.purges().await?;
                log.waiting(filter.clone(), after, purges, most.saturating_add(1))
                    .await?
            }
            _ => Vec::new(),
        };
        let stored = self
            .store
            .list_predictions(filter, after, limit.saturating_add(1));
        found.extend(stored.await?);
        found.sort_by_key(|one| Reverse(PredictionMark::of(one)));
        found.dedup_by_key(|one| PredictionMark::of(one));
        let more = found.len() > most;
        found.truncate(most);
        Ok(Page {
            next: found.last().filter(|_| more).map(PredictionMark::of),
            items: found,
        })
    }

    /// The deletions of tenants' predictions.
    async fn purges(&self) -> Result<Arc<Purges>, StoreError> {
        let purges = Arc::new(self.store.purges().await?.into_iter().collect());
        *self.seen() = Arc::clone(&purges);
        Ok(purges)
    }

    /// The deletions; those that were seen last, where the store is away.
    pub(super) async fn purges_or_seen(&self) -> Result<Arc<Purges>, StoreError> {
        match self.purges().await {
            Err(StoreError::Unavailable(_)) => Ok(Arc::clone(&self.seen())),
            purges => purges,
        }
    }

    /// The deletions that were seen last.
    fn seen(&self) -> MutexGuard<'_, Arc<Purges>> {
        self.purges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes all predictions of a tenant that were asked for until then: those that are still in a spool somewhere, jobs with
    /// their pictures, and results that are to be sent included. The archive is another matter.
    ///
    /// # Errors
    /// When the store is away. Where it goes away in the middle, the rest is deleted later.
    pub async fn purge(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<(), ReadError> {
        self.store.purge_predictions(tenant, until, audit).await?;
        // Remembered while the store is there to ask.
        self.purges().await?;
        Ok(erase(&*self.store, tenant, until).await?)
    }
}

/// Deletes what the store holds of a tenant's predictions until a time; what is gone already is no trouble.
pub(super) async fn erase(
    store: &dyn Store,
    tenant: TenantId,
    until: DateTime<Utc>,
) -> Result<(), StoreError> {
    // First what would make more of them.
    while store.forget_jobs(tenant, until).await? > 0 {}
    while store.erase_results(tenant, until).await? > 0 {}
    while store.erase_feedback(tenant, until).await? > 0 {}
    while store.erase_predictions(tenant, until).await? > 0 {}
    Ok(())
}
