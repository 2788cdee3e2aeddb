//! A database that is away: nobody who classifies notices, operators are told, nothing that was used is lost.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::postgres;
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

async fn classify(gateway: &TestGateway, secret: &str) -> StatusCode {
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let request = request.bearer_auth(secret);
    let request = request.header("content-type", "image/png").body(picture);
    gateway.send(request).await.status
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "it never comes about: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn an_outage(way: Way) {
    let url = postgres::database().await;
    let (proxy, through) = Proxy::before(&url).await;
    let setting = format!("store.url={through}");
    let store = TestStore::digits();
    let settings = [
        setting.as_str(),
        "store.call_timeout=1s",
        "cache.max_bytes=0",
    ];
    let mut gateway = TestGateway::start(store.path(), &settings).await;
    let (id, secret) = gateway
        .key(json!({"name": "app", "images_per_day": 1000}))
        .await;
    let status = async || gateway.admin(Method::GET, "/status", None).await.body;
    proxy.set(way);
    until("the status says that it is away", async || {
        assert_eq!(classify(&gateway, &secret).await, StatusCode::OK);
        status().await["store"]["status"] == "away"
    })
    .await;
    assert_eq!(status().await["status"], "degraded");
    let mut used = 0;
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(classify(&gateway, &secret).await, StatusCode::OK);
        used += 1;
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "a request waited for the database"
        );
    }
    gateway.get("/health/ready").await.assert_ok();
    let refused = gateway
        .admin(Method::POST, "/tenants", Some(json!({"name": "acme"})))
        .await;
    refused.assert_problem(503, "store_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    proxy.set(Way::Open);
    until("it is back, and has what was predicted", async || {
        let status = status().await;
        status["store"]["status"] == "ok" && status["status"] == "ok"
    })
    .await;
    let tenant = gateway
        .admin(Method::POST, "/tenants", Some(json!({"name": "after"})))
        .await;
    assert_eq!(tenant.status, StatusCode::CREATED, "{tenant:?}");
    let before = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    let before = before.assert_ok()["images_today"]
        .as_u64()
        .expect("a count");
    assert!(before >= used, "{before} of at least {used}");
    // What was used while it was away is told to it, at the end at the latest.
    gateway.join();
    let gateway = TestGateway::start(store.path(), &[&format!("store.url={url}")]).await;
    let after = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    assert_eq!(after.assert_ok()["images_today"].as_u64(), Some(before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_cut_off_is_noticed_by_operators_alone() {
    an_outage(Way::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_is_noticed_by_operators_alone() {
    an_outage(Way::Stalled).await;
}
