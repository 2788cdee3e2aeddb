//! Jobs: what the store promises of classifications that nobody waits for. The statements are in `sql`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::domain::callback::NewDelivery;
use crate::domain::job::{Job, JobPicture, JobStanding, JobState};
use crate::domain::tenant::TenantId;

mod sql;

/// A job that is to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewJob<'a> {
    /// What was asked.
    pub job: &'a Job,
    /// With which pictures.
    pub pictures: &'a [JobPicture],
    /// The client's own name for it.
    pub key: Option<NewJobKey<'a>>,
    /// What its tenant may have.
    pub bounds: JobBounds,
}

/// The client's own name for what it sent.
#[derive(Clone, Copy, Debug)]
pub struct NewJobKey<'a> {
    /// The name.
    pub key: &'a str,
    /// SHA-256 of what was asked: another one under the same name is another job.
    pub fingerprint: &'a [u8],
    /// Names that were given until then are forgotten.
    pub forgotten: DateTime<Utc>,
}

/// What a tenant may have of jobs that have not ended, and of results that have not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobBounds {
    /// Jobs.
    pub jobs: u64,
    /// Bytes of pictures.
    pub bytes: u64,
    /// Callbacks that are still to be sent; matters for a job that ends with one.
    pub callbacks: u64,
}

/// What became of a job that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    New,
    /// The same was sent before under its name, as this request.
    Before(Uuid),
    /// Something else was sent before under its name.
    Differs,
    /// Its tenant has too much already.
    Full,
}

/// For whom a job is taken, and until when nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLease {
    /// Who takes it; another one each time.
    pub id: Uuid,
    /// Now.
    pub now: DateTime<Utc>,
    /// The lease's end: whoever has not come back by then has crashed.
    pub until: DateTime<Utc>,
}

/// A job that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenJob {
    /// What was asked.
    pub job: Job,
    /// How often it was taken and not given back, this time included.
    pub attempts: u32,
    /// Its pictures, in order.
    pub pictures: Vec<TakenPicture>,
}

/// A picture of a job that was taken, without its content.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenPicture {
    /// Its place in the request, from 0.
    pub index: u32,
    /// The file's name, where the request has one.
    pub filename: Option<String>,
    /// Bytes of the file.
    pub bytes: u64,
    /// What became of it already.
    pub result: Option<Value>,
}

/// A job that goes back before its end.
#[derive(Clone, Copy, Debug)]
pub struct GivenBack<'a> {
    /// What came out so far: pictures by their places, with their results.
    pub results: &'a [(u32, Value)],
    /// When it may be taken again.
    pub due_at: DateTime<Utc>,
}

/// The end of a job.
#[derive(Clone, Copy, Debug)]
pub struct EndedJob<'a> {
    /// What it has come to.
    pub state: JobState,
    /// One result a picture, in order.
    pub results: &'a [Value],
    /// When.
    pub at: DateTime<Utc>,
    /// Who is told of it.
    pub delivery: Option<&'a NewDelivery>,
}

/// Classifications that nobody waits for. No change here is one that anybody hears of.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Keeps a job with its pictures, or nothing of it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant, [`StoreError::Conflict`] where there is a job of this id.
    async fn add_job(&self, new: &NewJob<'_>) -> Result<Kept, StoreError>;
    /// Takes a job that is due: of the tenant whose turn is the longest ago, the one that has been due for the longest.
    async fn take_job(&self, lease: JobLease) -> Result<Option<TakenJob>, StoreError>;
    /// A picture's file; `None` where it is gone.
    async fn job_picture(&self, job: Uuid, index: u32) -> Result<Option<Vec<u8>>, StoreError>;
    /// Makes a lease longer; `false` where the job is not leased to `lease` any more.
    async fn renew_job(
        &self,
        job: Uuid,
        lease: Uuid,
        until: DateTime<Utc>,
    ) -> Result<bool, StoreError>;
    /// Gives a job back, as if it had not been taken; `false`, and nothing written, as in [`Self::renew_job`].
    async fn give_back_job(
        &self,
        job: Uuid,
        lease: Uuid,
        back: GivenBack<'_>,
    ) -> Result<bool, StoreError>;
    /// Ends a job: its results are kept, its pictures go, and who is to be told is. `false`, and nothing written, as in
    /// [`Self::renew_job`].
    async fn end_job(&self, job: Uuid, lease: Uuid, end: EndedJob<'_>) -> Result<bool, StoreError>;
    /// How a tenant's job stands.
    async fn find_job(
        &self,
        job: Uuid,
        tenant: TenantId,
    ) -> Result<Option<JobStanding>, StoreError>;
    /// Deletes a piece of a tenant's jobs that were taken in until `until`, however far they have come: who works on one
    /// writes nothing any more; and of the clients' names for them. Gives how many, 0 where nothing is left.
    async fn forget_jobs(&self, tenant: TenantId, until: DateTime<Utc>) -> Result<u64, StoreError>;
    /// Deletes a piece of the jobs that ended before `ended`, and the clients' names that were given before `named`; gives
    /// how many of both, 0 where nothing is left.
    async fn prune_jobs(
        &self,
        ended: DateTime<Utc>,
        named: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
}
