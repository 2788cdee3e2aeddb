//! Aliases on the wire: made, moved, listed, deleted; and what needs them to be there.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const ALIASES: &str = "/models/digits/aliases";

async fn put(gateway: &TestGateway, alias: &str, version: u64) -> Answer {
    let path = format!("{ALIASES}/{alias}");
    gateway
        .admin(Method::PUT, &path, Some(json!({"version": version})))
        .await
}

async fn answers(gateway: &TestGateway, alias: &str) -> Answer {
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let route = format!("/v1/models/digits/versions/{alias}/classify");
    gateway.raw(&route, "image/png", seven).await
}

#[tokio::test]
async fn an_alias_is_made_moved_listed_and_deleted() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    answers(&gateway, "stable")
        .await
        .assert_problem(404, "version_not_found");
    let made = put(&gateway, "stable", 1).await;
    assert_eq!(
        (made.status.as_u16(), &made.body),
        (201, &json!({"alias": "stable", "version": 1}))
    );
    assert_eq!(
        answers(&gateway, "stable").await.assert_ok()["version"],
        1,
        "in force at once"
    );
    let moved = put(&gateway, "stable", 2).await;
    assert_eq!(moved.assert_ok(), &json!({"alias": "stable", "version": 2}));
    assert_eq!(answers(&gateway, "stable").await.assert_ok()["version"], 2);
    put(&gateway, "next", 1).await;
    let list = gateway.admin(Method::GET, ALIASES, None).await;
    assert_eq!(
        list.assert_ok(),
        &json!({"items": [{"alias": "next", "version": 1}, {"alias": "stable", "version": 2}], "next": null})
    );
    let page = gateway
        .admin(Method::GET, &format!("{ALIASES}?limit=1"), None)
        .await;
    assert_eq!(page.assert_ok()["next"], "next");
    let page = gateway
        .admin(Method::GET, &format!("{ALIASES}?limit=1&after=next"), None)
        .await;
    assert_eq!(page.assert_ok()["items"][0]["alias"], "stable");
    assert_eq!(page.body["next"], Value::Null);
    let view = gateway
        .admin(Method::GET, "/models/digits/versions/2", None)
        .await;
    assert_eq!(view.assert_ok()["aliases"], json!(["stable"]));

    let gone = gateway
        .admin(Method::DELETE, &format!("{ALIASES}/next"), None)
        .await;
    assert_eq!(gone.status, 204, "{gone:?}");
    answers(&gateway, "next")
        .await
        .assert_problem(404, "version_not_found");
    let again = gateway
        .admin(Method::DELETE, &format!("{ALIASES}/next"), None)
        .await;
    again.assert_problem(404, "not_found");

    let audit = gateway
        .admin(Method::GET, "/audit?action=alias.", None)
        .await;
    let items = audit.assert_ok()["items"]
        .as_array()
        .expect("items")
        .clone();
    let said: Vec<_> = items
        .iter()
        .map(|item| {
            let version = |when: &str| item[when]["version"].as_u64();
            (
                item["action"].as_str().expect("text"),
                version("before"),
                version("after"),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("alias.delete", Some(1), None),
            ("alias.put", None, Some(1)),
            ("alias.put", Some(1), Some(2)),
            ("alias.put", None, Some(1)),
        ]
    );
    assert_eq!(items[0]["target"], "models/digits/aliases/next");
}

#[tokio::test]
async fn what_names_nothing_is_refused() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for alias in ["1", "Stable", "a%2fb", "a%00", "-a", &"a".repeat(65)] {
        put(&gateway, alias, 1)
            .await
            .assert_problem(400, "bad_request");
        let path = format!("{ALIASES}/{alias}");
        let answer = gateway.admin(Method::DELETE, &path, None).await;
        answer.assert_problem(404, "not_found");
    }
    for version in [0, 9, u64::MAX] {
        put(&gateway, "stable", version)
            .await
            .assert_problem(404, "version_not_found");
    }
    let path = format!("{ALIASES}/stable");
    for body in [
        json!({}),
        json!({"version": "1"}),
        json!({"version": -1}),
        json!({"version": 1, "x": 1}),
    ] {
        let answer = gateway.admin(Method::PUT, &path, Some(body)).await;
        answer.assert_problem(400, "bad_request");
    }
    let none = "/models/none/aliases";
    let answer = gateway
        .admin(
            Method::PUT,
            &format!("{none}/stable"),
            Some(json!({"version": 1})),
        )
        .await;
    answer.assert_problem(404, "model_not_found");
    gateway
        .admin(Method::GET, none, None)
        .await
        .assert_problem(404, "model_not_found");
    let list = gateway.admin(Method::GET, ALIASES, None).await;
    assert_eq!(list.assert_ok()["items"], json!([]));
}

#[tokio::test]
async fn a_version_that_an_alias_needs_is_not_deleted() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    put(&gateway, "stable", 1).await;
    put(&gateway, "old", 1).await;
    let delete = async || {
        gateway
            .admin(Method::DELETE, "/models/digits/versions/1", None)
            .await
    };
    for left in [["old", "stable"].as_slice(), &["stable"]] {
        let refused = delete().await;
        let detail = refused.assert_problem(409, "conflict");
        assert!(left.iter().all(|alias| detail.contains(alias)), "{detail}");
        assert!(store.path().join("digits/1/model.onnx").exists());
        assert_eq!(answers(&gateway, "stable").await.assert_ok()["version"], 1);
        gateway
            .admin(Method::DELETE, &format!("{ALIASES}/old"), None)
            .await;
    }
    put(&gateway, "stable", 2).await;
    assert_eq!(delete().await.status, 204);
    assert!(!store.path().join("digits/1").exists());
    assert!(!store.path().join(".uploads").exists());
    assert_eq!(answers(&gateway, "stable").await.assert_ok()["version"], 2);
    answers(&gateway, "1")
        .await
        .assert_problem(404, "version_not_found");
    // Out of service is not gone: the alias says so.
    gateway
        .admin(Method::POST, "/models/digits/versions/2/unload", None)
        .await
        .assert_ok();
    let detail = answers(&gateway, "stable")
        .await
        .assert_problem(503, "model_unavailable")
        .to_owned();
    assert!(detail.contains("unloaded"), "{detail}");
    // The model goes with all that is its own, and nothing of it comes back with another of its name.
    assert_eq!(
        gateway
            .admin(Method::DELETE, "/models/digits", None)
            .await
            .status,
        204
    );
    store.add(&root().join("model-store/digits"), "digits");
    gateway
        .until("digits", |view| view["versions"][1]["state"] == "live")
        .await;
    answers(&gateway, "stable")
        .await
        .assert_problem(404, "version_not_found");
}
