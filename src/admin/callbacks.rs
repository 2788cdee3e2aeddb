//! Callbacks: what was sent to tenants and what became of it, sent anew where somebody asks; and the secrets that sign them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::actor::Deed;
use super::keys::LONGEST_OVERLAP;
use super::{Actor, Admin, AdminError};
use crate::callbacks::{SECRET_BYTES, compose_secret};
use crate::domain::callback::{Attempt, CallbackSecret, Delivery, DeliveryState};
use crate::domain::tenant::TenantId;
use crate::store::{DeliveryFilter, Listing, Page};

/// Attempts of a delivery that are shown.
const SHOWN_ATTEMPTS: u32 = 100;

/// Secrets of a tenant that sign at the same time: each one makes the header longer.
const MOST_SECRETS: usize = 8;

impl Admin {
    /// A page of the deliveries, newest first.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
        page: Page,
    ) -> Result<Listing<Delivery>, AdminError> {
        Ok(self.store.list_deliveries(filter, page).await?)
    }

    /// A delivery and its last attempts, newest first.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn delivery(&self, id: Uuid) -> Result<(Delivery, Vec<Attempt>), AdminError> {
        let found = self.store.find_delivery(id).await?;
        let delivery = found.ok_or(AdminError::NotFound("callback"))?;
        let attempts = self.store.attempts_of(id, SHOWN_ATTEMPTS).await?;
        Ok((delivery, attempts))
    }

    /// Sends a delivery anew that has arrived or was given up.
    ///
    /// # Errors
    /// When there is none, it is being sent, or the store is away.
    pub async fn redeliver(&self, actor: &Actor, id: Uuid) -> Result<Delivery, AdminError> {
        let (before, _) = self.delivery(id).await?;
        let now = self.clock.now();
        let target = format!("callbacks/{id}");
        let deed = Deed {
            action: "callback.redeliver",
            target: target.clone(),
            before: Some(json!({"state": before.state.as_str()})),
            after: Some(json!({"state": DeliveryState::Pending.as_str()})),
        };
        let audit = actor.did(deed, now);
        if !self.store.redeliver(id, now, &audit).await? {
            return Err(AdminError::Conflict(
                "the callback is pending: it is sent by itself".to_owned(),
            ));
        }
        self.outbox.nudge();
        let tenant = before.what.tenant.to_string();
        self.tell(
            "callback.redelivered",
            &target,
            json!({"tenant_id": tenant}),
        );
        Ok(self.delivery(id).await?.0)
    }

    /// Gives a tenant another secret, which is shown here and never again; the older ones go on signing for `overlap`.
    ///
    /// # Errors
    /// When there is no such tenant, it has too many secrets, the overlap is too long, or the store is away.
    pub async fn create_callback_secret(
        &self,
        actor: &Actor,
        tenant: TenantId,
        overlap: Duration,
    ) -> Result<CallbackSecret, AdminError> {
        if overlap > LONGEST_OVERLAP {
            return Err(AdminError::Invalid(format!(
                "`overlap_s` must be at most {} (90 days)",
                LONGEST_OVERLAP.as_secs()
            )));
        }
        let now = self.clock.now();
        let secrets = self.callback_secrets(tenant).await?;
        if secrets.len() >= MOST_SECRETS && !overlap.is_zero() {
            return Err(AdminError::Conflict(format!(
                "the tenant has {} secrets that sign: delete one first",
                secrets.len()
            )));
        }
        let secret = CallbackSecret {
            id: Uuid::now_v7(),
            tenant,
            secret: new_secret()?,
            created_at: now,
            expires_at: None,
        };
        let others_end = now + TimeDelta::from_std(overlap).unwrap_or_default();
        let target = target(tenant, secret.id);
        let deed = Deed {
            action: "callback_secret.create",
            target: target.clone(),
            before: None,
            after: Some(json!({"others_end": shown(others_end)})),
        };
        self.store
            .add_callback_secret(&secret, others_end, &actor.did(deed, now))
            .await?;
        self.tell("callback_secret.created", &target, json!({}));
        Ok(secret)
    }

    /// A tenant's secrets that sign now, in the order they were made.
    ///
    /// # Errors
    /// When there is no such tenant, or the store is away.
    pub async fn callback_secrets(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<CallbackSecret>, AdminError> {
        self.tenant(tenant).await?;
        let now = self.clock.now();
        let mut secrets = self.store.callback_secrets(tenant).await?;
        secrets.retain(|secret| secret.is_valid(now));
        Ok(secrets)
    }

    /// Deletes a secret: it signs nothing from now on.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn delete_callback_secret(
        &self,
        actor: &Actor,
        tenant: TenantId,
        id: Uuid,
    ) -> Result<(), AdminError> {
        let target = target(tenant, id);
        let deed = Deed {
            action: "callback_secret.delete",
            target: target.clone(),
            before: Some(json!({})),
            after: None,
        };
        let audit = actor.did(deed, self.clock.now());
        self.store
            .delete_callback_secret(tenant, id, &audit)
            .await?;
        self.tell("callback_secret.deleted", &target, json!({}));
        Ok(())
    }
}

/// A secret of the machine's own randomness.
fn new_secret() -> Result<String, AdminError> {
    let mut random = [0; SECRET_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| AdminError::Failed(format!("the system gives no randomness: {error}")))?;
    Ok(compose_secret(random))
}

fn target(tenant: TenantId, id: Uuid) -> String {
    format!("tenants/{tenant}/callback-secrets/{id}")
}

fn shown(at: DateTime<Utc>) -> Value {
    at.to_rfc3339().into()
}
