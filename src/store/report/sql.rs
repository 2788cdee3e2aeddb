//! A report's figures out of the database: few statements that count, rather than rows that are counted.

use async_trait::async_trait;
use chrono::{DurationRound as _, TimeDelta};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Error, FromRow, Postgres, QueryBuilder, Row as _, Sqlite};
use trait_gen::trait_gen;

use super::{Compared, Disagreement, Labelled, Outcomes, ReportStore, Timed, Window};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::prediction::{Spent, first_id_at, time_of};
use crate::store::StoreError;
use crate::store::rows::{Found, number, strange, word};
use crate::store::sql_store::{Dialect, SqlStore};

/// Where the two databases speak differently.
trait ReportDialect: Dialect + Sized {
    /// Wants rows of a model, of any version.
    fn any_version(select: &mut QueryBuilder<Self>, model: &ModelId);
    /// Wants a share of a table, which was just named.
    fn sample(select: &mut QueryBuilder<Self>, share: f64);
    /// Wants a share of the rows, where the table could not be told.
    fn sample_rows(select: &mut QueryBuilder<Self>, share: f64);
}

impl ReportDialect for Postgres {
    fn any_version(select: &mut QueryBuilder<Self>, model: &ModelId) {
        select.push("model = ").push_bind(model.to_string());
        select.push(" AND version IS NOT NULL");
    }

    fn sample(select: &mut QueryBuilder<Self>, share: f64) {
        // The same pages again where it is asked again.
        select
            .push(" TABLESAMPLE SYSTEM (")
            .push_bind(share * 100.0);
        select.push("::real) REPEATABLE (1)");
    }

    fn sample_rows(_: &mut QueryBuilder<Self>, _: f64) {}
}

impl ReportDialect for Sqlite {
    fn any_version(select: &mut QueryBuilder<Self>, model: &ModelId) {
        // By model alone SQLite would go through all days of the index; with the versions named, through the window's. They are
        // found by leaping through it (https://wiki.postgresql.org/wiki/Loose_indexscan).
        select.push("model = ").push_bind(model.to_string());
        select.push(
            " AND version IN (WITH RECURSIVE found (version) AS \
             (SELECT min(version) FROM predictions WHERE model = ",
        );
        select.push_bind(model.to_string());
        select.push(
            " UNION ALL SELECT (SELECT min(version) FROM predictions WHERE version > found.version AND model = ",
        );
        select.push_bind(model.to_string());
        select.push(
            ") FROM found WHERE found.version IS NOT NULL) SELECT version FROM found WHERE version IS NOT NULL)",
        );
    }

    fn sample(_: &mut QueryBuilder<Self>, _: f64) {}

