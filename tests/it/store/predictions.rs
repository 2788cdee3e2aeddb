//! The prediction log: written once however often it is handed over, read from the newest down, deleted for good.

use chrono::{DateTime, Days, TimeDelta, Utc};
use lensgate::domain::ids::Digest;
use lensgate::domain::prediction::{
    Answer, AnsweredBy, Asked, PictureFacts, PredictedClass, Prediction, Spent, first_id_at,
};
use lensgate::domain::tenant::{KeyId, TenantId};
use lensgate::store::{AuditFilter, PredictionFilter, PredictionMark, Store, StoreError};
use uuid::Uuid;

use super::{ALL, at, note};
use crate::fixture::database::TestDatabase;

contract![
    what_is_written_is_read_back,
    what_is_handed_over_twice_is_there_once,
    a_list_is_filtered_and_read_in_pages,
    a_request_is_found_by_its_id_and_tenant,
    a_deleted_tenants_predictions_stay_away,
    who_adds_while_they_are_deleted_adds_none,
    old_days_go_and_new_ones_have_room,
    many_rows_go_in_at_once,
];

/// The id of a request at a time, told apart by a number.
fn id(at: DateTime<Utc>, number: u16) -> Uuid {
    Uuid::from_u128(first_id_at(at).as_u128() + u128::from(number))
}

/// A prediction in which nothing is left out.
pub(crate) fn prediction(at: DateTime<Utc>, number: u16) -> Prediction {
    Prediction {
        asked: Asked {
            request_id: id(at, number),
            tenant: TenantId(Uuid::from_u128(1)),
            key: KeyId(Uuid::from_u128(2)),
            client_request_id: Some("order 66: ä\"'".to_owned()),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        },
        index: 0,
        model: "digits".parse().expect("an id"),
        answered_by: Some(AnsweredBy {
            version: "2".parse().expect("a version"),
            digest: Digest::from_bytes([7; 32]),
            arm: Some("candidate".to_owned()),
        }),
        picture: Some(PictureFacts {
            digest: Digest::from_bytes([9; 32]),
            bytes: 12_345,
            format: Some("png".to_owned()),
            size: Some((28, 30)),
        }),
        answer: Some(Answer {
            class: "7".to_owned(),
            confidence: 0.999_831_3,
            classes: vec![
                PredictedClass {
                    class: "7".to_owned(),
                    index: 7,
                    confidence: 0.999_831_3,
                },
                PredictedClass {
                    class: "a \"b\"".to_owned(),
                    index: 1,
                    confidence: 1.2e-7,
                },
            ],
        }),
        cached: true,
        timings: Spent {
            decode: 0.125,
            queue: 0.001,
            inference: 2.5,
            total: 3.0,
        },
        status: 200,
        code: None,
    }
}

/// A refusal of which next to nothing is known.
pub(crate) fn refusal(at: DateTime<Utc>, number: u16) -> Prediction {
    let mut refused = prediction(at, number);
    refused.asked.client_request_id = None;
    refused.asked.trace_id = None;
    (refused.answered_by, refused.picture, refused.answer) = (None, None, None);
    (refused.cached, refused.timings) = (false, Spent::default());
    (refused.status, refused.code) = (413, Some("payload_too_large".to_owned()));
    refused
}

async fn all(store: &dyn Store, filter: &PredictionFilter) -> Vec<Prediction> {
    let found = store.list_predictions(filter, None, 1000).await;
    found.expect("predictions")
}

async fn what_is_written_is_read_back(database: &TestDatabase) {
    let store = database.store().await;
    assert_eq!(store.add_predictions(&[]).await, Ok(0));
    let mut unsized_picture = prediction(at(0), 3);
    if let Some(picture) = &mut unsized_picture.picture {
        (picture.format, picture.size) = (None, None);
    }
    let given = [unsized_picture, refusal(at(0), 2), prediction(at(0), 1)];
    assert_eq!(store.add_predictions(&given).await, Ok(3));
    assert_eq!(all(&*store, &PredictionFilter::default()).await, given);
}

