//! True labels, sent after the prediction: for one's own alone, the last one counts, and none is lost that comes early.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::domain::clock::{Clock as _, ManualClock};
use lensgate::domain::feedback::{Feedback, Judged, Subject};
use lensgate::domain::ids::Digest;
use lensgate::domain::prediction::{
    Answer as Answered, AnsweredBy, Asked, PredictedClass, Prediction, Spent, first_id_at,
};
use lensgate::domain::tenant::{KeyId, TenantId};
use lensgate::predictions::FeedbackJoiner;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::shipped;
use crate::fixture::{read, root};

contract![
    a_label_is_kept_with_its_prediction,
    what_cannot_be_said_is_refused,
    a_label_may_come_before_its_prediction,
    what_came_early_is_joined_later_or_goes,
    what_never_comes_goes_after_its_time,
    many_labels_are_taken_each_by_itself,
    a_list_of_labels_is_read_as_a_whole,
    the_limit_comes_before_the_body,
    labels_go_with_a_tenants_predictions,
];

async fn gateway(database: &TestDatabase) -> TestGateway {
    let url = format!("store.url={}", database.url);
    TestGateway::start(shipped(), &[&url]).await
}

async fn classify(gateway: &TestGateway, key: &str) -> String {
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway.send(request.bearer_auth(key).body(picture)).await;
    let id = answer.assert_ok()["request_id"].as_str();
    id.expect("an id").to_owned()
}

async fn tell(gateway: &TestGateway, key: &str, id: &str, body: Value) -> Answer {
    let path = format!("/v1/predictions/{id}/feedback");
    let request = gateway.anonymous(Method::POST, &path).bearer_auth(key);
    gateway.send(request.json(&body)).await
}

/// What is known of the first picture's true label.
async fn told(gateway: &TestGateway, key: &str, id: &str) -> Value {
    let request = gateway.anonymous(Method::GET, &format!("/v1/predictions/{id}"));
    let answer = gateway.send(request.bearer_auth(key)).await;
    answer.assert_ok()["results"][0]["feedback"].clone()
}

async fn tell_many(gateway: &TestGateway, key: &str, items: &Value) -> Answer {
    let request = gateway.anonymous(Method::POST, "/v1/predictions/feedback");
    let body = json!({"feedback": items});
    gateway.send(request.bearer_auth(key).json(&body)).await
}

/// A prediction of `1` that another replica had in its spool.
fn prediction(request_id: Uuid, (tenant, key): (TenantId, &str), digest: Digest) -> Prediction {
    let class = PredictedClass {
        class: "1".to_owned(),
        index: 1,
        confidence: 0.5,
    };
    Prediction {
        asked: Asked {
            request_id,
            tenant,
            key: KeyId(key.parse().expect("a key")),
            client_request_id: None,
            trace_id: None,
        },
        index: 0,
        model: "digits".parse().expect("an id"),
        answered_by: Some(AnsweredBy {
            version: "1".parse().expect("a version"),
            digest,
            arm: Some("candidate".to_owned()),
        }),
        picture: None,
        answer: Some(Answered {
            class: class.class.clone(),
            confidence: class.confidence,
            classes: vec![class],
        }),
        cached: false,
        timings: Spent::default(),
        status: 200,
        code: None,
    }
}

/// A label that is not joined.
fn said(request_id: Uuid, tenant: TenantId, label: &str) -> Feedback {
    Feedback {
        request_id,
        index: 0,
        tenant,
        label: label.to_owned(),
        at: chrono::Utc::now(),
        judged: None,
    }
}

/// What such a label is about.
fn about() -> Judged {
    Judged {
        model: "digits".parse().expect("an id"),
        version: "1".parse().expect("a version"),
        arm: Some("candidate".to_owned()),
        class: "1".to_owned(),
    }
}

async fn a_label_is_kept_with_its_prediction(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let (_, key) = gateway.key(json!({"name": "own"})).await;
    let id = classify(&gateway, &key).await;
    assert_eq!(told(&gateway, &key, &id).await, Value::Null);
    // At once, and also when it has long been in the database; the last one counts.
    for label in ["7", "1", "9"] {
        let answer = tell(&gateway, &key, &id, json!({"label": label})).await;
        let wanted = json!({"request_id": id, "index": 0, "label": label, "status": "joined"});
        assert_eq!(answer.assert_ok(), &wanted);
        assert_eq!(told(&gateway, &key, &id).await, label);
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }
}

