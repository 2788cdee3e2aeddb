//! Shares, stickiness and refusals.

use chrono::DateTime;
use serde_json::json;

use super::*;

fn version(number: u64) -> VersionNumber {
    number.to_string().parse().expect("a version")
}

fn live(numbers: &[u64]) -> impl Iterator<Item = VersionNumber> + Clone {
    numbers.iter().map(|&number| version(number))
}

fn split(experiment: u128, weights: &[(u64, f64)]) -> Rollout {
    let arms = weights.iter().map(|&(number, weight)| Arm {
        version: version(number),
        weight,
    });
    Rollout::of(Rule::Split(Split {
        experiment: Uuid::from_u128(experiment),
        arms: arms.collect(),
        sticky_by: StickyBy::Key,
    }))
}

fn fresh() -> Fresh {
    Fresh {
        id: Uuid::from_u128(99),
        now: DateTime::from_timestamp(1_790_000_000, 0).expect("a time"),
    }
}

fn pinned(number: u64) -> Rollout {
    Rollout::of(Rule::Pinned {
        version: version(number),
    })
}

fn read(value: &serde_json::Value) -> Rollout {
    Rollout::wanted(value, &Rollout::default(), fresh()).expect("a rollout")
}

/// A canary at a share.
fn canary(share: f64) -> Rollout {
    read(&json!({"mode": "canary", "baseline": 1, "candidate": 2, "steps": [share]}))
}

const UNITS: u32 = 100_000;

/// The version of each unit, all being live.
fn assigned(rollout: &Rollout) -> Vec<u64> {
    let all: Vec<VersionNumber> = rollout.named().map(|(_, version)| version).collect();
    let of = |unit: u32| rollout.assign(&unit.to_be_bytes(), all.iter().copied());
    let versions = (0..UNITS).map(|unit| of(unit).expect("an arm").version.get());
    versions.collect()
}

#[test]
fn latest_is_the_highest_live_number() {
    let of = |numbers: &[u64]| Rollout::default().assign(b"x", live(numbers));
    assert_eq!(of(&[9, 10, 2]).map(|one| one.version), Some(version(10)));
    assert_eq!(of(&[]), None);
}

#[test]
fn pinned_is_that_version_or_none() {
    let rollout = pinned(2);
    let of = |numbers: &[u64]| rollout.assign(b"x", live(numbers));
    assert_eq!(of(&[1, 2, 3]).map(|one| one.version), Some(version(2)));
    assert_eq!(of(&[1, 3]), None, "no other takes its place");
}

#[test]
fn shares_come_out_as_asked() {
    let cases: [&[(u64, f64)]; 6] = [
        &[(1, 90.0), (2, 10.0)],
        &[(1, 1.0), (2, 1.0)],
        &[(3, 0.2), (4, 0.3), (9, 0.5)],
        &[(1, 99.9), (2, 0.1)],
        &[(1, 1e-9), (2, 3e-9)],
        &[(1, 5.0), (2, 0.0), (3, 5.0), (4, 10.0), (1000, 1.0)],
    ];
    for (experiment, weights) in (1..).zip(cases) {
        let versions = assigned(&split(experiment, weights));
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        for &(number, weight) in weights {
            let share = weight / sum;
            let units = f64::from(UNITS);
            let deviation = (units * share * (1.0 - share)).sqrt();
            let count = versions.iter().filter(|&&one| one == number).count();
            let count = f64::from(u32::try_from(count).expect("a count"));
            assert!(
                (count - units * share).abs() <= 3.0 * deviation,
                "{weights:?}: {number} got {count}"
            );
        }
    }
}

#[test]
fn a_weight_that_rises_moves_nobody_away() {
    let before = assigned(&split(7, &[(1, 50.0), (2, 30.0), (3, 20.0)]));
    let after = assigned(&split(7, &[(1, 50.0), (2, 60.0), (3, 20.0)]));
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after) {
        if before != after {
            assert_eq!(*after, 2, "only the arm that rose gets more");
            moved += 1;
        }
    }
    assert!(moved > 10_000, "{moved} moved");
    // What the order and the scale of the weights are does not matter.
    let other = assigned(&split(7, &[(3, 2.0), (1, 5.0), (2, 3.0)]));
    assert_eq!(before, other);
}

