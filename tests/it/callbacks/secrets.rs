//! Secrets: shown once, several during a rotation, and nowhere else.

use reqwest::Method;
use serde_json::json;

use super::{MODEL, gateway, is_signed, secret, subscriber, upload};
use crate::fixture::database::TestDatabase;
use crate::fixture::receiver::Receiver;
use crate::fixture::store::TestStore;

contract![two_secrets_sign_during_a_rotation];

async fn two_secrets_sign_during_a_rotation(database: &TestDatabase) {
    let (store, receiver) = (TestStore::tiny(&[MODEL]), Receiver::start().await);
    let gateway = gateway(&store, database).await;
    let tenant = subscriber(&gateway, "acme", &receiver.url("/"), &[]).await;
    // Without a secret there is nothing to sign with.
    upload(&gateway, 2).await;
    let bare = receiver.until(1).await.remove(0);
    assert!(bare.headers.get("webhook-signature").is_none(), "{bare:?}");
    assert!(!bare.header("webhook-timestamp").is_empty());

    let (old_id, old) = secret(&gateway, &tenant, json!({})).await;
    assert!(old.starts_with("whsec_"));
    let (_, new) = secret(&gateway, &tenant, json!({"overlap_s": 3600})).await;
    upload(&gateway, 3).await;
    let both = receiver.until(2).await.remove(1);
    assert!(is_signed(&both, &old) && is_signed(&both, &new), "{both:?}");
    assert_eq!(both.header("webhook-signature").split(' ').count(), 2);
    let other = format!("whsec_{}", "A".repeat(44));
    assert!(!is_signed(&both, &other));

    let path = format!("/tenants/{tenant}/callback-secrets");
    let list = gateway.admin(Method::GET, &path, None).await;
    let list = list.assert_ok();
    assert_eq!(list["items"].as_array().expect("items").len(), 2);
    assert_eq!(list["items"][0]["id"], old_id);
    assert!(list["items"][0]["expires_at"].is_string());
    assert!(list["items"][1]["expires_at"].is_null());
    let gone = gateway
        .admin(Method::DELETE, &format!("{path}/{old_id}"), None)
        .await;
    assert_eq!(gone.status, 204);
    upload(&gateway, 4).await;
    let one = receiver.until(3).await.remove(2);
    assert!(!is_signed(&one, &old) && is_signed(&one, &new));
    // An overlap of none ends the others at once.
    let (_, newest) = secret(&gateway, &tenant, json!({"overlap_s": 0})).await;
    upload(&gateway, 5).await;
    let after = receiver.until(4).await.remove(3);
    assert!(is_signed(&after, &newest) && !is_signed(&after, &new));

    // What was done is on record, without the secrets.
    let audit = gateway
        .admin(Method::GET, "/audit?action=callback_secret.", None)
        .await;
    let audit = audit.assert_ok();
    assert_eq!(
        audit["items"].as_array().expect("items").len(),
        4,
        "{audit}"
    );
    let words = [audit.to_string(), list.to_string()].concat();
    for secret in [&old, &new, &newest] {
        assert!(!words.contains(secret.trim_start_matches("whsec_")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = crate::fixture::gateway::TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let path = format!("/tenants/{tenant}/callback-secrets");
    for body in [
        json!({"overlap_s": 91 * 86400}),
        json!({"overlap_s": -1}),
        json!({"x": 1}),
    ] {
        let answer = gateway.admin(Method::POST, &path, Some(body)).await;
        answer.assert_problem(400, "bad_request");
    }
    for _ in 0..8 {
        secret(&gateway, &tenant, json!({})).await;
    }
    let ninth = gateway.admin(Method::POST, &path, None).await;
    ninth.assert_problem(409, "conflict");
    secret(&gateway, &tenant, json!({"overlap_s": 0})).await;
    let nobody = "/tenants/0199aaaa-0000-7000-8000-000000000000/callback-secrets";
    for method in [Method::GET, Method::POST] {
        gateway
            .admin(method, nobody, None)
            .await
            .assert_problem(404, "not_found");
    }
    let nothing = format!("{path}/0199aaaa-0000-7000-8000-000000000000");
    gateway
        .admin(Method::DELETE, &nothing, None)
        .await
        .assert_problem(404, "not_found");
}
