//! The days of the prediction log, where the two databases differ most: PostgreSQL has a partition for each, made ahead and
//! dropped whole; SQLite has one table, of which old rows are deleted piece by piece and the file's free pages given back.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use sqlx::error::DatabaseError;
use sqlx::{
    AssertSqlSafe, Executor as _, PgConnection, Postgres, Sqlite, SqliteConnection, query,
    query_scalar,
};

use super::StoreError;
use super::sql_store::{Dialect as _, SqlStore};

/// Days that have room before they come, today among them.
pub(super) const AHEAD: usize = 4;

/// What the names of partitions begin with; a day follows.
const PREFIX: &str = "predictions_";
const DAY: &str = "%Y%m%d";

/// Advisory locks, PostgreSQL's own kind: held by who adds predictions (shared) or waits for them, and by who makes or drops
/// partitions. The numbers are this program's choice.
const ADDING: i64 = 0x6c67_0001;
const TURNING: i64 = 0x6c67_0002;

/// Rows that one call deletes on SQLite, and pages of the file that it gives back.
const DELETED_AT_ONCE: i64 = 5000;

impl SqlStore<Postgres> {
    /// Whether it failed because a row's day has no partition.
    pub(super) fn misses_a_day(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(DatabaseError::code);
        // Of check violations this one alone can happen: the table has no other checks.
        code.is_some_and(|code| code == "23514")
    }

    /// Says that predictions, or labels of them, are added until the transaction's end.
    pub(super) async fn add_beside_others(writer: &mut PgConnection) -> Result<(), sqlx::Error> {
        query("SELECT pg_advisory_xact_lock_shared($1)")
            .bind(ADDING)
            .execute(writer)
            .await
            .map(|_| ())
    }

    /// Waits for those who add predictions, and makes others wait until the transaction's end.
    pub(super) async fn after_who_adds(writer: &mut PgConnection) -> Result<(), sqlx::Error> {
        query("SELECT pg_advisory_xact_lock($1)")
            .bind(ADDING)
            .execute(writer)
            .await
            .map(|_| ())
    }

    /// Makes the partitions of these days, where they are missing.
    pub(super) async fn make_days(
        &self,
        days: impl IntoIterator<Item = NaiveDate> + Send,
    ) -> Result<(), StoreError> {
        let mut missing: BTreeSet<NaiveDate> = days.into_iter().collect();
        for day in Self::days(&mut *self.readers.acquire().await?).await? {
            missing.remove(&day);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut tx = self.writers.begin_with(Postgres::WRITE).await?;
        Self::turn(&mut tx).await?;
        for (day, next) in missing
            .into_iter()
            .filter_map(|day| Some((day, day.succ_opt()?)))
        {
            let partition = day.format(DAY);
            tx.execute(AssertSqlSafe(format!(
                "CREATE TABLE IF NOT EXISTS {PREFIX}{partition} PARTITION OF predictions \
                 FOR VALUES FROM ('{day}') TO ('{next}')"
            )))
            .await?;
        }
        Ok(tx.commit().await?)
    }

    /// Drops the partitions of the days before `oldest`; nothing is left to drop then.
    pub(super) async fn drop_days(&self, oldest: NaiveDate) -> Result<bool, StoreError> {
        let mut days = Self::days(&mut *self.readers.acquire().await?).await?;
        days.retain(|&day| day < oldest);
        for day in days {
            // One at a time: each locks the whole log for a moment.
            let mut tx = self.writers.begin_with(Postgres::WRITE).await?;
            Self::turn(&mut tx).await?;
            let partition = day.format(DAY);
            tx.execute(AssertSqlSafe(format!(
                "DROP TABLE IF EXISTS {PREFIX}{partition}"
            )))
            .await?;
            tx.commit().await?;
        }
        Ok(false)
    }

    /// Of several replicas one turns the days. Who waits for a long reader gives up rather than hold up all others behind it.
    async fn turn(writer: &mut PgConnection) -> Result<(), sqlx::Error> {
        writer.execute("SET LOCAL lock_timeout = '2s'").await?;
        query("SELECT pg_advisory_xact_lock($1)")
            .bind(TURNING)
            .execute(writer)
            .await
            .map(|_| ())
    }

    /// The days that have a partition.
    async fn days(reader: &mut PgConnection) -> Result<Vec<NaiveDate>, sqlx::Error> {
        let names: Vec<String> = query_scalar(
            "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
             WHERE inhparent = 'predictions'::regclass",
        )
        .fetch_all(reader)
        .await?;
        let day = |name: &String| {
            let day = name.strip_prefix(PREFIX)?;
            NaiveDate::parse_from_str(day, DAY).ok()
        };
        Ok(names.iter().filter_map(day).collect())
    }
}

impl SqlStore<Sqlite> {
    /// There is one writer at a time.
    pub(super) async fn add_beside_others(_: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// One table takes all days.
    pub(super) fn misses_a_day(_: &sqlx::Error) -> bool {
        false
    }

    /// There is one writer at a time.
    pub(super) async fn after_who_adds(_: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// One table takes all days.
    pub(super) async fn make_days(
        &self,
        _: impl IntoIterator<Item = NaiveDate> + Send,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// Deletes some of the rows before `oldest`, the oldest first; whether there may be more.
    pub(super) async fn drop_days(&self, oldest: NaiveDate) -> Result<bool, StoreError> {
        let mut writer = self.writers.acquire().await?;
        let deleted = query(
            "DELETE FROM predictions WHERE rowid IN \
             (SELECT rowid FROM predictions WHERE day < $1 ORDER BY day LIMIT $2)",
        )
        .bind(oldest)
        .bind(DELETED_AT_ONCE)
        .execute(&mut *writer)
        .await?
        .rows_affected();
        if deleted > 0 {
            writer
                .execute(AssertSqlSafe(format!(
                    "PRAGMA incremental_vacuum({DELETED_AT_ONCE})"
                )))
                .await?;
        }
        Ok(deleted == DELETED_AT_ONCE.cast_unsigned())
    }
}
