//! What a report counts: each figure by version, exactly the window's, and nothing that lingers when nobody waits for it.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::domain::ids::{Digest, ModelId, VersionNumber};
use lensgate::domain::prediction::{Prediction, Spent, first_id_at};
use lensgate::store::{Compared, Disagreement, Labelled, Outcomes, Window};
use sqlx::{Connection as _, Executor as _, PgConnection, query_scalar};
use uuid::Uuid;

use super::at;
use super::predictions::{prediction, refusal};
use crate::fixture::database::TestDatabase;

contract![
    outcomes_are_counted_by_what_came_out,
    a_window_begins_and_ends_to_the_millisecond,
    times_are_those_of_fresh_answers,
    of_many_times_a_share_is_read,
    labels_are_counted_by_version_and_arm,
    comparisons_are_summed_over_minutes,
    the_strongest_disagreements_come_first,
    what_nobody_waits_for_ends,
];

const HOUR: i64 = 3_600_000_000;

fn model() -> ModelId {
    "digits".parse().expect("an id")
}

fn version(number: u64) -> VersionNumber {
    number.to_string().parse().expect("a version")
}

fn window(from: i64, to: i64) -> Window {
    Window {
        from: at(from),
        to: at(to),
    }
}

/// An answer of a version.
fn answer(at: DateTime<Utc>, number: u16, of: u64, class: &str, confidence: f32) -> Prediction {
    let mut one = prediction(at, number);
    one.cached = false;
    one.answered_by.as_mut().expect("a version").version = version(of);
    let answer = one.answer.as_mut().expect("an answer");
    (answer.class, answer.confidence) = (class.to_owned(), confidence);
    one
}

/// The same as a failure of ours.
fn failed(one: Prediction) -> Prediction {
    Prediction {
        answer: None,
        status: 503,
        code: Some("overloaded".to_owned()),
        ..one
    }
}

fn cached(one: Prediction) -> Prediction {
    Prediction {
        cached: true,
        ..one
    }
}

fn sorted(mut outcomes: Vec<Outcomes>) -> Vec<Outcomes> {
    outcomes.sort_by(|a, b| {
        let key = |one: &Outcomes| (one.version, one.class.clone(), one.cached);
        key(a).cmp(&key(b))
    });
    outcomes
}

async fn outcomes_are_counted_by_what_came_out(database: &TestDatabase) {
    let store = database.store().await;
    // Beyond the signed numbers that databases have.
    let (large, first) = (u64::MAX - 1, at(0));
    let mut other = answer(first, 9, 1, "7", 0.5);
    other.model = "letters".parse().expect("an id");
    let given = [
        answer(first, 1, 1, "7", 0.75),
        answer(at(HOUR), 2, 1, "7", 0.78125),
        answer(at(30 * HOUR), 3, 1, "7", 0.5),
        cached(answer(first, 4, 1, "7", 0.75)),
        answer(first, 5, 1, "1", 1.0),
        failed(answer(first, 6, 1, "7", 0.5)),
        answer(first, 7, large, "7", 0.0),
        // A picture that came to no version, and one of another model.
        refusal(first, 8),
        other,
    ];
    assert_eq!(store.add_predictions(&given).await, Ok(9));
    let outcomes = store.outcomes(&model(), window(0, 31 * HOUR)).await;
    let of = |of: u64, class: &str, tenths: &[usize], confidence_sum: f64| {
        let mut counts = [0; 10];
        for tenth in tenths {
            counts[*tenth] += 1;
        }
        Outcomes {
            version: version(of),
            class: Some(class.to_owned()),
            cached: false,
            is_error: false,
            n: tenths.len() as u64,
            confidence_sum,
            tenths: counts,
        }
    };
    let failure = Outcomes {
        class: None,
        is_error: true,
        n: 1,
        ..of(1, "", &[], 0.0)
    };
    let hit = Outcomes {
        cached: true,
        ..of(1, "7", &[7], 0.75)
    };
    let wanted = [
        failure,
        of(1, "1", &[9], 1.0),
        of(1, "7", &[5, 7, 7], 2.03125),
        hit,
        of(large, "7", &[0], 0.0),
    ];
    assert_eq!(sorted(outcomes.expect("outcomes")), wanted);
    let unknown = "nothing".parse().expect("an id");
    let none = store.outcomes(&unknown, window(0, HOUR)).await;
    assert_eq!(none, Ok(vec![]));
}