async fn what_cannot_be_said_is_refused(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let (_, key) = gateway.key(json!({"name": "own"})).await;
    let tenant = gateway.tenant("other").await;
    let (_, other) = gateway
        .key(json!({"name": "other", "tenant_id": tenant}))
        .await;
    let (_, reader) = gateway
        .key(json!({"name": "reader", "scopes": ["classify", "read"]}))
        .await;
    let (_, narrow) = gateway
        .key(json!({"name": "narrow", "models": ["other-*"]}))
        .await;
    let id = classify(&gateway, &key).await;
    let seven = || json!({"label": "7"});
    for (body, code) in [
        (json!({"label": "seven"}), "invalid_label"),
        (json!({"label": ""}), "invalid_label"),
        (json!({"label": "7\u{0}"}), "invalid_label"),
        (json!({"label": "x".repeat(2000)}), "invalid_label"),
    ] {
        let refused = tell(&gateway, &key, &id, body).await;
        refused.assert_problem(422, code);
    }
    for body in [
        json!({}),
        json!({"label": 7}),
        json!({"label": "7", "index": -1}),
        json!({"label": "7", "class": "7"}),
    ] {
        let refused = tell(&gateway, &key, &id, body).await;
        refused.assert_problem(400, "bad_request");
    }
    // Another tenant's, one that the key may not see, an old id and none at all.
    tell(&gateway, &narrow, &id, seven())
        .await
        .assert_problem(404, "prediction_not_found");
    for unknown in ["0199aaaa-0000-7000-8000-000000000000", "nonsense"] {
        let refused = tell(&gateway, &key, unknown, seven()).await;
        refused.assert_problem(404, "prediction_not_found");
    }
    tell(&gateway, &reader, &id, seven())
        .await
        .assert_problem(403, "forbidden");
    // Somebody else's guess changes nothing.
    tell(&gateway, &other, &id, seven())
        .await
        .assert_problem(404, "prediction_not_found");
    tell(&gateway, &key, &id, json!({"label": "7", "index": 1}))
        .await
        .assert_problem(404, "prediction_not_found");
    assert_eq!(told(&gateway, &key, &id).await, Value::Null);
    // A picture without an answer.
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let request = request.bearer_auth(&key).body("no picture");
    let refused = gateway.send(request).await;
    assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let id = refused.header("x-request-id").to_owned();
    tell(&gateway, &key, &id, seven())
        .await
        .assert_problem(409, "conflict");
}

async fn a_label_may_come_before_its_prediction(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let tenant = gateway.tenant("acme").await;
    let (key_id, key) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    // As if another replica had it in its spool.
    let request = Uuid::now_v7();
    let answer = tell(&gateway, &key, &request.to_string(), json!({"label": "7"})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body["status"], "pending");
    let of = (tenant.parse().expect("a tenant"), key_id.as_str());
    let prediction = prediction(request, of, Digest::from_bytes([1; 32]));
    let store = database.store().await;
    assert_eq!(store.add_predictions(&[prediction]).await, Ok(1));
    assert_eq!(told(&gateway, &key, &request.to_string()).await, "7");
    let again = tell(&gateway, &key, &request.to_string(), json!({"label": "1"})).await;
    again.assert_ok();
    // What comes from where the prediction is not known yet does not replace what was checked.
    let blind = said(request, of.0, "nonsense");
    assert_eq!(store.put_feedback(&[blind]).await, Ok(vec![true]));
    assert_eq!(told(&gateway, &key, &request.to_string()).await, "1");
}

