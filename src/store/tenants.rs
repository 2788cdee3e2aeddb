//! Tenants in the database.

use async_trait::async_trait;
use sqlx::{Postgres, Sqlite, query, query_as, query_scalar};
use trait_gen::trait_gen;

use super::error::refusal;
use super::rows::{Found, columns, listed};
use super::sql_store::{Change, Kind, SqlStore};
use super::{JobStore, Listing, Page, StoreError, TenantStore};
use crate::domain::operator::AuditEntry;
use crate::domain::tenant::{Tenant, TenantId};

/// What an error calls it.
const TENANT: &str = "tenant";

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl TenantStore for SqlStore<Db> {
    async fn create_tenant(&self, tenant: &Tenant, audit: &AuditEntry) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            change.add_tenant(tenant).await?;
            change.commit(audit).await
        })
        .await
    }

    async fn find_tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(tenants),
                " FROM tenants WHERE id = $1"
            ))
            .bind(id.0)
            .fetch_optional(&self.readers)
            .await?;
            Ok(found.map(|Found(tenant)| tenant))
        })
        .await
    }

    async fn list_tenants(&self, page: Page) -> Result<Listing<Tenant>, StoreError> {
        self.within(async {
            let found = query_as(concat!(
                "SELECT ",
                columns!(tenants),
                " FROM tenants WHERE id > $1 ORDER BY id LIMIT $2"
            ))
            .bind(page.beginning())
            .bind(page.one_more())
            .fetch_all(&self.readers)
            .await?;
            Ok(page.listing(found, |tenant: &Tenant| tenant.id.0))
        })
        .await
    }

    async fn update_tenant(
        &self,
        tenant: &Tenant,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let done = query(
                "UPDATE tenants SET name = $1, callback_url = $2, events = $3, updated_at = $4, \
                 version = $5, revision = $6 WHERE id = $7 AND version = $8",
            )
            .bind(&tenant.name)
            .bind(&tenant.callback_url)
            .bind(listed(tenant.events.iter().map(String::as_str)))
            .bind(tenant.updated_at)
            .bind(tenant.version)
            .bind(change.revision)
            .bind(tenant.id.0)
            .bind(expected)
            .execute(&mut *change.tx)
            .await
            .map_err(|error| refusal(error, TENANT, TENANT))?;
            if done.rows_affected() == 0 {
                return Err(change.why_no_tenant(tenant.id).await?);
            }
            change.commit(audit).await
        })
        .await
    }

    async fn delete_tenant(
        &self,
        id: TenantId,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        if self.has_outbox_or_jobs(id).await? {
            return self.delete_tenant_by_pieces(id, expected, audit).await;
        }
        self.within(async {
            let mut change = self.change().await?;
            // Before the keys go with their tenant: no key can come between, as every writer waits for this change.
            change.bury_keys_of(id).await?;
            let done = query("DELETE FROM tenants WHERE id = $1 AND version = $2")
                .bind(id.0)
                .bind(expected)
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                return Err(change.why_no_tenant(id).await?);
            }
            change.bury(Kind::Tenant, id.0).await?;
            change.commit(audit).await
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Whether there is something that would go with a tenant and may be much.
    async fn has_outbox_or_jobs(&self, id: TenantId) -> Result<bool, StoreError> {
        self.within(async {
            let found = query_scalar(
                "SELECT EXISTS (SELECT 1 FROM callback_deliveries WHERE tenant_id = $1) \
                 OR EXISTS (SELECT 1 FROM jobs WHERE tenant_id = $1)",
            )
            .bind(id.0)
            .fetch_one(&self.readers)
            .await?;
            Ok(found)
        })
        .await
    }

    /// Deletes a tenant with what goes with it piece by piece, so that no change is long. It is decided by the first change,
    /// which is audited and takes the keys: who finds the tenant after a crash deletes it again.
    async fn delete_tenant_by_pieces(
        &self,
        id: TenantId,
        expected: i64,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut change = self.change().await?;
            let barred = query(
                "UPDATE tenants SET version = version + 1, revision = $1 \
                 WHERE id = $2 AND version = $3",
            )
            .bind(change.revision)
            .bind(id.0)
            .bind(expected)
            .execute(&mut *change.tx)
            .await?;
            if barred.rows_affected() == 0 {
                return Err(change.why_no_tenant(id).await?);
            }
            change.bury_keys_of(id).await?;
            query("DELETE FROM api_keys WHERE tenant_id = $1")
                .bind(id.0)
                .execute(&mut *change.tx)
                .await?;
            change.commit(audit).await
        })
        .await?;
        while JobStore::forget_jobs(self, id, audit.at).await? > 0 {}
        while self.erase_deliveries(id, None, audit.at).await? > 0 {}
        self.within(async {
            let mut change = self.change().await?;
            change.bury_keys_of(id).await?;
            let done = query("DELETE FROM tenants WHERE id = $1")
                .bind(id.0)
                .execute(&mut *change.tx)
                .await?;
            if done.rows_affected() == 0 {
                // Somebody else deleted it at the same time.
                return change.abandon().await;
            }
            change.bury(Kind::Tenant, id.0).await?;
            Ok(change.tx.commit().await?)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl Change<Db> {
    /// Remembers that a tenant's keys are gone, before they are.
    async fn bury_keys_of(&mut self, tenant: TenantId) -> Result<(), StoreError> {
        query(
            "INSERT INTO tombstones (kind, id, revision) \
             SELECT 'key', id, $1 FROM api_keys WHERE tenant_id = $2",
        )
        .bind(self.revision)
        .bind(tenant.0)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Adds a tenant.
    pub(super) async fn add_tenant(&mut self, tenant: &Tenant) -> Result<(), StoreError> {
        query(
            "INSERT INTO tenants \
             (id, name, callback_url, events, created_at, updated_at, version, revision) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(tenant.id.0)
        .bind(&tenant.name)
        .bind(&tenant.callback_url)
        .bind(listed(tenant.events.iter().map(String::as_str)))
        .bind(tenant.created_at)
        .bind(tenant.updated_at)
        .bind(tenant.version)
        .bind(self.revision)
        .execute(&mut *self.tx)
        .await
        .map_err(|error| refusal(error, TENANT, TENANT))?;
        Ok(())
    }

    /// Why no tenant of this id had the version that was expected; the change is left.
    async fn why_no_tenant(mut self, id: TenantId) -> Result<StoreError, StoreError> {
        let known: Option<i64> = query_scalar("SELECT version FROM tenants WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *self.tx)
            .await?;
        self.abandon().await?;
        Ok(known.map_or(StoreError::NotFound(TENANT), |_| StoreError::Stale))
    }
}