async fn a_window_begins_and_ends_to_the_millisecond(database: &TestDatabase) {
    let store = database.store().await;
    // Noon and its neighbours, midnight and its neighbours: days are partitions.
    let midnight = at(0).date_naive().succ_opt().expect("a day");
    let midnight = midnight.and_time(chrono::NaiveTime::MIN).and_utc();
    let moments = [-1, 0, 1].map(|millis| midnight + TimeDelta::milliseconds(millis));
    let given: Vec<Prediction> = (1..)
        .zip(moments)
        .map(|(number, at)| answer(at, number, 1, "7", 0.5))
        .collect();
    assert_eq!(store.add_predictions(&given).await, Ok(3));
    for (from, to, wanted) in [
        (0, 3, 3),
        (0, 1, 1),
        (1, 2, 1),
        (2, 3, 1),
        (0, 2, 2),
        (1, 1, 0),
        (2, 1, 0),
    ] {
        let end = |place: usize| {
            midnight + TimeDelta::milliseconds(i64::try_from(place).expect("few") - 1)
        };
        let window = Window {
            from: end(from),
            to: end(to),
        };
        let outcomes = store.outcomes(&model(), window).await.expect("outcomes");
        let n: u64 = outcomes.iter().map(|one| one.n).sum();
        assert_eq!(n, wanted, "{from} to {to}");
        let timed = store.latencies(&model(), &[version(1)], window, 1.0).await;
        assert_eq!(timed.expect("times").len() as u64, wanted, "{from} to {to}");
    }
    let ever = Window {
        from: DateTime::parse_from_rfc3339("0000-01-01T00:00:00Z")
            .expect("a time")
            .with_timezone(&Utc),
        to: DateTime::parse_from_rfc3339("9999-12-31T23:59:59Z")
            .expect("a time")
            .with_timezone(&Utc),
    };
    let outcomes = store.outcomes(&model(), ever).await.expect("outcomes");
    assert_eq!(outcomes.iter().map(|one| one.n).sum::<u64>(), 3);
    assert_eq!(store.compared(&model(), ever).await, Ok(vec![]));
    assert_eq!(store.labelled(&model(), ever).await, Ok(vec![]));
}

async fn times_are_those_of_fresh_answers(database: &TestDatabase) {
    let store = database.store().await;
    let given = [
        answer(at(0), 1, 1, "7", 0.5),
        answer(at(0), 2, 2, "7", 0.5),
        answer(at(0), 3, 3, "7", 0.5),
        cached(answer(at(0), 4, 1, "7", 0.5)),
        failed(answer(at(0), 5, 1, "7", 0.5)),
    ];
    assert_eq!(store.add_predictions(&given).await, Ok(5));
    let versions = [version(1), version(3)];
    let timed = store
        .latencies(&model(), &versions, window(0, HOUR), 1.0)
        .await;
    let mut timed = timed.expect("times");
    timed.sort_by_key(|one| one.version);
    assert_eq!(
        timed.iter().map(|one| one.version).collect::<Vec<_>>(),
        versions
    );
    let spent = Spent {
        decode: 0.125,
        queue: 0.001,
        inference: 2.5,
        total: 3.0,
    };
    assert_eq!(timed[0].spent, spent);
    assert_eq!(
        store.latencies(&model(), &[], window(0, HOUR), 1.0).await,
        Ok(vec![])
    );
}

