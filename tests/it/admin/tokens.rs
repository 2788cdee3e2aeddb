//! Admin tokens: shown once, with roles, deleted at once; the last that may make others stays.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;

#[tokio::test]
async fn a_token_opens_until_it_is_deleted() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (id, token) = gateway.token("viewer").await;
    assert!(token.starts_with("lga_"), "{token}");
    let look = || {
        let request = gateway
            .bare
            .get(format!("{}/admin/v1/status", gateway.admin_base));
        gateway.send(request.bearer_auth(&token))
    };
    look().await.assert_ok();
    let path = format!("/tokens/{id}");
    let view = gateway.admin(Method::GET, &path, None).await;
    assert_eq!(view.assert_ok()["role"], "viewer");
    assert!(!view.body.to_string().contains(&token[9..]));
    let gone = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    look().await.assert_problem(401, "invalid_credentials");
    gateway
        .admin(Method::DELETE, &path, None)
        .await
        .assert_problem(404, "not_found");
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway.token("operator").await;
    let tokens = gateway.admin(Method::GET, "/tokens", None).await;
    let first = tokens.assert_ok()["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/tokens/{first}");
    gateway
        .admin(Method::DELETE, &path, None)
        .await
        .assert_problem(409, "conflict");
    gateway.token("admin").await;
    let gone = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    gateway
        .admin(Method::GET, "/tokens", None)
        .await
        .assert_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for (body, word) in [
        (json!({"name": "x"}), "role"),
        (json!({"role": "admin"}), "name"),
        (json!({"name": "x", "role": "root"}), "role"),
        (
            json!({"name": "x", "role": "admin", "scopes": []}),
            "scopes",
        ),
        (
            json!({"name": "x", "role": "admin", "expires_at": "soon"}),
            "expires_at",
        ),
    ] {
        let answer = gateway
            .admin(Method::POST, "/tokens", Some(body.clone()))
            .await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let past = json!({"name": "x", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"});
    let made = gateway.admin(Method::POST, "/tokens", Some(past)).await;
    let token = made.body["token"].as_str().expect("a token");
    let request = gateway
        .bare
        .get(format!("{}/admin/v1/status", gateway.admin_base));
    let answer = gateway.send(request.bearer_auth(token)).await;
    answer.assert_problem(401, "invalid_credentials");
}
