//! Callbacks: what the store promises of the outbox. The statements are in `sql`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Listing, Page, StoreError};
use crate::domain::api_key::ModelPattern;
use crate::domain::callback::{
    Attempt, CallbackSecret, Delivery, DeliveryState, EventKind, NewDelivery,
};
use crate::domain::operator::AuditEntry;
use crate::domain::tenant::TenantId;

mod sql;

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
    /// Deletes a piece of a tenant's deliveries of results (`prediction.completed`) that were asked for until `until`, however
    /// late they came, sent or not; gives how many, 0 where nothing is left.
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
