//! The first start on an empty store: a tenant `default`, one key and one token, shown once or given by the settings.

use std::fmt;

use serde_json::json;
use uuid::Uuid;

use super::actor::Deed;
use super::keys::{new_secret, patterns, scopes};
use super::{Actor, AdminError};
use crate::domain::api_key::{ApiKey, KeyLimits};
use crate::domain::clock::Clock;
use crate::domain::operator::{AdminToken, Role};
use crate::domain::secret::{self, SecretHash, SecretKind};
use crate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};
use crate::store::{Bootstrap, Store};

/// Secrets that the settings give instead of random ones.
#[derive(Clone, Default)]
pub struct FirstSecrets {
    /// The first API key.
    pub api_key: Option<String>,
    /// The first admin token.
    pub admin_token: Option<String>,
}

impl fmt::Debug for FirstSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstSecrets(…)")
    }
}

/// Secrets that were made, and that nobody has seen yet. Those that the settings gave are not among them.
#[derive(Default)]
pub struct NewSecrets {
    /// The first API key.
    pub api_key: Option<String>,
    /// The first admin token.
    pub admin_token: Option<String>,
}

/// Fills an empty store; `None` where it holds something already, and then nothing is made.
///
/// # Errors
/// When the store is away or the system gives no randomness.
pub async fn fill(
    store: &dyn Store,
    given: &FirstSecrets,
    clock: &dyn Clock,
) -> Result<Option<NewSecrets>, AdminError> {
    if store.revision().await? != 0 {
        return Ok(None);
    }
    let now = clock.now();
    let mut made = NewSecrets::default();
    let api_key = secret_of(
        given.api_key.as_deref(),
        SecretKind::ApiKey,
        &mut made.api_key,
    )?;
    let admin_token = secret_of(
        given.admin_token.as_deref(),
        SecretKind::AdminToken,
        &mut made.admin_token,
    )?;
    let tenant = Tenant {
        id: TenantId(Uuid::now_v7()),
        name: "default".to_owned(),
        callback_url: None,
        events: Vec::new(),
        created_at: now,
        updated_at: now,
        version: 1,
    };
    let key = ApiKey {
        id: KeyId(Uuid::now_v7()),
        tenant: tenant.id,
        name: "bootstrap".to_owned(),
        hash: SecretHash::of(&api_key),
        hint: secret::hint(&api_key),
        previous: None,
        scopes: scopes(None)?,
        models: patterns(None)?,
        limits: KeyLimits::default(),
        expires_at: None,
        created_at: now,
        updated_at: now,
        last_used_at: None,
        version: 1,
    };
    let token = AdminToken {
        id: TokenId(Uuid::now_v7()),
        name: "bootstrap".to_owned(),
        hash: SecretHash::of(&admin_token),
        hint: secret::hint(&admin_token),
        role: Role::Admin,
        expires_at: None,
        created_at: now,
        last_used_at: None,
    };
    let deed = Deed {
        action: "bootstrap",
        target: format!("tenants/{}", tenant.id),
        before: None,
        after: Some(json!({
            "tenant": tenant.name,
            "key": super::keys::shown(&key),
            "token": super::tokens::shown(&token),
        })),
    };
    let audit = Actor::program("bootstrap").did(deed, now);
    let first = Bootstrap {
        tenant,
        key,
        token,
        audit,
    };
    Ok(store.bootstrap(&first).await?.then_some(made))
}

/// The given secret, or a new one, which is also put where it is shown from.
fn secret_of(
    given: Option<&str>,
    kind: SecretKind,
    made: &mut Option<String>,
) -> Result<String, AdminError> {
    match given {
        Some(given) => Ok(given.to_owned()),
        None => Ok(made.insert(new_secret(kind)?).clone()),
    }
}
