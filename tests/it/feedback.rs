//! True labels, sent after the prediction: for one's own alone, the last one counts, and none is lost that comes early.

use lensgate::domain::ids::Digest;
use lensgate::domain::prediction::{
    Answer as Answered, AnsweredBy, Asked, PredictedClass, Prediction, Spent,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::{read, root};

contract![
    a_label_is_kept_with_its_prediction,
    what_cannot_be_said_is_refused,
    a_label_may_come_before_its_prediction,
    labels_go_with_a_tenants_predictions,
];

async fn gateway(database: &TestDatabase) -> TestGateway {
    let url = format!("store.url={}", database.url);
    TestGateway::start(&root().join("model-store"), &[&url]).await
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
    let class = PredictedClass {
        class: "1".to_owned(),
        index: 1,
        confidence: 0.5,
    };
    let prediction = Prediction {
        asked: Asked {
            request_id: request,
            tenant: tenant.parse().expect("a tenant"),
            key: key_id.parse().expect("a key"),
            client_request_id: None,
            trace_id: None,
        },
        index: 0,
        model: "digits".parse().expect("an id"),
        answered_by: Some(AnsweredBy {
            version: "1".parse().expect("a version"),
            digest: Digest::from_bytes([1; 32]),
            arm: None,
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
    };
    let store = database.store().await;
    assert_eq!(store.add_predictions(&[prediction]).await, Ok(1));
    assert_eq!(told(&gateway, &key, &request.to_string()).await, "7");
    let again = tell(&gateway, &key, &request.to_string(), json!({"label": "1"})).await;
    again.assert_ok();
    // What comes from where the prediction is not known yet does not replace what was checked.
    let blind = lensgate::domain::feedback::Feedback {
        request_id: request,
        index: 0,
        tenant: tenant.parse().expect("a tenant"),
        label: "nonsense".to_owned(),
        at: chrono::Utc::now(),
    };
    assert_eq!(store.put_feedback(&blind, false).await, Ok(true));
    assert_eq!(told(&gateway, &key, &request.to_string()).await, "1");
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