#[test]
fn another_experiment_shuffles_anew() {
    let weights = [(1, 50.0), (2, 50.0)];
    let (one, two) = (assigned(&split(1, &weights)), assigned(&split(2, &weights)));
    let same = one.iter().zip(&two).filter(|(a, b)| a == b).count();
    // Half of them by chance; five deviations.
    assert!(same.abs_diff(50_000) < 800, "{same} stayed");
}

#[test]
fn who_has_no_live_arm_gets_the_baseline() {
    let rollout = split(1, &[(1, 50.0), (2, 50.0)]);
    let mut stood_in = 0;
    for unit in 0..1000_u32 {
        let of = |numbers: &[u64]| rollout.assign(&unit.to_be_bytes(), live(numbers));
        let wanted = of(&[1, 2]).expect("an arm");
        assert!(!wanted.stands_in);
        let left = of(&[1, 3]).expect("the baseline");
        assert_eq!(
            (left.version, left.arm),
            (version(1), Some(ArmName::Of(version(1))))
        );
        assert_eq!(left.stands_in, wanted.version == version(2));
        stood_in += u32::from(left.stands_in);
        assert_eq!(of(&[2]).map(|one| one.version), Some(version(2)));
        assert_eq!(of(&[3]), None);
    }
    assert!(stood_in > 400, "{stood_in}");
}

#[test]
fn what_is_written_is_read_back() {
    for rollout in [
        Rollout::default(),
        pinned(3),
        split(5, &[(1, 0.1), (2, 1e300)]),
        canary(12.5),
        read(&json!({"mode": "latest", "shadow": {"version": 3, "sample": 0.25}})),
        read(&json!({
            "mode": "canary", "baseline": 7, "candidate": 3, "steps": [0.5, 99], "step_requests": 7,
            "guards": {"min_agreement": 0.9, "max_p95_ratio": 1.5, "max_accuracy_drop": 0.01},
            "agreement_sample": 1, "sticky_by": "image", "promote_aliases": ["stable"],
            "shadow": {"version": 7},
        })),
    ] {
        let text = serde_json::to_string(&rollout).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Rollout>(&text).expect("read"),
            rollout,
            "{text}"
        );
    }
    // And a split may be sent as it was read.
    let rollout = split(5, &[(1, 0.1), (2, 1e300)]);
    let value = serde_json::to_value(&rollout).expect("JSON");
    assert_eq!(Rollout::wanted(&value, &rollout, fresh()), Ok(rollout));
    for text in ["none", "key", "image", "header:x-user"] {
        assert_eq!(text.parse::<StickyBy>().expect("sticky").to_string(), text);
    }
}

#[test]
fn an_experiment_stays_while_only_weights_change() {
    let wanted =
        |value: serde_json::Value, before: &Rollout| match Rollout::wanted(&value, before, fresh())
            .expect("a rollout")
            .rule
        {
            Rule::Split(split) => split.experiment == fresh().id,
            Rule::Canary(canary) => canary.experiment == fresh().id,
            other => panic!("{other:?}"),
        };
    let before = split(5, &[(1, 50.0), (2, 50.0)]);
    let arms = |a: u64, b: u64| json!([{"version": a, "weight": 1}, {"version": b, "weight": 9}]);
    assert!(!wanted(
        json!({"mode": "split", "arms": arms(1, 2)}),
        &before
    ));
    assert!(!wanted(
        json!({"mode": "split", "arms": arms(2, 1)}),
        &before
    ));
    assert!(wanted(
        json!({"mode": "split", "arms": arms(1, 3)}),
        &before
    ));
    let image = json!({"mode": "split", "arms": arms(1, 2), "sticky_by": "image"});
    assert!(wanted(image, &before));
    assert!(wanted(
        json!({"mode": "split", "arms": arms(1, 2)}),
        &Rollout::default()
    ));
    let mut before = canary(5.0);
    if let Rule::Canary(canary) = &mut before.rule {
        canary.experiment = Uuid::from_u128(5);
    }
    let next = |baseline: u64, steps: &[u64]| json!({"mode": "canary", "baseline": baseline, "candidate": 2, "steps": steps});
    assert!(!wanted(next(1, &[20, 50]), &before));
    assert!(wanted(next(3, &[20, 50]), &before));
}

