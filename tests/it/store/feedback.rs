//! True labels: the last one counts, joined ones above others; those that wait are read in pieces and settled as they were read.

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::domain::feedback::{Feedback, Judged, Subject};
use lensgate::domain::prediction::{Prediction, first_id_at};
use lensgate::domain::tenant::TenantId;
use lensgate::store::Store;
use uuid::Uuid;

use super::predictions::{prediction, refusal};
use super::{at, note};
use crate::fixture::database::TestDatabase;

contract![
    what_is_said_is_read_back_and_the_last_one_counts,
    many_labels_are_kept_at_once,
    a_deletion_reaches_labels_that_come_after_it,
    the_predictions_of_many_requests_are_found_at_once,
    what_waits_is_read_in_pieces,
    labels_are_settled_as_they_were_read,
];

const OWNER: TenantId = TenantId(Uuid::from_u128(1));
const OTHER: TenantId = TenantId(Uuid::from_u128(2));

/// The id of a request at a time, told apart by a number.
fn id(at: DateTime<Utc>, number: u16) -> Uuid {
    prediction(at, number).asked.request_id
}

fn said(request_id: Uuid, index: u32, label: &str) -> Feedback {
    Feedback {
        request_id,
        index,
        tenant: OWNER,
        label: label.to_owned(),
        at: at(123_456),
        judged: None,
    }
}

fn judged(class: &str) -> Judged {
    Judged {
        model: "digits".parse().expect("an id"),
        version: "18446744073709551615".parse().expect("a version"),
        arm: Some("candidate".to_owned()),
        class: class.to_owned(),
    }
}

/// The same, joined.
fn about(class: &str, said: Feedback) -> Feedback {
    Feedback {
        judged: Some(judged(class)),
        ..said
    }
}

async fn put(store: &dyn Store, given: &[Feedback]) {
    let kept = store.put_feedback(given).await.expect("kept");
    assert_eq!(kept, vec![true; given.len()]);
}

async fn told(store: &dyn Store, request: Uuid) -> Vec<Feedback> {
    let told = store.find_feedback(request, OWNER).await;
    told.expect("labels")
}

async fn what_is_said_is_read_back_and_the_last_one_counts(database: &TestDatabase) {
    let store = database.store().await;
    let one = id(at(0), 1);
    assert_eq!(store.put_feedback(&[]).await, Ok(vec![]));
    let mut armless = about("9", said(one, u32::MAX, "ä"));
    armless.judged.as_mut().expect("joined").arm = None;
    let given = [about("7", said(one, 0, "7")), said(one, 1, "1"), armless];
    put(&*store, &given).await;
    assert_eq!(told(&*store, one).await, given);
    assert_eq!(store.find_feedback(one, OTHER).await, Ok(vec![]));
    // Joined above not joined, else the later above the earlier: one after the other, and all in one call.
    let steps = [
        said(one, 1, "2"),
        about("1", said(one, 1, "3")),
        said(one, 1, "4"),
        about("2", said(one, 1, "5")),
        said(one, 1, "6"),
    ];
    for (step, last) in steps.iter().zip([0, 1, 1, 3, 3]) {
        put(&*store, std::slice::from_ref(step)).await;
        assert_eq!(told(&*store, one).await[1], steps[last]);
    }
    let at_once: Vec<Feedback> = steps
        .iter()
        .map(|step| Feedback {
            index: 7,
            ..step.clone()
        })
        .collect();
    put(&*store, &at_once).await;
    let found = told(&*store, one).await;
    assert_eq!((found.len(), &found[2]), (4, &at_once[3]));
}

async fn many_labels_are_kept_at_once(database: &TestDatabase) {
    let store = database.store().await;
    let one = id(at(0), 1);
    let given: Vec<Feedback> = (0..2500)
        .map(|index| match index % 2 {
            0 => said(one, index, "7"),
            _ => about("7", said(one, index, "1")),
        })
        .collect();
    put(&*store, &given).await;
    assert_eq!(told(&*store, one).await, given);
    // The same again, in another order, by several at the same time.
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (store, mut given) = (store.clone(), given.clone());
        if writer % 2 == 0 {
            given.reverse();
        }
        writers.spawn(async move { store.put_feedback(&given).await });
    }
    while let Some(kept) = writers.join_next().await {
        assert_eq!(kept.expect("an end"), Ok(vec![true; 2500]));
    }
    assert_eq!(told(&*store, one).await, given);
}

async fn a_deletion_reaches_labels_that_come_after_it(database: &TestDatabase) {
    let store = database.store().await;
    let second = TimeDelta::seconds(1);
    store
        .purge_predictions(OWNER, at(0), &note())
        .await
        .expect("named");
    let (before, then, later) = (id(at(0) - second, 1), id(at(0), 1), id(at(0) + second, 1));
    let of_another = Feedback {
        tenant: OTHER,
        ..said(before, 0, "7")
    };
    let given = [
        said(later, 0, "7"),
        said(before, 0, "7"),
        of_another.clone(),
        about("7", said(then, 0, "7")),
    ];
    let kept = store.put_feedback(&given).await;
    assert_eq!(kept, Ok(vec![true, false, true, false]));
    assert_eq!(told(&*store, later).await, [said(later, 0, "7")]);
    assert_eq!(told(&*store, before).await, []);
    assert_eq!(told(&*store, then).await, []);
    assert_eq!(
        store.find_feedback(before, OTHER).await,
        Ok(vec![of_another])
    );
}

