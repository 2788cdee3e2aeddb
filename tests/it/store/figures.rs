//! Figures of rollouts: summed over replicas, forgotten in time; one replica of all has the lease; a rollout is changed by who
//! has read it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::domain::feedback::{Feedback, Judged};
use lensgate::domain::ids::{Digest, ModelId, VersionNumber};
use lensgate::domain::prediction::first_id_at;
use lensgate::domain::rollout::{
    Agreement, ArmFigures, ArmName, Counted, Disagreement, Latencies, Pair, Rollout, Rule,
};
use lensgate::domain::tenant::TenantId;
use lensgate::store::{RolloutChange, StoreError};
use uuid::Uuid;

use super::{at, note};
use crate::fixture::database::TestDatabase;

contract![
    what_replicas_count_is_summed_by_step_and_arm,
    one_replica_has_the_lease,
    labels_count_for_the_arms_of_this_canary,
    what_is_old_is_forgotten,
    a_rollout_is_changed_by_who_has_read_it,
];

fn version(number: u64) -> VersionNumber {
    number.to_string().parse().expect("a version")
}

fn model() -> ModelId {
    "digits".parse().expect("a model")
}

fn pair() -> Pair {
    Pair {
        model: model(),
        version: version(1),
        shadow: version(2),
    }
}

fn disagreement(picture: u8, confidence: f32, at: DateTime<Utc>) -> Disagreement {
    Disagreement {
        picture: Digest::from_bytes([picture; 32]),
        tenant: TenantId(Uuid::nil()),
        request_id: first_id_at(at),
        index: 3,
        class: ("a\0b".to_owned(), confidence),
        shadow_class: ("c".to_owned(), 0.5),
        at,
    }
}

/// What a replica counts: of a run's candidate at a step, and of a pair, in a minute.
fn counted(run: Uuid, step: u64, minute: DateTime<Utc>) -> Counted {
    let mut latencies = Latencies::default();
    latencies.add(Latencies::bucket(Duration::from_millis(3)), 2);
    let candidate = ArmFigures {
        answers: 3,
        errors: 1,
        latencies,
        compared: 2,
        agreed: 1,
        ..ArmFigures::default()
    };
    let agreement = Agreement {
        compared: 5,
        agreed: 4,
        dropped: 1,
    };
    let one = disagreement(1, 0.9, minute);
    Counted {
        canaries: BTreeMap::from([((run, step, ArmName::Candidate), candidate)]),
        agreements: BTreeMap::from([((pair(), minute), agreement)]),
        disagreements: BTreeMap::from([(pair(), BTreeMap::from([(one.picture, one)]))]),
    }
}

async fn what_replicas_count_is_summed_by_step_and_arm(database: &TestDatabase) {
    let (one, other) = (database.store().await, database.store().await);
    let run = first_id_at(at(0));
    let twice = counted(run, 0, at(0));
    one.add_counted(&twice).await.expect("added");
    other.add_counted(&twice).await.expect("added");
    one.add_counted(&counted(run, 1, at(0)))
        .await
        .expect("added");
    one.add_counted(&counted(first_id_at(at(9_000_000)), 0, at(0)))
        .await
        .expect("another run");
    one.add_counted(&Counted::default()).await.expect("nothing");
    let steps = other.canary_steps(run).await.expect("read");
    let places: Vec<_> = steps.keys().copied().collect();
    assert_eq!(places, [(0, ArmName::Candidate), (1, ArmName::Candidate)]);
    let mut sum = twice.canaries[&(run, 0, ArmName::Candidate)].clone();
    let same = sum.clone();
    sum.merge(&same);
    assert_eq!(steps[&(0, ArmName::Candidate)], sum);
    assert_eq!(steps[&(1, ArmName::Candidate)], same);
    let none = one.canary_steps(Uuid::nil()).await.expect("read");
    assert!(none.is_empty());
}

