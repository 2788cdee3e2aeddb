//! The database: tenants, keys, tokens, what operators want of models, the audit, and what was used. The only SQL.
//!
//! Traits, one an aggregate; one implementation serves PostgreSQL and SQLite. Everything that changes something takes the
//! audit entry of it and commits both in one transaction, together with a new revision, which is how other replicas
//! hear of it. Called by `access`, `admin` and the command line through the traits. Knows no HTTP and no model files.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::domain::api_key::{ApiKey, ModelPattern};
use crate::domain::callback::{
    Attempt, CallbackSecret, Delivery, DeliveryState, EventKind, NewDelivery,
};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::operator::{AdminToken, AuditEntry};
use crate::domain::prediction::Prediction;
use crate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};

mod audit;
mod callbacks;
mod changes;
mod connect;
mod error;
mod jobs;
mod keys;
mod migrate;
mod pages;
mod partitions;
mod predictions;
mod rows;
mod sql_store;
mod tenants;
mod tokens;
mod usage;
mod wishes;

pub use connect::{connect, migrate};
pub use jobs::{
    EndedJob, GivenBack, JobBounds, JobLease, JobStore, Kept, NewJob, NewJobKey, TakenJob,
    TakenPicture,
};
pub use migrate::{AppliedMigration, Migrated};

/// Why the store did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What was to be changed or referred to is not there.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// There is one already.
    #[error("there is such a {0} already")]
    Conflict(&'static str),
    /// Somebody else has changed it since the caller read it.
    #[error("it was changed by somebody else meanwhile")]
    Stale,
    /// The database cannot be reached or did not answer in time; the text is for the log.
    #[error("the database is away: {0}")]
    Unavailable(String),
    /// The database takes no such value; the text is for the log.
    #[error("the database refused a value: {0}")]
    Invalid(String),
    /// The database holds or says what it should not; the text is for the log.
    #[error("the database failed: {0}")]
    Failed(String),
}

/// A piece of a list that is read in the order of ids.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The id that the caller has seen last; `None` from the beginning.
    pub after: Option<Uuid>,
    /// How many at most; at least 1.
    pub limit: u32,
}

/// What a page holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// In order.
    pub items: Vec<T>,
    /// The `after` of the next page; `None` where this is the last.
    pub next: Option<Uuid>,
}