async fn what_is_handed_over_twice_is_there_once(database: &TestDatabase) {
    let store = database.store().await;
    let first = [prediction(at(0), 1), prediction(at(0), 2)];
    assert_eq!(store.add_predictions(&first).await, Ok(2));
    let mut other = prediction(at(0), 1);
    other.status = 500;
    let again = [
        other,
        prediction(at(0), 2),
        prediction(at(0), 3),
        prediction(at(0), 3),
    ];
    assert_eq!(store.add_predictions(&again).await, Ok(1), "one is new");
    let found = all(&*store, &PredictionFilter::default()).await;
    let wanted = [3, 2, 1].map(|number| prediction(at(0), number));
    assert_eq!(found, wanted, "the first stays");
}

/// Four predictions on each of three days, two tenants, four keys, two models; the newest last.
fn some_days() -> Vec<Prediction> {
    let mut given = Vec::new();
    for days in 0..3 {
        for number in 0..4_u16 {
            let mut one = prediction(at(0) + TimeDelta::days(days), number);
            one.index = u32::from(number % 2);
            one.asked.tenant = TenantId(Uuid::from_u128(u128::from(number % 2)));
            one.asked.key = KeyId(Uuid::from_u128(u128::from(number)));
            if number == 3 {
                one.model = "other".parse().expect("an id");
                if let Some((by, answer)) = one.answered_by.as_mut().zip(one.answer.as_mut()) {
                    by.version = "9".parse().expect("a version");
                    "8".clone_into(&mut answer.class);
                }
            }
            given.push(one);
        }
    }
    given
}

/// Filters, and how many of [`some_days`] each leaves.
fn filters_over_some_days() -> Vec<(usize, PredictionFilter)> {
    let (day, any) = (TimeDelta::days(1), PredictionFilter::default());
    let of = |number| Some(TenantId(Uuid::from_u128(number)));
    vec![
        (12, any.clone()),
        (
            6,
            PredictionFilter {
                tenant: of(1),
                ..any.clone()
            },
        ),
        (
            3,
            PredictionFilter {
                key: Some(KeyId(Uuid::from_u128(2))),
                ..any.clone()
            },
        ),
        (
            3,
            PredictionFilter {
                model: "other".parse().ok(),
                ..any.clone()
            },
        ),
        (
            3,
            PredictionFilter {
                version: "9".parse().ok(),
                ..any.clone()
            },
        ),
        (
            9,
            PredictionFilter {
                class: Some("7".to_owned()),
                ..any.clone()
            },
        ),
        (
            0,
            PredictionFilter {
                class: Some("%".to_owned()),
                ..any.clone()
            },
        ),
        (
            8,
            PredictionFilter {
                from: Some(at(0) + day),
                ..any.clone()
            },
        ),
        (
            4,
            PredictionFilter {
                from: Some(at(0) + day * 2),
                ..any.clone()
            },
        ),
        (
            4,
            PredictionFilter {
                from: Some(at(1)),
                to: Some(at(0) + day * 2),
                ..any.clone()
            },
        ),
        (
            2,
            PredictionFilter {
                tenant: of(0),
                to: Some(at(0) + day),
                ..any.clone()
            },
        ),
    ]
}

async fn a_list_is_filtered_and_read_in_pages(database: &TestDatabase) {
    let store = database.store().await;
    let mut given = some_days();
    store.add_predictions(&given).await.expect("added");
    given.reverse();
    // Whatever is asked for, pages of any size show what the filter leaves, in order.
    for (count, filter) in &filters_over_some_days() {
        let wanted: Vec<&Prediction> = given.iter().filter(|one| filter.holds_for(one)).collect();
        assert_eq!(wanted.len(), *count, "{filter:?}");
        for limit in [1, 2, 5, 100] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.list_predictions(filter, after, limit).await;
                let page = page.expect("a page");
                assert!(page.len() <= usize::try_from(limit).expect("a length"));
                let Some(last) = page.last() else { break };
                after = Some(PredictionMark::of(last));
                seen.extend(page);
            }
            assert_eq!(
                seen.iter().collect::<Vec<_>>(),
                wanted,
                "{filter:?} by {limit}"
            );
        }
    }
}

