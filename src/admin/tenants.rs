//! Tenants: made, changed, deleted with all that is theirs.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::actor::Deed;
use super::{Actor, Admin, AdminError, Edit, Tries, text};
use crate::domain::tenant::{Tenant, TenantId};
use crate::store::{Listing, Page};

/// What a new tenant is.
#[derive(Clone, Debug, Default)]
pub struct NewTenant {
    /// Its name; no two have the same.
    pub name: String,
    /// Where events are sent, and results that nobody waits for.
    pub callback_url: Option<String>,
    /// The kinds of events that are sent there; empty for all.
    pub events: Vec<String>,
}

/// What is to be changed of a tenant; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct TenantPatch {
    /// Its name.
    pub name: Option<String>,
    /// Where events and results are sent.
    pub callback_url: Edit<String>,
    /// The kinds of events; removed, all are sent.
    pub events: Edit<Vec<String>>,
}

impl Admin {
    /// Makes a tenant.
    ///
    /// # Errors
    /// When a value cannot be, another tenant has the name, or the store is away.
    pub async fn create_tenant(&self, actor: &Actor, new: NewTenant) -> Result<Tenant, AdminError> {
        let now = self.clock.now();
        let tenant = Tenant {
            id: TenantId(Uuid::now_v7()),
            name: text::name("name", &new.name)?,
            callback_url: new
                .callback_url
                .as_deref()
                .map(|url| text::callback_url(url, self.outbox.targets()))
                .transpose()?,
            events: text::events(new.events)?,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let deed = deed("tenant.create", tenant.id, None, Some(&tenant));
        self.store
            .create_tenant(&tenant, &actor.did(deed, now))
            .await?;
        self.in_force().await?;
        self.tell(
            "tenant.created",
            &target(tenant.id),
            json!({"name": tenant.name}),
        );
        Ok(tenant)
    }

    /// The tenant of this id.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn tenant(&self, id: TenantId) -> Result<Tenant, AdminError> {
        let found = self.store.find_tenant(id).await?;
        found.ok_or(AdminError::NotFound("tenant"))
    }

    /// A page of the tenants.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn tenants(&self, page: Page) -> Result<Listing<Tenant>, AdminError> {
        Ok(self.store.list_tenants(page).await?)
    }

    /// Changes a tenant; with `expected`, only if that is still its version.
    ///
    /// # Errors
    /// When there is none, a value cannot be, somebody else was faster, or the store is away.
    pub async fn change_tenant(
        &self,
        actor: &Actor,
        id: TenantId,
        patch: TenantPatch,
        expected: Option<i64>,
    ) -> Result<Tenant, AdminError> {
        let patch = TenantPatch {
            name: patch
                .name
                .map(|name| text::name("name", &name))
                .transpose()?,
            callback_url: patch
                .callback_url
                .try_map(|url| text::callback_url(&url, self.outbox.targets()))?,
            events: patch.events.try_map(text::events)?,
        };
        let mut tries = Tries::of(expected);
        let changed = loop {
            let outcome = self.try_to_change(actor, id, &patch, expected).await;
            if !tries.again(&outcome) {
                break outcome?;
            }
        };
        self.in_force().await?;
        self.tell("tenant.changed", &target(id), json!({"name": changed.name}));
        Ok(changed)
    }

    /// Deletes a tenant with its keys and what they have used; they open nothing from now on.
    ///
    /// # Errors
    /// As [`Self::change_tenant`].
    pub async fn delete_tenant(
        self: &Arc<Self>,
        actor: &Actor,
        id: TenantId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let (admin, actor) = (Arc::clone(self), actor.clone());
        let work = async move { admin.take_tenant_out(&actor, id, expected).await };
        self.to_the_end(work).await
    }

    async fn take_tenant_out(
        &self,
        actor: &Actor,
        id: TenantId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let mut tries = Tries::of(expected);
        loop {
            let outcome = self.try_to_delete(actor, id, expected).await;
            if !tries.again(&outcome) {
                break outcome?;
            }
        }
        self.in_force().await?;
        self.tell("tenant.deleted", &target(id), json!({}));
        Ok(())
    }

    async fn try_to_change(
        &self,
        actor: &Actor,
        id: TenantId,
        patch: &TenantPatch,
        expected: Option<i64>,
    ) -> Result<Tenant, AdminError> {
        let before = self.tenant(id).await?;
        let version = super::still(expected, before.version)?;
        let now = self.clock.now();
        let mut after = Tenant {
            updated_at: now,
            version: version + 1,
            ..before.clone()
        };
        if let Some(name) = &patch.name {
            after.name.clone_from(name);
        }
        patch.callback_url.clone().put(&mut after.callback_url);
        let mut kinds = Some(std::mem::take(&mut after.events));
        patch.events.clone().put(&mut kinds);
        after.events = kinds.unwrap_or_default();
        let entry = actor.did(deed("tenant.change", id, Some(&before), Some(&after)), now);
        self.store.update_tenant(&after, version, &entry).await?;
        Ok(after)
    }

    async fn try_to_delete(
        &self,
        actor: &Actor,
        id: TenantId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let before = self.tenant(id).await?;
        let version = super::still(expected, before.version)?;
        let entry = actor.did(
            deed("tenant.delete", id, Some(&before), None),
            self.clock.now(),
        );
        Ok(self.store.delete_tenant(id, version, &entry).await?)
    }
}

fn target(id: TenantId) -> String {
    format!("tenants/{id}")
}

fn deed(
    action: &'static str,
    id: TenantId,
    before: Option<&Tenant>,
    after: Option<&Tenant>,
) -> Deed {
    Deed {
        action,
        target: target(id),
        before: before.map(shown),
        after: after.map(shown),
    }
}

/// What the audit keeps of a tenant.
fn shown(tenant: &Tenant) -> Value {
    json!({
        "name": tenant.name,
        "callback_url": tenant.callback_url,
        "events": tenant.events,
    })
}
