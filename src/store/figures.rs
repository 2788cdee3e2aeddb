//! What all replicas counted of rollouts, summed in the database; and who of them decides.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row as _, Sqlite, Transaction, query};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::StoreError;
use super::rows::strange;
use super::sql_store::{AT_ONCE, Dialect as _, SqlStore};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::prediction::first_id_at;
use crate::domain::rollout::{ArmFigures, ArmLabels, ArmName, Counted, Disagreement, Pair};

/// Disagreements of a version and its shadow that are kept: the strongest.
pub const MOST_DISAGREEMENTS: usize = 20;

/// What the arms of a canary did, by step and arm.
pub type CanarySteps = BTreeMap<(u64, ArmName), ArmFigures>;

/// Figures of rollouts. No change here is one that anybody hears of.
#[async_trait]
pub trait FigureStore: Send + Sync {
    /// Adds what a replica has counted. All or nothing.
    async fn add_counted(&self, counted: &Counted) -> Result<(), StoreError>;
    /// What all replicas have counted of a canary's run.
    async fn canary_steps(&self, run: Uuid) -> Result<CanarySteps, StoreError>;
    /// What labels say of a canary's arms, of requests from `from` on.
    async fn canary_labels(
        &self,
        model: &ModelId,
        arms: &[(ArmName, VersionNumber)],
        from: DateTime<Utc>,
    ) -> Result<ArmLabels, StoreError>;
    /// Takes or keeps, until `until`, what one replica does for all; `false` where another has it at `now`.
    async fn take_lease(
        &self,
        name: &str,
        owner: Uuid,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool, StoreError>;
    /// Forgets what was counted before a time, and which pictures of before another one it was counted about.
    async fn prune_figures(
        &self,
        counted: DateTime<Utc>,
        pictures: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError>;
}

/// A count of an arm, as it is called in the database.
fn figures(arm: &ArmFigures) -> impl Iterator<Item = (String, u64)> {
    let counts = [
        ("answers", arm.answers),
        ("errors", arm.errors),
        ("compared", arm.compared),
        ("agreed", arm.agreed),
    ];
    let counts = counts.map(|(name, n)| (name.to_owned(), n));
    let latencies = arm.latencies.buckets();
    let latencies = latencies.map(|(bucket, n)| (format!("{BUCKET}{bucket}"), n));
    let all: Vec<_> = counts.into_iter().chain(latencies).collect();
    all.into_iter().filter(|&(_, n)| n > 0)
}

/// What the name of a bucket of the latencies begins with.
const BUCKET: &str = "ms:";

fn set(arm: &mut ArmFigures, figure: &str, n: u64) -> Result<(), StoreError> {
    match figure {
        "answers" => arm.answers = n,
        "errors" => arm.errors = n,
        "compared" => arm.compared = n,
        "agreed" => arm.agreed = n,
        _ => {
            let bucket = figure.strip_prefix(BUCKET).unwrap_or_default();
            arm.latencies.add(bucket.parse().map_err(strange)?, n);
        }
    }
    Ok(())
}

/// A label without what a database may not take in a text.
fn plain(label: &str) -> String {
    label.replace(|c: char| c.is_control(), "\u{fffd}")
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl FigureStore for SqlStore<Db> {
    async fn add_counted(&self, counted: &Counted) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            Self::add_canaries(&mut tx, counted).await?;
            Self::add_agreements(&mut tx, counted).await?;
            for (pair, strongest) in &counted.disagreements {
                for one in strongest.values() {
                    Self::add_disagreement(&mut tx, pair, one).await?;
                }
                Self::keep_strongest(&mut tx, pair).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn canary_steps(&self, run: Uuid) -> Result<CanarySteps, StoreError> {
        self.within(async {
            let rows = query("SELECT step, arm, figure, n FROM canary_counts WHERE run = $1")
                .bind(run)
                .fetch_all(&self.readers)
                .await?;
            let mut steps = CanarySteps::new();
            for row in rows {
                let step: i64 = row.try_get("step")?;
                let (arm, figure): (&str, &str) = (row.try_get("arm")?, row.try_get("figure")?);
                let n: i64 = row.try_get("n")?;
                let place = (
                    u64::try_from(step).map_err(strange)?,
                    arm.parse().map_err(strange)?,
                );
                let arm = steps.entry(place).or_default();
                set(arm, figure, u64::try_from(n).map_err(strange)?)?;
            }
            Ok(steps)
        })
        .await
    }

    async fn canary_labels(
        &self,
        model: &ModelId,
        arms: &[(ArmName, VersionNumber)],
        from: DateTime<Utc>,
    ) -> Result<ArmLabels, StoreError> {
        self.within(async {
            let rows = query(
                "SELECT version, arm, count(*) AS labels, sum(CASE WHEN label = class THEN 1 ELSE 0 END) AS correct \
                 FROM feedback WHERE joined AND model = $1 AND day >= $2 AND request_id >= $3 AND arm IS NOT NULL \
                 GROUP BY version, arm",
            )
            .bind(model.as_str())
            .bind(from.date_naive())
            .bind(first_id_at(from))
            .fetch_all(&self.readers)
            .await?;
            let mut found = ArmLabels::new();
            for row in rows {
                let (version, arm): (i64, &str) = (row.try_get("version")?, row.try_get("arm")?);
                // Other rollouts have arms of the same names.
                let is_of_it = |&&(name, one): &&(ArmName, VersionNumber)| {
                    one.get().cast_signed() == version && name.to_string() == arm
                };
                let Some(&(arm, _)) = arms.iter().find(is_of_it) else {
                    continue;
                };
                let (labels, correct): (i64, i64) =
                    (row.try_get("labels")?, row.try_get("correct")?);
                let count = |n: i64| u64::try_from(n).map_err(strange);
                found.insert(arm, (count(labels)?, count(correct)?));
            }
            Ok(found)
        })
        .await
    }

    async fn take_lease(
        &self,
        name: &str,
        owner: Uuid,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let taken = query(
                "INSERT INTO leases (name, owner, until) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until \
                 WHERE leases.owner = excluded.owner OR leases.until <= $4",
            )
            .bind(name)
            .bind(owner)
            .bind(until)
            .bind(now)
            .execute(&self.writers)
            .await?;
            Ok(taken.rows_affected() > 0)
        })
        .await
    }

    async fn prune_figures(
        &self,
        counted: DateTime<Utc>,
        pictures: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            // A run's id holds its time.
            query("DELETE FROM canary_counts WHERE run < $1")
                .bind(first_id_at(counted))
                .execute(&mut *tx)
                .await?;
            query("DELETE FROM comparisons WHERE minute < $1")
                .bind(counted)
                .execute(&mut *tx)
                .await?;
            if let Some(pictures) = pictures {
                query("DELETE FROM disagreements WHERE at < $1")
                    .bind(pictures)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    async fn add_canaries(
        tx: &mut Transaction<'static, Db>,
        counted: &Counted,
    ) -> Result<(), StoreError> {
        let of_arms = counted
            .canaries
            .iter()
            .flat_map(|(&(run, step, arm), did)| {
                figures(did).map(move |(figure, n)| (run, signed(step), arm.to_string(), figure, n))
            });
        let rows: Vec<_> = of_arms.collect();
        for rows in rows.chunks(AT_ONCE) {
            let mut add =
                QueryBuilder::<Db>::new("INSERT INTO canary_counts (run, step, arm, figure, n) ");
            add.push_values(rows, |mut row, (run, step, arm, figure, n)| {
                row.push_bind(run).push_bind(step).push_bind(arm);
                row.push_bind(figure).push_bind(signed(*n));
            });
            add.push(
                " ON CONFLICT (run, step, arm, figure) \
                 DO UPDATE SET n = canary_counts.n + excluded.n",
            );
            add.build().persistent(false).execute(&mut **tx).await?;
        }
        Ok(())
    }

    async fn add_agreements(
        tx: &mut Transaction<'static, Db>,
        counted: &Counted,
    ) -> Result<(), StoreError> {
        let rows: Vec<_> = counted.agreements.iter().collect();
        for rows in rows.chunks(AT_ONCE) {
            let mut add = QueryBuilder::<Db>::new(
                "INSERT INTO comparisons (model, version, shadow, minute, compared, agreed, dropped) ",
            );
            add.push_values(rows, |mut row, ((pair, minute), one)| {
                row.push_bind(pair.model.as_str());
                row.push_bind(pair.version.get().cast_signed());
                row.push_bind(pair.shadow.get().cast_signed());
                row.push_bind(minute).push_bind(signed(one.compared));
                row.push_bind(signed(one.agreed))
                    .push_bind(signed(one.dropped));
            });
            add.push(
                " ON CONFLICT (model, version, shadow, minute) DO UPDATE \
                 SET compared = comparisons.compared + excluded.compared, \
                 agreed = comparisons.agreed + excluded.agreed, \
                 dropped = comparisons.dropped + excluded.dropped",
            );
            add.build().persistent(false).execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// Nothing is kept of a tenant whose predictions of then were deleted.
    async fn add_disagreement(
        tx: &mut Transaction<'static, Db>,
        pair: &Pair,
        one: &Disagreement,
    ) -> Result<(), StoreError> {
        query(
            "INSERT INTO disagreements (model, version, shadow, picture_digest, tenant_id, request_id, \
             \"index\", class, confidence, shadow_class, shadow_confidence, strength, at) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 \
             WHERE NOT EXISTS (SELECT 1 FROM purges WHERE tenant_id = $5 AND purges.at >= $13) \
             ON CONFLICT (model, version, shadow, picture_digest) DO UPDATE \
             SET tenant_id = excluded.tenant_id, request_id = excluded.request_id, \
             \"index\" = excluded.\"index\", class = excluded.class, confidence = excluded.confidence, \
             shadow_class = excluded.shadow_class, shadow_confidence = excluded.shadow_confidence, \
             strength = excluded.strength, at = excluded.at",
        )
        .bind(pair.model.as_str())
        .bind(pair.version.get().cast_signed())
        .bind(pair.shadow.get().cast_signed())
        .bind(Digest::to_string(&one.picture))
        .bind(one.tenant.0)
        .bind(one.request_id)
        .bind(i64::from(one.index))
        .bind(plain(&one.class.0))
        .bind(f64::from(one.class.1))
        .bind(plain(&one.shadow_class.0))
        .bind(f64::from(one.shadow_class.1))
        .bind(one.strength())
        .bind(one.at)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    async fn keep_strongest(
        tx: &mut Transaction<'static, Db>,
        pair: &Pair,
    ) -> Result<(), StoreError> {
        query(
            "DELETE FROM disagreements WHERE model = $1 AND version = $2 AND shadow = $3 \
             AND picture_digest NOT IN (SELECT picture_digest FROM disagreements \
             WHERE model = $1 AND version = $2 AND shadow = $3 \
             ORDER BY strength DESC, picture_digest LIMIT $4)",
        )
        .bind(pair.model.as_str())
        .bind(pair.version.get().cast_signed())
        .bind(pair.shadow.get().cast_signed())
        .bind(signed(MOST_DISAGREEMENTS as u64))
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
