//! What a receiver answers, and what follows.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    MODEL, all_are, callback, gateway, gateway_with, is_signed, secret, subscriber, until, upload,
};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::receiver::{Receiver, Reply};
use crate::fixture::store::TestStore;

contract![
    what_fails_is_tried_again_under_the_same_id,
    who_is_gone_is_told_no_more,
    a_redirect_is_not_followed,
    a_receiver_may_ask_for_a_longer_pause,
    a_slow_host_harms_no_other,
    what_was_not_delivered_goes_on_after_a_restart,
    what_was_given_up_is_sent_anew,
    an_inner_address_is_not_called,
];

fn statuses(shown: &Value) -> Vec<Value> {
    let log = shown["log"].as_array().expect("a log");
    log.iter()
        .rev()
        .map(|attempt| attempt["status"].clone())
        .collect()
}

async fn what_fails_is_tried_again_under_the_same_id(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    let receiver = Receiver::answering(|_, before| match before {
        0 => Reply::status(500),
        1 => Reply::status(404),
        _ => Reply::status(200),
    })
    .await;
    let gateway = gateway(&store, database).await;
    let tenant = subscriber(&gateway, "acme", &receiver.url("/"), &[]).await;
    let (_, secret) = secret(&gateway, &tenant, json!({})).await;
    upload(&gateway, 2).await;
    let came = receiver.until(3).await;
    for one in &came {
        assert_eq!(one.header("webhook-id"), came[0].header("webhook-id"));
        assert_eq!(one.body, came[0].body);
        assert!(is_signed(one, &secret), "each attempt is signed: {one:?}");
    }
    let items = until(&gateway, "", all_are("delivered")).await;
    let shown = callback(&gateway, &items[0]["id"]).await;
    assert_eq!(statuses(&shown), [500, 404, 200]);
    assert_eq!(shown["log"][2]["error"], "the answer was 500");
    assert_eq!(
        (&shown["attempts"], &shown["last_error"]),
        (&json!(3), &Value::Null)
    );
}

async fn who_is_gone_is_told_no_more(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    // The first waits for its time; the second says that nobody is there.
    let receiver = Receiver::answering(|_, before| match before {
        0 => Reply::Status(503, "retry-after: 3600\r\n".to_owned()),
        _ => Reply::status(410),
    })
    .await;
    let gateway = gateway(&store, database).await;
    subscriber(&gateway, "acme", &receiver.url("/"), &["version.live"]).await;
    upload(&gateway, 2).await;
    until(&gateway, "", |items| {
        items.iter().any(|one| one["last_status"] == 503)
    })
    .await;
    upload(&gateway, 3).await;
    let items = until(&gateway, "state=dead", |items| items.len() == 2).await;
    assert_eq!(items[0]["last_status"], 410, "newest first");
    assert_eq!(
        items[1]["last_error"],
        "the receiver has said that it is gone"
    );
    assert_eq!(receiver.received().len(), 2);
}

async fn a_redirect_is_not_followed(database: &TestDatabase) {
    let (store, inner) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let elsewhere = format!("location: {}\r\n", inner.url("/"));
    let receiver = Receiver::answering(move |_, before| match before {
        0 => Reply::Status(302, elsewhere.clone()),
        1 => Reply::Status(308, elsewhere.clone()),
        _ => Reply::status(200),
    })
    .await;
    let gateway = gateway(&store, database).await;
    subscriber(&gateway, "acme", &receiver.url("/"), &[]).await;
    upload(&gateway, 2).await;
    let items = until(&gateway, "", all_are("delivered")).await;
    let shown = callback(&gateway, &items[0]["id"]).await;
    assert_eq!(statuses(&shown), [302, 308, 200]);
    assert_eq!(
        shown["log"][2]["error"],
        "the answer was a redirect, which is not followed"
    );
    assert!(inner.received().is_empty(), "{:?}", inner.received());
}

async fn a_receiver_may_ask_for_a_longer_pause(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    let receiver =
        Receiver::answering(|_, _| Reply::Status(429, "retry-after: 7200\r\n".to_owned())).await;
    let gateway = gateway(&store, database).await;
    subscriber(&gateway, "acme", &receiver.url("/"), &[]).await;
    upload(&gateway, 2).await;
    let items = until(&gateway, "", |items| {
        items.iter().any(|one| one["last_status"] == 429)
    })
    .await;
    let time = |value: &Value| {
        let text = value.as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("a time")
    };
    let shown = callback(&gateway, &items[0]["id"]).await;
    let pause = time(&shown["next_attempt_at"]) - time(&shown["log"][0]["at"]);
    assert!(pause >= chrono::TimeDelta::hours(2), "{pause}");
    assert_eq!(shown["state"], "pending");
}