/// Tenants. Listed in the order they were made.
#[async_trait]
pub trait TenantStore: Send + Sync {
    /// Adds a tenant.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another has the name.
    async fn create_tenant(&self, tenant: &Tenant, audit: &AuditEntry) -> Result<(), StoreError>;
    /// The tenant of this id.
    async fn find_tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError>;
    /// A page of the tenants.
    async fn list_tenants(&self, page: Page) -> Result<Listing<Tenant>, StoreError>;
    /// Replaces a tenant whose version is still `expected`; `tenant.version` is the new one.
    ///
    /// # Errors
    /// [`StoreError::Stale`] where it is not, [`StoreError::NotFound`], [`StoreError::Conflict`] for the name.
    async fn update_tenant(
        &self,
        tenant: &Tenant,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Deletes a tenant with all its keys and what they have used.
    ///
    /// # Errors
    /// As [`Self::update_tenant`].
    async fn delete_tenant(
        &self,
        id: TenantId,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
}

/// API keys. Listed in the order they were made.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant, [`StoreError::Conflict`] where another key has the same secret.
    async fn create_key(&self, key: &ApiKey, audit: &AuditEntry) -> Result<(), StoreError>;
    /// The key of this id.
    async fn find_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError>;
    /// A page of the keys, of one tenant or of all.
    async fn list_keys(
        &self,
        tenant: Option<TenantId>,
        page: Page,
    ) -> Result<Listing<ApiKey>, StoreError>;
    /// Replaces a key whose version is still `expected`, but for `last_used_at`; `key.version` is the new one.
    ///
    /// # Errors
    /// [`StoreError::Stale`] where it is not, [`StoreError::NotFound`].
    async fn update_key(
        &self,
        key: &ApiKey,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Deletes a key and what it has used.
    ///
    /// # Errors
    /// As [`Self::update_key`].
    async fn delete_key(
        &self,
        id: KeyId,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Notes when keys were last used, where that is later than what is known. No change that anybody hears of.
    async fn touch_keys(&self, used: &[(KeyId, DateTime<Utc>)]) -> Result<(), StoreError>;
}

/// Admin tokens. Listed in the order they were made.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Adds a token.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another has the same secret.
    async fn create_token(&self, token: &AdminToken, audit: &AuditEntry) -> Result<(), StoreError>;
    /// The token of this id.
    async fn find_token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError>;
    /// A page of the tokens.
    async fn list_tokens(&self, page: Page) -> Result<Listing<AdminToken>, StoreError>;
    /// Deletes a token.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn delete_token(&self, id: TokenId, audit: &AuditEntry) -> Result<(), StoreError>;
    /// Notes when tokens were last used, as [`KeyStore::touch_keys`].
    async fn touch_tokens(&self, used: &[(TokenId, DateTime<Utc>)]) -> Result<(), StoreError>;
}

/// What operators want of a model, whatever its folder says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelWish {
    /// Movable names of versions.
    pub aliases: BTreeMap<String, VersionNumber>,
    /// Versions that are to stay out of service.
    pub unloaded: BTreeSet<VersionNumber>,
}

/// What operators want of models.
#[async_trait]
pub trait WishStore: Send + Sync {
    /// All of it; models of which nothing is wanted are left out.
    async fn wishes(&self) -> Result<BTreeMap<ModelId, ModelWish>, StoreError>;
    /// Sets an alias; gives the version it named before.
    async fn put_alias(
        &self,
        model: &ModelId,
        alias: &str,
        version: VersionNumber,
        audit: &AuditEntry,
    ) -> Result<Option<VersionNumber>, StoreError>;
    /// Deletes an alias.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn delete_alias(
        &self,
        model: &ModelId,
        alias: &str,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// Says whether a version is to stay out of service. Writes nothing, not even the audit entry, where it is so already;
    /// gives whether it wrote.
    async fn set_unloaded(
        &self,
        model: &ModelId,
        version: VersionNumber,
        unloaded: bool,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError>;
    /// A version is gone: whether it was unloaded is forgotten. Aliases stay: the caller has refused where there are any.
    async fn forget_version(
        &self,
        model: &ModelId,
        version: VersionNumber,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// A model is gone: nothing is wanted of it any more.
    async fn forget_model(&self, model: &ModelId, audit: &AuditEntry) -> Result<(), StoreError>;
}

/// Which entries of the audit are wanted. What is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// This action, or with a `.` at the end all that begin so (`key.`).
    pub action: Option<String>,
    /// This target, or with a `/` at the end all that begin so.
    pub target: Option<String>,
    /// This token.
    pub token: Option<TokenId>,
    /// At this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
}

/// The audit.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Records what was done outside the store, e.g. to a model's files. No change that anybody hears of.
    async fn record(&self, entry: &AuditEntry) -> Result<(), StoreError>;
    /// A page of the entries, newest first; `page.after` is the id of the oldest entry seen.
    async fn list_audit(
        &self,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Listing<AuditEntry>, StoreError>;
}

/// What keys have used of their days. No change here is one that anybody hears of.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Adds to what keys have used of a day, and gives what all replicas together have then, in the order asked. Keys that
    /// are gone are left out. All or nothing.
    async fn add_usage(
        &self,
        used: &[(KeyId, NaiveDate, i64)],
    ) -> Result<Vec<(KeyId, NaiveDate, i64)>, StoreError>;
    /// What was used of a day by all keys that used anything.
    async fn usage_of(&self, day: NaiveDate) -> Result<Vec<(KeyId, i64)>, StoreError>;
    /// Forgets the days before `day`.
    async fn prune_usage(&self, day: NaiveDate) -> Result<(), StoreError>;
}

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
    /// Deletes a piece of what [`Self::purge_predictions`] named; gives how many, 0 where nothing is left.
    async fn erase_predictions(&self, tenant: TenantId) -> Result<u64, StoreError>;
    /// Makes room for the days from `today` on, and deletes what is older than `oldest`: on PostgreSQL whole days, on SQLite
    /// a piece. Gives whether there is more to delete.
    async fn turn_days(
        &self,
        today: NaiveDate,
        oldest: Option<NaiveDate>,
    ) -> Result<bool, StoreError>;
}

