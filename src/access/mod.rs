//! Who may call, and how often: keys and tokens, rates, days' quotas, and who knocks too often.
//!
//! All of it in memory: it follows the store ([`Access::apply`]) and tells it from time to time what was used, so that no
//! request waits for a database. Called by `api` for every request, and by `admin`, which moves things between here and the
//! store. Knows no HTTP and no model.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};

use crate::config::{LimitsConfig, ServerConfig};
use crate::domain::api_key::LimitMode;
use crate::domain::clock::Clock;
use crate::domain::secret::SecretHash;
use crate::domain::tenant::{KeyId, TokenId};
use crate::store::Changes;
use crate::telemetry::metrics::{Limit, Metrics, Page, Source, real_size};

mod addresses;
mod attempts;
mod error;
mod limiter;
mod meter;
mod principal;
mod quota;
mod roll;
mod taken;

use addresses::Proxies;
use attempts::Attempts;
use limiter::{Shortage, nanos};
use meter::Ledger;
use roll::Roll;

pub use error::AccessError;
pub use principal::{Operator, Principal};
pub use taken::Taken;

/// What this room needs to know of the settings.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Failed attempts to authenticate that an address has a minute; 0 for any number.
    pub unauthenticated_per_minute: u32,
    /// Addresses and networks of the proxies that are believed.
    pub trusted_proxies: Vec<String>,
    /// Where it is counted what tenants do.
    pub metrics: Arc<Metrics>,
}

impl AccessSettings {
    /// The part of the settings that belongs here.
    #[must_use]
    pub fn of(server: &ServerConfig, limits: &LimitsConfig) -> Self {
        Self {
            unauthenticated_per_minute: limits.unauthenticated_per_minute,
            trusted_proxies: server.trusted_proxies.clone(),
            metrics: Arc::default(),
        }
    }
}

/// Ids of keys or tokens, and when each was last used.
pub type Used<I> = Vec<(I, DateTime<Utc>)>;

/// A limit of a key, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How much there is of it.
    pub quota: u64,
    /// In which time.
    pub window: Duration,
    /// How much is left.
    pub remaining: u64,
    /// When it is whole again, if nothing is used until then.
    pub resets_in: Duration,
}

/// How a key stands with its limits; `None` for one that it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The rate: what may come at once.
    pub burst: Option<Share>,
    /// The pictures of the day.
    pub day: Option<Share>,
}

/// What is known and what happened, for people who look after the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys in force.
    pub keys: usize,
    /// Tokens in force.
    pub tokens: usize,
    /// Requests that were refused for a limit of their key's, since the start.
    pub refused_for_limit: u64,
    /// Requests over a limit of a key whose limits only observe, since the start.
    pub observed_over_limit: u64,
    /// Requests without valid credentials, since the start.
    pub unauthenticated: u64,
}

/// How a key is used, as far as it is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// Pictures of today (UTC), of all replicas.
    pub images_today: u64,
    /// When it last opened something here, since the start.
    pub last_at: Option<DateTime<Utc>>,
    /// Requests over one of its limits, refused or observed, since the start.
    pub over_limit: u64,
}

#[derive(Default)]
struct Counters {
    refused: AtomicU64,
    observed: AtomicU64,
    unauthenticated: AtomicU64,
}

/// The room's front: shared by all who ask.
pub struct Access {
    clock: Arc<dyn Clock>,
    roll: Roll,
    ledger: Ledger,
    attempts: Attempts,
    proxies: Proxies,
    counters: Counters,
}