async fn a_request_is_found_by_its_id_and_tenant(database: &TestDatabase) {
    let store = database.store().await;
    let batch: Vec<Prediction> = (0..3)
        .map(|index| Prediction {
            index,
            ..prediction(at(0), 1)
        })
        .collect();
    let reversed: Vec<Prediction> = batch.iter().rev().cloned().collect();
    store.add_predictions(&reversed).await.expect("added");
    store
        .add_predictions(&[prediction(at(0), 2)])
        .await
        .expect("added");
    let (request, owner) = (batch[0].asked.request_id, batch[0].asked.tenant);
    let other = TenantId(Uuid::from_u128(99));
    assert_eq!(
        store.find_predictions(request, None).await,
        Ok(batch.clone())
    );
    assert_eq!(
        store.find_predictions(request, Some(owner)).await,
        Ok(batch)
    );
    assert_eq!(
        store.find_predictions(request, Some(other)).await,
        Ok(vec![])
    );
    for unknown in [Uuid::nil(), Uuid::max(), Uuid::now_v7()] {
        assert_eq!(store.find_predictions(unknown, None).await, Ok(vec![]));
    }
}

async fn a_deleted_tenants_predictions_stay_away(database: &TestDatabase) {
    let store = database.store().await;
    let theirs = |number| {
        let mut one = prediction(at(0) + TimeDelta::seconds(i64::from(number)), number);
        one.asked.tenant = TenantId(Uuid::from_u128(50));
        one
    };
    let gone = theirs(0).asked.tenant;
    let mut many: Vec<Prediction> = (0..6000).map(theirs).collect();
    let others = prediction(at(0), 1);
    many.push(others.clone());
    store.add_predictions(&many).await.expect("added");
    let until = theirs(5998).at();
    store
        .purge_predictions(gone, until, &note())
        .await
        .expect("named");
    // One that is older than what was named before changes nothing.
    store
        .purge_predictions(gone, at(0), &note())
        .await
        .expect("named");
    assert_eq!(store.purges().await, Ok(vec![(gone, until)]));
    let mut erased = 0;
    loop {
        match store.erase_predictions(gone, until).await.expect("erased") {
            0 => break,
            some => erased += some,
        }
    }
    assert_eq!(erased, 5999);
    assert_eq!(
        store.erase_predictions(others.asked.tenant, at(-1)).await,
        Ok(0)
    );
    // What a spool still held.
    assert_eq!(store.add_predictions(&many[5990..]).await, Ok(0));
    let left = all(&*store, &PredictionFilter::default()).await;
    assert_eq!(left, [theirs(5999), others]);
    let audit = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("the audit");
    assert_eq!(audit.items.len(), 2);
}

async fn who_adds_while_they_are_deleted_adds_none(database: &TestDatabase) {
    let store = database.store().await;
    let tenant = prediction(at(0), 0).asked.tenant;
    let mut adding = tokio::task::JoinSet::new();
    for writer in 0..4_u16 {
        let store = store.clone();
        adding.spawn(async move {
            for number in 0..50 {
                let some: Vec<Prediction> = (0..20)
                    .map(|row| prediction(at(0), writer * 1000 + number * 20 + row))
                    .collect();
                store
                    .add_predictions(&some)
                    .await
                    .expect("added or left out");
            }
        });
    }
    tokio::task::yield_now().await;
    let named = store
        .purge_predictions(tenant, at(1_000_000), &note())
        .await;
    named.expect("named");
    let until = at(1_000_000);
    while store
        .erase_predictions(tenant, until)
        .await
        .expect("erased")
        > 0
    {}
    let left = all(&*store, &PredictionFilter::default()).await;
    assert!(left.is_empty(), "{} came after the deletion", left.len());
    adding.join_all().await;
    assert_eq!(all(&*store, &PredictionFilter::default()).await, []);
}

