//! API keys: made, changed, rotated, revoked. A secret is shown once, in the answer that makes it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::actor::Deed;
use super::{Actor, Admin, AdminError, Edit, Tries, text};
use crate::domain::api_key::{ApiKey, KeyLimits, LimitMode, ModelPattern, Scope};
use crate::domain::clock::Clock;
use crate::domain::secret::{self, SecretHash, SecretKind};
use crate::domain::tenant::{KeyId, TenantId};
use crate::store::{Listing, Page, Store};

/// What a new key is; what is left out is not limited.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name for people.
    pub name: String,
    /// What it may be used for; all, where left out.
    pub scopes: Option<Vec<String>>,
    /// The models it may use, as patterns; all, where left out.
    pub models: Option<Vec<String>>,
    /// How much.
    pub limits: KeyLimits,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What is to be changed of a key; what is left out stays.
#[derive(Clone, Debug, Default)]
pub struct KeyPatch {
    /// Its name.
    pub name: Option<String>,
    /// What it may be used for; removed, everything.
    pub scopes: Edit<Vec<String>>,
    /// The models it may use; removed, all.
    pub models: Edit<Vec<String>>,
    /// Pictures a second.
    pub requests_per_second: Edit<f64>,
    /// Pictures at once after a pause.
    pub burst: Edit<u32>,
    /// Pictures a day.
    pub images_per_day: Edit<u64>,
    /// Bytes of one picture.
    pub max_image_bytes: Edit<u64>,
    /// Whether limits refuse.
    pub limit_mode: Edit<LimitMode>,
    /// When it ends.
    pub expires_at: Edit<DateTime<Utc>>,
}

/// What is done to a key.
type Edits<'a> = dyn Fn(&mut ApiKey) -> Result<(), AdminError> + Send + Sync + 'a;

/// The longest time for which an old secret may go on opening.
pub(super) const LONGEST_OVERLAP: Duration = Duration::from_hours(24 * 90);

/// Makes a key in a store, whoever serves from it: gateways hear of it within a second.
///
/// # Errors
/// When a value cannot be, there is no such tenant, or the store is away.
pub async fn create_key(
    store: &dyn Store,
    clock: &dyn Clock,
    actor: &Actor,
    new: NewKey,
) -> Result<(ApiKey, String), AdminError> {
    let now = clock.now();
    let secret = new_secret(SecretKind::ApiKey)?;
    check_limits(&new.limits)?;
    let key = ApiKey {
        id: KeyId(Uuid::now_v7()),
        tenant: new.tenant,
        name: text::name("name", &new.name)?,
        hash: SecretHash::of(&secret),
        hint: secret::hint(&secret),
        previous: None,
        scopes: scopes(new.scopes)?,
        models: patterns(new.models)?,
        limits: new.limits,
        expires_at: new.expires_at,
        created_at: now,
        updated_at: now,
        last_used_at: None,
        version: 1,
    };
    let deed = deed("key.create", key.id, None, Some(&key));
    store.create_key(&key, &actor.did(deed, now)).await?;
    Ok((key, secret))
}

impl Admin {
    /// Makes a key; its secret is given here and never again.
    ///
    /// # Errors
    /// When a value cannot be, there is no such tenant, or the store is away.
    pub async fn create_key(
        &self,
        actor: &Actor,
        new: NewKey,
    ) -> Result<(ApiKey, String), AdminError> {
        let (key, secret) = create_key(&*self.store, &*self.clock, actor, new).await?;
        self.in_force().await?;
        let about = json!({"tenant_id": key.tenant.to_string(), "name": key.name});
        self.tell("key.created", &target(key.id), about);
        Ok((key, secret))
    }