impl Access {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, settings: &AccessSettings) -> Arc<Self> {
        Arc::new(Self {
            clock,
            roll: Roll::new(Arc::clone(&settings.metrics)),
            ledger: Ledger::default(),
            attempts: Attempts::new(settings.unauthenticated_per_minute),
            proxies: Proxies::new(&settings.trusted_proxies),
            counters: Counters::default(),
        })
    }

    /// Brings into force what changed in the store. The same twice is the same as once; changes of a revision that is behind
    /// the last one are known already. A changed key keeps what it owes and what it has used. Keys of a tenant that is not
    /// there yet wait for it.
    pub fn apply(&self, changes: &Changes) {
        self.roll.apply(changes);
    }

    /// Brings all there is into force, whatever was known before: the database was set back, say from a backup.
    pub fn replace(&self, all: &Changes) {
        self.roll.replace(all);
    }

    /// Who holds an API key.
    ///
    /// # Errors
    /// [`AccessError::Unknown`] and [`AccessError::Expired`].
    pub fn principal(&self, secret: &str) -> Result<Principal, AccessError> {
        let hash = SecretHash::of(secret);
        let key = self.roll.key(&hash).ok_or(AccessError::Unknown)?;
        let now = self.clock.now();
        key.opens(&hash, now)?;
        self.ledger.key_used(&key.meter, now);
        Ok(Principal::of(key))
    }

    /// Who holds an admin token.
    ///
    /// # Errors
    /// [`AccessError::Unknown`] and [`AccessError::Expired`].
    pub fn operator(&self, secret: &str) -> Result<Operator, AccessError> {
        let token = self.roll.token(&SecretHash::of(secret));
        let token = token.ok_or(AccessError::Unknown)?;
        let now = self.clock.now();
        token.opens(now)?;
        self.ledger.token_used(token.operator.id, &token.seen, now);
        Ok(token.operator.clone())
    }

    /// Notes that a request came without valid credentials.
    ///
    /// # Errors
    /// [`AccessError::TooManyAttempts`] when the address has sent too many of them.
    pub fn failed(&self, address: IpAddr) -> Result<(), AccessError> {
        self.counters
            .unauthenticated
            .fetch_add(1, Ordering::Relaxed);
        let noted = self.attempts.failed(address, nanos(self.clock.now()));
        noted.map_err(|retry_after| AccessError::TooManyAttempts { retry_after })
    }

    /// From now on an address has so many failed attempts a minute; 0 for any number. What was counted stays.
    pub fn limit_attempts(&self, per_minute: u32) {
        self.attempts.limit(per_minute);
    }

    /// The address of a client: the peer's, unless it is a trusted proxy that tells another. The lines of the fields
    /// `Forwarded` and `X-Forwarded-For`, as they came.
    pub fn client<'h>(
        &self,
        peer: IpAddr,
        forwarded: impl Iterator<Item = &'h [u8]>,
        x_forwarded_for: impl Iterator<Item = &'h [u8]>,
    ) -> IpAddr {
        self.proxies.client(peer, forwarded, x_forwarded_for)
    }

    /// Takes `tokens` of the key's rate, all or none: 1 for a request.
    ///
    /// # Errors
    /// [`AccessError::RateLimited`], or [`AccessError::BatchTooLarge`] where there are never as many.
    pub fn admit(&self, principal: &Principal, tokens: u32) -> Result<(), AccessError> {
        self.draw(principal, tokens, tokens)
    }

    /// Takes what a request of so many pictures costs beside the one token with which it was admitted.
    ///
    /// # Errors
    /// As [`Self::admit`]; `retry_after` is when the whole request may come again.
    pub fn admit_rest(&self, principal: &Principal, pictures: u64) -> Result<(), AccessError> {
        let all = u32::try_from(pictures).unwrap_or(u32::MAX);
        self.draw(principal, all, all.saturating_sub(1))
    }

    /// Takes `tokens` for a request that costs `all` from its first to its last.
    fn draw(&self, principal: &Principal, all: u32, tokens: u32) -> Result<(), AccessError> {
        let Some(rate) = principal.rate() else {
            return Ok(());
        };
        let burst = rate.burst();
        let now = nanos(self.clock.now());
        let drawn = if all > burst {
            Err(Shortage::Ever)
        } else {
            principal.meter().take(rate, tokens, now)
        };
        let Err(shortage) = drawn else {
            return Ok(());
        };
        let rest = rate.period().saturating_mul(all.saturating_sub(tokens));
        self.over(principal, now, || match shortage {
            Shortage::For(wait) => AccessError::RateLimited {
                burst,
                retry_after: wait.saturating_add(rest),
            },
            Shortage::Ever => AccessError::BatchTooLarge {
                pictures: u64::from(all),
                burst,
            },
        })
    }

    /// Counts pictures against the key's day, all or none.
    ///
    /// # Errors
    /// [`AccessError::QuotaExceeded`] when fewer are left.
    pub fn spend<'a>(
        &'a self,
        principal: &'a Principal,
        pictures: u64,
    ) -> Result<Taken<'a>, AccessError> {
        let pictures = u32::try_from(pictures).unwrap_or(u32::MAX);
        let now = self.clock.now();
        let today = now.date_naive();
        let meter = principal.meter();
        let limit = principal.limits().images_per_day;
        let (outcome, aftermath) = meter.usage.take(pictures, limit, today);
        self.ledger.settle(meter, aftermath);
        if let (Err(left), Some(limit)) = (outcome, limit) {
            self.over(principal, nanos(now), || AccessError::QuotaExceeded {
                limit,
                left,
                retry_after: quota::until_midnight(now),
            })?;
            // Observed: it goes through, and counts.
            let (_, aftermath) = meter.usage.take(pictures, None, today);
            self.ledger.settle(meter, aftermath);
        }
        Ok(Taken::new(&self.ledger, meter, today, pictures))
    }

    /// Pictures that were counted against a key's day and failed for reasons of ours long after their request: they do not
    /// count.
    pub fn give_back(&self, key: KeyId, day: NaiveDate, pictures: u32) {
        match self.roll.meter(key) {
            Some(meter) => {
                let aftermath = meter.usage.give_back(pictures, day);
                self.ledger.settle(&meter, aftermath);
            }
            None => self.ledger.leave_over((key, day, -i64::from(pictures))),
        }
    }

    /// A request is over a limit: counted, and refused unless the key's limits only observe.
    fn over(
        &self,
        principal: &Principal,
        now: u64,
        error: impl FnOnce() -> AccessError,
    ) -> Result<(), AccessError> {
        let times = principal.meter().over_limit(now);
        if principal.limits().mode == LimitMode::Enforce {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            let error = error();
            principal.series().limited(match error {
                AccessError::QuotaExceeded { .. } => Limit::Quota,
                _ => Limit::Rate,
            });
            return Err(error);
        }
        principal.series().limited(Limit::Observed);
        self.counters.observed.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = times {
            tracing::warn!(
                key = %principal.key(),
                tenant = %principal.tenant_text(),
                times,
                limit = %error(),
                "over a limit that is only observed"
            );
        }
        Ok(())
    }

    /// How a key stands with its limits now.
    #[must_use]
    pub fn standing(&self, principal: &Principal) -> Standing {
        let (rate, limit) = (principal.rate(), principal.limits().images_per_day);
        if rate.is_none() && limit.is_none() {
            return Standing::default();
        }
        let now = self.clock.now();
        let meter = principal.meter();
        Standing {
            burst: rate.map(|rate| {
                let level = meter.level(rate, nanos(now));
                Share {
                    quota: u64::from(rate.burst()),
                    window: rate.fills_in(),
                    remaining: u64::from(level.tokens),
                    resets_in: level.full_in,
                }
            }),
            day: limit.map(|limit| Share {
                quota: limit,
                window: Duration::from_hours(24),
                remaining: meter.usage.left(limit, now.date_naive()),
                resets_in: quota::until_midnight(now),
            }),
        }
    }

    /// What is known and what happened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (keys, tokens) = self.roll.len();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            keys,
            tokens,
            refused_for_limit: count(&self.counters.refused),
            observed_over_limit: count(&self.counters.observed),
            unauthenticated: count(&self.counters.unauthenticated),
        }
    }

    /// How a key is used; nothing of a key that is not in force.
    #[must_use]
    pub fn use_of(&self, key: KeyId) -> KeyUse {
        let Some(meter) = self.roll.meter(key) else {
            return KeyUse::default();
        };
        KeyUse {
            images_today: meter.usage.of(self.clock.now().date_naive()),
            last_at: meter.seen.last_at(),
            over_limit: meter.times_over_limit(),
        }
    }
}

