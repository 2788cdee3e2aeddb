//! Admin tokens in the database.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Sqlite, query, query_as};
use trait_gen::trait_gen;

use super::error::refusal;
use super::rows::{Found, columns};
use super::sql_store::{AT_ONCE, Change, Kind, SqlStore};
use super::{Listing, Page, StoreError, TokenStore};
use crate::domain::operator::{AdminToken, AuditEntry};
use crate::domain::tenant::TokenId;

/// What an error calls it.
const TOKEN: &str = "token";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl TokenStore for SqlStore<Db> {
    async fn create_token(&self, token: &AdminToken, audit: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            change.add_token(token).await?;
            change.commit(audit).await
        })
        .await
    }

    async fn find_token(&self, id: TokenId) -> Result<Option<AdminToken>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(admin_tokens),
                " FROM admin_tokens WHERE id = $1"
            ))
            .bind(id.0)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.map(|Found(token)| token))
        })
        .await
    }

    async fn list_tokens(&self, page: Page) -> Result<Listing<AdminToken>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(admin_tokens),
                " FROM admin_tokens WHERE id > $1 ORDER BY id LIMIT $2"
            ))
            .bind(page.beginning())
            .bind(page.one_more())
            .fetch_all(&self.readers)
            .await?;
            Ok(page.listing(found, |token: &AdminToken| token.id.0))
        })
        .await
    }

    async fn delete_token(&self, id: TokenId, audit: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let done = query("DELETE FROM admin_tokens WHERE id = $1")
                .bind(id.0)
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                change.abandon().await?;
                return Err(StoreError::NotFound(TOKEN));
            }
            change.bury(Kind::Token, id.0).await?;
            change.commit(audit).await
        })
        .await
    }

    async fn touch_tokens(&self, used: &[(TokenId, DateTime<Utc>)]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        self.within(async {
            let mut tx = self.note().await?;
            for used in used.chunks(AT_ONCE) {
                let mut update = QueryBuilder::<Db>::new("WITH used (id, at) AS (");
                update.push_values(used, |mut row, &(TokenId(id), at)| {
                    row.push_bind(id).push_bind(at);
                });
                // A token that stands there twice has the later time.
                update.push(
                    "), latest (id, at) AS (SELECT id, MAX(at) FROM used GROUP BY id) \
                     UPDATE admin_tokens SET last_used_at = latest.at FROM latest \
                     WHERE admin_tokens.id = latest.id \
                     AND (admin_tokens.last_used_at IS NULL OR admin_tokens.last_used_at < latest.at)",
                );
                update.build().persistent(false).execute(&mut *tx).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl Change<Db> {
    /// Adds a token.
    pub(super) async fn add_token(&mut self, token: &AdminToken) -> Result<(), StoreError> {
        query(
            "INSERT INTO admin_tokens \
             (id, name, secret_hash, hint, role, expires_at, created_at, last_used_at, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(token.id.0)
        .bind(&token.name)
        .bind(token.hash.as_bytes().as_slice())
        .bind(&token.hint)
        .bind(token.role.as_str())
        .bind(token.expires_at)
        .bind(token.created_at)
        .bind(token.last_used_at)
        .bind(self.revision)
        .execute(&mut *self.tx)
        .await
        .map_err(|error| refusal(error, TOKEN, TOKEN))?;
        Ok(())
    }
}