    /// The key of this id.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn key(&self, id: KeyId) -> Result<ApiKey, AdminError> {
        let found = self.store.find_key(id).await?;
        found.ok_or(AdminError::NotFound("key"))
    }

    /// A page of the keys, of one tenant or of all.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn keys(
        &self,
        tenant: Option<TenantId>,
        page: Page,
    ) -> Result<Listing<ApiKey>, AdminError> {
        Ok(self.store.list_keys(tenant, page).await?)
    }

    /// Changes a key; with `expected`, only if that is still its version. Who calls with it keeps what it has used.
    ///
    /// # Errors
    /// When there is none, a value cannot be, somebody else was faster, or the store is away.
    pub async fn change_key(
        &self,
        actor: &Actor,
        id: KeyId,
        patch: KeyPatch,
        expected: Option<i64>,
    ) -> Result<ApiKey, AdminError> {
        let edit = |key: &mut ApiKey| patch.clone().put(key);
        self.edit_key(actor, id, expected, "key.change", &edit)
            .await
    }

    /// Gives a key a new secret; the old one goes on opening for `overlap`, any older one no more.
    ///
    /// # Errors
    /// As [`Self::change_key`].
    pub async fn rotate_key(
        &self,
        actor: &Actor,
        id: KeyId,
        overlap: Duration,
        expected: Option<i64>,
    ) -> Result<(ApiKey, String), AdminError> {
        if overlap > LONGEST_OVERLAP {
            return Err(AdminError::Invalid(format!(
                "`overlap_s` must be at most {} (90 days)",
                LONGEST_OVERLAP.as_secs()
            )));
        }
        let overlap = TimeDelta::from_std(overlap).unwrap_or_default();
        let secret = new_secret(SecretKind::ApiKey)?;
        let edit = |key: &mut ApiKey| {
            let old = std::mem::replace(&mut key.hash, SecretHash::of(&secret));
            key.hint = secret::hint(&secret);
            key.previous = (!overlap.is_zero()).then(|| (old, key.updated_at + overlap));
            Ok(())
        };
        let key = self
            .edit_key(actor, id, expected, "key.rotate", &edit)
            .await?;
        Ok((key, secret))
    }

    async fn edit_key(
        &self,
        actor: &Actor,
        id: KeyId,
        expected: Option<i64>,
        action: &'static str,
        edit: &Edits<'_>,
    ) -> Result<ApiKey, AdminError> {
        let mut tries = Tries::of(expected);
        let changed = loop {
            let outcome = self.try_to_edit(actor, id, expected, action, edit).await;
            if !tries.again(&outcome) {
                break outcome?;
            }
        };
        self.in_force().await?;
        let what = if action == "key.rotate" {
            "key.rotated"
        } else {
            "key.changed"
        };
        self.tell(what, &target(id), json!({"name": changed.name}));
        Ok(changed)
    }

    /// Revokes a key: it opens nothing from now on.
    ///
    /// # Errors
    /// As [`Self::change_key`].
    pub async fn delete_key(
        &self,
        actor: &Actor,
        id: KeyId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let mut tries = Tries::of(expected);
        loop {
            let outcome = self.try_to_revoke(actor, id, expected).await;
            if !tries.again(&outcome) {
                break outcome?;
            }
        }
        self.in_force().await?;
        self.tell("key.revoked", &target(id), json!({}));
        Ok(())
    }

    async fn try_to_edit(
        &self,
        actor: &Actor,
        id: KeyId,
        expected: Option<i64>,
        action: &'static str,
        edit: &Edits<'_>,
    ) -> Result<ApiKey, AdminError> {
        let before = self.key(id).await?;
        let version = super::still(expected, before.version)?;
        let now = self.clock.now();
        let mut after = ApiKey {
            updated_at: now,
            version: version + 1,
            ..before.clone()
        };
        edit(&mut after)?;
        let entry = actor.did(deed(action, id, Some(&before), Some(&after)), now);
        self.store.update_key(&after, version, &entry).await?;
        Ok(after)
    }

    async fn try_to_revoke(
        &self,
        actor: &Actor,
        id: KeyId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let before = self.key(id).await?;
        let version = super::still(expected, before.version)?;
        let entry = actor.did(
            deed("key.revoke", id, Some(&before), None),
            self.clock.now(),
        );
        Ok(self.store.delete_key(id, version, &entry).await?)
    }
}

impl KeyPatch {
    fn put(self, key: &mut ApiKey) -> Result<(), AdminError> {
        if let Some(name) = self.name {
            key.name = text::name("name", &name)?;
        }
        match self.scopes {
            Edit::Keep => {}
            Edit::Remove => key.scopes = scopes(None)?,
            Edit::Set(named) => key.scopes = scopes(Some(named))?,
        }
        match self.models {
            Edit::Keep => {}
            Edit::Remove => key.models = patterns(None)?,
            Edit::Set(named) => key.models = patterns(Some(named))?,
        }
        self.requests_per_second
            .put(&mut key.limits.requests_per_second);
        self.burst.put(&mut key.limits.burst);
        self.images_per_day.put(&mut key.limits.images_per_day);
        self.max_image_bytes.put(&mut key.limits.max_image_bytes);
        let mut mode = Some(key.limits.mode);
        self.limit_mode.put(&mut mode);
        key.limits.mode = mode.unwrap_or_default();
        self.expires_at.put(&mut key.expires_at);
        check_limits(&key.limits)
    }
}

/// A secret of the machine's own randomness.
pub(super) fn new_secret(kind: SecretKind) -> Result<String, AdminError> {
    let mut random = [0; secret::ENTROPY_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| AdminError::Failed(format!("the system gives no randomness: {error}")))?;
    Ok(secret::compose(kind, random))
}

