//! The audit: every change leaves an entry, with who, what, before, after and from where, and without secrets.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::gateway::{ADMIN_TOKEN, API_KEY, TestGateway};
use crate::fixture::store::TestStore;

#[tokio::test]
async fn every_change_leaves_an_entry() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (key, secret) = gateway
        .key(json!({"tenant_id": tenant, "name": "app"}))
        .await;
    let path = format!("/keys/{key}");
    let change = json!({"requests_per_second": 5});
    let patched = gateway.admin(Method::PATCH, &path, Some(change)).await;
    patched.assert_ok();
    let rotated = gateway
        .admin(Method::POST, &format!("{path}/rotate"), None)
        .await;
    let second = rotated.assert_ok()["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    gateway.admin(Method::DELETE, &path, None).await;
    let (_, token) = gateway.token("viewer").await;
    gateway
        .admin(Method::DELETE, &format!("/tenants/{tenant}"), None)
        .await;
    // Refused, and so not in the audit.
    gateway
        .admin(Method::POST, "/tenants", Some(json!({"name": "default"})))
        .await;

    let audit = gateway.admin(Method::GET, "/audit", None).await;
    let items = audit.assert_ok()["items"]
        .as_array()
        .expect("items")
        .clone();
    let actions: Vec<&str> = items
        .iter()
        .map(|item| item["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "tenant.delete",
            "token.create",
            "key.revoke",
            "key.rotate",
            "key.change",
            "key.create",
            "tenant.create",
            "bootstrap"
        ]
    );
    let change = &items[4];
    assert_eq!(change["target"], format!("keys/{key}"));
    assert_eq!(change["before"]["requests_per_second"], Value::Null);
    assert_eq!(change["after"]["requests_per_second"], 5.0);
    assert_eq!(change["actor"], "bootstrap");
    assert_eq!(change["address"], "127.0.0.1");
    assert_eq!(change["request_id"], patched.header("x-request-id"));
    let text = audit.body.to_string();
    for secret in [&secret, &second, &token, API_KEY, ADMIN_TOKEN] {
        assert!(!text.contains(&secret[9..]), "a secret shows");
    }
}

#[tokio::test]
async fn entries_are_found_by_action_target_token_and_time() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let first = gateway.tenant("first").await;
    let second = gateway.tenant("second").await;
    gateway
        .key(json!({"tenant_id": second, "name": "app"}))
        .await;
    let find = async |query: &str| {
        let answer = gateway
            .admin(Method::GET, &format!("/audit?{query}"), None)
            .await;
        let items = answer.assert_ok()["items"]
            .as_array()
            .expect("items")
            .clone();
        items
            .iter()
            .map(|item| item["target"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let target = |id: &str| format!("tenants/{id}");
    assert_eq!(
        find("action=tenant.create").await,
        [target(&second), target(&first)]
    );
    assert_eq!(find("action=key.").await.len(), 1);
    assert_eq!(find("action=key").await.len(), 0);
    assert_eq!(
        find(&format!("target=tenants/{first}")).await,
        [target(&first)]
    );
    assert_eq!(find("target=keys/").await.len(), 1);
    assert_eq!(find("from=2099-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(find("to=2020-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(
        find("from=2020-01-01T00:00:00Z&to=2099-01-01T00:00:00Z")
            .await
            .len(),
        4
    );
    let tokens = gateway.admin(Method::GET, "/tokens", None).await;
    let token = tokens.assert_ok()["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(
        find(&format!("token_id={token}")).await.len(),
        3,
        "all but the bootstrap"
    );
    // Page by page, newest first.
    let page = gateway.admin(Method::GET, "/audit?limit=2", None).await;
    let next = page.assert_ok()["next"]
        .as_str()
        .expect("a next page")
        .to_owned();
    assert_eq!(
        find(&format!("limit=2&after={next}")).await[0],
        target(&first)
    );
}