impl Source for Access {
    fn tell(&self, page: &mut Page) {
        let counts = self.counts();
        page.gauge(
            "lensgate_keys",
            "API keys in force.",
            &[],
            real_size(counts.keys),
        );
        page.counter(
            "lensgate_unauthenticated_total",
            "Requests without valid credentials.",
            &[],
            counts.unauthenticated,
        );
    }
}

/// What goes to the store and comes back. One task does it, one thing after the other.
impl Access {
    /// Keys and tokens that were used since the last time, and when they were last.
    #[must_use]
    pub fn take_used(&self) -> (Used<KeyId>, Used<TokenId>) {
        (self.ledger.take_keys_used(), self.ledger.take_tokens_used())
    }

    /// What [`Self::take_used`] gave could not be told to the store.
    pub fn put_back_used(
        &self,
        keys: &[(KeyId, DateTime<Utc>)],
        tokens: &[(TokenId, DateTime<Utc>)],
    ) {
        for ((_, at), meter) in self.roll.meters(keys, |(key, _)| key) {
            if let Some(meter) = meter {
                self.ledger.key_used(&meter, at);
            }
        }
        for (token, at) in tokens {
            if let Some(seen) = self.roll.seen(*token) {
                self.ledger.token_used(*token, &seen, *at);
            }
        }
    }

    /// What keys have used since the last time, one entry a key and day; negative where more was given back. Until
    /// [`Self::set_usage`] brings a total that holds it, or [`Self::put_back_usage`], it counts on as being on its way.
    #[must_use]
    pub fn take_usage(&self) -> Vec<(KeyId, NaiveDate, i64)> {
        self.ledger.take_counted()
    }

    /// What [`Self::take_usage`] gave did not reach the store.
    pub fn put_back_usage(&self, used: &[(KeyId, NaiveDate, i64)]) {
        for ((key, day, pictures), meter) in self.roll.meters(used, |(key, ..)| key) {
            match meter {
                Some(meter) => {
                    let aftermath = meter.usage.put_back((day, pictures));
                    self.ledger.settle(&meter, aftermath);
                }
                None => self.ledger.leave_over((key, day, pictures)),
            }
        }
    }

    /// What all replicas together have used, as the store has it: all that [`Self::take_usage`] gave must be in it or have
    /// been put back. Keys that are not in force are left out.
    pub fn set_usage(&self, totals: &[(KeyId, NaiveDate, i64)]) {
        let now = nanos(self.clock.now());
        for ((_, day, total), meter) in self.roll.meters(totals, |(key, ..)| key) {
            if let Some(meter) = meter {
                let (aftermath, elsewhere) = meter.usage.tell((day, total));
                meter.hear(elsewhere, now);
                self.ledger.settle(&meter, aftermath);
            }
        }
    }
}

#[cfg(test)]
mod tests;