#[test]
fn nonsense_is_refused_by_the_fields_name() {
    let arms = |arms: serde_json::Value| json!({"mode": "split", "arms": arms});
    let one = json!({"version": 1, "weight": 1});
    for (value, field) in [
        (json!({}), "mode"),
        (json!({"mode": "newest"}), "mode"),
        (json!({"mode": 1}), "mode"),
        (json!({"mode": "latest", "version": 1}), "version"),
        (json!({"mode": "pinned"}), "version"),
        (json!({"mode": "pinned", "version": 0}), "version"),
        (json!({"mode": "pinned", "version": -1}), "version"),
        (json!({"mode": "pinned", "version": 1.5}), "version"),
        (json!({"mode": "pinned", "version": "stable"}), "version"),
        (json!({"mode": "split"}), "arms"),
        (arms(json!([])), "arms"),
        (arms(json!({})), "arms"),
        (arms(json!([1])), "arms[0]"),
        (arms(json!([{"version": 1}])), "arms[0].weight"),
        (arms(json!([{"weight": 1}])), "arms[0].version"),
        (
            arms(json!([one, {"version": 2, "weight": -1}])),
            "arms[1].weight",
        ),
        (
            arms(json!([one, {"version": 2, "weight": "1"}])),
            "arms[1].weight",
        ),
        (arms(json!([one, one])), "arms[1].version"),
        (arms(json!([{"version": 1, "weight": 0}])), "arms"),
        (
            arms(json!([{"version": 1, "weight": 1e308}, {"version": 2, "weight": 1e308}])),
            "arms",
        ),
        (
            arms(json!([{"version": 1, "weight": 1, "share": 2}])),
            "arms[0].share",
        ),
        (arms(json!(vec![one.clone(); 17])), "arms"),
        (
            json!({"mode": "split", "arms": [one], "sticky": "key"}),
            "sticky",
        ),
        (
            json!({"mode": "split", "arms": [one], "sticky_by": "user"}),
            "sticky_by",
        ),
        (
            json!({"mode": "split", "arms": [one], "sticky_by": 1}),
            "sticky_by",
        ),
        (
            json!({"mode": "split", "arms": [one], "sticky_by": "header:"}),
            "sticky_by",
        ),
        (
            json!({"mode": "split", "arms": [one], "sticky_by": "header:a b"}),
            "sticky_by",
        ),
    ] {
        let refused = Rollout::wanted(&value, &Rollout::default(), fresh());
        let refused = refused.expect_err("refused");
        assert_eq!(refused.field, field, "{value}: {refused}");
    }
}