async fn the_predictions_of_many_requests_are_found_at_once(database: &TestDatabase) {
    let store = database.store().await;
    let day = TimeDelta::days(1);
    let mut given: Vec<Prediction> = Vec::new();
    for (days, number) in (0..1200).map(|number| (i32::from(number % 5), number)) {
        given.push(prediction(at(0) + day * days, number));
    }
    given.push(refusal(at(0), 2000));
    for index in 0..3 {
        let mut one = prediction(at(0), 2001);
        (one.index, one.asked.tenant) = (index, OTHER);
        given.push(one);
    }
    store.add_predictions(&given).await.expect("added");
    let requests: Vec<Uuid> = given.iter().map(|one| one.asked.request_id).collect();
    let mut wanted: Vec<Subject> = given.into_iter().map(Subject::from).collect();
    wanted.sort_by_key(Subject::place);
    // Each once, also where it is asked for twice; what is not there is left out, whatever its id.
    let unknown = [Uuid::nil(), Uuid::max(), Uuid::now_v7(), id(at(0), 3000)];
    let asked = [&requests[..], &unknown, &requests[..10]].concat();
    let mut found = store.find_subjects(&asked).await.expect("found");
    found.sort_by_key(Subject::place);
    assert_eq!(found, wanted);
    assert_eq!(store.find_subjects(&unknown).await, Ok(vec![]));
    assert_eq!(store.find_subjects(&[]).await, Ok(vec![]));
    let some = [requests[7], requests[1201]];
    let found = store.find_subjects(&some).await.expect("found");
    assert_eq!(found.len(), 4, "one, and a batch");
}

async fn what_waits_is_read_in_pieces(database: &TestDatabase) {
    let store = database.store().await;
    assert_eq!(store.unjoined_feedback(None, 10).await, Ok(vec![]));
    let mut waiting = Vec::new();
    // Several days, requests, pictures, tenants.
    for days in 0..2 {
        for number in 0..2 {
            let request = id(at(0) + TimeDelta::days(days), number);
            for index in [0, 1, 70_000] {
                for tenant in [OWNER, OTHER] {
                    waiting.push(Feedback {
                        tenant,
                        ..said(request, index, "7")
                    });
                }
            }
        }
    }
    let mut given = waiting.clone();
    given.reverse();
    given.push(about("7", said(id(at(0), 0), 2, "7")));
    put(&*store, &given).await;
    for limit in [1, 2, 5, 7, 23, 24, 100] {
        let (mut seen, mut after) = (Vec::new(), None::<Feedback>);
        loop {
            let piece = store.unjoined_feedback(after.as_ref(), limit).await;
            let piece = piece.expect("a piece");
            let Some(last) = piece.last() else { break };
            assert!(piece.len() <= usize::try_from(limit).expect("a length"));
            after = Some(last.clone());
            seen.extend(piece);
        }
        assert_eq!(seen, waiting, "by {limit}");
    }
}

async fn labels_are_settled_as_they_were_read(database: &TestDatabase) {
    let store = database.store().await;
    assert_eq!(store.settle_feedback(&[]).await, Ok((0, 0)));
    let one = Uuid::from_u128(first_id_at(at(0)).as_u128());
    let given: Vec<Feedback> = (0..6).map(|index| said(one, index, "7")).collect();
    put(&*store, &given).await;
    let read = store.unjoined_feedback(None, 100).await.expect("read");
    assert_eq!(read, given);
    // Meanwhile some are said anew, or joined by another.
    let other = said(one, 1, "8");
    let again = Feedback {
        at: at(123_457),
        ..said(one, 3, "7")
    };
    let joined = about("9", said(one, 4, "7"));
    put(&*store, &[other.clone(), again.clone(), joined.clone()]).await;
    let settled = [
        about("1", said(one, 0, "7")),
        about("1", said(one, 1, "7")),
        said(one, 2, "7"),
        said(one, 3, "7"),
        said(one, 4, "7"),
        // What was never there.
        about("1", said(one, 99, "7")),
        said(one, 98, "7"),
    ];
    assert_eq!(store.settle_feedback(&settled).await, Ok((1, 1)));
    let left = [settled[0].clone(), other, again, joined, said(one, 5, "7")];
    assert_eq!(told(&*store, one).await, left);
    assert_eq!(store.settle_feedback(&settled).await, Ok((0, 0)), "again");
    assert_eq!(told(&*store, one).await, left);
    // Many at once, and nobody else's.
    let request = id(at(0), 9);
    let many: Vec<Feedback> = (0..2400).map(|index| said(request, index, "7")).collect();
    put(&*store, &many).await;
    let settle = |one: &Feedback| match one.index % 2 {
        0 => about("3", one.clone()),
        _ => one.clone(),
    };
    let settled: Vec<Feedback> = many.iter().map(settle).collect();
    assert_eq!(store.settle_feedback(&settled).await, Ok((1200, 1200)));
    let found = told(&*store, request).await;
    assert!(found.len() == 1200 && found.iter().all(|one| one.judged == Some(judged("3"))));
    assert_eq!(told(&*store, one).await, left);
}
