//! The report: how a model's versions do beside each other, by what was really asked, and by what was told of it later.

use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use lensgate::domain::ids::Digest;
use lensgate::domain::prediction::{
    Answer as Answered, AnsweredBy, Asked, Prediction, Spent, first_id_at,
};
use lensgate::domain::tenant::{KeyId, TenantId};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{ADMIN_TOKEN, Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

contract![
    what_was_asked_is_counted,
    labels_of_real_answers_are_counted,
    labels_decide_which_arm_is_better,
    what_moved_since_the_reference_is_said,
    shadows_agree_or_do_not,
    every_mode_has_its_arms_and_its_baseline,
    windows_that_cannot_be_are_refused,
    the_command_shows_it,
];

async fn gateway(database: &TestDatabase, store: &TestStore) -> TestGateway {
    let url = format!("store.url={}", database.url);
    TestGateway::start(store.path(), &[&url]).await
}

async fn put(gateway: &TestGateway, rollout: Value) {
    let path = "/models/digits/rollout";
    gateway
        .admin(Method::PUT, path, Some(rollout))
        .await
        .assert_ok();
}

fn split() -> Value {
    let arms = json!([{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]);
    json!({"mode": "split", "arms": arms, "sticky_by": "header:x-user"})
}

async fn asked(gateway: &TestGateway, query: &str) -> Answer {
    let path = format!("/models/digits/report?{query}");
    gateway.admin(Method::GET, &path, None).await
}

async fn report(gateway: &TestGateway, query: &str) -> Value {
    asked(gateway, query).await.assert_ok().clone()
}

/// What a report says of a version.
#[track_caller]
fn arm(report: &Value, version: u64) -> &Value {
    let arms = report["arms"].as_array().expect("arms");
    let arm = arms.iter().find(|arm| arm["version"] == version);
    arm.unwrap_or_else(|| panic!("no version {version} in {report}"))
}

#[track_caller]
fn near(value: &Value, wanted: f64) {
    let value = value.as_f64().unwrap_or(f64::NAN);
    assert!((value - wanted).abs() < 5e-5, "{value}, not {wanted}");
}

fn id(at: DateTime<Utc>, number: u32) -> Uuid {
    Uuid::from_u128(first_id_at(at).as_u128() + u128::from(number))
}

/// So many answers of a version at a time.
fn answers(
    at: DateTime<Utc>,
    numbers: std::ops::Range<u32>,
    version: u64,
    class: &str,
    confidence: f32,
) -> Vec<Prediction> {
    let one = |number| Prediction {
        asked: Asked {
            request_id: id(at, number),
            tenant: TenantId(Uuid::from_u128(1)),
            key: KeyId(Uuid::from_u128(2)),
            client_request_id: None,
            trace_id: None,
        },
        index: 0,
        model: "digits".parse().expect("an id"),
        answered_by: Some(AnsweredBy {
            version: version.to_string().parse().expect("a version"),
            digest: Digest::from_bytes([1; 32]),
            arm: None,
        }),
        picture: None,
        answer: Some(Answered {
            class: class.to_owned(),
            confidence,
            classes: vec![],
        }),
        cached: false,
        timings: Spent {
            decode: 1.0,
            queue: 2.0,
            inference: 3.0,
            total: f64::from(number + 1),
        },
        status: 200,
        code: None,
    };
    numbers.map(one).collect()
}

async fn add(database: &TestDatabase, predictions: &[Prediction]) {
    let store = database.store().await;
    let added = store.add_predictions(predictions).await;
    assert_eq!(added, Ok(predictions.len() as u64));
}

/// Labels of a version's predictions, of which so many are right, as the store joins them.
async fn label(
    database: &TestDatabase,
    at: DateTime<Utc>,
    version: u64,
    correct: u32,
    labels: u32,
) {
    let rows: Vec<String> = (0..labels)
        .map(|number| {
            format!(
                "('{}', {}, 0, {}, '{}', '7', true, 'digits', {version}, '{version}', '{}')",
                at.date_naive(),
                database.literal(id(at, number)),
                database.literal(Uuid::from_u128(u128::from(version))),
                at.to_rfc3339(),
                if number < correct { '7' } else { '1' },
            )
        })
        .collect();
    database
        .execute(format!(
            "INSERT INTO feedback (day, request_id, \"index\", tenant_id, at, label, joined, model, version, arm, class) \
             VALUES {}",
            rows.join(", ")
        ))
        .await;
}

/// Sends three pictures to two versions, five times each; gives the ids of the requests for version 1's zeros, once all
/// are in the database.
async fn classify(gateway: &TestGateway) -> Vec<String> {
    let mut zeros = Vec::new();
    for number in 0..30 {
        let (version, digit) = (1 + number % 2, number % 3);
        let sample = format!("model-store/digits/samples/{digit}_a.png");
        let route = format!("/v1/models/digits/versions/{version}/classify");
        let answer = gateway.raw(&route, "image/png", read(root().join(sample)));
        let answer = answer.await;
        let request = answer.assert_ok()["request_id"].as_str().expect("an id");
        if version == 1 && digit == 0 {
            zeros.push(request.to_owned());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let report = report(gateway, "").await;
        let arms = report["arms"].as_array().expect("arms").iter();
        let all: u64 = arms.filter_map(|arm| arm["requests"].as_u64()).sum();
        if all == 30 {
            return zeros;
        }
        assert!(Instant::now() < deadline, "{report}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn what_was_asked_is_counted(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split()).await;
    classify(&gateway).await;
    let counted = report(&gateway, "").await;
    assert_eq!(counted["model"], "digits");
    assert_eq!(counted["rollout"], "split");
    assert_eq!(counted["disagreements"], json!([]));
    for version in [1, 2] {
        let arm = arm(&counted, version);
        assert_eq!(arm["arm"], version.to_string());
        assert_eq!(arm["is_baseline"], version == 1);
        // Each of the three pictures is kept for the second who sends it.
        let counts = ["requests", "errors", "cached", "other_classes"].map(|name| &arm[name]);
        assert_eq!(counts, [15, 0, 12, 0], "{arm}");
        let classes = arm["classes"].as_array().expect("classes");
        let of =
            |number: usize| json!({"class": number.to_string(), "requests": 5, "share": 0.333_333});
        assert_eq!(classes, &[0, 1, 2].map(of));
        let confidence = arm["mean_confidence"].as_f64().expect("a number");
        assert!(confidence > 0.5 && confidence <= 1.0, "{arm}");
        let latency = &arm["latency_ms"];
        assert_eq!(latency["pictures"], 3);
        assert_eq!(latency["sampled"], false);
        let total = ["p50", "p95", "p99"].map(|name| latency["total"][name].as_f64());
        assert!(total[0] > Some(0.0) && total.is_sorted(), "{latency}");
        assert!(total[2] >= latency["inference"]["p99"].as_f64());
        let unknown = json!({"psi": null, "noise": null, "verdict": "not_enough_data"});
        assert_eq!(arm["drift"]["classes"], unknown);
        assert_eq!(arm["agreement"], json!([]));
    }
    // Of an hour in which nothing was asked.
    let before = Utc::now() - TimeDelta::hours(1);
    let before = before.to_rfc3339_opts(SecondsFormat::Secs, true);
    let nothing = report(&gateway, &format!("to={before}")).await;
    let none = arm(&nothing, 1);
    assert_eq!(none["requests"], 0);
    assert_eq!(none["latency_ms"], Value::Null);
    assert_eq!(none["mean_confidence"], Value::Null);
}

async fn labels_of_real_answers_are_counted(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split()).await;
    let zeros = classify(&gateway).await;
    for (place, request) in zeros.iter().enumerate() {
        let path = format!("/v1/predictions/{request}/feedback");
        let label = if place == 0 { "9" } else { "0" };
        let told = gateway.json(&path, &json!({"label": label})).await;
        told.assert_ok();
    }
    // As the store joins labels with their predictions.
    database
        .execute(
            "UPDATE feedback SET joined = true, model = 'digits', \
             version = (SELECT version FROM predictions WHERE predictions.request_id = feedback.request_id), \
             class = (SELECT class FROM predictions WHERE predictions.request_id = feedback.request_id)"
                .to_owned(),
        )
        .await;
    let told = report(&gateway, "").await;
    let (one, two) = (arm(&told, 1), arm(&told, 2));
    assert_eq!(one["accuracy"]["labels"], 5);
    near(&one["accuracy"]["value"], 0.8);
    assert_eq!(one["difference"], Value::Null, "it is the baseline");
    assert_eq!(two["accuracy"], Value::Null);
    let unknown = json!({
        "baseline": 1, "value": null, "low": null, "high": null, "p_value": null,
        "verdict": "not_enough_data",
    });
    assert_eq!(two["difference"], unknown);
}

async fn labels_decide_which_arm_is_better(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split()).await;
    let at = Utc::now() - TimeDelta::hours(1);
    let mut given = answers(at, 0..100, 1, "7", 0.95);
    given.extend(answers(at, 1000..1020, 2, "7", 0.75));
    for failed in given.iter_mut().take(3) {
        (failed.answer, failed.status, failed.code) = (None, 503, Some("overloaded".to_owned()));
    }
    add(database, &given).await;
    // R. Newcombe's example, 1998.
    label(database, at, 1, 48, 80).await;
    label(database, at, 2, 56, 70).await;
    let compared = report(&gateway, "").await;
    let (one, two) = (arm(&compared, 1), arm(&compared, 2));
    assert_eq!(
        (&one["requests"], &one["errors"], &two["requests"]),
        (&json!(100), &json!(3), &json!(20))
    );
    near(&one["mean_confidence"], 0.95);
    assert_eq!(
        one["classes"],
        json!([{"class": "7", "requests": 97, "share": 1.0}])
    );
    assert_eq!(one["accuracy"]["labels"], 80);
    near(&one["accuracy"]["value"], 0.6);
    near(&one["accuracy"]["low"], 0.4905);
    near(&one["accuracy"]["high"], 0.7004);
    let difference = &two["difference"];
    assert_eq!(
        (&difference["baseline"], &difference["verdict"]),
        (&json!(1), &json!("better"))
    );
    near(&difference["value"], 0.2);
    near(&difference["low"], 0.0524);
    near(&difference["high"], 0.3339);
    near(&difference["p_value"], 0.008_045);
    // Of numbers 4 to 100, 97 of them.
    let total = &one["latency_ms"]["total"];
    assert_eq!(total, &json!({"p50": 52.0, "p95": 96.0, "p99": 100.0}));
    assert_eq!(one["latency_ms"]["inference"]["p50"], 3.0);
    // The other way round it is worse.
    let mut other = split();
    other["arms"].as_array_mut().expect("arms").reverse();
    put(&gateway, other).await;
    let compared = report(&gateway, "").await;
    let difference = &arm(&compared, 1)["difference"];
    assert_eq!(
        (&difference["baseline"], &difference["verdict"]),
        (&json!(2), &json!("worse"))
    );
    near(&difference["low"], -0.3339);
}

async fn what_moved_since_the_reference_is_said(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let now = Utc::now();
    let (lately, before) = (now - TimeDelta::hours(1), now - TimeDelta::hours(30));
    let mut given = answers(lately, 0..150, 1, "1", 0.55);
    given.extend(answers(before, 0..200, 1, "7", 0.95));
    given.extend(answers(lately, 1000..1120, 2, "7", 0.95));
    given.extend(answers(before, 1000..1130, 2, "7", 0.95));
    given.extend(answers(lately, 2000..2120, 3, "7", 0.95));
    given.extend(answers(before, 2000..2099, 3, "7", 0.95));
    add(database, &given).await;
    let moved = report(&gateway, "").await;
    let drift = &arm(&moved, 1)["drift"];
    assert_eq!(drift["reference_requests"], 200);
    for of in ["classes", "confidence"] {
        assert_eq!(drift[of]["verdict"], "significant", "{drift}");
        assert!(drift[of]["psi"].as_f64() > Some(5.0), "{drift}");
        assert!(drift[of]["noise"].as_f64() < Some(0.1), "{drift}");
        let stable = &arm(&moved, 2)["drift"][of];
        assert_eq!(
            (&stable["psi"], &stable["verdict"]),
            (&json!(0.0), &json!("stable"))
        );
        assert_eq!(arm(&moved, 3)["drift"][of]["verdict"], "not_enough_data");
    }
    // Against a reference that one names, in which nothing was.
    let time = |hours| (now - TimeDelta::hours(hours)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let query = format!(
        "from={}&reference_from={}&reference_to={}",
        time(2),
        time(10),
        time(5)
    );
    let other = report(&gateway, &query).await;
    let reference = json!({"from": &other["reference"]["from"], "to": &other["reference"]["to"]});
    assert_eq!(other["reference"], reference);
    assert_eq!(arm(&other, 1)["drift"]["reference_requests"], 0);
    assert_eq!(arm(&other, 1)["requests"], 150);
    // And the same the other way round: what is before the window is not in it.
    let query = format!(
        "from={}&to={}&reference_from={}&reference_to={}",
        time(31),
        time(29),
        time(2),
        time(0)
    );
    let back = report(&gateway, &query).await;
    assert_eq!(arm(&back, 1)["requests"], 200);
    assert_eq!(arm(&back, 1)["drift"]["reference_requests"], 150);
    assert_eq!(back["arms"].as_array().map(Vec::len), Some(3));
}

async fn shadows_agree_or_do_not(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, json!({"mode": "pinned", "version": 1})).await;
    let at = Utc::now() - TimeDelta::minutes(5);
    let times = [at, at + TimeDelta::minutes(1)].map(|at| at.to_rfc3339());
    database
        .execute(format!(
            "INSERT INTO comparisons (model, version, shadow, minute, compared, agreed, dropped) VALUES \
             ('digits', 1, 2, '{}', 60, 50, 2), ('digits', 1, 2, '{}', 40, 31, 0), ('digits', 2, 1, '{}', 9, 9, 0)",
            times[0], times[1], times[1]
        ))
        .await;
    let rows: Vec<String> = (0..25)
        .map(|number| {
            format!(
                "('digits', {}, 2, '{}', {}, {}, 1, '7', 0.5, '1', 0.75, {}, '{}')",
                // One is of no arm.
                if number == 24 { 2 } else { 1 },
                Digest::from_bytes([number; 32]),
                database.literal(Uuid::from_u128(1)),
                database.literal(id(at, 7)),
                f64::from(number) / 100.0,
                at.to_rfc3339(),
            )
        })
        .collect();
    database
        .execute(format!(
            "INSERT INTO disagreements (model, version, shadow, picture_digest, tenant_id, request_id, \"index\", class, \
             confidence, shadow_class, shadow_confidence, strength, at) VALUES {}",
            rows.join(", ")
        ))
        .await;
    let compared = report(&gateway, "").await;
    let arms = compared["arms"].as_array().expect("arms");
    assert_eq!(arms.len(), 1, "the pinned one: {compared}");
    assert_eq!(
        (&arms[0]["arm"], &arms[0]["is_baseline"]),
        (&Value::Null, &json!(true))
    );
    let agreement = arms[0]["agreement"].as_array().expect("a list");
    assert_eq!(agreement.len(), 1, "{agreement:?}");
    let with = &agreement[0];
    assert_eq!(
        (&with["with"], &with["compared"], &with["dropped"]),
        (&json!(2), &json!(100), &json!(2))
    );
    near(&with["value"], 0.81);
    near(&with["low"], 0.7222);
    near(&with["high"], 0.8749);
    let shown = compared["disagreements"].as_array().expect("a list");
    assert_eq!(shown.len(), 20);
    let strengths: Vec<f64> = shown
        .iter()
        .filter_map(|one| one["strength"].as_f64())
        .collect();
    assert!(strengths.is_sorted_by(|a, b| a >= b), "{strengths:?}");
    let strongest = json!({
        "version": 1, "shadow": 2, "request_id": id(at, 7), "index": 1,
        "picture_digest": Digest::from_bytes([23; 32]).to_string(),
        "class": "7", "confidence": 0.5, "shadow_class": "1", "shadow_confidence": 0.75, "strength": 0.23,
        "at": &shown[0]["at"],
    });
    assert_eq!(shown[0], strongest);
}

async fn every_mode_has_its_arms_and_its_baseline(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let versions = |report: &Value| -> Vec<(u64, bool)> {
        let arms = report["arms"].as_array().expect("arms").iter();
        let of = |arm: &Value| Some((arm["version"].as_u64()?, arm["is_baseline"].as_bool()?));
        arms.filter_map(of).collect()
    };
    let none = report(&gateway, "").await;
    assert_eq!(
        (versions(&none), &none["rollout"]),
        (vec![], &json!("latest"))
    );
    let at = Utc::now() - TimeDelta::hours(1);
    let mut given = answers(at, 0..10, 7, "7", 0.5);
    given.extend(answers(at, 10..20, 5, "7", 0.5));
    add(database, &given).await;
    // Versions that are gone have their figures still; the lowest stands for the baseline that nobody has named.
    assert_eq!(
        versions(&report(&gateway, "").await),
        [(5, true), (7, false)]
    );
    put(&gateway, json!({"mode": "pinned", "version": 2})).await;
    assert_eq!(
        versions(&report(&gateway, "").await),
        [(2, true), (5, false), (7, false)]
    );
    put(&gateway, split()).await;
    let split = report(&gateway, "").await;
    assert_eq!(
        versions(&split),
        [(1, true), (2, false), (5, false), (7, false)]
    );
    assert_eq!(arm(&split, 7)["arm"], Value::Null);
    let zeros = arm(&split, 2);
    let (requests, classes) = (&zeros["requests"], &zeros["classes"]);
    assert_eq!(
        (requests, classes, &zeros["accuracy"]),
        (&json!(0), &json!([]), &Value::Null)
    );
}

async fn windows_that_cannot_be_are_refused(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2026-11-31T00:00:00Z", "to"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from"),
        ("from=2026-11-01T00:00:00Z&to=2026-11-01T00:00:00Z", "from"),
        ("from=9999-01-01T00:00:00Z", "from"),
        ("reference_from=x", "reference_from"),
        ("reference_to=", "reference_to"),
        (
            "reference_from=2026-11-02T00:00:00Z&reference_to=2026-11-01T00:00:00Z",
            "reference_from",
        ),
    ] {
        let refused = asked(&gateway, query).await;
        let detail = refused.assert_problem(400, "bad_request");
        assert!(detail.contains(&format!("`{field}`")), "{query}: {detail}");
    }
    // All of time is a window like any other.
    let ever =
        "from=0000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z&reference_from=0000-01-01T00:00:00Z";
    asked(
        &gateway,
        &format!("{ever}&reference_to=9999-12-31T23:59:59Z"),
    )
    .await
    .assert_ok();
    asked(&gateway, "from=0000-01-01T00:00:00Z")
        .await
        .assert_ok();
    for unknown in ["nothing", "No-Id"] {
        let path = format!("/models/{unknown}/report");
        let missing = gateway.admin(Method::GET, &path, None).await;
        missing.assert_problem(404, "model_not_found");
    }
}

/// Runs the command; the token comes in the environment.
async fn command(gateway: &TestGateway, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
    command
        .args(["rollout", "report"])
        .args(arguments)
        .args(["--gateway", &gateway.admin_base])
        .args(["--config", data("empty.toml").to_str().expect("a path")])
        .env("LENSGATE_ADMIN_TOKEN", ADMIN_TOKEN);
    let run = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    let output = run.await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

async fn the_command_shows_it(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split()).await;
    let (code, nothing, _) = command(&gateway, &["digits", "--from", "2026-01-01"]).await;
    assert_eq!(code, Some(0));
    assert!(
        nothing.contains("*1  1    ") && nothing.contains("not enough data"),
        "{nothing}"
    );
    let at = Utc::now() - TimeDelta::hours(1);
    let mut given = answers(at, 0..75, 1, "7", 0.95);
    given.extend(answers(at, 1000..1025, 2, "1", 0.75));
    add(database, &given).await;
    label(database, at, 1, 48, 80).await;
    label(database, at, 2, 56, 70).await;
    let (code, shown, complained) = command(&gateway, &["digits"]).await;
    assert_eq!(code, Some(0), "{complained}");
    for line in [
        "digits (split), ",
        "     *1  1          75  ███████▌    75.0 %",
        "25  ██▌         25.0 %",
        "49.0 to 70.0 %",
        "+20.0       +5.2 to +33.4  0.0080  better than 1",
        "drift since ",
        "not enough data",
    ] {
        assert!(shown.contains(line), "{line:?}\n{shown}");
    }
    let (code, as_json, _) = command(&gateway, &["digits", "--json"]).await;
    assert_eq!(code, Some(0));
    let as_json: Value = serde_json::from_str(&as_json).expect("JSON");
    assert_eq!(arm(&as_json, 1)["requests"], 75);
    for (arguments, code, word) in [
        (&["nothing"][..], 1, "model_not_found"),
        (
            &["digits", "--from", "2026-11-02", "--to", "2026-11-01"],
            1,
            "`from`",
        ),
        (&["digits", "--from", "yesterday"], 2, "--from"),
        (&["digits", "--token-file", "/nowhere"], 1, "/nowhere"),
    ] {
        let (ended, _, complained) = command(&gateway, arguments).await;
        assert_eq!(ended, Some(code), "{arguments:?}: {complained}");
        assert!(complained.contains(word), "{arguments:?}: {complained}");
    }
}
