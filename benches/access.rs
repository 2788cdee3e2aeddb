//! What it costs to let a request in: the key's check, its rate, its day, and what the head says of them, with 100,000 keys.
//! And the memory that they take while nobody uses them.
//!
//! `cargo bench --bench access -- [criterion's arguments]`.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails in a benchmark ends it"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use lensgate::access::{Access, AccessError, AccessSettings, Standing};
use lensgate::domain::api_key::{ApiKey, KeyLimits, Scope};
use lensgate::domain::clock::{Clock as _, SystemClock};
use lensgate::domain::secret::{self, SecretHash, SecretKind};
use lensgate::domain::tenant::{KeyId, Tenant, TenantId};
use lensgate::store::Changes;
use uuid::Uuid;

const KEYS: u32 = 100_000;
/// Keys that are told of at a time, so that what tells of them is small beside what is kept.
const PORTION: u32 = 1000;
/// Keys of one tenant.
const PER_TENANT: u32 = 100;

criterion_group!(benches, letting_in);
criterion_main!(benches);

fn letting_in(criterion: &mut Criterion) {
    let secrets: Vec<String> = (0..KEYS).map(secret_of).collect();
    let access = Access::new(Arc::new(SystemClock), &AccessSettings::default());
    let empty = resident();
    fill(&access);
    println!(
        "{} keys, idle: {} bytes each",
        access.counts().keys,
        (resident() - empty) / u64::from(KEYS)
    );
    let mut chance = Chance(20_260_101);
    let mut group = criterion.benchmark_group(format!("{KEYS} keys"));
    group.bench_function("key and rate, any key", |bencher| {
        bencher.iter(|| let_in(&access, &secrets[chance.below(secrets.len())]));
    });
    group.bench_function("key and rate, one key", |bencher| {
        bencher.iter(|| let_in(&access, &secrets[0]));
    });
    group.bench_function("key, rate, day and head, any key", |bencher| {
        bencher.iter(|| whole(&access, &secrets[chance.below(secrets.len())]));
    });
    let unknown: Vec<String> = (0..1000).map(|n| secret_of(KEYS + n)).collect();
    group.bench_function("a key that nobody has", |bencher| {
        bencher.iter(|| {
            let secret = black_box(&unknown[chance.below(unknown.len())]);
            assert!(access.principal(secret).is_err());
        });
    });
    group.finish();
    println!(
        "the same keys, used: {} bytes each",
        (resident() - empty) / u64::from(KEYS)
    );
}

/// What every request costs before its body.
fn let_in(access: &Access, secret: &str) {
    let holder = access.principal(black_box(secret)).expect("known");
    access.admit(&holder, 1).expect("within its rate");
}

/// And all that a classified picture costs beside it.
fn whole(access: &Access, secret: &str) -> Standing {
    let admitted = || -> Result<Standing, AccessError> {
        let holder = access.principal(black_box(secret))?;
        access.admit(&holder, 1)?;
        let _taken = access.spend(&holder, 1)?;
        Ok(access.standing(&holder))
    };
    admitted().expect("within its limits")
}

/// Puts all keys in force.
fn fill(access: &Access) {
    for first in (0..KEYS).step_by(usize::try_from(PORTION).expect("small")) {
        let portion = first..first + PORTION;
        access.apply(&Changes {
            tenants: portion.clone().map(|n| tenant(n / PER_TENANT)).collect(),
            keys: portion.map(key).collect(),
            ..Changes::default()
        });
    }
}

fn secret_of(number: u32) -> String {
    let mut chance = Chance(u64::from(number));
    let random = std::array::from_fn(|_| u8::try_from(chance.below(256)).expect("a byte"));
    secret::compose(SecretKind::ApiKey, random)
}

fn tenant(number: u32) -> Tenant {
    let now = SystemClock.now();
    Tenant {
        id: TenantId(Uuid::from_u128(u128::from(number))),
        name: format!("tenant {number}"),
        callback_url: None,
        events: vec![],
        created_at: now,
        updated_at: now,
        version: 1,
    }
}

/// A key with every limit there is, none of which is ever reached here.
fn key(number: u32) -> ApiKey {
    let now = SystemClock.now();
    ApiKey {
        id: KeyId(Uuid::from_u128(u128::from(number))),
        tenant: TenantId(Uuid::from_u128(u128::from(number / PER_TENANT))),
        name: format!("application {number}"),
        hash: SecretHash::of(&secret_of(number)),
        hint: "lg_00000…".to_owned(),
        previous: None,
        scopes: Scope::ALL.to_vec(),
        models: vec!["digits".parse().expect("a pattern")],
        limits: KeyLimits {
            requests_per_second: Some(1e9),
            burst: Some(1_000_000),
            images_per_day: Some(1 << 40),
            max_image_bytes: Some(1 << 20),
            ..KeyLimits::default()
        },
        expires_at: None,
        created_at: now,
        updated_at: now,
        last_used_at: None,
        version: 1,
    }
}

/// This process's resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages = status.split(' ').nth(1).expect("pages");
    pages.parse::<u64>().expect("a number") * 4096
}

/// Numbers that look random and are the same in each run (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).expect("31 bits") % n
    }
}
