//! The prediction log in the database: written many rows at once, read from the newest down.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use sqlx::{Postgres, QueryBuilder, Sqlite, query, query_as};
use trait_gen::trait_gen;
use uuid::Uuid;

use crate::domain::operator::AuditEntry;
use crate::domain::prediction::{PredictedClass, Prediction, first_id_at, time_of};
use crate::domain::tenant::TenantId;
use crate::store::rows::{Found, columns, signed};
use crate::store::sql_store::{AT_ONCE, Dialect as _, SqlStore};
use crate::store::{PredictionFilter, PredictionMark, PredictionStore, StoreError};

/// Rows of a tenant that one statement deletes.
const ERASED_AT_ONCE: i64 = 5000;

/// How long deletions are remembered beyond the last day that they reach.
const PURGES_OUTLIVE_DAYS: TimeDelta = TimeDelta::days(400);

/// What all that reads begins with.
const SELECT: &str = concat!("SELECT ", columns!(predictions), " FROM predictions WHERE ");

/// Hands the values of a row, in the order of the columns, to a macro as closures over a prediction.
macro_rules! with_values {
    ($call:ident) => {
        $call! {
            |p| p.day();
            |p| p.asked.request_id;
            |p| i64::from(p.index);
            |p| p.asked.tenant.0;
            |p| p.asked.key.0;
            |p| p.model.as_str();
            |p| p.answered_by.as_ref().map(|by| by.version.get().cast_signed());
            |p| p.answered_by.as_ref().map(|by| by.digest.to_string());
            |p| p.answered_by.as_ref().and_then(|by| by.arm.as_deref());
            |p| p.picture.as_ref().map(|picture| picture.digest.to_string());
            |p| signed(p.picture.as_ref().map(|picture| picture.bytes));
            |p| p.picture.as_ref().and_then(|picture| picture.format.as_deref());
            |p| size(p).map(|(width, _)| i64::from(width));
            |p| size(p).map(|(_, height)| i64::from(height));
            |p| p.answer.as_ref().map(|answer| answer.class.as_str());
            |p| p.answer.as_ref().map(|answer| f64::from(answer.confidence));
            |p| p.answer.as_ref().map(|answer| json(&answer.classes));
            |p| p.cached;
            |p| p.timings.decode;
            |p| p.timings.queue;
            |p| p.timings.inference;
            |p| p.timings.total;
            |p| i64::from(p.status);
            |p| p.code.as_deref();
            |p| p.asked.trace_id.as_deref();
            |p| p.asked.client_request_id.as_deref();
            |p| p.at();
        }
    };
}

fn size(prediction: &Prediction) -> Option<(u32, u32)> {
    prediction.picture.as_ref().and_then(|picture| picture.size)
}

