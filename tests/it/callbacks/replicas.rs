//! Several replicas over one database: each callback is sent by one of them.

use std::collections::BTreeSet;

use chrono::SubsecRound as _;
use lensgate::domain::callback::{EventKind, NewDelivery};
use lensgate::store::Telling;
use serde_json::{Value, json};

use super::{MODEL, all_are, gateway, subscriber, until, upload};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::postgres;
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::receiver::Receiver;
use crate::fixture::store::TestStore;

contract![
    two_replicas_send_each_callback_once,
    two_replicas_tell_an_event_once
];

/// Puts so many callbacks into the outbox at once, as a gateway would.
async fn put(database: &TestDatabase, tenant: &str, url: &str, count: usize) {
    let now = chrono::Utc::now().trunc_subsecs(6);
    let tenant = tenant.parse().expect("an id");
    let deliveries: Vec<_> = (0..count)
        .map(|number| {
            let data = json!({"number": number});
            NewDelivery::of(EventKind::PredictionCompleted, tenant, url, &data, now)
        })
        .collect();
    let telling = Telling {
        subject: "a test".to_owned(),
        event: EventKind::PredictionCompleted,
        mark: now.to_rfc3339(),
        settles: false,
    };
    let store = database.store().await;
    let told = store.tell_once(&telling, &deliveries, now).await;
    assert_eq!(told, Ok(true));
}

fn numbers(receiver: &Receiver) -> Vec<Value> {
    let came = receiver.received();
    let number = |one: &crate::fixture::receiver::Received| one.json()["data"]["number"].clone();
    came.iter().map(number).collect()
}

async fn two_replicas_send_each_callback_once(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let one = gateway(&store, database).await;
    let _two = gateway(&store, database).await;
    let tenant = subscriber(&one, "acme", &receiver.url("/"), &["prediction.completed"]).await;
    put(database, &tenant, &receiver.url("/"), 60).await;
    let items = until(&one, "limit=1000", all_are("delivered")).await;
    assert_eq!(items.len(), 60);
    assert!(items.iter().all(|item| item["attempts"] == 1), "{items:?}");
    let numbers = numbers(&receiver);
    let different: BTreeSet<String> = numbers.iter().map(ToString::to_string).collect();
    assert_eq!((numbers.len(), different.len()), (60, 60));
}

async fn two_replicas_tell_an_event_once(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let one = gateway(&store, database).await;
    let two = gateway(&store, database).await;
    subscriber(&one, "acme", &receiver.url("/"), &["version.live"]).await;
    for version in 2..5 {
        upload(&one, version).await;
        let live = move |view: &Value| {
            let versions = view["versions"].as_array().expect("versions");
            let is = |one: &Value| one["version"] == version && one["state"] == "live";
            versions.iter().any(is)
        };
        two.until(MODEL, live).await;
    }
    receiver.until(3).await;
    let items = until(&two, "limit=1000", all_are("delivered")).await;
    let versions: Vec<_> = receiver
        .received()
        .iter()
        .map(|came| came.json()["data"]["version"].clone())
        .collect();
    let different: BTreeSet<String> = versions.iter().map(ToString::to_string).collect();
    assert_eq!(
        (items.len(), versions.len(), different.len()),
        (3, 3, 3),
        "{versions:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_is_waited_for() {
    let url = postgres::database().await;
    let (server, name) = url.rsplit_once('/').expect("a URL");
    let address = server.rsplit_once('@').expect("a user").1;
    let proxy = Proxy::to(address.parse().expect("an address")).await;
    let through = server.replace(address, &proxy.address.to_string());
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let setting = format!("store.url={through}/{name}");
    let settings = [
        setting.as_str(),
        "store.call_timeout=1s",
        "callbacks.allow_private=true",
    ];
    let gateway = TestGateway::start(store.path(), &settings).await;
    subscriber(&gateway, "acme", &receiver.url("/"), &["version.live"]).await;
    proxy.set(Way::Cut);
    // What happens meanwhile is told when the store is back.
    store.place_version(MODEL, 2, &super::graph(2));
    gateway
        .until(MODEL, |view| {
            view["versions"]
                .as_array()
                .is_some_and(|all| all.len() == 2)
        })
        .await;
    assert!(receiver.received().is_empty());
    proxy.set(Way::Open);
    let came = receiver.until(1).await.remove(0);
    assert_eq!(came.json()["data"]["version"], 2);
    until(&gateway, "", all_are("delivered")).await;
}
