//! Callbacks, from an event to a real receiver: signed, tried again, one replica at a time, and only where they may go.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::receiver::Received;
use crate::fixture::store::{TestStore, noted};
use crate::fixture::{data, read};

mod delivery;
mod replicas;
mod secrets;
mod subscriptions;

const MODEL: &str = "rgb-f32";

/// A gateway over a database, whose callbacks may go to this machine and are soon tried again.
async fn gateway(store: &TestStore, database: &TestDatabase) -> TestGateway {
    gateway_with(store, database, &[]).await
}

async fn gateway_with(
    store: &TestStore,
    database: &TestDatabase,
    settings: &[&str],
) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let usual = [
        url.as_str(),
        "callbacks.allow_private=true",
        "callbacks.first_retry=20ms",
    ];
    TestGateway::start(store.path(), &[&usual[..], settings].concat()).await
}

/// A tenant that is told these events at an address, and may use all models; gives its id.
async fn subscriber(gateway: &TestGateway, name: &str, url: &str, events: &[&str]) -> String {
    let body = json!({"name": name, "callback_url": url, "events": events});
    let made = gateway.admin(Method::POST, "/tenants", Some(body)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let id = made.body["id"].as_str().expect("an id").to_owned();
    gateway.key(json!({"name": name, "tenant_id": id})).await;
    id
}

/// Another secret of a tenant.
async fn secret(gateway: &TestGateway, tenant: &str, body: Value) -> (String, String) {
    let path = format!("/tenants/{tenant}/callback-secrets");
    let made = gateway.admin(Method::POST, &path, Some(body)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let text = |field: &str| made.body[field].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

/// A graph that no other number gives.
fn graph(number: u32) -> Vec<u8> {
    noted(&read(data("models/rgb-f32/1/model.onnx")), number)
}

/// Puts a version in place, and waits until it is live.
async fn upload(gateway: &TestGateway, version: u32) {
    let path = format!("/models/{MODEL}/versions/{version}");
    let request = gateway.admin_request(Method::PUT, &path);
    let answer = gateway.send(request.body(graph(version))).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

/// Waits until a list of callbacks is as wanted; gives its items.
async fn until(
    gateway: &TestGateway,
    query: &str,
    wanted: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let list = gateway
            .admin(Method::GET, &format!("/callbacks?{query}"), None)
            .await;
        let items = list.assert_ok()["items"].as_array().expect("items").clone();
        if wanted(&items) {
            return items;
        }
        assert!(Instant::now() < deadline, "{query}: it stays {items:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One callback as the admin plane shows it.
async fn callback(gateway: &TestGateway, id: &Value) -> Value {
    let id = id.as_str().expect("an id");
    let shown = gateway
        .admin(Method::GET, &format!("/callbacks/{id}"), None)
        .await;
    shown.assert_ok().clone()
}

/// Whether the scheme's own library takes it.
fn is_signed(came: &Received, secret: &str) -> bool {
    let webhook = Webhook::new(secret).expect("a secret of the scheme");
    webhook.verify(&came.body, &came.headers).is_ok()
}

fn all_are(state: &str) -> impl Fn(&[Value]) -> bool {
    move |items| !items.is_empty() && items.iter().all(|item| item["state"] == state)
}