async fn old_days_go_and_new_ones_have_room(database: &TestDatabase) {
    let store = database.store().await;
    let today = at(0).date_naive();
    assert_eq!(store.turn_days(today, None).await, Ok(false));
    assert_eq!(
        store.turn_days(today, None).await,
        Ok(false),
        "as often as wanted"
    );
    let day = TimeDelta::days(1);
    // Some days have room, others get it when something comes for them.
    let days = [-400, -2, -1, 0, 1, 30];
    for (number, days) in (0..).zip(days) {
        let many: Vec<Prediction> = (0..3000)
            .map(|row| Prediction {
                index: row,
                ..prediction(at(0) + day * days, number)
            })
            .collect();
        assert_eq!(store.add_predictions(&many).await, Ok(3000), "{days}");
    }
    let oldest = today - Days::new(1);
    // What was deleted is remembered for more than a year after its last day went.
    let (gone, stays) = (TenantId(Uuid::from_u128(8)), TenantId(Uuid::from_u128(9)));
    let midnight = oldest.and_time(chrono::NaiveTime::MIN).and_utc() - TimeDelta::days(400);
    for (tenant, until) in [
        (gone, midnight - TimeDelta::milliseconds(1)),
        (stays, midnight),
    ] {
        store
            .purge_predictions(tenant, until, &note())
            .await
            .expect("named");
    }
    let mut rounds = 1;
    while store.turn_days(today, Some(oldest)).await.expect("turned") {
        rounds += 1;
    }
    assert_eq!(store.purges().await, Ok(vec![(stays, midnight)]));
    // PostgreSQL drops whole days; SQLite deletes 5000 rows at a time.
    assert_eq!(rounds, if database.is_sqlite() { 2 } else { 1 });
    for (number, days) in (0..).zip(days) {
        let id = id(at(0) + day * days, number);
        let found = store.find_predictions(id, None).await.expect("predictions");
        assert_eq!(found.len(), if days < -1 { 0 } else { 3000 }, "{days}");
    }
    if let Some(file) = database.url.strip_prefix("sqlite://") {
        assert_eq!(free_pages(file).await, 0, "the file gave its pages back");
    }
}

/// Pages of a database's file that nothing is in.
async fn free_pages(file: &str) -> i64 {
    use sqlx::{Connection as _, SqliteConnection};
    let mut connection = SqliteConnection::connect(file).await.expect("a file");
    let pages = sqlx::query_scalar("PRAGMA freelist_count");
    pages.fetch_one(&mut connection).await.expect("a count")
}

async fn many_rows_go_in_at_once(database: &TestDatabase) {
    let store = database.store().await;
    let many: Vec<Prediction> = (0..5000)
        .map(|index| Prediction {
            index,
            ..prediction(at(0), 1)
        })
        .collect();
    assert_eq!(store.add_predictions(&many).await, Ok(5000));
    assert_eq!(store.add_predictions(&many).await, Ok(0));
    if !database.is_sqlite() {
        // PostgreSQL keeps no NUL in a text: none of the rows is written, and the next ones are.
        let mut poisoned = prediction(at(0), 2);
        poisoned.asked.client_request_id = Some("a\0b".to_owned());
        // Nor has its index room for a long one that does not compress.
        let mut long = prediction(at(0), 2);
        let text: String = (0..500).map(|_| Uuid::now_v7().to_string()).collect();
        if let Some(answer) = &mut long.answer {
            answer.class = text;
        }
        assert!(long.answer.is_some());
        for bad in [poisoned, long] {
            let refused = store.add_predictions(&[prediction(at(0), 3), bad]).await;
            assert!(
                matches!(refused, Err(StoreError::Invalid(_))),
                "{refused:?}"
            );
        }
        assert_eq!(store.add_predictions(&[prediction(at(0), 3)]).await, Ok(1));
    }
}