/// Which deliveries are wanted. What is `None` does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// To this tenant.
    pub tenant: Option<TenantId>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Of this event.
    pub event: Option<EventKind>,
}

/// A delivery whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueDelivery {
    /// Its id.
    pub id: Uuid,
    /// Who is told.
    pub tenant: TenantId,
    /// Its host, see [`NewDelivery::lane`].
    pub lane: i64,
}

/// Whose deliveries are left alone, as they have all the places they may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Hosts.
    pub lanes: Vec<i64>,
    /// Tenants.
    pub tenants: Vec<TenantId>,
}

/// For whom a replica takes deliveries, and until when nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The replica.
    pub owner: Uuid,
    /// Now.
    pub now: DateTime<Utc>,
    /// The lease's end: whoever has not come back by then has crashed.
    pub until: DateTime<Utc>,
}

/// A delivery that a replica has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedDelivery {
    /// What is sent, and where.
    pub what: NewDelivery,
    /// Attempts so far.
    pub attempts: u32,
    /// From when its time to arrive runs.
    pub begun_at: DateTime<Utc>,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAttempt {
    /// It has arrived.
    Delivered,
    /// It is tried again then.
    Again(DateTime<Utc>),
    /// It is given up.
    Dead,
    /// Nobody is there any more: all that is pending of the tenant to this address is given up.
    Gone,
}

/// Something that is to be told once, whatever the number of replicas and restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// What it happened to, e.g. `models/digits/versions/2`.
    pub subject: String,
    /// What happened.
    pub event: EventKind,
    /// What the subject was then, e.g. a digest: another one is told again.
    pub mark: String,
    /// Whether other events of the subject may be told again, whatever their mark; else only those of the same mark.
    pub settles: bool,
}

/// Whom an event may concern: a tenant with an address for callbacks, and the models of one of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The tenant.
    pub tenant: TenantId,
    /// Its address.
    pub url: String,
    /// The events that it wants; empty for all.
    pub events: Vec<String>,
    /// The models that one of its keys may use.
    pub models: Vec<ModelPattern>,
}

