//! API keys: the secret once, limits, rotation with an overlap, revocation at once.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

async fn classify(gateway: &TestGateway, secret: &str) -> Answer {
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    gateway
        .send(
            request
                .bearer_auth(secret)
                .header("content-type", "image/png")
                .body(seven()),
        )
        .await
}

#[tokio::test]
async fn a_secret_is_shown_once_and_opens() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let body = json!({"tenant_id": tenant, "name": "app"});
    let made = gateway.admin(Method::POST, "/keys", Some(body)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let secret = made.body["secret"].as_str().expect("a secret");
    assert!(secret.starts_with("lg_") && secret.len() == 52, "{secret}");
    assert_eq!(made.body["scopes"], json!(["classify", "feedback", "read"]));
    assert_eq!(made.body["models"], json!(["*"]));
    for limit in [
        "requests_per_second",
        "burst",
        "images_per_day",
        "max_image_bytes",
        "expires_at",
    ] {
        assert_eq!(made.body[limit], Value::Null, "{limit}");
    }
    classify(&gateway, secret).await.assert_ok();

    let path = format!("/keys/{}", made.body["id"].as_str().expect("an id"));
    let one = gateway.admin(Method::GET, &path, None).await;
    let all = gateway
        .admin(Method::GET, &format!("/keys?tenant_id={tenant}"), None)
        .await;
    assert_eq!(all.assert_ok()["items"].as_array().expect("items").len(), 1);
    let audit = gateway.admin(Method::GET, "/audit", None).await;
    for answer in [&one, &all, &audit] {
        let text = answer.assert_ok().to_string();
        assert!(!text.contains(&secret[8..]), "the secret shows in {text}");
    }
    assert_eq!(one.body["hint"], format!("{}…", &secret[..8]));
    assert_ne!(one.body["last_used_at"], Value::Null);
    assert_eq!(one.body["images_today"], 1);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_from_then_on() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (id, secret) = gateway.key(json!({"name": "app"})).await;
    classify(&gateway, &secret).await.assert_ok();
    let gone = gateway
        .admin(Method::DELETE, &format!("/keys/{id}"), None)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let refused = classify(&gateway, &secret).await;
    refused.assert_problem(401, "invalid_credentials");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn a_deleted_tenants_keys_open_nothing() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (id, secret) = gateway
        .key(json!({"name": "app", "tenant_id": tenant}))
        .await;
    classify(&gateway, &secret).await.assert_ok();
    let gone = gateway
        .admin(Method::DELETE, &format!("/tenants/{tenant}"), None)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    classify(&gateway, &secret)
        .await
        .assert_problem(401, "invalid_credentials");
    let key = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    key.assert_problem(404, "not_found");
}

