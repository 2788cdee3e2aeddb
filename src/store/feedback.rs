//! True labels in the database.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row as _, Sqlite, query, query_scalar};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::StoreError;
use super::rows::strange;
use super::sql_store::{Dialect as _, SqlStore};
use crate::domain::feedback::Feedback;
use crate::domain::prediction::{first_id_at, time_of};
use crate::domain::tenant::TenantId;

/// Rows that one statement deletes.
const DELETED_AT_ONCE: i64 = 5000;

/// Feedback. No change here is one that anybody hears of.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Keeps it, in place of what its tenant has said of the picture before; what was said of a prediction that was found
    /// (`is_joined`) is not replaced by what was not. Gives `false` where a deletion of the tenant's predictions came after it.
    async fn put_feedback(&self, feedback: &Feedback, is_joined: bool) -> Result<bool, StoreError>;
    /// What a tenant has said of a request's pictures, in their order.
    async fn find_feedback(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Vec<Feedback>, StoreError>;
    /// Deletes a piece of what a tenant has said of requests until `until`; gives how many, 0 where nothing is left.
    async fn erase_feedback(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
    /// Deletes a piece of what was said of requests before `before`; gives how many, 0 where nothing is left.
    async fn prune_feedback(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl FeedbackStore for SqlStore<Db> {
    async fn put_feedback(&self, feedback: &Feedback, is_joined: bool) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let asked_at = time_of(feedback.request_id);
            let purged: Option<i64> = query_scalar(
                "SELECT CAST(1 AS BIGINT) FROM purges WHERE tenant_id = $1 AND at >= $2",
            )
            .bind(feedback.tenant.0)
            .bind(asked_at)
            .fetch_optional(&mut *tx)
            .await?;
            if purged.is_some() {
                tx.rollback().await?;
                return Ok(false);
            }
            query(
                "INSERT INTO feedback (day, request_id, \"index\", tenant_id, label, at, joined) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) \
                 ON CONFLICT (day, request_id, \"index\", tenant_id) DO UPDATE \
                 SET label = excluded.label, at = excluded.at, joined = excluded.joined \
                 WHERE excluded.joined OR NOT feedback.joined",
            )
            .bind(asked_at.date_naive())
            .bind(feedback.request_id)
            .bind(i64::from(feedback.index))
            .bind(feedback.tenant.0)
            .bind(&feedback.label)
            .bind(feedback.at)
            .bind(is_joined)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn find_feedback(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Vec<Feedback>, StoreError> {
        self.within(async {
            let rows = query(
                "SELECT \"index\", label, at FROM feedback \
                 WHERE day = $1 AND request_id = $2 AND tenant_id = $3 ORDER BY \"index\"",
            )
            .bind(time_of(request_id).date_naive())
            .bind(request_id)
            .bind(tenant.0)
            .fetch_all(&self.readers)
            .await?;
            let feedback = |row: &<Db as sqlx::Database>::Row| {
                let index: i64 = row.try_get("index")?;
                Ok(Feedback {
                    request_id,
                    index: u32::try_from(index).map_err(strange)?,
                    tenant,
                    label: row.try_get("label")?,
                    at: row.try_get("at")?,
                })
            };
            rows.iter().map(feedback).collect()
        })
        .await
    }

    async fn erase_feedback(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let erased = query(
                "DELETE FROM feedback WHERE (day, request_id, \"index\", tenant_id) IN \
                 (SELECT day, request_id, \"index\", tenant_id FROM feedback \
                 WHERE tenant_id = $1 AND day <= $2 AND request_id < $3 LIMIT $4)",
            )
            .bind(tenant.0)
            .bind(until.date_naive())
            // An id holds its time, to the millisecond.
            .bind(first_id_at(until + chrono::TimeDelta::microseconds(1)))
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(erased.rows_affected())
        })
        .await
    }

    async fn prune_feedback(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let pruned = query(
                "DELETE FROM feedback WHERE (day, request_id, \"index\", tenant_id) IN \
                 (SELECT day, request_id, \"index\", tenant_id FROM feedback WHERE day < $1 LIMIT $2)",
            )
            .bind(before.date_naive())
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(pruned.rows_affected())
        })
        .await
    }
}
