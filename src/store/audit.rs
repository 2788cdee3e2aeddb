//! The audit in the database: written with every change, never changed.

use async_trait::async_trait;
use sqlx::{Database, Postgres, QueryBuilder, Sqlite, query};
use trait_gen::trait_gen;

use super::error::refusal;
use super::rows::{Found, columns};
use super::sql_store::SqlStore;
use super::{AuditFilter, AuditStore, Listing, Page, StoreError};
use crate::domain::operator::AuditEntry;

/// What an error calls it.
const ENTRY: &str = "audit entry";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl AuditStore for SqlStore<Db> {
    async fn record(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            Self::append(&mut change.tx, entry).await?;
            change.tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn list_audit(
        &self,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Listing<AuditEntry>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(concat!(
                "SELECT ",
                columns!(audit),
                " FROM audit WHERE id < "
            ));
            select.push_bind(page.end());
            for (column, text, end) in [
                ("action", &filter.action, '.'),
                ("target", &filter.target, '/'),
            ] {
                let Some(text) = text else { continue };
                if text.contains('\0') {
                    // PostgreSQL keeps no such text and refuses to be asked for it.
                    return Ok(page.listing(Vec::new(), |entry: &AuditEntry| entry.id));
                }
                if text.ends_with(end) {
                    // The number is written out: PostgreSQL's `substr` takes no `i64`.
                    let length = text.chars().count();
                    select.push(format_args!(" AND substr({column}, 1, {length}) = "));
                } else {
                    select.push(format_args!(" AND {column} = "));
                }
                select.push_bind(text.clone());
            }
            if let Some(token) = filter.token {
                select.push(" AND token_id = ").push_bind(token.0);
            }
            if let Some(from) = filter.from {
                select.push(" AND at >= ").push_bind(from);
            }
            if let Some(to) = filter.to {
                select.push(" AND at < ").push_bind(to);
            }
            select.push(" ORDER BY id DESC LIMIT ");
            select.push_bind(page.one_more());
            let found = select
                .build_query_as::<Found<AuditEntry>>()
                .persistent(false)
                .fetch_all(&self.readers)
                .await?;
            Ok(page.listing(found, |entry| entry.id))
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Writes an entry with whatever else the connection's transaction holds.
    pub(super) async fn append(
        writer: &mut <Db as Database>::Connection,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        query(
            "INSERT INTO audit (id, at, actor, token_id, action, target, value_before, value_after, \
             address, request_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(entry.id)
        .bind(entry.at)
        .bind(&entry.actor)
        .bind(entry.token.map(|token| token.0))
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(entry.before.as_ref().map(ToString::to_string))
        .bind(entry.after.as_ref().map(ToString::to_string))
        .bind(&entry.address)
        .bind(entry.request_id)
        .execute(writer)
        .await
        .map_err(|error| refusal(error, ENTRY, ENTRY))?;
        Ok(())
    }
}
