//! What it costs to find a picture's version: by a split of two and of sixteen, beside the newest one.
//!
//! `cargo bench --bench rollout -- [criterion's arguments]`.

#![expect(clippy::expect_used, reason = "what fails in a benchmark ends it")]

use std::hint::black_box;

use chrono::DateTime;
use criterion::{Criterion, criterion_group, criterion_main};
use lensgate::domain::ids::VersionNumber;
use lensgate::domain::rollout::{Fresh, Rollout};
use serde_json::{Value, json};
use uuid::Uuid;

criterion_group!(benches, assigning);
criterion_main!(benches);

fn split(arms: u64) -> Rollout {
    let arms: Vec<_> = (1..=arms)
        .map(|version| json!({"version": version, "weight": version}))
        .collect();
    rollout(&json!({"mode": "split", "arms": arms}))
}

fn rollout(wanted: &Value) -> Rollout {
    let fresh = Fresh {
        id: Uuid::now_v7(),
        now: DateTime::default(),
    };
    Rollout::wanted(wanted, &Rollout::default(), fresh).expect("a rollout")
}

fn assigning(criterion: &mut Criterion) {
    let live: Vec<VersionNumber> = (1..=16_u64)
        .map(|number| number.to_string().parse().expect("a version"))
        .collect();
    let mut group = criterion.benchmark_group("a version for a unit");
    for (name, rollout) in [
        ("latest", Rollout::default()),
        ("split of 2", split(2)),
        ("split of 16", split(16)),
        (
            "canary",
            rollout(&json!({"mode": "canary", "baseline": 1, "candidate": 2, "steps": [10]})),
        ),
    ] {
        let mut unit = 0_u128;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                unit += 1;
                rollout.assign(black_box(&unit.to_be_bytes()), live.iter().copied())
            });
        });
    }
    group.finish();
}