/// What tenants are told, and with which secrets it is signed. No change here is one that anybody hears of.
#[async_trait]
pub trait CallbackStore: Send + Sync {
    /// Tells what was not told yet; `false`, and nothing written, where it was. Deliveries to tenants that are gone are left
    /// out.
    async fn tell_once(
        &self,
        telling: &Telling,
        deliveries: &[NewDelivery],
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError>;
    /// Whether it was told already.
    async fn was_told(&self, telling: &Telling) -> Result<bool, StoreError>;
    /// Whom events may concern, once for each of the tenants' keys that is valid now and unlike the others.
    async fn subscribers(&self, now: DateTime<Utc>) -> Result<Vec<Subscriber>, StoreError>;

    /// The `limit` deliveries that have been due for the longest and that nobody has, but for those of the `busy`.
    async fn due_deliveries(
        &self,
        now: DateTime<Utc>,
        busy: &Busy,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, StoreError>;
    /// Takes those of the deliveries that are still due and that nobody has.
    async fn lease_deliveries(
        &self,
        ids: &[Uuid],
        lease: Lease,
    ) -> Result<Vec<LeasedDelivery>, StoreError>;
    /// Records an attempt and what follows; the latter only while `owner` has the delivery. Gives whether it had.
    async fn record_attempt(
        &self,
        id: Uuid,
        owner: Uuid,
        attempt: &Attempt,
        after: AfterAttempt,
    ) -> Result<bool, StoreError>;
    /// Gives back all that a replica has.
    async fn release_deliveries(&self, owner: Uuid) -> Result<(), StoreError>;

    /// The delivery of this id.
    async fn find_delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError>;
    /// The last `limit` attempts of a delivery, newest first.
    async fn attempts_of(&self, id: Uuid, limit: u32) -> Result<Vec<Attempt>, StoreError>;
    /// A page of the deliveries, newest first; `page.after` is the id of the oldest seen.
    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: Page,
    ) -> Result<Listing<Delivery>, StoreError>;
    /// Sends a finished delivery anew; `false` where it is pending.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn redeliver(
        &self,
        id: Uuid,
        now: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError>;
    /// Deletes a piece of what was finished before `before`; gives how many, 0 where nothing is left.
    async fn prune_deliveries(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
    /// Deletes a piece of a tenant's deliveries of results (`prediction.completed`) made until `until`, sent or not; gives
    /// how many, 0 where nothing is left.
    async fn erase_results(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError>;

    /// Adds a secret; the tenant's older ones end at `others_end`, or before where they did.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant.
    async fn add_callback_secret(
        &self,
        secret: &CallbackSecret,
        others_end: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
    /// A tenant's secrets in the order they were made, those that have ended too.
    async fn callback_secrets(&self, tenant: TenantId) -> Result<Vec<CallbackSecret>, StoreError>;
    /// Deletes a secret.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn delete_callback_secret(
        &self,
        tenant: TenantId,
        id: Uuid,
        audit: &AuditEntry,
    ) -> Result<(), StoreError>;
}

/// All that changed after a revision: each thing as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// The revision that this leads to; the one it was asked for where nothing changed.
    pub revision: i64,
    /// Tenants that are new or changed.
    pub tenants: Vec<Tenant>,
    /// Tenants that are gone.
    pub tenants_gone: Vec<TenantId>,
    /// Keys that are new or changed.
    pub keys: Vec<ApiKey>,
    /// Keys that are gone.
    pub keys_gone: Vec<KeyId>,
    /// Tokens that are new.
    pub tokens: Vec<AdminToken>,
    /// Tokens that are gone.
    pub tokens_gone: Vec<TokenId>,
    /// What is wanted of all models, where any of it changed.
    pub wishes: Option<BTreeMap<ModelId, ModelWish>>,
}

/// What makes an empty store usable.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The first tenant.
    pub tenant: Tenant,
    /// Its key.
    pub key: ApiKey,
    /// The first admin token.
    pub token: AdminToken,
    /// What is said of it in the audit.
    pub audit: AuditEntry,
}

/// The whole store.
#[async_trait]
pub trait Store:
    TenantStore
    + KeyStore
    + TokenStore
    + WishStore
    + AuditStore
    + UsageStore
    + PredictionStore
    + CallbackStore
    + JobStore
{
    /// What the database is, for people: `SQLite 3.50.4`, `PostgreSQL 15.18`.
    fn engine(&self) -> &str;
    /// Asks the database for a sign of life.
    async fn ping(&self) -> Result<(), StoreError>;
    /// The revision that is in force; 0 in a new store. Revisions rise in the order of commits.
    async fn revision(&self) -> Result<i64, StoreError>;
    /// All that changed after `revision`; from 0, all there is and nothing of what is gone. Consistent: no key of a missing
    /// tenant. Where the store is behind `revision`, as it was put back from a backup, it is all there is too, and
    /// [`Changes::revision`] is less than what was asked for: who follows then forgets what it knew.
    async fn changes_since(&self, revision: i64) -> Result<Changes, StoreError>;
    /// Fills a store that never held anything; `false`, and nothing written, where it did. Of two replicas that start
    /// together one does it.
    async fn bootstrap(&self, first: &Bootstrap) -> Result<bool, StoreError>;
    /// Ends all connections.
    async fn close(&self);
}
