//! The database: tenants, keys, tokens, what operators want of models, the audit, and what was used. The only SQL.
//!
//! Traits, one an aggregate; one implementation serves PostgreSQL and SQLite. Everything that changes something takes the
//! audit entry of it and commits both in one transaction, together with a new revision, which is how other replicas
//! hear of it. Called by `access`, `admin` and the command line through the traits. Knows no HTTP and no model files.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::domain::api_key::ApiKey;
use crate::domain::ids::{Alias, ModelId, VersionNumber};
use crate::domain::operator::{AdminToken, AuditEntry};
use crate::domain::rollout::Rollout;
use crate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};

mod audit;
mod callbacks;
mod changes;
mod connect;
mod error;
mod feedback;
mod figures;
mod jobs;
mod keys;
mod migrate;
mod pages;
mod partitions;
mod predictions;
mod report;
mod rows;
mod sql_store;
mod tenants;
mod tokens;
mod usage;
mod wishes;

pub use callbacks::{
    AfterAttempt, Busy, CallbackStore, DeliveryFilter, DueDelivery, Lease, LeasedDelivery,
    Subscriber, Telling,
};
pub use connect::{connect, migrate};
pub use feedback::FeedbackStore;
pub use figures::{CanarySteps, FigureStore, MOST_DISAGREEMENTS};
pub use jobs::{
    EndedJob, GivenBack, JobBounds, JobLease, JobStore, Kept, NewJob, NewJobKey, TakenJob,
    TakenPicture,
};
pub use migrate::{AppliedMigration, Migrated};
pub use predictions::{PredictionFilter, PredictionMark, PredictionStore};
pub use report::{Compared, Disagreement, Labelled, Outcomes, ReportStore, Timed, Window};

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelWish {
    /// Movable names of versions.
    pub aliases: BTreeMap<String, VersionNumber>,
    /// Versions that are to stay out of service.
    pub unloaded: BTreeSet<VersionNumber>,
    /// How its traffic is shared.
    pub rollout: Rollout,
}

/// Another rollout for a model.
#[derive(Clone, Copy, Debug)]
pub struct RolloutChange<'a> {
    /// The one that the caller has read.
    pub before: &'a Rollout,
    /// The one in its place.
    pub after: &'a Rollout,
    /// Aliases that move with it, and what they name then.
    pub aliases: &'a [(Alias, VersionNumber)],
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
    /// Says how a model's traffic is shared from now on, where it is shared as the caller has read it, and moves aliases with it.
    ///
    /// # Errors
    /// [`StoreError::Stale`] where it was changed meanwhile.
    async fn put_rollout(
        &self,
        model: &ModelId,
        change: &RolloutChange<'_>,
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
    ///
    /// # Errors
    /// [`StoreError::Stale`] where a rollout has come to need it.
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
    /// Records what was done outside the store, e.g. to a model's files: other replicas hear that there is something to see.
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
    + FeedbackStore
    + FigureStore
    + ReportStore
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
    /// Its connections, and what became of calls. Asks nobody.
    fn condition(&self) -> StoreCondition;
    /// Ends all connections.
    async fn close(&self);
}

/// The connections of this process to the database, and what became of its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCondition {
    /// Connections that nobody uses.
    pub idle: usize,
    /// Connections in use.
    pub used: usize,
    /// Connections that there may be.
    pub limit: usize,
    /// Calls that were done, since the start.
    pub done: u64,
    /// Calls that were not: no connection, no answer in time, or refused by the database.
    pub failed: u64,
}
