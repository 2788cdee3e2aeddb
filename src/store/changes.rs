//! The whole store: what changed since a revision, which is how replicas follow each other, and the first fill.

use async_trait::async_trait;
use sqlx::{Postgres, Sqlite, Transaction, query_as, query_scalar};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::rows::{ChangedKey, Found, columns};
use super::sql_store::{Kind, SqlStore};
use super::{Bootstrap, Changes, Store, StoreCondition, StoreError};
use crate::domain::api_key::ApiKey;
use crate::domain::operator::AdminToken;
use crate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};

/// Keys that one statement reads: each statement has the time of a call, and all of them may be very many.
const KEYS_AT_ONCE: i64 = 10_000;

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl Store for SqlStore<Db> {
    fn engine(&self) -> &str {
        &self.engine
    }

    fn condition(&self) -> StoreCondition {
        let pools = [Some(&self.readers), self.own_writers(), Some(&self.patient)];
        let mut condition = StoreCondition {
            done: self.calls.done.get(),
            failed: self.calls.failed.get(),
            ..StoreCondition::default()
        };
        for pool in pools.into_iter().flatten() {
            let (size, idle) = (pool.size(), pool.num_idle());
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let most = pool.options().get_max_connections();
            condition.idle += idle;
            condition.used += size.saturating_sub(idle);
            condition.limit += usize::try_from(most).unwrap_or(usize::MAX);
        }
        condition
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(|_| ())
    }

    async fn revision(&self) -> Result<i64, StoreError> {
        self.within(async {
            let value = query_scalar("SELECT value FROM revision WHERE id = 1")
                .fetch_one(&self.readers)
                .await?;
            Ok(value)
        })
        .await
    }

    async fn changes_since(&self, revision: i64) -> Result<Changes, StoreError> {
        if self.revision().await? == revision {
            return Ok(Changes {
                revision,
                ..Changes::default()
            });
        }
        let mut snapshot = self.within(self.snapshot()).await?;
        let changes = self.read_changes(&mut snapshot, revision).await?;
        self.within(async { Ok(snapshot.rollback().await?) })
            .await?;
        Ok(changes)
    }

    async fn bootstrap(&self, first: &Bootstrap) -> Result<bool, StoreError> {
        if self.revision().await? != 0 {
            return Ok(false);
        }
        self.within(async {
            let mut change = self.change().await?;
            if change.revision != 1 {
                // Another replica came first.
                change.abandon().await?;
                return Ok(false);
            }
            change.add_tenant(&first.tenant).await?;
            change.add_key(&first.key).await?;
            change.add_token(&first.token).await?;
            change.commit(&first.audit).await?;
            Ok(true)
        })
        .await
    }

    async fn close(&self) {
        let (readers, writers) = (self.readers.close(), self.writers.close());
        let closing = async { tokio::join!(readers, writers, self.patient.close()) };
        // A server that gives no answer must not keep the process.
        if tokio::time::timeout(self.call_timeout, closing)
            .await
            .is_err()
        {
            tracing::warn!("the database does not answer: its connections are left as they are");
        }
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    async fn read_changes(
        &self,
        snapshot: &mut Transaction<'static, Db>,
        asked: i64,
    ) -> Result<Changes, StoreError> {
        let (revision, wished): (i64, i64) = self
            .within(async {
                let select = query_as("SELECT value, wishes FROM revision WHERE id = 1");
                Ok(select.fetch_one(&mut **snapshot).await?)
            })
            .await?;
        // A store that is behind was put back from a backup: all of it is news.
        let since = if asked > revision { 0 } else { asked };
        let mut changes = Changes {
            revision,
            tenants: self.read_tenants(snapshot, since).await?,
            keys: self.read_keys(snapshot, since).await?,
            tokens: self.read_tokens(snapshot, since).await?,
            ..Changes::default()
        };
        if since > 0 {
            // Who begins knows nothing that could be gone.
            self.read_gone(snapshot, since, &mut changes).await?;
        }
        if since == 0 || wished > since {
            changes.wishes = Some(self.within(Self::read_wishes(snapshot)).await?);
        }
        Ok(changes)
    }

    async fn read_tenants(
        &self,
        snapshot: &mut Transaction<'static, Db>,
        since: i64,
    ) -> Result<Vec<Tenant>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(tenants),
                " FROM tenants WHERE revision > $1 ORDER BY revision, id"
            ))
            .bind(since)
            .fetch_all(&mut **snapshot)
            .await?;
            Ok(found.into_iter().map(|Found(tenant)| tenant).collect())
        })
        .await
    }

    async fn read_keys(
        &self,
        snapshot: &mut Transaction<'static, Db>,
        since: i64,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let mut keys = Vec::new();
        let mut last = (since, Uuid::max());
        loop {
            let page: Vec<ChangedKey> = self
                .within(async {
                    let select = query_as(concat!(
                        "SELECT revision, ",
                        columns!(api_keys),
                        " FROM api_keys WHERE (revision, id) > ($1, $2) ORDER BY revision, id LIMIT $3"
                    ))
                    .bind(last.0)
                    .bind(last.1)
                    .bind(KEYS_AT_ONCE);
                    Ok(select.fetch_all(&mut **snapshot).await?)
                })
                .await?;
            let read = page.len();
            for ChangedKey { revision, key } in page {
                last = (revision, key.id.0);
                keys.push(key);
            }
            if i64::try_from(read).is_ok_and(|read| read < KEYS_AT_ONCE) {
                return Ok(keys);
            }
        }
    }

    async fn read_tokens(
        &self,
        snapshot: &mut Transaction<'static, Db>,
        since: i64,
    ) -> Result<Vec<AdminToken>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(admin_tokens),
                " FROM admin_tokens WHERE revision > $1 ORDER BY revision, id"
            ))
            .bind(since)
            .fetch_all(&mut **snapshot)
            .await?;
            Ok(found.into_iter().map(|Found(token)| token).collect())
        })
        .await
    }

    async fn read_gone(
        &self,
        snapshot: &mut Transaction<'static, Db>,
        since: i64,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let gone: Vec<(String, Uuid)> = self
            .within(async {
                let select = query_as(
                    "SELECT kind, id FROM tombstones WHERE revision > $1 ORDER BY revision",
                );
                Ok(select.bind(since).fetch_all(&mut **snapshot).await?)
            })
            .await?;
        for (kind, id) in gone {
            match Kind::named(&kind) {
                Some(Kind::Tenant) => changes.tenants_gone.push(TenantId(id)),
                Some(Kind::Key) => changes.keys_gone.push(KeyId(id)),
                Some(Kind::Token) => changes.tokens_gone.push(TokenId(id)),
                // Of a newer release, which knows more kinds.
                None => {}
            }
        }
        Ok(())
    }
}