async fn of_many_times_a_share_is_read(database: &TestDatabase) {
    let store = database.store().await;
    for minute in 0..10 {
        let time = at(minute * 60_000_000);
        let given: Vec<Prediction> = (0..500)
            .map(|number| answer(time, number, 1, "7", 0.5))
            .collect();
        assert_eq!(store.add_predictions(&given).await, Ok(500));
    }
    let read = async |share: f64| {
        let timed = store
            .latencies(&model(), &[version(1)], window(0, HOUR), share)
            .await;
        timed.expect("times").len()
    };
    assert_eq!(read(1.0).await, 5000);
    for (share, least, most) in [(0.5, 1500, 3500), (0.1, 150, 1000), (1e-9, 0, 100)] {
        let (first, second) = (read(share).await, read(share).await);
        assert!((least..=most).contains(&first), "{first} for {share}");
        assert_eq!(first, second, "the same again");
    }
}

/// Puts a label into the table, as the store does once it has found the prediction.
async fn label(database: &TestDatabase, at: DateTime<Utc>, number: u16, values: &str) {
    let id = Uuid::from_u128(first_id_at(at).as_u128() + u128::from(number));
    let statement = format!(
        "INSERT INTO feedback (day, request_id, \"index\", tenant_id, at, label, class, joined, model, version, arm) \
         VALUES ('{}', {}, 0, {}, '{}', {values})",
        at.date_naive(),
        database.literal(id),
        database.literal(Uuid::from_u128(1)),
        at.to_rfc3339(),
    );
    database.execute(statement).await;
}

async fn labels_are_counted_by_version_and_arm(database: &TestDatabase) {
    let store = database.store().await;
    for (number, (time, values)) in (0..).zip([
        (0, "'7', '7', true, 'digits', 1, 'one'"),
        (0, "'7', '1', true, 'digits', 1, 'one'"),
        (30 * HOUR, "'7', '7', true, 'digits', 1, 'one'"),
        (0, "'7', '7', true, 'digits', 1, NULL"),
        (0, "'7', '1', true, 'digits', 2, 'two'"),
        (0, "'7', '7', false, NULL, NULL, NULL"),
        (0, "'7', '7', true, 'letters', 1, 'one'"),
        (31 * HOUR, "'7', '7', true, 'digits', 1, 'one'"),
        (-1000, "'7', '7', true, 'digits', 1, 'one'"),
    ]) {
        label(database, at(time), number, values).await;
    }
    let labelled = store.labelled(&model(), window(0, 31 * HOUR)).await;
    let mut labelled = labelled.expect("labels");
    labelled.sort_by_key(|one| (one.version, one.arm.clone()));
    let of = |of: u64, arm: Option<&str>, correct: u64, labels: u64| Labelled {
        version: version(of),
        arm: arm.map(str::to_owned),
        labels,
        correct,
    };
    let wanted = [
        of(1, None, 1, 1),
        of(1, Some("one"), 2, 3),
        of(2, Some("two"), 0, 1),
    ];
    assert_eq!(labelled, wanted);
}

async fn comparisons_are_summed_over_minutes(database: &TestDatabase) {
    let store = database.store().await;
    let minute = DateTime::from_timestamp(1_790_000_040, 0).expect("a whole minute");
    let time = |minutes: i64| (minute + TimeDelta::minutes(minutes)).to_rfc3339();
    for (model, own, shadow, minutes, counts) in [
        ("digits", 1, 2, 0, "10, 9, 1"),
        ("digits", 1, 2, 1, "20, 10, 0"),
        ("digits", 1, 2, 2, "1000, 1000, 0"),
        ("digits", 1, 2, -1, "1000, 1000, 0"),
        ("digits", 1, 3, 0, "0, 0, 7"),
        ("digits", 2, 1, 1, "5, 5, 0"),
        ("letters", 1, 2, 0, "1000, 1000, 0"),
    ] {
        database
            .execute(format!(
                "INSERT INTO comparisons (model, version, shadow, minute, compared, agreed, dropped) \
                 VALUES ('{model}', {own}, {shadow}, '{}', {counts})",
                time(minutes)
            ))
            .await;
    }
    let of = |own: u64, shadow: u64, compared: u64, agreed: u64, dropped: u64| Compared {
        version: version(own),
        shadow: version(shadow),
        compared,
        agreed,
        dropped,
    };
    // Begun in the middle of a minute, the whole of it counts.
    for from in [0, 30] {
        let window = Window {
            from: minute + TimeDelta::seconds(from),
            to: minute + TimeDelta::minutes(2),
        };
        let wanted = vec![of(1, 2, 30, 19, 1), of(1, 3, 0, 0, 7), of(2, 1, 5, 5, 0)];
        assert_eq!(store.compared(&model(), window).await, Ok(wanted));
    }
}