async fn what_came_early_is_joined_later_or_goes(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let tenant = gateway.tenant("acme").await;
    let (key_id, key) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let digest = gateway.get("/v1/models/digits").await.body["versions"][0]["digest"].clone();
    let digest: Digest = digest.as_str().expect("text").parse().expect("a digest");
    let of: (TenantId, &str) = (tenant.parse().expect("a tenant"), &key_id);
    let store = database.store().await;
    // More than are looked at in one go, of which nothing will ever be known, and older than the others.
    let first = Utc::now() - TimeDelta::minutes(50);
    let lost: Vec<Feedback> = (0..1200)
        .map(|number| said(numbered(first, number), of.0, "7"))
        .collect();
    store.put_feedback(&lost).await.expect("kept");
    let [right, wrong, unanswered, foreign] = [(); 4].map(|()| Uuid::now_v7());
    for (id, label) in [
        (right, "7"),
        (wrong, "seven"),
        (unanswered, "7"),
        (foreign, "7"),
    ] {
        let answer = tell(&gateway, &key, &id.to_string(), json!({"label": label})).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
    let mut arriving: Vec<Prediction> = [right, wrong, unanswered]
        .map(|id| prediction(id, of, digest))
        .into();
    arriving[2].answer = None;
    let others = (TenantId(Uuid::from_u128(9)), key_id.as_str());
    arriving.push(prediction(foreign, others, digest));
    store.add_predictions(&arriving).await.expect("added");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut left = Vec::new();
        for id in [right, wrong, unanswered, foreign] {
            left.extend(store.find_feedback(id, of.0).await.expect("labels"));
        }
        let joined = left.iter().filter(|one| one.judged.is_some()).count();
        if (left.len(), joined) == (2, 1) {
            // The other tenant's prediction is none of it, and one of its own may still come.
            assert_eq!((&left[0].label[..], &left[0].judged), ("7", &Some(about())));
            assert_eq!(left[1].request_id, foreign);
            break;
        }
        assert!(Instant::now() < deadline, "it stays {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told(&gateway, &key, &right.to_string()).await, "7");
    assert_eq!(told(&gateway, &key, &wrong.to_string()).await, Value::Null);
    assert_eq!(
        store
            .unjoined_feedback(None, 5000)
            .await
            .expect("labels")
            .len(),
        1201
    );
}

/// The id of a request at a time, told apart by a number.
fn numbered(at: DateTime<Utc>, number: u128) -> Uuid {
    Uuid::from_u128(first_id_at(at).as_u128() + number)
}

async fn what_never_comes_goes_after_its_time(database: &TestDatabase) {
    let store = database.store().await;
    let clock = Arc::new(ManualClock::at(
        DateTime::from_timestamp(1_790_000_000, 0).expect("a time"),
    ));
    let labels_of = |one: &Subject, label: &str| {
        let by = one.answered_by.as_ref()?;
        (by.version.get() == 1).then_some(label == "7")
    };
    let new = || FeedbackJoiner::new(store.clone(), clock.clone(), labels_of);
    let mut joiner = new();
    let owner = TenantId(Uuid::from_u128(1));
    let key = Uuid::from_u128(2).to_string();
    let (now, month) = (clock.now(), TimeDelta::days(30));
    // From before a release that looks for what labels are about; a fresh one; one whose version nobody knows.
    let (old, lost) = (numbered(now - month, 1), numbered(now - month, 2));
    let (fresh, unknown) = (numbered(now, 1), numbered(now, 2));
    for request in [old, lost, fresh, unknown] {
        let label = said(request, owner, if request == unknown { "x" } else { "7" });
        store.put_feedback(&[label]).await.expect("kept");
    }
    let digest = Digest::from_bytes([1; 32]);
    let mut of_no_version = prediction(unknown, (owner, &key), digest);
    if let Some(by) = &mut of_no_version.answered_by {
        by.version = "2".parse().expect("a version");
    }
    let arrived = [prediction(old, (owner, &key), digest), of_no_version];
    store.add_predictions(&arrived).await.expect("added");
    let left = async || {
        let left = store.unjoined_feedback(None, 10).await.expect("labels");
        left.into_iter()
            .map(|one| one.request_id)
            .collect::<Vec<_>>()
    };
    let looked = joiner.look().await.expect("a look");
    assert_eq!((looked.joined, looked.deleted, looked.more), (2, 0, false));
    assert_eq!(left().await, [lost, fresh]);
    // What is over waits until looks have succeeded for a while: so do those of a gateway that starts anew.
    clock.advance(TimeDelta::minutes(9));
    assert_eq!(joiner.look().await.expect("a look").deleted, 0);
    clock.advance(TimeDelta::minutes(2));
    assert_eq!(new().look().await.expect("a look").deleted, 0);
    assert_eq!(joiner.look().await.expect("a look").deleted, 1);
    assert_eq!(left().await, [fresh]);
    // An hour after its request, and some more.
    clock.advance(TimeDelta::minutes(58));
    assert_eq!(joiner.look().await.expect("a look").deleted, 0);
    clock.advance(TimeDelta::minutes(2));
    assert_eq!(joiner.look().await.expect("a look").deleted, 1);
    assert!(left().await.is_empty());
    for (request, label) in [(old, "7"), (unknown, "x")] {
        let found = store.find_feedback(request, owner).await.expect("labels");
        assert_eq!((found.len(), &*found[0].label), (1, label));
        assert!(found[0].judged.is_some());
    }
}

/// Asserts what became of each item: its status, or the status and code of its error.
#[track_caller]
fn assert_results(answer: &Answer, items: &Value, expected: &[Result<&str, (u16, &str)>]) {
    let results = answer.assert_ok()["results"].as_array().expect("results");
    let items = items.as_array().expect("items");
    assert_eq!(
        (results.len(), items.len()),
        (expected.len(), expected.len()),
        "{answer:?}"
    );
    for ((result, item), expected) in results.iter().zip(items).zip(expected) {
        let index = item["index"].as_u64().unwrap_or_default();
        let mut wanted = json!({"request_id": item["request_id"], "index": index});
        match expected {
            Ok(status) => wanted["status"] = json!(status),
            Err((status, code)) => {
                wanted["error"] = result["error"].clone();
                let error = &result["error"];
                assert_eq!(
                    (&error["status"], &error["code"]),
                    (&json!(status), &json!(code))
                );
                assert_eq!(error["request_id"], answer.header("x-request-id"));
                assert!(error["title"].is_string() && error["detail"].is_string());
            }
        }
        assert_eq!(result, &wanted);
    }
}

async fn many_labels_are_taken_each_by_itself(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let tenant = gateway.tenant("acme").await;
    let (_, key) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let (_, narrow) = gateway
        .key(json!({"name": "narrow", "tenant_id": tenant, "models": ["other-*"]}))
        .await;
    let (_, other) = gateway.key(json!({"name": "other"})).await;
    let foreign = classify(&gateway, &other).await;
    let stored = classify(&gateway, &key).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // One in the database, one just now; and some of which nobody has heard.
    let spooled = classify(&gateway, &key).await;
    let early = Uuid::now_v7().to_string();
    let items = json!([
        {"request_id": stored, "label": "1"},
        {"request_id": spooled, "index": 0, "label": "9"},
        {"request_id": foreign, "label": "7"},
        {"request_id": early, "index": 3, "label": "whatever"},
        {"request_id": stored, "label": "seven"},
        {"request_id": stored, "index": 1, "label": "7"},
        {"request_id": "nonsense", "label": "7"},
        {"request_id": "0199aaaa-0000-7000-8000-000000000000", "label": "7"},
        {"request_id": stored, "label": ""},
        {"request_id": stored, "label": "2"},
    ]);
    let answer = tell_many(&gateway, &key, &items).await;
    let unknown = (404, "prediction_not_found");
    let expected = [
        Ok("joined"),
        Ok("joined"),
        Err(unknown),
        Ok("pending"),
        Err((422, "invalid_label")),
        Err(unknown),
        Err(unknown),
        Err(unknown),
        Err((422, "invalid_label")),
        Ok("joined"),
    ];
    assert_results(&answer, &items, &expected);
    // Of several for one picture the last one that was taken counts.
    assert_eq!(told(&gateway, &key, &stored).await, "2");
    assert_eq!(told(&gateway, &key, &spooled).await, "9");
    assert_eq!(told(&gateway, &other, &foreign).await, Value::Null);
    let hidden = tell_many(
        &gateway,
        &narrow,
        &json!([{"request_id": stored, "label": "7"}]),
    )
    .await;
    assert_eq!(
        hidden.assert_ok()["results"][0]["error"]["code"],
        "prediction_not_found"
    );
    let store = database.store().await;
    let of = tenant.parse().expect("a tenant");
    let kept = store
        .find_feedback(stored.parse().expect("an id"), of)
        .await;
    let judged = kept.expect("labels")[0].judged.clone().expect("joined");
    assert_eq!(
        (judged.model.as_str(), judged.class.as_str()),
        ("digits", "7")
    );
}

async fn a_list_of_labels_is_read_as_a_whole(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let (_, key) = gateway.key(json!({"name": "own"})).await;
    let id = classify(&gateway, &key).await;
    let items = |count: usize| Value::Array(vec![json!({"request_id": id, "label": "7"}); count]);
    tell_many(&gateway, &key, &items(1001))
        .await
        .assert_problem(413, "batch_too_large");
    let most = tell_many(&gateway, &key, &items(1000)).await;
    let results = most.assert_ok()["results"].as_array().expect("results");
    assert!(results.len() == 1000 && results.iter().all(|one| one["status"] == "joined"));
    let wrong = json!({"request_id": id, "label": "7", "index": 1.5});
    for bad in [
        json!([]),
        json!({}),
        json!([7]),
        json!([{"label": "7"}]),
        json!([{"request_id": id}]),
        json!([wrong]),
    ] {
        tell_many(&gateway, &key, &bad)
            .await
            .assert_problem(400, "bad_request");
    }
    let post = || {
        let request = gateway.anonymous(Method::POST, "/v1/predictions/feedback");
        request.bearer_auth(&key)
    };
    for body in ["", "{", "[]", "{}", r#"{"feedback": [], "more": 1}"#] {
        let refused = gateway.send(post().body(body)).await;
        refused.assert_problem(400, "bad_request");
    }
    let named = tell_many(
        &gateway,
        &key,
        &json!([{"request_id": id, "label": "7"}, wrong]),
    )
    .await;
    let detail = named.assert_problem(400, "bad_request");
    assert!(detail.contains("feedback[1].index"), "{detail}");
    let large = post().body(" ".repeat((1 << 20) + 1));
    gateway
        .send(large)
        .await
        .assert_problem(413, "payload_too_large");
    let text = post().header("content-type", "text/plain").body("{}");
    gateway
        .send(text)
        .await
        .assert_problem(415, "unsupported_media_type");
    // The path is no prediction's.
    let read = gateway.anonymous(Method::GET, "/v1/predictions/feedback");
    let read = gateway.send(read.bearer_auth(&key)).await;
    read.assert_problem(405, "method_not_allowed");
    assert_eq!(read.header("allow"), "POST");
}

async fn the_limit_comes_before_the_body(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let one = format!("/v1/predictions/{}/feedback", Uuid::now_v7());
    for path in [one.as_str(), "/v1/predictions/feedback"] {
        let limits = json!({"name": "slow", "requests_per_second": 0.001, "burst": 2});
        let (_, key) = gateway.key(limits).await;
        let post = |body: String| {
            let request = gateway.anonymous(Method::POST, path).bearer_auth(&key);
            gateway.send(request.body(body))
        };
        // A list costs as much as any request.
        let items = vec![json!({"request_id": Uuid::now_v7(), "label": "7"}); 100];
        let good = if path == one {
            json!({"label": "7"})
        } else {
            json!({"feedback": items})
        };
        let taken = post(good.to_string()).await;
        assert!(taken.status.is_success(), "{taken:?}");
        post("{".to_owned())
            .await
            .assert_problem(400, "bad_request");
        for body in [good.to_string(), "{".to_owned(), String::new()] {
            post(body).await.assert_problem(429, "rate_limited");
        }
    }
}

async fn labels_go_with_a_tenants_predictions(database: &TestDatabase) {
    let gateway = gateway(database).await;
    let tenant = gateway.tenant("acme").await;
    let (_, key) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let id = classify(&gateway, &key).await;
    let seven = || json!({"label": "7"});
    tell(&gateway, &key, &id, seven()).await.assert_ok();
    let path = format!("/predictions?tenant={tenant}");
    let deleted = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    let store = database.store().await;
    let (request, of) = (
        id.parse().expect("an id"),
        tenant.parse().expect("a tenant"),
    );
    assert_eq!(store.find_feedback(request, of).await, Ok(vec![]));
    // Nor can more be said of it, but of what comes later.
    tell(&gateway, &key, &id, seven())
        .await
        .assert_problem(404, "prediction_not_found");
    let later = classify(&gateway, &key).await;
    tell(&gateway, &key, &later, seven()).await.assert_ok();
    assert_eq!(store.prune_feedback(chrono::Utc::now()).await, Ok(0));
    let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
    assert_eq!(store.prune_feedback(tomorrow).await, Ok(1));
}
