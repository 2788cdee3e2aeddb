//! Events of versions: told once to the tenants that want them and may use the model.

use reqwest::Method;
use serde_json::json;

use super::{
    MODEL, all_are, callback, gateway, graph, is_signed, secret, subscriber, until, upload,
};
use crate::fixture::database::TestDatabase;
use crate::fixture::receiver::Receiver;
use crate::fixture::store::{TestStore, digest};

contract![
    a_version_that_is_live_is_told_signed,
    nobody_is_told_again_after_a_restart,
    those_are_told_who_want_it_and_may,
];

async fn a_version_that_is_live_is_told_signed(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let gateway = gateway(&store, database).await;
    let tenant = subscriber(&gateway, "acme", &receiver.url("/hook?a=b"), &[]).await;
    let (_, secret) = secret(&gateway, &tenant, json!({})).await;
    upload(&gateway, 2).await;
    let came = receiver.until(1).await.remove(0);
    assert!(is_signed(&came, &secret), "{came:?}");
    assert_eq!(came.path, "/hook?a=b");
    assert_eq!(came.header("content-type"), "application/json");
    assert!(came.header("user-agent").starts_with("lensgate/"));
    let body = came.json();
    assert_eq!(body["type"], "version.live");
    let told = json!({"model": MODEL, "version": 2, "digest": digest(&graph(2))});
    assert_eq!(body["data"], told);
    let at = body["timestamp"].as_str().expect("a time");
    assert!(chrono::DateTime::parse_from_rfc3339(at).is_ok(), "{at}");

    let items = until(&gateway, &format!("tenant={tenant}"), all_are("delivered")).await;
    assert_eq!(items.len(), 1, "{items:?}");
    let shown = callback(&gateway, &items[0]["id"]).await;
    assert_eq!(shown["id"], came.header("webhook-id"));
    assert_eq!(shown["event"], "version.live");
    assert_eq!(shown["tenant_id"], tenant);
    assert_eq!(
        (&shown["attempts"], &shown["last_status"]),
        (&json!(1), &json!(204))
    );
    assert_eq!(shown["body"], body);
    assert_eq!(shown["log"].as_array().expect("a log").len(), 1);
    assert_eq!(shown["log"][0]["status"], 204);
    assert!(shown["finished_at"].is_string() && shown["next_attempt_at"].is_null());

    // A graph that may not serve.
    let path = format!("/models/{MODEL}/versions/3");
    store.place_version(MODEL, 3, b"no graph at all");
    let came = receiver.until(2).await.remove(1);
    let body = came.json();
    assert_eq!(
        (&body["type"], &body["data"]["version"]),
        (&json!("version.failed"), &json!(3))
    );
    let reason = body["data"]["reason"].as_str().expect("a reason");
    let shown = gateway.admin(Method::GET, &path, None).await;
    assert_eq!(shown.assert_ok()["reason"], reason);
}

async fn nobody_is_told_again_after_a_restart(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let mut first = gateway(&store, database).await;
    subscriber(&first, "acme", &receiver.url("/"), &["version.live"]).await;
    upload(&first, 2).await;
    receiver.until(1).await;
    until(&first, "", all_are("delivered")).await;
    first.join();
    // While nobody serves, a version comes: it is told when somebody does.
    store.place_version(MODEL, 3, &graph(3));
    let second = gateway(&store, database).await;
    let came = receiver.until(2).await;
    upload(&second, 4).await;
    let all = receiver.until(3).await;
    let versions: Vec<_> = all
        .iter()
        .map(|one| one.json()["data"]["version"].clone())
        .collect();
    assert_eq!(versions, [2, 3, 4], "{came:?}");
    let items = until(&second, "event=version.live", all_are("delivered")).await;
    assert_eq!(items.len(), 3);
}

async fn those_are_told_who_want_it_and_may(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let gateway = gateway(&store, database).await;
    let url = |path: &str| receiver.url(path);
    let all = subscriber(&gateway, "all", &url("/all"), &[]).await;
    let named = subscriber(&gateway, "named", &url("/named"), &["version.live"]).await;
    subscriber(&gateway, "failures", &url("/failures"), &["version.failed"]).await;
    // Without a key for the model; without an address.
    let body = json!({"name": "other", "callback_url": url("/other")});
    let other = gateway.admin(Method::POST, "/tenants", Some(body)).await;
    let other = other.body["id"].as_str().expect("an id").to_owned();
    let key = json!({"name": "k", "tenant_id": other, "models": ["digits"]});
    gateway.key(key).await;
    let silent = gateway.tenant("silent").await;
    gateway.key(json!({"name": "k", "tenant_id": silent})).await;

    upload(&gateway, 2).await;
    let items = until(&gateway, "", |items| {
        items.len() == 2 && all_are("delivered")(items)
    })
    .await;
    let mut told: Vec<_> = items.iter().map(|one| one["tenant_id"].clone()).collect();
    told.sort_by_key(ToString::to_string);
    let mut expected = [json!(all), json!(named)];
    expected.sort_by_key(ToString::to_string);
    assert_eq!(told, expected);
    let mut paths: Vec<_> = receiver
        .received()
        .into_iter()
        .map(|one| one.path)
        .collect();
    paths.sort();
    assert_eq!(paths, ["/all", "/named"]);
    let of_one = until(&gateway, &format!("tenant={all}&state=delivered"), |_| true).await;
    assert_eq!(of_one.len(), 1);
    let none = until(&gateway, "state=dead", |_| true).await;
    assert!(none.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_and_addresses_are_checked_when_they_are_given() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = crate::fixture::gateway::TestGateway::start(store.path(), &[]).await;
    let id = gateway.tenant("acme").await;
    for (body, word) in [
        (json!({"events": ["version.seen"]}), "version.seen"),
        (json!({"callback_url": "http://127.0.0.1/"}), "callback_url"),
        (
            json!({"callback_url": "http://2130706433/"}),
            "callback_url",
        ),
        (
            json!({"callback_url": "http://[fd00:ec2::254]/"}),
            "callback_url",
        ),
        (
            json!({"callback_url": "https://u:p@example.com/"}),
            "callback_url",
        ),
        (
            json!({"callback_url": "https://example.com/#x"}),
            "callback_url",
        ),
    ] {
        let path = format!("/tenants/{id}");
        let answer = gateway
            .admin(Method::PATCH, &path, Some(body.clone()))
            .await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let events = [
        "version.live",
        "rollout.promoted",
        "rollout.rolled_back",
        "version.live",
    ];
    let good = json!({"callback_url": "https://example.com/hook", "events": events});
    let path = format!("/tenants/{id}");
    let answer = gateway.admin(Method::PATCH, &path, Some(good)).await;
    assert_eq!(answer.assert_ok()["events"], json!(events[..3]));
    for query in [
        "state=lost",
        "event=version.seen",
        "tenant=x",
        "after=x",
        "limit=0",
    ] {
        let answer = gateway
            .admin(Method::GET, &format!("/callbacks?{query}"), None)
            .await;
        answer.assert_problem(400, "bad_request");
    }
    for path in [
        "/callbacks/x",
        "/callbacks/0199aaaa-0000-7000-8000-000000000000",
    ] {
        gateway
            .admin(Method::GET, path, None)
            .await
            .assert_problem(404, "not_found");
    }
}
