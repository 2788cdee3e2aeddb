//! The prediction log: what the store promises of it. The statements are in `sql`.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use super::StoreError;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::operator::AuditEntry;
use crate::domain::prediction::Prediction;
use crate::domain::tenant::{KeyId, TenantId};

mod sql;

/// Which predictions are wanted. What is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictionFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// By this key.
    pub key: Option<KeyId>,
    /// By this model.
    pub model: Option<ModelId>,
    /// By this version.
    pub version: Option<VersionNumber>,
    /// With this as their first class.
    pub class: Option<String>,
    /// Asked for at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Asked for before this time.
    pub to: Option<DateTime<Utc>>,
}

/// A prediction's place in the log: lists go down from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PredictionMark {
    /// The request.
    pub request_id: Uuid,
    /// The picture's place in it.
    pub index: u32,
}

impl PredictionFilter {
    /// Whether a prediction is wanted.
    #[must_use]
    pub fn holds_for(&self, one: &Prediction) -> bool {
        let version = one.answered_by.as_ref().map(|by| by.version);
        let class = one.answer.as_ref().map(|answer| &answer.class);
        self.tenant.is_none_or(|tenant| tenant == one.asked.tenant)
            && self.key.is_none_or(|key| key == one.asked.key)
            && self.model.as_ref().is_none_or(|model| *model == one.model)
            && self.version.is_none_or(|wanted| version == Some(wanted))
            && self
                .class
                .as_ref()
                .is_none_or(|wanted| class == Some(wanted))
            && self.from.is_none_or(|from| from <= one.at())
            && self.to.is_none_or(|to| one.at() < to)
    }
}

impl PredictionMark {
    /// The place of a prediction.
    #[must_use]
    pub fn of(prediction: &Prediction) -> Self {
        Self {
            request_id: prediction.asked.request_id,
            index: prediction.index,
        }
    }
}

/// The prediction log. No change here is one that anybody hears of.
#[async_trait]
pub trait PredictionStore: Send + Sync {
    /// Adds predictions: all or none. One that is there stays as it is, and one that a deletion of its tenant's predictions
    /// came after is left out. Gives how many are new.
    async fn add_predictions(&self, predictions: &[Prediction]) -> Result<u64, StoreError>;
    /// All pictures of a request, in their order; of any tenant, or of one alone.
    async fn find_predictions(
        &self,
        request_id: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Vec<Prediction>, StoreError>;
    /// The `limit` newest predictions before `after`, newest first.
    async fn list_predictions(
        &self,
        filter: &PredictionFilter,
        after: Option<PredictionMark>,
        limit: u32,
    ) -> Result<Vec<Prediction>, StoreError>;
    /// From now on, predictions of a tenant that were asked for until `until` are deleted: [`Self::erase_predictions`]
    /// does it, and none of them is added any more.
    async fn purge_predictions(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Tenants whose predictions are deleted, and until when.
    async fn purges(&self) -> Result<Vec<(TenantId, DateTime<Utc>)>, StoreError>;
    /// Deletes a piece of a tenant's predictions that were asked for until `until`; gives how many, 0 where nothing is left.
    async fn erase_predictions(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
    /// Makes room for the days from `today` on, and deletes what is older than `oldest`: on PostgreSQL whole days, on SQLite
    /// a piece; deletions that reached no later day are forgotten more than a year later. Gives whether there is more to delete.
    async fn turn_days(
        &self,
        today: NaiveDate,
        oldest: Option<NaiveDate>,
    ) -> Result<bool, StoreError>;
}
