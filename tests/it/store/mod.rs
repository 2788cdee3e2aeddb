//! The store's contract: every method of it, on SQLite and on PostgreSQL, through the same functions.

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::domain::api_key::{ApiKey, KeyLimits, LimitMode, Scope};
use lensgate::domain::operator::{AdminToken, AuditEntry, Role};
use lensgate::domain::secret::{SecretHash, hint};
use lensgate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};
use lensgate::store::Page;
use serde_json::json;
use uuid::Uuid;

mod audit;
mod callbacks;
mod changes;
mod changes_many;
mod export;
mod feedback;
mod figures;
mod jobs;
mod keys;
mod migrations;
mod outage;
mod outage_of_file;
mod predictions;
mod report;
mod tenants;
mod tokens;
mod usage;
mod wishes;

/// Everything on one page.
const ALL: Page = Page {
    after: None,
    limit: 1000,
};

/// So many microseconds after a day of no meaning.
fn at(micros: i64) -> DateTime<Utc> {
    let day = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
    day + TimeDelta::microseconds(micros)
}

fn tenant(name: &str) -> Tenant {
    Tenant {
        id: TenantId(Uuid::now_v7()),
        name: name.to_owned(),
        callback_url: None,
        events: Vec::new(),
        created_at: at(1),
        updated_at: at(1),
        version: 1,
    }
}

/// A key whose secret is told by its name.
fn key(tenant: &Tenant, name: &str) -> ApiKey {
    ApiKey {
        id: KeyId(Uuid::now_v7()),
        tenant: tenant.id,
        name: name.to_owned(),
        hash: SecretHash::of(name),
        hint: hint("lg_0123456789012345678901234567890123456789"),
        previous: None,
        scopes: Scope::ALL.to_vec(),
        models: vec!["*".parse().expect("a pattern")],
        limits: KeyLimits::default(),
        expires_at: None,
        created_at: at(2),
        updated_at: at(2),
        last_used_at: None,
        version: 1,
    }
}

/// A key in which nothing is left at its default.
fn full_key(tenant: &Tenant, name: &str) -> ApiKey {
    ApiKey {
        previous: Some((SecretHash::of("before"), at(123_456))),
        scopes: vec![Scope::Read, Scope::Classify],
        models: ["digits", "team-a-*"]
            .map(|text| text.parse().expect("a pattern"))
            .to_vec(),
        limits: KeyLimits {
            requests_per_second: Some(0.1),
            burst: Some(u32::MAX),
            images_per_day: Some(u64::MAX),
            max_image_bytes: Some(1 << 40),
            mode: LimitMode::Observe,
        },
        expires_at: Some(at(500_000)),
        last_used_at: Some(at(3)),
        version: i64::MAX - 1,
        ..key(tenant, name)
    }
}

/// A token whose secret is told by its name.
fn token(name: &str) -> AdminToken {
    AdminToken {
        id: TokenId(Uuid::now_v7()),
        name: name.to_owned(),
        hash: SecretHash::of(name),
        hint: String::new(),
        role: Role::Operator,
        expires_at: None,
        created_at: at(4),
        last_used_at: None,
    }
}

fn audit(action: &str, target: &str) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7(),
        at: at(5),
        actor: "tests".to_owned(),
        token: None,
        action: action.to_owned(),
        target: target.to_owned(),
        before: None,
        after: Some(json!({"z": 1, "a": [null, "ä\u{0}", 1.5]})),
        address: Some("2001:db8::1".to_owned()),
        request_id: Some(Uuid::now_v7()),
    }
}

/// An entry of no interest.
fn note() -> AuditEntry {
    audit("test.do", "tests/1")
}