#[test]
fn nonsense_of_canaries_and_shadows_is_refused_by_the_fields_name() {
    let canary = |more: serde_json::Value| {
        let mut canary = json!({"mode": "canary", "baseline": 1, "candidate": 2});
        let fields = canary.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        canary
    };
    let shadow =
        |shadow: serde_json::Value| json!({"mode": "pinned", "version": 1, "shadow": shadow});
    for (value, field) in [
        (json!({"mode": "canary", "candidate": 2}), "baseline"),
        (json!({"mode": "canary", "baseline": 2}), "candidate"),
        (canary(json!({"candidate": 1})), "candidate"),
        (canary(json!({"weight": 1})), "weight"),
        (canary(json!({"steps": []})), "steps"),
        (canary(json!({"steps": 10})), "steps"),
        (canary(json!({"steps": [1, 1]})), "steps[1]"),
        (canary(json!({"steps": [10, 5]})), "steps[1]"),
        (canary(json!({"steps": [0]})), "steps[0]"),
        (canary(json!({"steps": [1, 101]})), "steps[1]"),
        (canary(json!({"steps": [1, "2"]})), "steps[1]"),
        (canary(json!({"step_requests": 0})), "step_requests"),
        (canary(json!({"step_requests": 1.5})), "step_requests"),
        (canary(json!({"guards": []})), "guards"),
        (
            canary(json!({"guards": {"max_latency": 1}})),
            "guards.max_latency",
        ),
        (
            canary(json!({"guards": {"max_error_rate": -0.1}})),
            "guards.max_error_rate",
        ),
        (
            canary(json!({"guards": {"max_p95_ratio": 0}})),
            "guards.max_p95_ratio",
        ),
        (
            canary(json!({"guards": {"min_agreement": 1.1}})),
            "guards.min_agreement",
        ),
        (
            canary(json!({"guards": {"min_accuracy": "0.9"}})),
            "guards.min_accuracy",
        ),
        (canary(json!({"agreement_sample": 2})), "agreement_sample"),
        (
            canary(json!({"agreement_sample": 0, "guards": {"min_agreement": 0.9}})),
            "agreement_sample",
        ),
        (canary(json!({"sticky_by": "user"})), "sticky_by"),
        (
            canary(json!({"promote_aliases": "stable"})),
            "promote_aliases",
        ),
        (
            canary(json!({"promote_aliases": ["A b"]})),
            "promote_aliases[0]",
        ),
        (
            canary(json!({"promote_aliases": ["a", "a"]})),
            "promote_aliases[1]",
        ),
        (shadow(json!(1)), "shadow"),
        (shadow(json!({"sample": 0.1})), "shadow.version"),
        (
            shadow(json!({"version": 1, "sample": 0.1})),
            "shadow.version",
        ),
        (shadow(json!({"version": 2, "sample": 0})), "shadow.sample"),
        (
            shadow(json!({"version": 2, "sample": 1.1})),
            "shadow.sample",
        ),
        (shadow(json!({"version": 2, "weight": 1})), "shadow.weight"),
    ] {
        let refused = Rollout::wanted(&value, &Rollout::default(), fresh());
        let refused = refused.expect_err("refused");
        assert_eq!(refused.field, field, "{value}: {refused}");
    }
}

#[test]
fn a_canarys_share_rises_and_moves_nobody_away_from_the_candidate() {
    let mut before = assigned(&canary(1.0));
    for (share, deviation) in [(10.0, 95.0), (50.0, 158.0), (100.0, 0.0)] {
        let after = assigned(&canary(share));
        for (before, after) in before.iter().zip(&after) {
            assert!(*before == 1 || *after == 2, "{share}");
        }
        let count = after.iter().filter(|&&one| one == 2).count();
        let count = f64::from(u32::try_from(count).expect("a count"));
        let wanted = f64::from(UNITS) * share / 100.0;
        assert!(
            (count - wanted).abs() <= 3.0 * deviation,
            "{share}: {count}"
        );
        before = after;
    }
}

#[test]
fn a_canary_without_its_candidate_serves_the_baseline_and_says_so() {
    let rollout = canary(100.0);
    let of = |rollout: &Rollout, numbers: &[u64]| rollout.assign(b"x", live(numbers));
    let left = of(&rollout, &[1, 3]).expect("the baseline");
    assert_eq!(
        (left.version, left.arm, left.stands_in),
        (version(1), Some(ArmName::Baseline), true)
    );
    let asked = of(&rollout, &[1, 2]).expect("the candidate");
    assert_eq!(asked.arm, Some(ArmName::Candidate));
    // What was taken back stands in for nobody.
    let mut back = rollout;
    if let Rule::Canary(canary) = &mut back.rule {
        **canary = canary.rolled_back("it is bad", fresh().now);
    }
    assert_eq!(of(&back, &[2]), None);
    assert_eq!(of(&back, &[1, 2]).map(|one| one.version), Some(version(1)));
}

#[test]
fn a_sample_is_as_large_as_asked() {
    for sample in [0.01, 0.1, 0.5] {
        let taken = (0..20_000).filter(|_| is_sampled(Uuid::now_v7(), 0, sample));
        let taken = f64::from(u32::try_from(taken.count()).expect("a count"));
        let wanted = 20_000.0 * sample;
        let deviation = (wanted * (1.0 - sample)).sqrt();
        assert!(
            (taken - wanted).abs() < 5.0 * deviation,
            "{sample}: {taken}"
        );
    }
    let request = Uuid::now_v7();
    let of = |index| is_sampled(request, index, 0.5);
    assert_eq!(of(3), of(3));
    assert!(
        (0..64).any(of) && !(0..64).all(of),
        "each picture by itself"
    );
    assert!(is_sampled(request, 0, 1.0) && !is_sampled(request, 0, 0.0));
}
