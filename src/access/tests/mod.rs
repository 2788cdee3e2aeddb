//! The room as its callers see it, with a clock that the tests move.

use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::domain::api_key::{ApiKey, KeyLimits, Scope};
use crate::domain::clock::ManualClock;
use crate::domain::error::ErrorKind;
use crate::domain::operator::{AdminToken, Role};
use crate::domain::tenant::{Tenant, TenantId};

mod known;
mod limits;

/// Noon of a day.
fn noon() -> DateTime<Utc> {
    let noon = NaiveDate::from_ymd_opt(2026, 3, 1).and_then(|day| day.and_hms_opt(12, 0, 0));
    noon.expect("a time").and_utc()
}

struct House {
    clock: Arc<ManualClock>,
    access: Arc<Access>,
}

impl House {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(noon()));
        let settings = AccessSettings {
            unauthenticated_per_minute: 60,
            trusted_proxies: vec!["10.0.0.0/8".to_owned()],
            ..AccessSettings::default()
        };
        let access = Access::new(Arc::clone(&clock) as Arc<dyn Clock>, &settings);
        Self { clock, access }
    }

    /// With one tenant and these keys.
    fn with(keys: &[ApiKey]) -> Self {
        let house = Self::new();
        house.tenant(1);
        house.put(keys);
        house
    }

    fn tenant(&self, number: u128) {
        self.access.apply(&Changes {
            tenants: vec![tenant(number)],
            ..Changes::default()
        });
    }

    fn put(&self, keys: &[ApiKey]) {
        self.access.apply(&Changes {
            keys: keys.to_vec(),
            ..Changes::default()
        });
    }

    fn pass(&self, time: TimeDelta) {
        self.clock.advance(time);
    }

    fn who(&self, secret: &str) -> Principal {
        self.access.principal(secret).expect("known")
    }

    fn refusal(&self, secret: &str) -> AccessError {
        self.access.principal(secret).expect_err("refused")
    }
}

fn tenant(number: u128) -> Tenant {
    Tenant {
        id: TenantId(Uuid::from_u128(number)),
        name: format!("tenant {number}"),
        callback_url: None,
        events: vec![],
        created_at: noon(),
        updated_at: noon(),
        version: 1,
    }
}

/// Key `number` of tenant 1, its secret `secret <number>`.
fn key(number: u128) -> ApiKey {
    ApiKey {
        id: KeyId(Uuid::from_u128(number)),
        tenant: TenantId(Uuid::from_u128(1)),
        name: format!("key {number}"),
        hash: SecretHash::of(&secret(number)),
        hint: String::new(),
        previous: None,
        scopes: Scope::ALL.to_vec(),
        models: vec!["*".parse().expect("a pattern")],
        limits: KeyLimits::default(),
        expires_at: None,
        created_at: noon(),
        updated_at: noon(),
        last_used_at: None,
        version: 1,
    }
}

fn secret(number: u128) -> String {
    format!("secret {number}")
}

fn rated(number: u128, requests_per_second: f64, burst: u32) -> ApiKey {
    let limits = KeyLimits {
        requests_per_second: Some(requests_per_second),
        burst: Some(burst),
        ..KeyLimits::default()
    };
    ApiKey {
        limits,
        ..key(number)
    }
}

fn daily(number: u128, images_per_day: u64) -> ApiKey {
    let limits = KeyLimits {
        images_per_day: Some(images_per_day),
        ..KeyLimits::default()
    };
    ApiKey {
        limits,
        ..key(number)
    }
}

fn kind(refused: Result<(), AccessError>) -> Option<ErrorKind> {
    refused.err().map(|error| error.kind())
}