/// A list of classes has nothing in it that JSON could not say.
fn json(classes: &[PredictedClass]) -> String {
    serde_json::to_string(classes).unwrap_or_default()
}

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl PredictionStore for SqlStore<Db> {
    async fn add_predictions(&self, predictions: &[Prediction]) -> Result<u64, StoreError> {
        if predictions.is_empty() {
            return Ok(0);
        }
        self.within(async {
            match self.insert(predictions).await {
                Err(error) if Self::misses_a_day(&error) => {
                    self.make_days(predictions.iter().map(Prediction::day))
                        .await?;
                    Ok(self.insert(predictions).await?)
                }
                outcome => Ok(outcome?),
            }
        })
        .await
    }

    async fn find_predictions(
        &self,
        request_id: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Vec<Prediction>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(SELECT);
            select.push("day = ");
            select.push_bind(time_of(request_id).date_naive());
            select.push(" AND request_id = ").push_bind(request_id);
            if let Some(tenant) = tenant {
                select.push(" AND tenant_id = ").push_bind(tenant.0);
            }
            select.push(" ORDER BY \"index\"");
            self.read(select).await
        })
        .await
    }

    async fn list_predictions(
        &self,
        filter: &PredictionFilter,
        after: Option<PredictionMark>,
        limit: u32,
    ) -> Result<Vec<Prediction>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(SELECT);
            select.push("true");
            Self::filter(&mut select, filter);
            if let Some(PredictionMark { request_id, index }) = after {
                let day = time_of(request_id).date_naive();
                // The day by itself lets PostgreSQL leave out partitions.
                select.push(" AND day <= ").push_bind(day);
                select.push(" AND (day, request_id, \"index\") < (");
                select.push_bind(day);
                select.push(", ").push_bind(request_id);
                select.push(", ").push_bind(i64::from(index));
                select.push(")");
            }
            select.push(" ORDER BY day DESC, request_id DESC, \"index\" DESC LIMIT ");
            select.push_bind(i64::from(limit));
            self.read(select).await
        })
        .await
    }

    async fn purge_predictions(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            query(
                "INSERT INTO purges (tenant_id, at) VALUES ($1, $2) \
                 ON CONFLICT (tenant_id) DO UPDATE SET at = excluded.at \
                 WHERE purges.at < excluded.at",
            )
            .bind(tenant.0)
            .bind(until)
            .execute(&mut *tx)
            .await?;
            query("DELETE FROM disagreements WHERE tenant_id = $1 AND at <= $2")
                .bind(tenant.0)
                .bind(until)
                .execute(&mut *tx)
                .await?;
            Self::append(&mut tx, audit).await?;
            // Who adds predictions now may not have seen this yet: it is waited for, and whoever comes later will.
            Self::after_who_adds(&mut tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn purges(&self) -> Result<Vec<(TenantId, DateTime<Utc>)>, StoreError> {
        self.within(async {
            let rows: Vec<(Uuid, DateTime<Utc>)> = query_as("SELECT tenant_id, at FROM purges")
                .fetch_all(&self.readers)
                .await?;
            let purge = |(id, at)| (TenantId(id), at);
            Ok(rows.into_iter().map(purge).collect())
        })
        .await
    }

    async fn erase_predictions(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let erased = query(
                "DELETE FROM predictions WHERE (day, request_id, \"index\") IN \
                 (SELECT day, request_id, \"index\" FROM predictions WHERE tenant_id = $1 \
                 AND day <= $2 AND at <= $3 LIMIT $4)",
            )
            .bind(tenant.0)
            // The day by itself lets PostgreSQL leave out partitions.
            .bind(until.date_naive())
            .bind(until)
            .bind(ERASED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(erased.rows_affected())
        })
        .await
    }

    async fn turn_days(
        &self,
        today: NaiveDate,
        oldest: Option<NaiveDate>,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let ahead = today.iter_days().take(crate::store::partitions::AHEAD);
            self.make_days(ahead).await?;
            let Some(oldest) = oldest else {
                return Ok(false);
            };
            // The writer leaves out what is older. Whoever keeps the pictures, or has a spool of another age, may be away for
            // long.
            let forgotten = oldest.and_time(NaiveTime::MIN).and_utc() - PURGES_OUTLIVE_DAYS;
            query("DELETE FROM purges WHERE at < $1")
                .bind(forgotten)
                .execute(&self.writers)
                .await?;
            self.drop_days(oldest).await
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// The predictions that a statement selects.
    async fn read(&self, mut select: QueryBuilder<Db>) -> Result<Vec<Prediction>, StoreError> {
        let found: Vec<Found<Prediction>> = select
            .build_query_as()
            .persistent(false)
            .fetch_all(&self.readers)
            .await?;
        Ok(found
            .into_iter()
            .map(|Found(prediction)| prediction)
            .collect())
    }

    /// Adds the conditions of a filter.
    fn filter(select: &mut QueryBuilder<Db>, filter: &PredictionFilter) {
        if let Some(tenant) = filter.tenant {
            select.push(" AND tenant_id = ").push_bind(tenant.0);
        }
        if let Some(key) = filter.key {
            select.push(" AND key_id = ").push_bind(key.0);
        }
        if let Some(model) = &filter.model {
            select.push(" AND model = ").push_bind(model.to_string());
        }
        if let Some(version) = filter.version {
            select.push(" AND version = ");
            select.push_bind(version.get().cast_signed());
        }
        if let Some(class) = &filter.class {
            select.push(" AND class = ").push_bind(class.clone());
        }
        // An id holds its time: ids are in the order of times. The day by itself lets PostgreSQL leave out partitions.
        for (at, of_day, of_id) in [(filter.from, ">=", ">="), (filter.to, "<=", "<")] {
            let Some(at) = at else { continue };
            let first = first_id_at(at);
            let day = time_of(first).date_naive();
            select.push(format_args!(" AND day {of_day} "));
            select.push_bind(day);
            select.push(format_args!(" AND (day, request_id) {of_id} ("));
            select.push_bind(day);
            select.push(", ").push_bind(first);
            select.push(")");
        }
    }
}

impl SqlStore<Postgres> {
    /// One array a column: as short a statement for a thousand rows as for one.
    async fn insert(&self, predictions: &[Prediction]) -> Result<u64, sqlx::Error> {
        let mut tx = self.writers.begin_with(Postgres::WRITE).await?;
        Self::add_beside_others(&mut tx).await?;
        macro_rules! bound {
            ($(|$p:ident| $value:expr;)*) => {
                query(concat!(
                    "INSERT INTO predictions (",
                    columns!(predictions),
                    ") SELECT ",
                    columns!(predictions),
                    " FROM UNNEST($1::date[], $2::uuid[], $3::bigint[], $4::uuid[], $5::uuid[], $6::text[], \
                     $7::bigint[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[], \
                     $13::bigint[], $14::bigint[], $15::text[], $16::double precision[], $17::text[], \
                     $18::boolean[], $19::double precision[], $20::double precision[], \
                     $21::double precision[], $22::double precision[], $23::bigint[], $24::text[], \
                     $25::text[], $26::text[], $27::timestamptz[]) AS given (",
                    columns!(predictions),
                    ") WHERE NOT EXISTS (SELECT 1 FROM purges \
                     WHERE purges.tenant_id = given.tenant_id AND purges.at >= given.at) \
                     ON CONFLICT DO NOTHING"
                ))$(.bind(predictions.iter().map(|$p| $value).collect::<Vec<_>>()))*
            };
        }
        let added = with_values!(bound).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(added.rows_affected())
    }
}

impl SqlStore<Sqlite> {
    /// All in one transaction, so that the disk is waited for once.
    async fn insert(&self, predictions: &[Prediction]) -> Result<u64, sqlx::Error> {
        let mut tx = self.writers.begin_with(Sqlite::WRITE).await?;
        let mut added = 0;
        for predictions in predictions.chunks(AT_ONCE) {
            let mut insert = QueryBuilder::<Sqlite>::new(concat!(
                "WITH given (",
                columns!(predictions),
                ") AS ("
            ));
            insert.push_values(predictions, |mut row, p| {
                macro_rules! pushed {
                    ($(|$p:ident| $value:expr;)*) => {
                        $(row.push_bind({ let $p = p; $value });)*
                    };
                }
                with_values!(pushed);
            });
            insert.push(concat!(
                ") INSERT INTO predictions (",
                columns!(predictions),
                ") SELECT ",
                columns!(predictions),
                " FROM given WHERE NOT EXISTS (SELECT 1 FROM purges \
                 WHERE purges.tenant_id = given.tenant_id AND purges.at >= given.at) \
                 ON CONFLICT DO NOTHING"
            ));
            let rows = insert.build().persistent(false).execute(&mut *tx).await?;
            added += rows.rows_affected();
        }
        tx.commit().await?;
        Ok(added)
    }
}
