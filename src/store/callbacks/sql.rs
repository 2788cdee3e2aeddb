//! Callbacks in the database: the outbox, what became of each attempt, what signs them, and what was told already.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Database, Postgres, QueryBuilder, Sqlite, query, query_as, query_scalar};
use trait_gen::trait_gen;
use uuid::Uuid;

use crate::domain::callback::{
    Attempt, CallbackSecret, Delivery, DeliveryState, EventKind, NewDelivery,
};
use crate::domain::operator::AuditEntry;
use crate::domain::tenant::TenantId;
use crate::store::error::refusal;
use crate::store::rows::{Found, columns};
use crate::store::sql_store::SqlStore;
use crate::store::{
    AfterAttempt, Busy, CallbackStore, DeliveryFilter, DueDelivery, Lease, LeasedDelivery, Listing,
    Page, StoreError, Subscriber, Telling,
};

/// What errors call them.
const DELIVERY: &str = "callback";
const SECRET: &str = "callback secret";
const TENANT: &str = "tenant";

/// Deliveries that one statement deletes, with their attempts.
const DELETED_AT_ONCE: i64 = 1000;

/// Deliveries that one statement gives up.
const GIVEN_UP_AT_ONCE: i64 = 1000;

/// What a delivery was told that was given up together with another.
const GONE: &str = "the receiver has said that it is gone";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl CallbackStore for SqlStore<Db> {
    async fn tell_once(
        &self,
        telling: &Telling,
        deliveries: &[NewDelivery],
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let told = query(
                "INSERT INTO told_events (subject, event, mark, at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (subject, event) DO UPDATE SET mark = excluded.mark, at = excluded.at \
                 WHERE told_events.mark <> excluded.mark",
            )
            .bind(&telling.subject)
            .bind(telling.event.as_str())
            .bind(&telling.mark)
            .bind(now)
            .execute(&mut *tx)
            .await?;
            if told.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            query(
                "DELETE FROM told_events WHERE subject = $1 AND event <> $2 AND (mark = $3 OR $4)",
            )
            .bind(&telling.subject)
            .bind(telling.event.as_str())
            .bind(&telling.mark)
            .bind(telling.settles)
            .execute(&mut *tx)
            .await?;
            for delivery in deliveries {
                Self::append_delivery(&mut tx, delivery, None).await?;
            }
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn was_told(&self, telling: &Telling) -> Result<bool, StoreError> {
        self.within(async {
            let mark: Option<String> =
                query_scalar("SELECT mark FROM told_events WHERE subject = $1 AND event = $2")
                    .bind(&telling.subject)
                    .bind(telling.event.as_str())
                    .fetch_optional(&self.readers)
                    .await?;
            Ok(mark.is_some_and(|mark| mark == telling.mark))
        })
        .await
    }

    async fn subscribers(&self, now: DateTime<Utc>) -> Result<Vec<Subscriber>, StoreError> {
        self.within(async {
            let found = query_as(
                "SELECT DISTINCT tenants.id, tenants.callback_url, tenants.events, api_keys.models \
                 FROM tenants JOIN api_keys ON api_keys.tenant_id = tenants.id \
                 WHERE tenants.callback_url IS NOT NULL \
                 AND (api_keys.expires_at IS NULL OR api_keys.expires_at > $1) \
                 ORDER BY tenants.id",
            )
            .bind(now)
            .fetch_all(&self.readers)
            .await?;
            Ok(found.into_iter().map(|Found(one)| one).collect())
        })
        .await
    }

    async fn due_deliveries(
        &self,
        now: DateTime<Utc>,
        busy: &Busy,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(
                "SELECT id, tenant_id, lane FROM callback_deliveries WHERE state = 'pending' AND next_attempt_at <= ",
            );
            select.push_bind(now);
            select.push(" AND (leased_until IS NULL OR leased_until <= ");
            select.push_bind(now);
            select.push(")");
            if !busy.lanes.is_empty() {
                select.push(" AND lane NOT IN (");
                let mut lanes = select.separated(", ");
                for &lane in &busy.lanes {
                    lanes.push_bind(lane);
                }
                select.push(")");
            }
            if !busy.tenants.is_empty() {
                select.push(" AND tenant_id NOT IN (");
                let mut tenants = select.separated(", ");
                for tenant in &busy.tenants {
                    tenants.push_bind(tenant.0);
                }
                select.push(")");
            }
            select.push(" ORDER BY next_attempt_at LIMIT ");
            select.push_bind(i64::from(limit));
            let rows: Vec<(Uuid, Uuid, i64)> = select
                .build_query_as()
                .persistent(false)
                .fetch_all(&self.readers)
                .await?;
            let due = |(id, tenant, lane)| DueDelivery {
                id,
                tenant: TenantId(tenant),
                lane,
            };
            Ok(rows.into_iter().map(due).collect())
        })
        .await
    }

    async fn lease_deliveries(
        &self,
        ids: &[Uuid],
        lease: Lease,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.within(async {
            let mut tx = self.note().await?;
            let mut update = QueryBuilder::<Db>::new("UPDATE callback_deliveries SET owner = ");
            update.push_bind(lease.owner);
            update.push(", leased_until = ").push_bind(lease.until);
            update.push(" WHERE state = 'pending' AND next_attempt_at <= ");
            update.push_bind(lease.now);
            update.push(" AND (leased_until IS NULL OR leased_until <= ");
            update.push_bind(lease.now).push(") AND id IN (");
            let mut chosen = update.separated(", ");
            for &id in ids {
                chosen.push_bind(id);
            }
            update.push(concat!(") RETURNING ", columns!(callback_deliveries)));
            let leased: Vec<Found<LeasedDelivery>> = update
                .build_query_as()
                .persistent(false)
                .fetch_all(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(leased.into_iter().map(|Found(one)| one).collect())
        })
        .await
    }

    async fn record_attempt(
        &self,
        id: Uuid,
        owner: Uuid,
        attempt: &Attempt,
        after: AfterAttempt,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            // Of a delivery that was deleted meanwhile nothing is kept.
            query(
                "INSERT INTO callback_attempts (delivery_id, id, at, status, error, duration_ms) \
                 SELECT id, $1, $2, $3, $4, $5 FROM callback_deliveries WHERE id = $6",
            )
            .bind(Uuid::now_v7())
            .bind(attempt.at)
            .bind(attempt.status.map(i64::from))
            .bind(&attempt.error)
            .bind(attempt.duration_ms.cast_signed())
            .bind(id)
            .execute(&mut *tx)
            .await?;
            let (state, next) = match after {
                AfterAttempt::Delivered => (DeliveryState::Delivered, None),
                AfterAttempt::Again(at) => (DeliveryState::Pending, Some(at)),
                AfterAttempt::Dead | AfterAttempt::Gone => (DeliveryState::Dead, None),
            };
            let ended = attempt.ended_at();
            let done = query(
                "UPDATE callback_deliveries SET state = $1, attempts = attempts + 1, next_attempt_at = $2, \
                 owner = NULL, leased_until = NULL, last_status = $3, last_error = $4, finished_at = $5 \
                 WHERE id = $6 AND owner = $7 AND state = 'pending'",
            )
            .bind(state.as_str())
            .bind(next)
            .bind(attempt.status.map(i64::from))
            .bind(&attempt.error)
            .bind(next.is_none().then_some(ended))
            .bind(id)
            .bind(owner)
            .execute(&mut *tx)
            .await?;
            if after == AfterAttempt::Gone {
                Self::give_up_beside(&mut tx, id, ended).await?;
            }
            tx.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn release_deliveries(&self, owner: Uuid) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            query(
                "UPDATE callback_deliveries SET owner = NULL, leased_until = NULL \
                 WHERE state = 'pending' AND owner = $1",
            )
            .bind(owner)
            .execute(&mut *tx)
            .await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn find_delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(callback_deliveries),
                " FROM callback_deliveries WHERE id = $1"
            ))
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.map(|Found(delivery)| delivery))
        })
        .await
    }

    async fn attempts_of(&self, id: Uuid, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(callback_attempts),
                " FROM callback_attempts WHERE delivery_id = $1 ORDER BY id DESC LIMIT $2"
            ))
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
            Ok(found.into_iter().map(|Found(attempt)| attempt).collect())
        })
        .await
    }

    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: Page,
    ) -> Result<Listing<Delivery>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(concat!(
                "SELECT ",
                columns!(callback_deliveries),
                " FROM callback_deliveries WHERE id < "
            ));
            select.push_bind(page.end());
            if let Some(tenant) = filter.tenant {
                select.push(" AND tenant_id = ").push_bind(tenant.0);
            }
            if let Some(state) = filter.state {
                select.push(" AND state = ").push_bind(state.as_str());
            }
            if let Some(event) = filter.event {
                select.push(" AND event = ").push_bind(event.as_str());
            }
            select.push(" ORDER BY id DESC LIMIT ");
            select.push_bind(page.one_more());
            let found = select
                .build_query_as::<Found<Delivery>>()
                .persistent(false)
                .fetch_all(&self.readers)
                .await?;
            Ok(page.listing(found, |delivery| delivery.what.id))
        })
        .await
    }

    async fn redeliver(
        &self,
        id: Uuid,
        now: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let done = query(
                "UPDATE callback_deliveries SET state = 'pending', attempts = 0, begun_at = $1, \
                 next_attempt_at = $1, finished_at = NULL WHERE id = $2 AND state <> 'pending'",
            )
            .bind(now)
            .bind(id)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() > 0 {
                Self::append(&mut tx, audit).await?;
                tx.commit().await?;
                return Ok(true);
            }
            let known: Option<Uuid> =
                query_scalar("SELECT id FROM callback_deliveries WHERE id = $1")
                    .bind(id)
                    .fetch_optional(&mut *tx)
                    .await?;
            tx.rollback().await?;
            known.map(|_| false).ok_or(StoreError::NotFound(DELIVERY))
        })
        .await
    }

    async fn prune_deliveries(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let pruned = query(
                "DELETE FROM callback_deliveries WHERE id IN (SELECT id FROM callback_deliveries \
                 WHERE finished_at IS NOT NULL AND finished_at < $1 LIMIT $2)",
            )
            .bind(before)
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(pruned.rows_affected())
        })
        .await
    }

    async fn erase_results(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let kind = Some(EventKind::PredictionCompleted);
        self.erase_deliveries(tenant, kind, until).await
    }

    async fn add_callback_secret(
        &self,
        secret: &CallbackSecret,
        others_end: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            query(
                "UPDATE callback_secrets SET expires_at = $1 \
                 WHERE tenant_id = $2 AND (expires_at IS NULL OR expires_at > $1)",
            )
            .bind(others_end)
            .bind(secret.tenant.0)
            .execute(&mut *tx)
            .await?;
            query("DELETE FROM callback_secrets WHERE tenant_id = $1 AND expires_at <= $2")
                .bind(secret.tenant.0)
                .bind(secret.created_at)
                .execute(&mut *tx)
                .await?;
            query(
                "INSERT INTO callback_secrets (id, tenant_id, secret, created_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(secret.id)
            .bind(secret.tenant.0)
            .bind(&secret.secret)
            .bind(secret.created_at)
            .bind(secret.expires_at)
            .execute(&mut *tx)
            .await
            .map_err(|error| refusal(error, SECRET, TENANT))?;
            Self::append(&mut tx, audit).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn callback_secrets(&self, tenant: TenantId) -> Result<Vec<CallbackSecret>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(callback_secrets),
                " FROM callback_secrets WHERE tenant_id = $1 ORDER BY id"
            ))
            .bind(tenant.0)
            .fetch_all(&self.readers)
            .await?;
            Ok(found.into_iter().map(|Found(secret)| secret).collect())
        })
        .await
    }

    async fn delete_callback_secret(
        &self,
        tenant: TenantId,
        id: Uuid,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let done = query("DELETE FROM callback_secrets WHERE tenant_id = $1 AND id = $2")
                .bind(tenant.0)
                .bind(id)
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                tx.rollback().await?;
                return Err(StoreError::NotFound(SECRET));
            }
            Self::append(&mut tx, audit).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Puts a delivery into the outbox with whatever else the connection's transaction holds, which has the row of
    /// `revision`. A tenant that is gone gets none. `asked_at` is when a result was asked for.
    pub(in crate::store) async fn append_delivery(
        writer: &mut <Db as Database>::Connection,
        delivery: &NewDelivery,
        asked_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        query(
            "INSERT INTO callback_deliveries (id, tenant_id, event, url, lane, body, state, attempts, \
             begun_at, next_attempt_at, created_at, asked_at, traceparent) \
             SELECT $1, id, $2, $3, $4, $5, 'pending', 0, $6, $6, $6, $7, $8 FROM tenants WHERE id = $9",
        )
        .bind(delivery.id)
        .bind(delivery.event.as_str())
        .bind(&delivery.url)
        .bind(delivery.lane())
        .bind(&delivery.body)
        .bind(delivery.created_at)
        .bind(asked_at)
        .bind(&delivery.traceparent)
        .bind(delivery.tenant.0)
        .execute(writer)
        .await
        .map_err(|error| refusal(error, DELIVERY, TENANT))?;
        Ok(())
    }

    /// Deletes a piece of a tenant's deliveries, of one kind or of all, that were asked for until then; gives how many.
    pub(in crate::store) async fn erase_deliveries(
        &self,
        tenant: TenantId,
        kind: Option<EventKind>,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            let erased = query(
                "DELETE FROM callback_deliveries WHERE id IN (SELECT id FROM callback_deliveries \
                 WHERE tenant_id = $1 AND event = COALESCE($2, event) \
                 AND COALESCE(asked_at, created_at) <= $3 LIMIT $4)",
            )
            .bind(tenant.0)
            .bind(kind.map(EventKind::as_str))
            .bind(until)
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(erased.rows_affected())
        })
        .await
    }

    /// Gives up what is pending to the tenant and address of a delivery, or a piece of it: the next one that is sent there
    /// and hears the same gives up the next piece.
    async fn give_up_beside(
        writer: &mut <Db as Database>::Connection,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        query(
            "UPDATE callback_deliveries SET state = 'dead', next_attempt_at = NULL, owner = NULL, \
             leased_until = NULL, last_error = $1, finished_at = $2 WHERE state = 'pending' AND id IN \
             (SELECT id FROM callback_deliveries WHERE state = 'pending' \
             AND tenant_id = (SELECT tenant_id FROM callback_deliveries WHERE id = $3) \
             AND url = (SELECT url FROM callback_deliveries WHERE id = $3) LIMIT $4)",
        )
        .bind(GONE)
        .bind(now)
        .bind(id)
        .bind(GIVEN_UP_AT_ONCE)
        .execute(writer)
        .await?;
        Ok(())
    }
}