pub(super) fn scopes(named: Option<Vec<String>>) -> Result<Vec<Scope>, AdminError> {
    let Some(named) = named else {
        return Ok(Scope::ALL.to_vec());
    };
    let mut scopes = named
        .iter()
        .map(|name| {
            name.parse::<Scope>()
                .map_err(|error| AdminError::Invalid(format!("`scopes` has {name:?}; {error}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(AdminError::Invalid(
            "`scopes` must name at least one of classify, feedback and read".to_owned(),
        ));
    }
    Ok(scopes)
}

/// The most patterns of a key: each request looks at them one by one.
const MOST_PATTERNS: usize = 100;

pub(super) fn patterns(named: Option<Vec<String>>) -> Result<Vec<ModelPattern>, AdminError> {
    let named = named.unwrap_or_else(|| vec!["*".to_owned()]);
    if named.is_empty() || named.len() > MOST_PATTERNS {
        return Err(AdminError::Invalid(format!(
            "`models` must name 1 to {MOST_PATTERNS} models; * stands for any characters"
        )));
    }
    let read = |name: &String| {
        name.parse::<ModelPattern>()
            .map_err(|error| AdminError::Invalid(format!("`models` has {name:?}; {error}")))
    };
    named.iter().map(read).collect()
}

/// The highest rate that can be told from none.
const HIGHEST_RATE: f64 = 1e6;
/// One in a day and a half: what is rarer than that is a daily quota's matter.
const LOWEST_RATE: f64 = 1e-5;

pub(super) fn check_limits(limits: &KeyLimits) -> Result<(), AdminError> {
    if let Some(rate) = limits.requests_per_second
        && !(LOWEST_RATE..=HIGHEST_RATE).contains(&rate)
    {
        return Err(AdminError::Invalid(format!(
            "`requests_per_second` is {rate}; allowed is a number from {LOWEST_RATE} to {HIGHEST_RATE}"
        )));
    }
    let day = limits.images_per_day;
    for (field, value) in [
        ("burst", limits.burst.map(u64::from)),
        ("images_per_day", day),
        ("max_image_bytes", limits.max_image_bytes),
    ] {
        // Databases count in signed numbers.
        if value.is_some_and(|value| value == 0 || i64::try_from(value).is_err()) {
            return Err(AdminError::Invalid(format!("`{field}` must be at least 1")));
        }
    }
    Ok(())
}

fn target(id: KeyId) -> String {
    format!("keys/{id}")
}

fn deed(action: &'static str, id: KeyId, before: Option<&ApiKey>, after: Option<&ApiKey>) -> Deed {
    Deed {
        action,
        target: target(id),
        before: before.map(shown),
        after: after.map(shown),
    }
}

/// What the audit keeps of a key: everything but what could open something.
pub(super) fn shown(key: &ApiKey) -> Value {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let models: Vec<&str> = key.models.iter().map(ModelPattern::as_str).collect();
    json!({
        "tenant_id": key.tenant.to_string(),
        "name": key.name,
        "scopes": scopes,
        "models": models,
        "requests_per_second": key.limits.requests_per_second,
        "burst": key.limits.burst,
        "images_per_day": key.limits.images_per_day,
        "max_image_bytes": key.limits.max_image_bytes,
        "limit_mode": key.limits.mode.as_str(),
        "expires_at": key.expires_at.map(|at| at.to_rfc3339()),
        "previous_secret_until": key.previous.map(|(_, until)| until.to_rfc3339()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive_and_finite() {
        let with = |rate| KeyLimits {
            requests_per_second: Some(rate),
            ..KeyLimits::default()
        };
        for good in [5.0, 0.5, 0.001, 1e6] {
            assert!(check_limits(&with(good)).is_ok(), "{good}");
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7, 1e-9] {
            assert!(check_limits(&with(bad)).is_err(), "{bad}");
        }
        let zero = KeyLimits {
            burst: Some(0),
            ..KeyLimits::default()
        };
        assert!(check_limits(&zero).is_err());
        let too_many = KeyLimits {
            images_per_day: Some(u64::MAX),
            ..KeyLimits::default()
        };
        assert!(check_limits(&too_many).is_err());
    }

    #[test]
    fn scopes_and_models_default_to_all() {
        assert_eq!(scopes(None).expect("all"), Scope::ALL);
        let named = vec!["read".to_owned(), "classify".to_owned(), "read".to_owned()];
        assert_eq!(
            scopes(Some(named)).expect("two"),
            [Scope::Classify, Scope::Read]
        );
        assert!(scopes(Some(vec![])).is_err());
        assert!(scopes(Some(vec!["admin".to_owned()])).is_err());
        assert_eq!(patterns(None).expect("all").len(), 1);
        assert!(patterns(Some(vec!["../x".to_owned()])).is_err());
        assert!(patterns(Some(vec![])).is_err());
    }
}
