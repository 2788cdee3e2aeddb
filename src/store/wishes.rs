//! What operators want of models, in the database.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{Postgres, Row as _, Sqlite, query, query_scalar};
use trait_gen::trait_gen;

use super::rows::{number, strange};
use super::sql_store::{Change, SqlStore};
use super::{ModelWish, RolloutChange, StoreError, WishStore};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::operator::AuditEntry;
use crate::domain::rollout::Rollout;

/// What an error calls it.
const ALIAS: &str = "alias";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl WishStore for SqlStore<Db> {
    async fn wishes(&self) -> Result<BTreeMap<ModelId, ModelWish>, StoreError> {
        self.within(async {
            let mut reader = self.readers.acquire().await?;
            Self::read_wishes(&mut reader).await
        })
        .await
    }

    async fn put_alias(
        &self,
        model: &ModelId,
        alias: &str,
        version: VersionNumber,
        audit: &AuditEntry,
    ) -> Result<Option<VersionNumber>, StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let before: Option<i64> =
                query_scalar("SELECT version FROM model_aliases WHERE model = $1 AND alias = $2")
                    .bind(model.as_str())
                    .bind(alias)
                    .fetch_optional(&mut *change.tx)
                    .await?;
            change.set_alias(model, alias, version).await?;
            change.mark_wishes().await?;
            change.commit(audit).await?;
            Ok(before.map(number).transpose()?)
        })
        .await
    }

    async fn delete_alias(
        &self,
        model: &ModelId,
        alias: &str,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let done = query("DELETE FROM model_aliases WHERE model = $1 AND alias = $2")
                .bind(model.as_str())
                .bind(alias)
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                change.abandon().await?;
                return Err(StoreError::NotFound(ALIAS));
            }
            change.mark_wishes().await?;
            change.commit(audit).await
        })
        .await
    }

    async fn put_rollout(
        &self,
        model: &ModelId,
        wanted: &RolloutChange<'_>,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let text = serde_json::to_string(wanted.after);
            let text = text.map_err(|error| StoreError::Failed(error.to_string()))?;
            let mut change = self.change().await?;
            if change.rollout_of(model).await? != *wanted.before {
                change.abandon().await?;
                return Err(StoreError::Stale);
            }
            query(
                "INSERT INTO model_rollouts (model, rollout) VALUES ($1, $2) \
                 ON CONFLICT (model) DO UPDATE SET rollout = excluded.rollout",
            )
            .bind(model.as_str())
            .bind(text)
            .execute(&mut *change.tx)
            .await?;
            for (alias, version) in wanted.aliases {
                change.set_alias(model, alias.as_str(), *version).await?;
            }
            change.mark_wishes().await?;
            change.commit(audit).await
        })
        .await
    }

    async fn set_unloaded(
        &self,
        model: &ModelId,
        version: VersionNumber,
        unloaded: bool,
        audit: &AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let write = if unloaded {
                query(
                    "INSERT INTO unloaded_versions (model, version) VALUES ($1, $2) \
                     ON CONFLICT (model, version) DO NOTHING",
                )
            } else {
                query("DELETE FROM unloaded_versions WHERE model = $1 AND version = $2")
            };
            let done = write
                .bind(model.as_str())
                .bind(version.get().cast_signed())
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                change.abandon().await?;
                return Ok(false);
            }
            change.mark_wishes().await?;
            change.commit(audit).await?;
            Ok(true)
        })
        .await
    }

    async fn forget_version(
        &self,
        model: &ModelId,
        version: VersionNumber,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            if change.rollout_of(model).await?.mainstay() == Some(version) {
                change.abandon().await?;
                return Err(StoreError::Stale);
            }
            query("DELETE FROM unloaded_versions WHERE model = $1 AND version = $2")
                .bind(model.as_str())
                .bind(version.get().cast_signed())
                .execute(&mut *change.tx)
                .await?;
            change.mark_wishes().await?;
            change.commit(audit).await
        })
        .await
    }

    async fn forget_model(&self, model: &ModelId, audit: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            for delete in [
                "DELETE FROM model_aliases WHERE model = $1",
                "DELETE FROM unloaded_versions WHERE model = $1",
                "DELETE FROM model_rollouts WHERE model = $1",
            ] {
                query(delete)
                    .bind(model.as_str())
                    .execute(&mut *change.tx)
                    .await?;
            }
            change.mark_wishes().await?;
            change.commit(audit).await
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// All that is wanted, by one statement, so that it fits together.
    pub(super) async fn read_wishes(
        reader: &mut <Db as sqlx::Database>::Connection,
    ) -> Result<BTreeMap<ModelId, ModelWish>, StoreError> {
        let rows = query(
            "SELECT model, alias, version, NULL AS rollout FROM model_aliases \
             UNION ALL SELECT model, NULL, version, NULL FROM unloaded_versions \
             UNION ALL SELECT model, NULL, NULL, rollout FROM model_rollouts",
        )
        .fetch_all(reader)
        .await?;
        let mut wishes = BTreeMap::<ModelId, ModelWish>::new();
        for row in rows {
            let model: &str = row.try_get("model")?;
            let alias: Option<String> = row.try_get("alias")?;
            let version: Option<i64> = row.try_get("version")?;
            let version = version.map(number).transpose()?;
            let rollout: Option<&str> = row.try_get("rollout")?;
            let model = model.parse().map_err(strange)?;
            let wish = wishes.entry(model).or_default();
            if let Some(text) = rollout {
                wish.rollout = serde_json::from_str(text).map_err(strange)?;
            }
            match (alias, version) {
                (Some(alias), Some(version)) => {
                    wish.aliases.insert(alias, version);
                }
                (None, Some(version)) => {
                    wish.unloaded.insert(version);
                }
                (_, None) => {}
            }
        }
        Ok(wishes)
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl Change<Db> {
    /// How a model's traffic is shared, as this change finds it.
    async fn rollout_of(&mut self, model: &ModelId) -> Result<Rollout, StoreError> {
        let text: Option<String> =
            query_scalar("SELECT rollout FROM model_rollouts WHERE model = $1")
                .bind(model.as_str())
                .fetch_optional(&mut *self.tx)
                .await?;
        let rollout = text.map(|text| serde_json::from_str(&text).map_err(strange));
        Ok(rollout.transpose()?.unwrap_or_default())
    }

    async fn set_alias(
        &mut self,
        model: &ModelId,
        alias: &str,
        version: VersionNumber,
    ) -> Result<(), StoreError> {
        query(
            "INSERT INTO model_aliases (model, alias, version) VALUES ($1, $2, $3) \
             ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version",
        )
        .bind(model.as_str())
        .bind(alias)
        .bind(version.get().cast_signed())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Says that what is wanted of models is another from this revision on.
    async fn mark_wishes(&mut self) -> Result<(), StoreError> {
        query("UPDATE revision SET wishes = value WHERE id = 1")
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