    fn sample_rows(select: &mut QueryBuilder<Self>, share: f64) {
        // Row numbers are scattered by multiplying with 2^32 divided by the golden ratio, so that no rhythm in which requests
        // come is met: D. Knuth, The Art of Computer Programming 3, 6.4.
        select.push(" AND ((rowid & 2147483647) * 2654435761 & 4294967295) < ");
        select.push_bind(share * 4_294_967_296.0);
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl ReportStore for SqlStore<Db> {
    async fn outcomes(&self, model: &ModelId, window: Window) -> Result<Vec<Outcomes>, StoreError> {
        let mut select = QueryBuilder::<Db>::new(
            "SELECT version, class, cached, status >= 500 AS is_error, count(*) AS n, sum(confidence) AS confidence_sum",
        );
        // Not by a group each: PostgreSQL would take as many groups for possible as there are confidences, and go alone
        // through all rows instead of by several processes.
        for tenth in 1..10 {
            select.push(format_args!(
                ", count(*) FILTER (WHERE confidence < 0.{tenth}) AS below_{tenth}"
            ));
        }
        select.push(" FROM predictions WHERE ");
        Db::any_version(&mut select, model);
        Self::asked_in(&mut select, window);
        select.push(" GROUP BY 1, 2, 3, 4");
        self.count(select).await
    }

    async fn latencies(
        &self,
        model: &ModelId,
        versions: &[VersionNumber],
        window: Window,
        share: f64,
    ) -> Result<Vec<Timed>, StoreError> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let mut select = QueryBuilder::<Db>::new(
            "SELECT version, decode_ms, queue_ms, inference_ms, total_ms FROM predictions",
        );
        if share < 1.0 {
            Db::sample(&mut select, share);
        }
        select.push(" WHERE model = ").push_bind(model.to_string());
        Self::of_versions(&mut select, versions);
        Self::asked_in(&mut select, window);
        // Who waited for somebody else's run has no times of its own but the wait.
        select.push(" AND class IS NOT NULL AND NOT cached AND decode_ms + inference_ms > 0");
        if share < 1.0 {
            Db::sample_rows(&mut select, share);
        }
        self.count(select).await
    }

    async fn labelled(&self, model: &ModelId, window: Window) -> Result<Vec<Labelled>, StoreError> {
        let mut select = QueryBuilder::<Db>::new(
            "SELECT version, arm, count(*) AS labels, sum(CASE WHEN label = class THEN 1 ELSE 0 END) AS correct \
             FROM feedback WHERE joined AND version IS NOT NULL AND class IS NOT NULL AND model = ",
        );
        select.push_bind(model.to_string());
        Self::asked_in(&mut select, window);
        select.push(" GROUP BY version, arm");
        self.count(select).await
    }

    async fn compared(&self, model: &ModelId, window: Window) -> Result<Vec<Compared>, StoreError> {
        let mut select = QueryBuilder::<Db>::new(
            "SELECT version, shadow, CAST(sum(compared) AS BIGINT) AS compared, CAST(sum(agreed) AS BIGINT) AS agreed, \
             CAST(sum(dropped) AS BIGINT) AS dropped FROM comparisons WHERE model = ",
        );
        select.push_bind(model.to_string());
        let minute = window.from.duration_trunc(TimeDelta::minutes(1));
        select
            .push(" AND minute >= ")
            .push_bind(minute.unwrap_or(window.from));
        select.push(" AND minute < ").push_bind(window.to);
        select.push(" GROUP BY version, shadow ORDER BY version, shadow");
        self.count(select).await
    }

    async fn disagreements(
        &self,
        model: &ModelId,
        versions: &[VersionNumber],
        limit: u32,
    ) -> Result<Vec<Disagreement>, StoreError> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let mut select = QueryBuilder::<Db>::new(
            "SELECT version, shadow, request_id, \"index\", picture_digest, class, confidence, shadow_class, \
             shadow_confidence, strength, at FROM disagreements WHERE model = ",
        );
        select.push_bind(model.to_string());
        Self::of_versions(&mut select, versions);
        select.push(" ORDER BY strength DESC, at DESC, picture_digest, version, shadow LIMIT ");
        select.push_bind(i64::from(limit));
        self.count(select).await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Wants rows of requests that came in a window. The day by itself lets PostgreSQL leave out partitions; an id holds its time.
    fn asked_in(select: &mut QueryBuilder<Db>, window: Window) {
        let (first, end) = (first_id_at(window.from), first_id_at(window.to));
        select
            .push(" AND day >= ")
            .push_bind(time_of(first).date_naive());
        select
            .push(" AND day <= ")
            .push_bind(time_of(end).date_naive());
        select.push(" AND request_id >= ").push_bind(first);
        select.push(" AND request_id < ").push_bind(end);
    }

    /// Wants rows of one of these versions.
    fn of_versions(select: &mut QueryBuilder<Db>, versions: &[VersionNumber]) {
        select.push(" AND version IN (");
        let mut list = select.separated(", ");
        for version in versions {
            list.push_bind(version.get().cast_signed());
        }
        select.push(")");
    }

    /// What a statement counts.
    async fn count<T>(&self, mut select: QueryBuilder<Db>) -> Result<Vec<T>, StoreError>
    where
        Found<T>: for<'r> FromRow<'r, <Db as sqlx::Database>::Row>,
        T: Send + Unpin,
    {
        self.patiently(async {
            let counted = select.build_query_as().persistent(false);
            let counted: Vec<Found<T>> = counted.fetch_all(&self.patient).await?;
            Ok(counted.into_iter().map(|Found(one)| one).collect())
        })
        .await
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Outcomes> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let (class, confidence_sum): (Option<String>, Option<f64>) =
            (row.try_get("class")?, row.try_get("confidence_sum")?);
        let n = row.try_get("n").map(i64::cast_unsigned)?;
        let (mut tenths, mut below) = ([0; 10], 0);
        for (tenth, count) in (1..).zip(&mut tenths) {
            let until = match (tenth, &class) {
                (1..10, _) => {
                    let column = format!("below_{tenth}");
                    row.try_get(&*column).map(i64::cast_unsigned)?
                }
                (_, Some(_)) => n,
                // Without an answer there is no confidence.
                (_, None) => 0,
            };
            *count = until.saturating_sub(below);
            below = until;
        }
        Ok(Self(Outcomes {
            version: number(row.try_get("version")?)?,
            class,
            cached: row.try_get("cached")?,
            is_error: row.try_get("is_error")?,
            n,
            confidence_sum: confidence_sum.unwrap_or_default(),
            tenths,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Timed> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(Timed {
            version: number(row.try_get(0)?)?,
            spent: Spent {
                decode: row.try_get(1)?,
                queue: row.try_get(2)?,
                inference: row.try_get(3)?,
                total: row.try_get(4)?,
            },
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Labelled> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let (labels, correct): (i64, i64) = (row.try_get("labels")?, row.try_get("correct")?);
        Ok(Self(Labelled {
            version: number(row.try_get("version")?)?,
            arm: row.try_get("arm")?,
            labels: labels.cast_unsigned(),
            correct: correct.cast_unsigned(),
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Compared> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let counted = |name: &str| row.try_get(name).map(i64::cast_unsigned);
        Ok(Self(Compared {
            version: number(row.try_get("version")?)?,
            shadow: number(row.try_get("shadow")?)?,
            compared: counted("compared")?,
            agreed: counted("agreed")?,
            dropped: counted("dropped")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Disagreement> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let index: i64 = row.try_get("index")?;
        Ok(Self(Disagreement {
            version: number(row.try_get("version")?)?,
            shadow: number(row.try_get("shadow")?)?,
            request_id: row.try_get("request_id")?,
            index: u32::try_from(index).map_err(strange)?,
            picture_digest: word(row.try_get("picture_digest")?)?,
            class: row.try_get("class")?,
            confidence: row.try_get("confidence")?,
            shadow_class: row.try_get("shadow_class")?,
            shadow_confidence: row.try_get("shadow_confidence")?,
            strength: row.try_get("strength")?,
            at: row.try_get("at")?,
        }))
    }
}