async fn one_replica_has_the_lease(database: &TestDatabase) {
    let (one, other) = (database.store().await, database.store().await);
    let (mine, theirs) = (Uuid::now_v7(), Uuid::now_v7());
    let until = |seconds: i64| at(0) + TimeDelta::seconds(seconds);
    let take = async |who: &std::sync::Arc<dyn lensgate::store::Store>, owner, now, end| {
        who.take_lease("x", owner, until(now), until(end))
            .await
            .expect("asked")
    };
    assert!(take(&one, mine, 0, 5).await);
    assert!(!take(&other, theirs, 1, 6).await, "another has it");
    assert!(take(&one, mine, 3, 8).await, "and keeps it");
    assert!(!take(&other, theirs, 7, 12).await);
    assert!(take(&other, theirs, 8, 13).await, "it was let go");
    assert!(!take(&one, mine, 9, 14).await);
    let another = one.take_lease("y", mine, until(9), until(14)).await;
    assert_eq!(another, Ok(true));
}

async fn labels_count_for_the_arms_of_this_canary(database: &TestDatabase) {
    let store = database.store().await;
    let second = 1_000_000;
    let said =
        |at_second: i64, index: u32, label: &str, judged: Option<(u64, Option<&str>)>| Feedback {
            request_id: first_id_at(at(at_second * second)),
            index,
            tenant: TenantId(Uuid::nil()),
            label: label.to_owned(),
            at: at(at_second * second),
            judged: judged.map(|(number, arm)| Judged {
                model: model(),
                version: version(number),
                arm: arm.map(str::to_owned),
                class: "7".to_owned(),
            }),
        };
    let given = [
        said(10, 0, "7", Some((1, Some("baseline")))),
        said(10, 1, "7", Some((2, Some("candidate")))),
        said(10, 2, "1", Some((2, Some("candidate")))),
        // The candidate of the canary before, a request without an arm, one from before, and one that is not joined.
        said(10, 3, "7", Some((1, Some("candidate")))),
        said(10, 4, "7", Some((2, None))),
        said(5, 0, "7", Some((2, Some("candidate")))),
        said(10, 5, "7", None),
    ];
    store.put_feedback(&given).await.expect("kept");
    let arms = [
        (ArmName::Baseline, version(1)),
        (ArmName::Candidate, version(2)),
    ];
    let labels = store.canary_labels(&model(), &arms, at(7 * second)).await;
    let expected = [(ArmName::Baseline, (1, 1)), (ArmName::Candidate, (2, 1))];
    assert_eq!(labels, Ok(expected.into()));
}

async fn what_is_old_is_forgotten(database: &TestDatabase) {
    let store = database.store().await;
    let day = 86_400_000_000;
    let (old, new) = (first_id_at(at(0)), first_id_at(at(2 * day)));
    store
        .add_counted(&counted(old, 0, at(0)))
        .await
        .expect("added");
    store
        .add_counted(&counted(new, 0, at(2 * day)))
        .await
        .expect("added");
    store
        .prune_figures(at(day), Some(at(day)))
        .await
        .expect("pruned");
    assert!(store.canary_steps(old).await.expect("read").is_empty());
    assert_eq!(store.canary_steps(new).await.expect("read").len(), 1);
}

async fn a_rollout_is_changed_by_who_has_read_it(database: &TestDatabase) {
    let store = database.store().await;
    let pinned = |number| {
        Rollout::of(Rule::Pinned {
            version: version(number),
        })
    };
    let (latest, one, two) = (Rollout::default(), pinned(1), pinned(2));
    let stable = ("stable".parse().expect("an alias"), version(1));
    let put = async |before: &Rollout, after: &Rollout| {
        let change = RolloutChange {
            before,
            after,
            aliases: std::slice::from_ref(&stable),
        };
        store.put_rollout(&model(), &change, &note()).await
    };
    assert_eq!(put(&one, &two).await, Err(StoreError::Stale));
    let wishes = store.wishes().await.expect("read");
    assert!(wishes.is_empty(), "nothing has changed, no alias either");
    assert_eq!(put(&latest, &one).await, Ok(()));
    assert_eq!(put(&latest, &two).await, Err(StoreError::Stale));
    let wishes = store.wishes().await.expect("read");
    assert_eq!(wishes[&model()].rollout, one);
    assert_eq!(wishes[&model()].aliases["stable"], version(1));
    // What it stands on is not forgotten by who has not read it.
    let forgotten = store.forget_version(&model(), version(1), &note()).await;
    assert_eq!(forgotten, Err(StoreError::Stale));
    assert_eq!(put(&one, &two).await, Ok(()));
    let forgotten = store.forget_version(&model(), version(1), &note()).await;
    assert_eq!(forgotten, Ok(()));
}
