//! Status, reload and events; and that the admin plane keeps to itself.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::{TestStore, noted};
use crate::fixture::{read, root};

#[tokio::test]
async fn the_status_says_what_serves_and_what_does_not() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let status = gateway.admin(Method::GET, "/status", None).await;
    let view = status.assert_ok();
    assert_eq!(
        (&view["status"], &view["degraded"]),
        (&json!("ok"), &json!([]))
    );
    assert_eq!(view["phase"], "serving");
    assert_eq!(view["models"]["models"], 1);
    assert_eq!(view["models"]["versions"]["live"], 2);
    assert_eq!(view["store"]["status"], "ok");
    assert!(
        view["store"]["engine"]
            .as_str()
            .expect("text")
            .starts_with("SQLite 3.")
    );
    assert_eq!(view["access"]["keys"], 1);

    store.place("digits/3/model.onnx", b"nonsense");
    gateway
        .until("digits", |view| view["versions"][2]["state"] == "failed")
        .await;
    let status = gateway.admin(Method::GET, "/status", None).await;
    assert_eq!(status.assert_ok()["status"], "degraded");
    let reason = status.body["degraded"][0].as_str().expect("a reason");
    assert!(
        reason.starts_with("models/digits/versions/3 failed: "),
        "{reason}"
    );
}

#[tokio::test]
async fn events_are_heard_as_they_happen() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let mut stream = gateway
        .admin_request(Method::GET, "/events")
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut heard = String::new();
    gateway.tenant("acme").await;
    let graph = noted(&read(root().join("model-store/digits/1/model.onnx")), 1);
    store.place_version("digits", 3, &graph);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !(heard.contains("event: tenant.created") && heard.contains("event: version.live")) {
        assert!(std::time::Instant::now() < deadline, "heard only {heard}");
        let piece = tokio::time::timeout(Duration::from_secs(20), stream.chunk()).await;
        let piece = piece
            .expect("in time")
            .expect("a piece")
            .expect("not the end");
        heard.push_str(&String::from_utf8_lossy(&piece));
    }
    let event = heard
        .split("\n\n")
        .find(|event| event.contains("tenant.created"))
        .expect("there");
    let data = event
        .lines()
        .find_map(|line| line.strip_prefix("data: ").or(line.strip_prefix("data:")));
    let data: Value = serde_json::from_str(data.expect("data")).expect("JSON");
    assert_eq!(data["kind"], "tenant.created");
    assert_eq!(data["about"]["name"], "acme");
    assert!(
        data["subject"]
            .as_str()
            .expect("text")
            .starts_with("tenants/")
    );
}

#[tokio::test]
async fn an_open_stream_of_events_does_not_hold_up_the_end() {
    let store = TestStore::digits();
    let mut gateway = TestGateway::start(store.path(), &[]).await;
    let stream = gateway
        .admin_request(Method::GET, "/events")
        .send()
        .await
        .expect("a stream");
    let started = std::time::Instant::now();
    gateway.join();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    drop(stream);
}

#[tokio::test]
async fn a_reload_looks_at_every_model() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(
        store.path(),
        &["model_store.watch=false", "model_store.scan_interval=1h"],
    )
    .await;
    let graph = noted(&read(root().join("model-store/digits/1/model.onnx")), 1);
    store.place_version("digits", 3, &graph);
    gateway
        .admin(Method::POST, "/reload", None)
        .await
        .assert_ok();
    gateway
        .until("digits", |view| view["versions"][2]["state"] == "live")
        .await;
}

#[tokio::test]
async fn the_planes_do_not_serve_each_others_routes() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway
        .get("/admin/v1/status")
        .await
        .assert_problem(404, "not_found");
    let ask = async |path: &str| {
        let request = gateway.bare.get(format!("{}{path}", gateway.admin_base));
        gateway.send(request).await
    };
    ask("/v1/models").await.assert_problem(404, "not_found");
    ask("/admin/v1/nothing")
        .await
        .assert_problem(404, "not_found");
    ask("/health").await.assert_ok();
    ask("/health/ready").await.assert_ok();
    let document = ask("/openapi.json").await;
    assert_eq!(
        document.assert_ok()["info"]["title"],
        "Lensgate admin plane"
    );
    let page = ask("/docs").await;
    assert!(
        page.assert_ok()
            .as_str()
            .expect("a page")
            .contains("Lensgate admin plane")
    );
    let wrong = gateway.admin(Method::PUT, "/tenants", None).await;
    wrong.assert_problem(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), "GET, HEAD, POST");
}
