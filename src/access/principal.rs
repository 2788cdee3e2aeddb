//! Who somebody is once the secret was right: a key's holder, or an operator. Made by `roll`, carried by whoever asks.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::AccessError;
use super::limiter::Rate;
use super::meter::{Meter, Seen};
use crate::domain::api_key::{ApiKey, KeyLimits, ModelPattern, Scope};
use crate::domain::ids::ModelId;
use crate::domain::operator::{AdminToken, Role};
use crate::domain::secret::SecretHash;
use crate::domain::tenant::{KeyId, TenantId, TokenId};
use crate::telemetry::metrics::TenantSeries;

/// The holder of a key, on the terms that were in force when it asked. Cheap to clone.
#[derive(Clone)]
pub struct Principal {
    key: Arc<KnownKey>,
}

/// A tenant, and its id as text: one for all of its keys.
#[derive(Debug)]
pub(super) struct KnownTenant {
    pub(super) id: TenantId,
    pub(super) text: Arc<str>,
    pub(super) series: Arc<TenantSeries>,
}

/// A key as it is in force.
pub(super) struct KnownKey {
    pub(super) hash: SecretHash,
    /// Rarely there.
    previous: Option<Box<(SecretHash, DateTime<Utc>)>>,
    tenant: Arc<KnownTenant>,
    name: Box<str>,
    scopes: Scopes,
    models: Models,
    limits: KeyLimits,
    rate: Option<Rate>,
    expires_at: Option<DateTime<Utc>>,
    pub(super) meter: Arc<Meter>,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scopes(u8);

impl Scopes {
    fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |set, &scope| set | Self::bit(scope)))
    }

    fn bit(scope: Scope) -> u8 {
        match scope {
            Scope::Classify => 1,
            Scope::Feedback => 2,
            Scope::Read => 4,
        }
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }
}

/// The models that a key may use.
enum Models {
    All,
    Some(Box<[ModelPattern]>),
}

impl Models {
    fn of(patterns: &[ModelPattern]) -> Self {
        if patterns.iter().any(|pattern| pattern.as_str() == "*") {
            Self::All
        } else {
            Self::Some(patterns.into())
        }
    }
}

impl KnownKey {
    pub(super) fn new(key: &ApiKey, tenant: Arc<KnownTenant>, meter: Arc<Meter>) -> Self {
        let limits = key.limits.clone();
        let rate = limits.requests_per_second.zip(limits.burst_in_force());
        Self {
            hash: key.hash,
            previous: key.previous.map(Box::new),
            tenant,
            name: key.name.as_str().into(),
            scopes: Scopes::of(&key.scopes),
            models: Models::of(&key.models),
            rate: rate.map(|(per_second, burst)| Rate::new(per_second, burst)),
            limits,
            expires_at: key.expires_at,
            meter,
        }
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.tenant.id
    }

    /// Every hash that finds this key.
    pub(super) fn hashes(&self) -> impl Iterator<Item = SecretHash> {
        let previous = self.previous.as_ref().map(|previous| previous.0);
        std::iter::once(self.hash).chain(previous)
    }

    /// Whether the secret of `hash` opens it at the moment `now`.
    pub(super) fn opens(&self, hash: &SecretHash, now: DateTime<Utc>) -> Result<(), AccessError> {
        if self.hash != *hash {
            match self.previous.as_deref() {
                Some((previous, until)) if previous == hash && now < *until => {}
                Some((previous, _)) if previous == hash => return Err(AccessError::Expired),
                _ => return Err(AccessError::Unknown),
            }
        }
        ends_after(self.expires_at, now)
    }
}

fn ends_after(expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), AccessError> {
    match expires_at {
        Some(end) if now >= end => Err(AccessError::Expired),
        _ => Ok(()),
    }
}

impl Principal {
    pub(super) fn of(key: Arc<KnownKey>) -> Self {
        Self { key }
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.key.meter
    }

    pub(super) fn rate(&self) -> Option<Rate> {
        self.key.rate
    }

    /// The key's id.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key.meter.key()
    }

    /// The key's name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Whose the key is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.key.tenant()
    }

    /// The same as text, shared by all who have it.
    #[must_use]
    pub fn tenant_text(&self) -> &Arc<str> {
        &self.key.tenant.text
    }

    /// Where it is counted what the tenant does.
    #[must_use]
    pub fn series(&self) -> &Arc<TenantSeries> {
        &self.key.tenant.series
    }

    /// How much the key may do.
    #[must_use]
    pub fn limits(&self) -> &KeyLimits {
        &self.key.limits
    }

    /// Whether the key may be used for this.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.key.scopes.has(scope)
    }

    /// The models it may use; `None` for all.
    #[must_use]
    pub fn models(&self) -> Option<&[ModelPattern]> {
        match &self.key.models {
            Models::All => None,
            Models::Some(patterns) => Some(patterns),
        }
    }

    /// Whether the key may use this model.
    #[must_use]
    pub fn may_use(&self, model: &ModelId) -> bool {
        self.models()
            .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.names(model)))
    }

    /// Passes where the key has one of these scopes.
    ///
    /// # Errors
    /// [`AccessError::Scope`] where it has none.
    pub fn require(&self, one_of: &'static [Scope]) -> Result<(), AccessError> {
        if one_of.iter().any(|&scope| self.may(scope)) {
            Ok(())
        } else {
            Err(AccessError::Scope(one_of))
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("key", &self.key())
            .field("tenant", &self.tenant())
            .finish_non_exhaustive()
    }
}

/// The holder of an admin token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The token's id.
    pub id: TokenId,
    /// The token's name for people.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
}

/// A token as it is in force.
pub(super) struct KnownToken {
    pub(super) hash: SecretHash,
    pub(super) operator: Operator,
    expires_at: Option<DateTime<Utc>>,
    pub(super) seen: Arc<Seen>,
}

impl KnownToken {
    pub(super) fn new(token: &AdminToken, seen: Arc<Seen>) -> Self {
        Self {
            hash: token.hash,
            operator: Operator {
                id: token.id,
                name: token.name.as_str().into(),
                role: token.role,
            },
            expires_at: token.expires_at,
            seen,
        }
    }

    /// Whether it opens anything at the moment `now`.
    pub(super) fn opens(&self, now: DateTime<Utc>) -> Result<(), AccessError> {
        ends_after(self.expires_at, now)
    }
}
