//! API keys in the database.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Sqlite, query, query_as, query_scalar};
use trait_gen::trait_gen;

use super::error::refusal;
use super::rows::{Found, columns, listed, signed};
use super::sql_store::{AT_ONCE, Change, Kind, SqlStore};
use super::{KeyStore, Listing, Page, StoreError};
use crate::domain::api_key::{ApiKey, ModelPattern};
use crate::domain::operator::AuditEntry;
use crate::domain::tenant::{KeyId, TenantId};

/// What errors call it, and whose it is.
const KEY: &str = "key";
const TENANT: &str = "tenant";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl KeyStore for SqlStore<Db> {
    async fn create_key(&self, key: &ApiKey, audit: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            change.add_key(key).await?;
            change.commit(audit).await
        })
        .await
    }

    async fn find_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(api_keys),
                " FROM api_keys WHERE id = $1"
            ))
            .bind(id.0)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.map(|Found(key)| key))
        })
        .await
    }

    async fn list_keys(
        &self,
        tenant: Option<TenantId>,
        page: Page,
    ) -> Result<Listing<ApiKey>, StoreError> {
        self.within(async {
            let select = match tenant {
                Some(TenantId(id)) => query_as(concat!(
                    "SELECT ",
                    columns!(api_keys),
                    " FROM api_keys WHERE id > $1 AND tenant_id = $3 ORDER BY id LIMIT $2"
                ))
                .bind(page.beginning())
                .bind(page.one_more())
                .bind(id),
                None => query_as(concat!(
                    "SELECT ",
                    columns!(api_keys),
                    " FROM api_keys WHERE id > $1 ORDER BY id LIMIT $2"
                ))
                .bind(page.beginning())
                .bind(page.one_more()),
            };
            let found = select.fetch_all(&self.readers).await?;
            Ok(page.listing(found, |key: &ApiKey| key.id.0))
        })
        .await
    }

    async fn update_key(
        &self,
        key: &ApiKey,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let done = query(
                "UPDATE api_keys SET name = $1, secret_hash = $2, hint = $3, previous_hash = $4, \
                 previous_until = $5, scopes = $6, models = $7, requests_per_second = $8, burst = $9, \
                 images_per_day = $10, max_image_bytes = $11, limit_mode = $12, expires_at = $13, \
                 updated_at = $14, version = $15, revision = $16 WHERE id = $17 AND version = $18",
            )
            .bind(&key.name)
            .bind(key.hash.as_bytes().as_slice())
            .bind(&key.hint)
            .bind(key.previous.map(|(hash, _)| hash.as_bytes().to_vec()))
            .bind(key.previous.map(|(_, until)| until))
            .bind(listed(key.scopes.iter().map(|scope| scope.as_str())))
            .bind(listed(key.models.iter().map(ModelPattern::as_str)))
            .bind(key.limits.requests_per_second)
            .bind(key.limits.burst.map(i64::from))
            .bind(signed(key.limits.images_per_day))
            .bind(signed(key.limits.max_image_bytes))
            .bind(key.limits.mode.as_str())
            .bind(key.expires_at)
            .bind(key.updated_at)
            .bind(key.version)
            .bind(change.revision)
            .bind(key.id.0)
            .bind(expected)
            .execute(&mut *change.tx)
            .await
            .map_err(|error| refusal(error, KEY, TENANT))?;
            if done.rows_affected() == 0 {
                return Err(change.why_no_key(key.id).await?);
            }
            change.commit(audit).await
        })
        .await
    }

    async fn delete_key(
        &self,
        id: KeyId,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let done = query("DELETE FROM api_keys WHERE id = $1 AND version = $2")
                .bind(id.0)
                .bind(expected)
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                return Err(change.why_no_key(id).await?);
            }
            change.bury(Kind::Key, id.0).await?;
            change.commit(audit).await
        })
        .await
    }

    async fn touch_keys(&self, used: &[(KeyId, DateTime<Utc>)]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        self.within(async {
            let mut tx = self.note().await?;
            for used in used.chunks(AT_ONCE) {
                let mut update = QueryBuilder::<Db>::new("WITH used (id, at) AS (");
                update.push_values(used, |mut row, &(KeyId(id), at)| {
                    row.push_bind(id).push_bind(at);
                });
                // A key that stands there twice has the later time.
                update.push(
                    "), latest (id, at) AS (SELECT id, MAX(at) FROM used GROUP BY id) \
                     UPDATE api_keys SET last_used_at = latest.at FROM latest WHERE api_keys.id = latest.id \
                     AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < latest.at)",
                );
                update
                    .build()
                    .persistent(false)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl Change<Db> {
    /// Adds a key.
    pub(super) async fn add_key(&mut self, key: &ApiKey) -> Result<(), StoreError> {
        query(
            "INSERT INTO api_keys (id, tenant_id, name, secret_hash, hint, previous_hash, previous_until, \
             scopes, models, requests_per_second, burst, images_per_day, max_image_bytes, limit_mode, \
             expires_at, created_at, updated_at, last_used_at, version, revision) VALUES \
             ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
        )
        .bind(key.id.0)
        .bind(key.tenant.0)
        .bind(&key.name)
        .bind(key.hash.as_bytes().as_slice())
        .bind(&key.hint)
        .bind(key.previous.map(|(hash, _)| hash.as_bytes().to_vec()))
        .bind(key.previous.map(|(_, until)| until))
        .bind(listed(key.scopes.iter().map(|scope| scope.as_str())))
        .bind(listed(key.models.iter().map(ModelPattern::as_str)))
        .bind(key.limits.requests_per_second)
        .bind(key.limits.burst.map(i64::from))
        .bind(signed(key.limits.images_per_day))
        .bind(signed(key.limits.max_image_bytes))
        .bind(key.limits.mode.as_str())
        .bind(key.expires_at)
        .bind(key.created_at)
        .bind(key.updated_at)
        .bind(key.last_used_at)
        .bind(key.version)
        .bind(self.revision)
        .execute(&mut *self.tx)
        .await
        .map_err(|error| refusal(error, KEY, TENANT))?;
        Ok(())
    }

    /// Why no key of this id had the version that was expected; the change is left.
    async fn why_no_key(mut self, id: KeyId) -> Result<StoreError, StoreError> {
        let known: Option<i64> = query_scalar("SELECT version FROM api_keys WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *self.tx)
            .await?;
        self.abandon().await?;
        Ok(known.map_or(StoreError::NotFound(KEY), |_| StoreError::Stale))
    }
}