async fn a_slow_host_harms_no_other(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    let slow = Receiver::answering(|_, _| Reply::Never).await;
    let fast = Receiver::start().await;
    let settings = [
        "callbacks.max_concurrent=4",
        "callbacks.max_concurrent_per_host=1",
        "callbacks.timeout=300s",
    ];
    let gateway = gateway_with(&store, database, &settings).await;
    // The slow ones are first in line, and more than there are places.
    for number in 0..8 {
        let name = format!("slow {number}");
        subscriber(&gateway, &name, &slow.url("/"), &["version.live"]).await;
    }
    upload(&gateway, 2).await;
    slow.until(1).await;
    subscriber(&gateway, "fast", &fast.url_by_name("/"), &["version.live"]).await;
    for version in 3..6 {
        upload(&gateway, version).await;
    }
    let came = fast.until(3).await;
    assert!(came.iter().all(|one| one.kind() == "version.live"));
    until(&gateway, "state=delivered", |items| items.len() == 3).await;
    let waiting = until(&gateway, "state=pending&limit=1000", |_| true).await;
    assert_eq!(waiting.len(), 8 * 4);
    assert_eq!(slow.received().len(), 1, "one at a time");
}

async fn what_was_not_delivered_goes_on_after_a_restart(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    let receiver = Receiver::answering(|_, before| match before {
        0 => Reply::status(503),
        1 => Reply::Never,
        _ => Reply::status(200),
    })
    .await;
    let mut first = gateway(&store, database).await;
    subscriber(&first, "acme", &receiver.url("/"), &[]).await;
    upload(&first, 2).await;
    // It stops in the middle of an attempt, and gives the delivery back.
    receiver.until(2).await;
    first.join();
    let second = gateway(&store, database).await;
    let came = receiver.until(3).await;
    assert_eq!(came[2].header("webhook-id"), came[0].header("webhook-id"));
    until(&second, "", all_are("delivered")).await;
}

async fn what_was_given_up_is_sent_anew(database: &TestDatabase) {
    let store = TestStore::tiny(&[MODEL]);
    let receiver = Receiver::answering(|_, before| match before {
        0 => Reply::status(410),
        _ => Reply::status(200),
    })
    .await;
    let gateway = gateway(&store, database).await;
    subscriber(&gateway, "acme", &receiver.url("/"), &[]).await;
    upload(&gateway, 2).await;
    let dead = until(&gateway, "state=dead", |items| items.len() == 1).await;
    let id = dead[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/callbacks/{id}/redeliver");
    let anew = gateway.admin(Method::POST, &path, None).await;
    assert_eq!(anew.status, 202, "{anew:?}");
    assert_eq!(anew.body["id"], id);
    let came = receiver.until(2).await;
    assert_eq!(came[1].header("webhook-id"), id);
    let done = until(&gateway, "", all_are("delivered")).await;
    assert_eq!(done[0]["attempts"], 1, "counted anew");
    let shown = callback(&gateway, &done[0]["id"]).await;
    assert_eq!(statuses(&shown), [410, 200]);
    // What has arrived can be sent anew too.
    let again = gateway.admin(Method::POST, &path, None).await;
    assert_eq!(again.status, 202, "{again:?}");
    receiver.until(3).await;
    until(&gateway, "", all_are("delivered")).await;
    let audit = gateway
        .admin(Method::GET, "/audit?action=callback.redeliver", None)
        .await;
    assert_eq!(
        audit.assert_ok()["items"].as_array().expect("items").len(),
        2
    );
    let nothing = "/callbacks/0199aaaa-0000-7000-8000-000000000000/redeliver";
    gateway
        .admin(Method::POST, nothing, None)
        .await
        .assert_problem(404, "not_found");
}

async fn an_inner_address_is_not_called(database: &TestDatabase) {
    let (store, inner) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let url = format!("store.url={}", database.url);
    let mut open = gateway(&store, database).await;
    // Both were taken while they were allowed.
    subscriber(&open, "by number", &inner.url("/number"), &["version.live"]).await;
    subscriber(
        &open,
        "by name",
        &inner.url_by_name("/name"),
        &["version.live"],
    )
    .await;
    open.join();
    let settings = [url.as_str(), "callbacks.first_retry=20ms"];
    let strict = TestGateway::start(store.path(), &settings).await;
    upload(&strict, 2).await;
    let items = until(&strict, "", |items| {
        items.len() == 2 && all_are("dead")(items)
    })
    .await;
    for item in &items {
        let shown = callback(&strict, &item["id"]).await;
        let error = shown["last_error"].as_str().expect("an error");
        assert!(error.contains("open internet"), "{error}");
        assert_eq!(shown["last_status"], Value::Null);
    }
    assert!(inner.received().is_empty(), "{:?}", inner.received());
}