async fn the_strongest_disagreements_come_first(database: &TestDatabase) {
    let store = database.store().await;
    let request = Uuid::from_u128(first_id_at(at(0)).as_u128() + 1);
    let digest = |number: u8| Digest::from_bytes([number; 32]);
    for (model, own, shadow, number, strength) in [
        ("digits", 1, 2, 1, 0.25),
        ("digits", 1, 2, 2, 0.75),
        ("digits", 2, 1, 3, 0.5),
        ("digits", 3, 1, 4, 1.0),
        ("letters", 1, 2, 5, 1.0),
    ] {
        database
            .execute(format!(
                "INSERT INTO disagreements (model, version, shadow, picture_digest, tenant_id, request_id, \"index\", \
                 class, confidence, shadow_class, shadow_confidence, strength, at) VALUES \
                 ('{model}', {own}, {shadow}, '{}', {}, {}, 3, '7', 0.5, '1', 0.75, {strength}, '{}')",
                digest(number),
                database.literal(Uuid::from_u128(1)),
                database.literal(request),
                at(0).to_rfc3339(),
            ))
            .await;
    }
    let versions = [version(1), version(2)];
    let found = store.disagreements(&model(), &versions, 20).await;
    let found = found.expect("disagreements");
    let strengths: Vec<f64> = found.iter().map(|one| one.strength).collect();
    assert_eq!(strengths, [0.75, 0.5, 0.25]);
    let strongest = Disagreement {
        version: version(1),
        shadow: version(2),
        request_id: request,
        index: 3,
        picture_digest: digest(2),
        class: "7".to_owned(),
        confidence: 0.5,
        shadow_class: "1".to_owned(),
        shadow_confidence: 0.75,
        strength: 0.75,
        at: at(0),
    };
    assert_eq!(found[0], strongest);
    let first = store.disagreements(&model(), &versions, 1).await;
    assert_eq!(first, Ok(vec![strongest]));
    assert_eq!(store.disagreements(&model(), &[], 20).await, Ok(vec![]));
}

async fn what_nobody_waits_for_ends(database: &TestDatabase) {
    if database.is_sqlite() {
        return;
    }
    let store = database.store().await;
    let connected = async || {
        PgConnection::connect(&database.url)
            .await
            .expect("a server")
    };
    let mut locking = connected().await;
    locking
        .execute("BEGIN; LOCK TABLE predictions")
        .await
        .expect("locked");
    let (model, given_up) = (model(), Duration::from_millis(500));
    for _ in 0..2 {
        let waiting = store.outcomes(&model, window(0, HOUR));
        let waited = tokio::time::timeout(given_up, waiting).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    let mut watcher = connected().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND state = 'active' AND query LIKE '%confidence_sum%' AND pid <> pg_backend_pid()";
        let running: i64 = query_scalar(running)
            .fetch_one(&mut watcher)
            .await
            .expect("a count");
        if running == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{running} statements linger");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nobody else was held up, and a report can be had again.
    locking.close().await.expect("closed");
    assert_eq!(store.outcomes(&model, window(0, HOUR)).await, Ok(vec![]));
}