#[tokio::test]
async fn rotation_gives_a_new_secret_and_an_overlap_where_asked() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (id, first) = gateway.key(json!({"name": "app"})).await;
    let rotate = async |body: Option<Value>| {
        let answer = gateway
            .admin(Method::POST, &format!("/keys/{id}/rotate"), body)
            .await;
        answer.assert_ok()["secret"]
            .as_str()
            .expect("a secret")
            .to_owned()
    };
    let second = rotate(None).await;
    assert_ne!(first, second);
    classify(&gateway, &first)
        .await
        .assert_problem(401, "invalid_credentials");
    classify(&gateway, &second).await.assert_ok();

    let third = rotate(Some(json!({"overlap_s": 3600}))).await;
    classify(&gateway, &second).await.assert_ok();
    classify(&gateway, &third).await.assert_ok();
    let view = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    assert_ne!(view.assert_ok()["previous_secret_until"], Value::Null);

    let fourth = rotate(Some(json!({"overlap_s": 1}))).await;
    classify(&gateway, &second)
        .await
        .assert_problem(401, "invalid_credentials");
    classify(&gateway, &third).await.assert_ok();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while classify(&gateway, &third).await.status == StatusCode::OK {
        assert!(
            std::time::Instant::now() < deadline,
            "the overlap does not end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    classify(&gateway, &fourth).await.assert_ok();

    let path = format!("/keys/{id}/rotate");
    for body in [
        json!({"overlap_s": 99_999_999}),
        json!({"overlap_s": -1}),
        json!({"overlap": 1}),
    ] {
        let answer = gateway.admin(Method::POST, &path, Some(body)).await;
        answer.assert_problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_changed_limit_is_in_force_and_gives_nobody_a_new_start() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let limits = json!({"name": "app", "requests_per_second": 0.001, "burst": 3});
    let (id, secret) = gateway.key(limits).await;
    for _ in 0..3 {
        classify(&gateway, &secret).await.assert_ok();
    }
    let refused = classify(&gateway, &secret).await;
    refused.assert_problem(429, "rate_limited");
    assert!(
        refused
            .header("retry-after")
            .parse::<u64>()
            .expect("seconds")
            > 100
    );
    let patch = async |patch: Value| {
        let answer = gateway
            .admin(Method::PATCH, &format!("/keys/{id}"), Some(patch))
            .await;
        answer.assert_ok().clone()
    };
    patch(json!({"name": "renamed"})).await;
    classify(&gateway, &secret)
        .await
        .assert_problem(429, "rate_limited");
    patch(json!({"burst": 4})).await;
    classify(&gateway, &secret).await.assert_ok();
    classify(&gateway, &secret)
        .await
        .assert_problem(429, "rate_limited");
    patch(json!({"limit_mode": "observe"})).await;
    classify(&gateway, &secret).await.assert_ok();
    patch(json!({"limit_mode": "enforce"})).await;
    classify(&gateway, &secret)
        .await
        .assert_problem(429, "rate_limited");
    let view = patch(json!({"requests_per_second": null, "burst": null})).await;
    assert_eq!(view["requests_per_second"], Value::Null);
    classify(&gateway, &secret).await.assert_ok();
    patch(json!({"models": ["other-*"]})).await;
    classify(&gateway, &secret)
        .await
        .assert_problem(404, "model_not_found");
    patch(json!({"models": null, "scopes": ["read"]})).await;
    classify(&gateway, &secret)
        .await
        .assert_problem(403, "forbidden");
    patch(json!({"scopes": null, "expires_at": "2020-01-01T00:00:00Z"})).await;
    classify(&gateway, &secret)
        .await
        .assert_problem(401, "invalid_credentials");
    patch(json!({"expires_at": null})).await;
    classify(&gateway, &secret).await.assert_ok();
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    for (field, value) in [
        ("name", json!("")),
        ("scopes", json!(["admin"])),
        ("scopes", json!([])),
        ("scopes", json!("classify")),
        ("models", json!([])),
        ("models", json!(["../x"])),
        ("requests_per_second", json!(0)),
        ("requests_per_second", json!(-1)),
        ("requests_per_second", json!("5")),
        ("burst", json!(0)),
        ("burst", json!(1.5)),
        ("images_per_day", json!(0)),
        ("images_per_day", json!(u64::MAX)),
        ("max_image_bytes", json!(-5)),
        ("limit_mode", json!("off")),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!(12)),
        ("colour", json!("red")),
    ] {
        let mut body = json!({"tenant_id": tenant, "name": "app"});
        body[field] = value;
        let answer = gateway
            .admin(Method::POST, "/keys", Some(body.clone()))
            .await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains(field), "{body}: {detail}");
    }
    let body = json!({"tenant_id": "x", "name": "app"});
    gateway
        .admin(Method::POST, "/keys", Some(body))
        .await
        .assert_problem(400, "bad_request");
    let nobody = "0199aaaa-0000-7000-8000-000000000000";
    let body = json!({"tenant_id": nobody, "name": "app"});
    gateway
        .admin(Method::POST, "/keys", Some(body))
        .await
        .assert_problem(404, "not_found");
    let all = gateway.admin(Method::GET, "/keys", None).await;
    assert_eq!(
        all.assert_ok()["items"].as_array().expect("items").len(),
        1,
        "only the first"
    );
}
