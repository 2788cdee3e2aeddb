//! Who reads what: one's own, as soon as the answer is there, also while the database is away; operators all; and what a tenant
//! wants deleted is gone.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::recorded::{gateway, rows, seven};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::proxy::{Proxy, Way};

contract![
    one_reads_what_one_was_answered,
    operators_filter_and_turn_pages,
    what_cannot_be_asked_for_is_said,
    what_a_tenant_wants_deleted_is_gone,
];

/// Classifies with a key, in a millisecond of its own; gives the request's id.
async fn classify(gateway: &TestGateway, key: &str) -> String {
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let answer = gateway.send(request.bearer_auth(key).body(seven())).await;
    answer.assert_ok()["request_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

async fn ask(gateway: &TestGateway, key: &str, id: &str) -> Answer {
    let request = gateway.anonymous(Method::GET, &format!("/v1/predictions/{id}"));
    gateway.send(request.bearer_auth(key)).await
}

async fn one_reads_what_one_was_answered(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (_, own) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let (_, sibling) = gateway
        .key(json!({"name": "reads", "tenant_id": tenant, "scopes": ["read"]}))
        .await;
    let (_, other) = gateway.key(json!({"name": "other"})).await;
    let (_, blind) = gateway
        .key(json!({"name": "blind", "tenant_id": tenant, "models": ["nothing"]}))
        .await;
    let (_, mute) = gateway
        .key(json!({"name": "mute", "tenant_id": tenant, "scopes": ["feedback"]}))
        .await;
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify?top_k=2");
    let answer = gateway
        .send(request.bearer_auth(&own).body(seven()))
        .await
        .body;
    let id = answer["request_id"].as_str().expect("an id");
    // At once: whatever the database has so far.
    for key in [&own, &sibling] {
        let read = ask(&gateway, key, id).await;
        let read = read.assert_ok();
        assert_eq!(
            (&read["request_id"], &read["status"], &read["model"]),
            (&json!(id), &json!("done"), &json!("digits"))
        );
        let results = read["results"].as_array().expect("results");
        assert_eq!(results.len(), 1);
        for field in [
            "model",
            "version",
            "digest",
            "class",
            "confidence",
            "classes",
            "cached",
        ] {
            assert_eq!(results[0][field], answer[field], "{field}");
        }
        assert_eq!(results[0]["image"]["format"], "png");
        assert_eq!(results[0].get("error"), None);
    }
    for key in [&other, &blind] {
        ask(&gateway, key, id)
            .await
            .assert_problem(404, "prediction_not_found");
    }
    ask(&gateway, &mute, id)
        .await
        .assert_problem(403, "forbidden");
    for unknown in [
        "nonsense",
        "0199aaaa-0000-7000-8000-000000000000",
        "00000000-0000-0000-0000-000000000000",
    ] {
        ask(&gateway, &own, unknown)
            .await
            .assert_problem(404, "prediction_not_found");
    }
    // A refusal is read like an answer.
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let refused = gateway
        .send(request.bearer_auth(&own).body("nonsense"))
        .await;
    refused.assert_problem(415, "unsupported_media_type");
    let read = ask(
        &gateway,
        &own,
        refused.body["request_id"].as_str().expect("an id"),
    )
    .await;
    assert_eq!(read.assert_ok()["status"], "failed");
    assert_eq!(
        read.body["results"][0]["error"]["code"],
        "unsupported_media_type"
    );
    assert_eq!(read.body["results"][0]["error"]["status"], 415);
}

async fn operators_filter_and_turn_pages(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (key, secret) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let (_, other) = gateway.key(json!({"name": "other"})).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(classify(&gateway, if number % 2 == 0 { &secret } else { &other }).await);
    }
    let all = rows(&gateway, 6).await;
    let listed: Vec<&str> = all
        .iter()
        .filter_map(|row| row["request_id"].as_str())
        .collect();
    assert_eq!(
        listed,
        ids.iter().rev().map(String::as_str).collect::<Vec<_>>()
    );
    let list = async |query: &str| {
        let answer = gateway
            .admin(Method::GET, &format!("/predictions?{query}"), None)
            .await;
        answer.assert_ok().clone()
    };
    let at = all[2]["at"].as_str().expect("a time");
    for (query, count) in [
        (format!("tenant={tenant}"), 3),
        (format!("key={key}"), 3),
        ("model=digits&version=2&class=7".to_owned(), 6),
        ("model=other".to_owned(), 0),
        ("version=9".to_owned(), 0),
        ("class=8".to_owned(), 0),
        (format!("from={at}"), 3),
        (format!("to={at}"), 3),
        (
            format!("from={at}&tenant={tenant}&to=2100-01-01T00:00:00Z"),
            1,
        ),
        ("from=2100-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let items = list(&query).await["items"].as_array().expect("items").len();
        assert_eq!(items, count, "{query}");
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("limit=4{after}")).await;
        seen.extend(page["items"].as_array().expect("items").clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen, all);
    let one = gateway
        .admin(Method::GET, &format!("/predictions/{}", ids[0]), None)
        .await;
    assert_eq!(one.assert_ok()["results"], json!([all[5]]));
}

async fn what_cannot_be_asked_for_is_said(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    for (path, status, code) in [
        ("/predictions/nonsense", 404, "prediction_not_found"),
        (
            "/predictions/0199aaaa-0000-7000-8000-000000000000",
            404,
            "prediction_not_found",
        ),
        ("/predictions?after=nonsense", 400, "bad_request"),
        ("/predictions?limit=0", 400, "bad_request"),
        ("/predictions?tenant=nobody", 400, "bad_request"),
        ("/predictions?version=0", 400, "bad_request"),
        ("/predictions?from=yesterday", 400, "bad_request"),
        ("/predictions?class=%00", 400, "bad_request"),
    ] {
        gateway
            .admin(Method::GET, path, None)
            .await
            .assert_problem(status, code);
    }
}

async fn what_a_tenant_wants_deleted_is_gone(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (_, secret) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let (_, other) = gateway.key(json!({"name": "other"})).await;
    let gone = classify(&gateway, &secret).await;
    let stays = classify(&gateway, &other).await;
    let delete = async |query: &str| {
        gateway
            .admin(Method::DELETE, &format!("/predictions{query}"), None)
            .await
    };
    delete("").await.assert_problem(400, "bad_request");
    delete("?tenant=nonsense")
        .await
        .assert_problem(400, "bad_request");
    assert_eq!(
        delete(&format!("?tenant={tenant}")).await.status,
        StatusCode::NO_CONTENT
    );
    ask(&gateway, &other, &stays).await.assert_ok();
    let left = rows(&gateway, 1).await;
    assert_eq!(left[0]["request_id"], stays);
    ask(&gateway, &secret, &gone)
        .await
        .assert_problem(404, "prediction_not_found");
    // What comes later is kept again, and the tenant may be gone when it is deleted.
    let later = classify(&gateway, &secret).await;
    rows(&gateway, 2).await;
    ask(&gateway, &secret, &later).await.assert_ok();
    let removed = gateway
        .admin(Method::DELETE, &format!("/tenants/{tenant}"), None)
        .await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(
        delete(&format!("?tenant={tenant}")).await.status,
        StatusCode::NO_CONTENT
    );
    rows(&gateway, 1).await;
    let audit = gateway
        .admin(Method::GET, "/audit?action=predictions.delete", None)
        .await;
    let entries = audit.assert_ok()["items"].as_array().expect("items");
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries[0]["target"],
        format!("tenants/{tenant}/predictions")
    );
}

/// While the database is away, what one was answered is read from the spool; when it is back, all of it is in the database.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_hides_nothing_from_whom_it_was_answered_to() {
    let database = TestDatabase::postgres().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    let through = TestDatabase::at(url);
    let gateway = gateway(&through, &["store.call_timeout=1s"]).await;
    let (_, secret) = gateway.key(json!({"name": "own"})).await;
    proxy.set(Way::Cut);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(classify(&gateway, &secret).await);
    }
    for id in &ids {
        let read = ask(&gateway, &secret, id).await;
        assert_eq!(read.assert_ok()["results"][0]["class"], "7");
    }
    let unknown = ask(&gateway, &secret, "0199aaaa-0000-7000-8000-000000000000").await;
    unknown.assert_problem(503, "store_unavailable");
    let list = gateway.admin(Method::GET, "/predictions", None).await;
    list.assert_problem(503, "store_unavailable");
    let status = gateway.admin(Method::GET, "/status", None).await.body;
    assert!(
        status["predictions"]["waiting_bytes"].as_u64() > Some(2000),
        "{status}"
    );
    proxy.set(Way::Open);
    let rows = rows_when_back(&gateway, 20).await;
    let stored: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["request_id"].as_str())
        .collect();
    assert_eq!(
        stored,
        ids.iter().rev().map(String::as_str).collect::<Vec<_>>()
    );
}

/// The rows, once operators can read them again.
async fn rows_when_back(gateway: &TestGateway, count: usize) -> Vec<Value> {
    while gateway
        .admin(Method::GET, "/predictions", None)
        .await
        .status
        != StatusCode::OK
    {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    rows(gateway, count).await
}
