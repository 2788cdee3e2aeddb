//! Jobs in the database: kept with their pictures, taken by leases, ended in one transaction with what is told of them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Database, FromRow as _, Postgres, Row as _, Sqlite, query, query_as, query_scalar};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::{
    EndedJob, GivenBack, JobBounds, JobLease, JobStore, Kept, NewJob, NewJobKey, TakenJob,
    TakenPicture,
};
use crate::domain::job::{Job, JobPicture, JobStanding, PictureContent};
use crate::domain::tenant::TenantId;
use crate::store::StoreError;
use crate::store::error::refusal;
use crate::store::rows::{Found, columns, strange};
use crate::store::sql_store::SqlStore;

/// What errors call it.
const JOB: &str = "job";
const TENANT: &str = "tenant";

/// Jobs that one statement deletes, with their pictures.
const DELETED_AT_ONCE: i64 = 100;

/// Clients' names that one statement deletes.
const NAMES_DELETED_AT_ONCE: i64 = 1000;

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl JobStore for SqlStore<Db> {
    async fn add_job(&self, new: &NewJob<'_>) -> Result<Kept, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            if let Some(key) = &new.key {
                let known = Self::known_key(&mut tx, new.job, key).await?;
                if let Some(before) = known {
                    tx.rollback().await?;
                    return Ok(before);
                }
            }
            if Self::is_full(&mut tx, new).await? {
                tx.rollback().await?;
                return Ok(Kept::Full);
            }
            Self::insert_job(&mut tx, new).await?;
            for picture in new.pictures {
                Self::insert_picture(&mut tx, new.job.asked.request_id, picture).await?;
            }
            if let Some(key) = &new.key {
                Self::insert_key(&mut tx, new.job, key).await?;
            }
            tx.commit().await?;
            Ok(Kept::New)
        })
        .await
    }

    async fn take_job(&self, lease: JobLease) -> Result<Option<TakenJob>, StoreError> {
        self.within(async {
            // Most looks find nothing: they keep nobody waiting.
            let due: Option<Uuid> = query_scalar("SELECT id FROM jobs WHERE due_at <= $1 LIMIT 1")
                .bind(lease.now)
                .fetch_optional(&self.readers)
                .await?;
            if due.is_none() {
                return Ok(None);
            }
            let mut tx = self.note().await?;
            let next: Option<Uuid> = query_scalar(
                "SELECT jobs.id FROM job_turns JOIN jobs ON jobs.id = \
                 (SELECT id FROM jobs AS own WHERE own.tenant_id = job_turns.tenant_id \
                 AND own.due_at <= $1 ORDER BY own.due_at, own.id LIMIT 1) \
                 ORDER BY job_turns.taken_at, jobs.due_at, jobs.id LIMIT 1",
            )
            .bind(lease.now)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(next) = next else {
                tx.rollback().await?;
                return Ok(None);
            };
            let taken = Self::lease_job(&mut tx, next, lease).await?;
            tx.commit().await?;
            Ok(Some(taken))
        })
        .await
    }

    async fn job_picture(&self, job: Uuid, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.within(async {
            let content: Option<Option<Vec<u8>>> = query_scalar(
                "SELECT content FROM job_pictures WHERE job_id = $1 AND \"index\" = $2",
            )
            .bind(job)
            .bind(i64::from(index))
            .fetch_optional(&self.readers)
            .await?;
            Ok(content.flatten())
        })
        .await
    }

    async fn renew_job(
        &self,
        job: Uuid,
        lease: Uuid,
        until: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let done = query("UPDATE jobs SET due_at = $1 WHERE id = $2 AND lease = $3")
                .bind(until)
                .bind(job)
                .bind(lease)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn give_back_job(
        &self,
        job: Uuid,
        lease: Uuid,
        back: GivenBack<'_>,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let done = query(
                "UPDATE jobs SET state = 'queued', lease = NULL, due_at = $1, attempts = attempts - 1 \
                 WHERE id = $2 AND lease = $3",
            )
            .bind(back.due_at)
            .bind(job)
            .bind(lease)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            for (index, result) in back.results {
                query(
                    "UPDATE job_pictures SET content = NULL, result = $1 \
                     WHERE job_id = $2 AND \"index\" = $3",
                )
                .bind(result.to_string())
                .bind(job)
                .bind(i64::from(*index))
                .execute(&mut *tx)
                .await?;
            }
            query(
                "UPDATE jobs SET waiting_bytes = (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) \
                 FROM job_pictures WHERE job_id = $1 AND result IS NULL) WHERE id = $1",
            )
            .bind(job)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn end_job(&self, job: Uuid, lease: Uuid, end: EndedJob<'_>) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let ended: Option<(Uuid, DateTime<Utc>)> = query_as(
                "UPDATE jobs SET state = $1, results = $2, ended_at = $3, due_at = NULL, \
                 lease = NULL, waiting_bytes = 0 WHERE id = $4 AND lease = $5 \
                 RETURNING tenant_id, created_at",
            )
            .bind(end.state.as_str())
            .bind(text(end.results)?)
            .bind(end.at)
            .bind(job)
            .bind(lease)
            .fetch_optional(&mut *tx)
            .await?;
            let Some((tenant, asked_at)) = ended else {
                tx.rollback().await?;
                return Ok(false);
            };
            query("DELETE FROM job_pictures WHERE job_id = $1")
                .bind(job)
                .execute(&mut *tx)
                .await?;
            if let Some(delivery) = end.delivery {
                Self::append_delivery(&mut tx, delivery, Some(asked_at)).await?;
            }
            Self::end_turn(&mut tx, tenant).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn find_job(
        &self,
        job: Uuid,
        tenant: TenantId,
    ) -> Result<Option<JobStanding>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(jobs),
                " FROM jobs WHERE id = $1 AND tenant_id = $2"
            ))
            .bind(job)
            .bind(tenant.0)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.map(|Found(standing)| standing))
        })
        .await
    }

    async fn forget_jobs(&self, tenant: TenantId, until: DateTime<Utc>) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let gone = query(
                "DELETE FROM jobs WHERE id IN \
                 (SELECT id FROM jobs WHERE tenant_id = $1 AND created_at <= $2 LIMIT $3)",
            )
            .bind(tenant.0)
            .bind(until)
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            let freed = query(
                "DELETE FROM job_keys WHERE (tenant_id, key) IN \
                 (SELECT tenant_id, key FROM job_keys WHERE tenant_id = $1 AND at <= $2 LIMIT $3)",
            )
            .bind(tenant.0)
            .bind(until)
            .bind(NAMES_DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            Self::end_turn(&mut tx, tenant.0).await?;
            tx.commit().await?;
            Ok(gone.rows_affected() + freed.rows_affected())
        })
        .await
    }

    async fn prune_jobs(
        &self,
        ended: DateTime<Utc>,
        named: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let gone = query(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE ended_at < $1 LIMIT $2)",
            )
            .bind(ended)
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            let freed = query(
                "DELETE FROM job_keys WHERE (tenant_id, key) IN \
                 (SELECT tenant_id, key FROM job_keys WHERE at < $1 LIMIT $2)",
            )
            .bind(named)
            .bind(NAMES_DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(gone.rows_affected() + freed.rows_affected())
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// What was sent before under a client's name. A name that was given too long ago is free again.
    async fn known_key(
        writer: &mut <Db as Database>::Connection,
        job: &Job,
        key: &NewJobKey<'_>,
    ) -> Result<Option<Kept>, StoreError> {
        query("DELETE FROM job_keys WHERE tenant_id = $1 AND key = $2 AND at <= $3")
            .bind(job.asked.tenant.0)
            .bind(key.key)
            .bind(key.forgotten)
            .execute(&mut *writer)
            .await?;
        let known: Option<(Uuid, Vec<u8>)> = query_as(
            "SELECT request_id, fingerprint FROM job_keys WHERE tenant_id = $1 AND key = $2",
        )
        .bind(job.asked.tenant.0)
        .bind(key.key)
        .fetch_optional(writer)
        .await?;
        Ok(known.map(|(request, fingerprint)| {
            if fingerprint == key.fingerprint {
                Kept::Before(request)
            } else {
                Kept::Differs
            }
        }))
    }

    /// Whether a job is more than its tenant may have beside what it has.
    async fn is_full(
        writer: &mut <Db as Database>::Connection,
        new: &NewJob<'_>,
    ) -> Result<bool, StoreError> {
        let (jobs, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(waiting_bytes), 0) AS BIGINT) FROM jobs \
             WHERE tenant_id = $1 AND due_at IS NOT NULL",
        )
        .bind(new.job.asked.tenant.0)
        .fetch_one(&mut *writer)
        .await?;
        let JobBounds {
            jobs: most_jobs,
            bytes: most_bytes,
            callbacks: most_callbacks,
        } = new.bounds;
        let more = new.pictures.iter().map(JobPicture::bytes).sum::<u64>();
        let is_full = jobs.unsigned_abs() >= most_jobs
            || bytes.unsigned_abs().saturating_add(more) > most_bytes;
        if is_full || new.job.callback_url.is_none() {
            return Ok(is_full);
        }
        // No more than would be too many are counted.
        let told: i64 = query_scalar(
            "SELECT COUNT(*) FROM (SELECT 1 FROM callback_deliveries \
             WHERE tenant_id = $1 AND state = 'pending' LIMIT $2) AS untold",
        )
        .bind(new.job.asked.tenant.0)
        .bind(most_callbacks.cast_signed())
        .fetch_one(writer)
        .await?;
        Ok(told.unsigned_abs() >= most_callbacks)
    }

    async fn insert_job(
        writer: &mut <Db as Database>::Connection,
        new: &NewJob<'_>,
    ) -> Result<(), StoreError> {
        let (job, asked) = (new.job, &new.job.asked);
        let bytes = new.pictures.iter().map(JobPicture::bytes).sum::<u64>();
        query(
            "INSERT INTO jobs (id, tenant_id, key_id, client_request_id, trace_id, model, terms, \
             callback_url, created_at, state, due_at, attempts, waiting_bytes, traceparent) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'queued', $9, 0, $10, $11)",
        )
        .bind(asked.request_id)
        .bind(asked.tenant.0)
        .bind(asked.key.0)
        .bind(&asked.client_request_id)
        .bind(&asked.trace_id)
        .bind(job.model.as_str())
        .bind(job.terms.to_string())
        .bind(&job.callback_url)
        .bind(job.created_at)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .bind(&job.traceparent)
        .execute(&mut *writer)
        .await
        .map_err(|error| refusal(error, JOB, TENANT))?;
        query(
            "INSERT INTO job_turns (tenant_id, taken_at) VALUES ($1, $2) \
             ON CONFLICT (tenant_id) DO NOTHING",
        )
        .bind(asked.tenant.0)
        .bind(job.created_at)
        .execute(writer)
        .await?;
        Ok(())
    }

    async fn insert_picture(
        writer: &mut <Db as Database>::Connection,
        job: Uuid,
        picture: &JobPicture,
    ) -> Result<(), StoreError> {
        let (content, result) = match &picture.content {
            PictureContent::Waiting(bytes) => (Some(&bytes[..]), None),
            PictureContent::Ended(result) => (None, Some(result.to_string())),
        };
        let filename = picture.filename.as_deref().map(Value::from);
        query(
            "INSERT INTO job_pictures (job_id, \"index\", filename, bytes, content, result) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(job)
        .bind(i64::from(picture.index))
        .bind(filename.map(|name| name.to_string()))
        .bind(picture.bytes().cast_signed())
        .bind(content)
        .bind(result)
        .execute(writer)
        .await?;
        Ok(())
    }

    async fn insert_key(
        writer: &mut <Db as Database>::Connection,
        job: &Job,
        key: &NewJobKey<'_>,
    ) -> Result<(), StoreError> {
        query(
            "INSERT INTO job_keys (tenant_id, key, request_id, fingerprint, at) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(job.asked.tenant.0)
        .bind(key.key)
        .bind(job.asked.request_id)
        .bind(key.fingerprint)
        .bind(job.created_at)
        .execute(writer)
        .await?;
        Ok(())
    }

    /// Takes a job, which nobody else can meanwhile; its tenant has had its turn then.
    async fn lease_job(
        writer: &mut <Db as Database>::Connection,
        job: Uuid,
        lease: JobLease,
    ) -> Result<TakenJob, StoreError> {
        let row = query(concat!(
            "UPDATE jobs SET state = 'running', lease = $1, due_at = $2, attempts = attempts + 1 \
             WHERE id = $3 RETURNING attempts, ",
            columns!(jobs)
        ))
        .bind(lease.id)
        .bind(lease.until)
        .bind(job)
        .fetch_one(&mut *writer)
        .await?;
        let attempts: i64 = row.try_get("attempts")?;
        let Found(JobStanding { job, .. }) = Found::from_row(&row)?;
        query("UPDATE job_turns SET taken_at = $1 WHERE tenant_id = $2")
            .bind(lease.now)
            .bind(job.asked.tenant.0)
            .execute(&mut *writer)
            .await?;
        let pictures: Vec<Found<TakenPicture>> = query_as(
            "SELECT \"index\", filename, bytes, result FROM job_pictures WHERE job_id = $1 \
             ORDER BY \"index\"",
        )
        .bind(job.asked.request_id)
        .fetch_all(writer)
        .await?;
        Ok(TakenJob {
            job,
            attempts: u32::try_from(attempts).map_err(strange)?,
            pictures: pictures.into_iter().map(|Found(one)| one).collect(),
        })
    }

    /// A tenant without jobs has no turn.
    async fn end_turn(
        writer: &mut <Db as Database>::Connection,
        tenant: Uuid,
    ) -> Result<(), StoreError> {
        query(
            "DELETE FROM job_turns WHERE tenant_id = $1 AND NOT EXISTS \
             (SELECT 1 FROM jobs WHERE tenant_id = $1 AND due_at IS NOT NULL)",
        )
        .bind(tenant)
        .execute(writer)
        .await?;
        Ok(())
    }
}

/// Results as the JSON array that stands for them in a column.
fn text(results: &[Value]) -> Result<String, StoreError> {
    serde_json::to_string(results).map_err(|error| StoreError::Failed(error.to_string()))
}
