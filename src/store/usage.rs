//! What keys have used of their days, in the database.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::NaiveDate;
use sqlx::{Postgres, QueryBuilder, Row as _, Sqlite, query, query_as};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::sql_store::{AT_ONCE, SqlStore};
use super::{StoreError, UsageStore};
use crate::domain::tenant::KeyId;

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl UsageStore for SqlStore<Db> {
    async fn add_usage(
        &self,
        used: &[(KeyId, NaiveDate, i64)],
    ) -> Result<Vec<(KeyId, NaiveDate, i64)>, StoreError> {
        if used.is_empty() {
            return Ok(Vec::new());
        }
        self.within(async {
            // A statement cannot write one row twice.
            let mut sums = BTreeMap::<(KeyId, NaiveDate), i64>::new();
            for &(key, day, images) in used {
                let sum = sums.entry((key, day)).or_default();
                *sum = sum.saturating_add(images);
            }
            let sums: Vec<_> = sums.into_iter().collect();
            let mut totals = BTreeMap::new();
            let mut tx = self.note().await?;
            for sums in sums.chunks(AT_ONCE) {
                let mut add = QueryBuilder::<Db>::new("WITH used (key_id, day, images) AS (");
                add.push_values(sums, |mut row, &((KeyId(id), day), images)| {
                    row.push_bind(id).push_bind(day).push_bind(images);
                });
                // `WHERE true` tells SQLite that `ON` belongs to the insert and not to the join.
                add.push(
                    ") INSERT INTO key_usage (key_id, day, images) \
                     SELECT used.key_id, used.day, used.images FROM used \
                     JOIN api_keys ON api_keys.id = used.key_id WHERE true \
                     ON CONFLICT (day, key_id) DO UPDATE SET images = key_usage.images + excluded.images \
                     RETURNING key_id, day, images",
                );
                let rows = add.build().persistent(false).fetch_all(&mut *tx).await?;
                for row in rows {
                    let key = (KeyId(row.try_get("key_id")?), row.try_get("day")?);
                    totals.insert(key, row.try_get::<i64, _>("images")?);
                }
            }
            tx.commit().await?;
            let total = |&(key, day, _): &(KeyId, NaiveDate, i64)| {
                totals.get(&(key, day)).map(|&images| (key, day, images))
            };
            Ok(used.iter().filter_map(total).collect())
        })
        .await
    }

    async fn usage_of(&self, day: NaiveDate) -> Result<Vec<(KeyId, i64)>, StoreError> {
        self.within(async {
            let rows: Vec<(Uuid, i64)> =
                query_as("SELECT key_id, images FROM key_usage WHERE day = $1")
                    .bind(day)
                    .fetch_all(&self.readers)
                    .await?;
            Ok(rows
                .into_iter()
                .map(|(id, images)| (KeyId(id), images))
                .collect())
        })
        .await
    }

    async fn prune_usage(&self, day: NaiveDate) -> Result<(), StoreError> {
        self.within(async {
            let mut tx = self.note().await?;
            query("DELETE FROM key_usage WHERE day < $1")
                .bind(day)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}
