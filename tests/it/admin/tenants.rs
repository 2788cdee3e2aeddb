//! Tenants: the whole life of one, on the wire.

use reqwest::Method;
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;

#[tokio::test]
async fn a_tenant_is_made_read_changed_and_deleted() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let made = gateway
        .admin(Method::POST, "/tenants", Some(json!({"name": " acme "})))
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("etag"), "\"1\"");
    assert_eq!(made.body["name"], "acme");
    let id = made.body["id"].as_str().expect("an id").to_owned();
    let path = format!("/tenants/{id}");

    let read = gateway.admin(Method::GET, &path, None).await;
    assert_eq!(
        (read.assert_ok(), read.header("etag")),
        (&made.body, "\"1\"")
    );

    let change =
        json!({"callback_url": "https://example.com/hook", "events": ["prediction.completed"]});
    let changed = gateway.admin(Method::PATCH, &path, Some(change)).await;
    let view = changed.assert_ok();
    assert_eq!(view["callback_url"], "https://example.com/hook");
    assert_eq!(view["events"], json!(["prediction.completed"]));
    assert_eq!(view["name"], "acme", "what is left out stays");
    assert_eq!(changed.header("etag"), "\"2\"");

    let change = json!({"callback_url": null, "name": "acme two"});
    let changed = gateway.admin(Method::PATCH, &path, Some(change)).await;
    assert_eq!(
        changed.assert_ok()["callback_url"],
        json!(null),
        "null removes"
    );
    assert_eq!(changed.body["events"], json!(["prediction.completed"]));

    let gone = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!((gone.status.as_u16(), gone.body.as_str()), (204, Some("")));
    for method in [Method::GET, Method::DELETE] {
        gateway
            .admin(method, &path, None)
            .await
            .assert_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_change_that_was_made_meanwhile_is_not_lost() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let id = gateway.tenant("acme").await;
    let path = format!("/tenants/{id}");
    let change = |name: &str, etag: &str| {
        let request = gateway
            .admin_request(Method::PATCH, &path)
            .header("if-match", etag.to_owned());
        gateway.send(request.json(&json!({"name": name})))
    };
    change("first", "\"1\"").await.assert_ok();
    change("second", "\"1\"")
        .await
        .assert_problem(412, "precondition_failed");
    change("third", "W/\"2\"")
        .await
        .assert_problem(412, "precondition_failed");
    change("fourth", "\"abc\"")
        .await
        .assert_problem(412, "precondition_failed");
    change("fifth", "2")
        .await
        .assert_problem(400, "bad_request");
    let now = gateway.admin(Method::GET, &path, None).await;
    assert_eq!(now.assert_ok()["name"], "first");
    change("sixth", "\"2\"").await.assert_ok();
    change("seventh", "*").await.assert_ok();

    let stale = gateway
        .admin_request(Method::DELETE, &path)
        .header("if-match", "\"2\"");
    gateway
        .send(stale)
        .await
        .assert_problem(412, "precondition_failed");
    let right = gateway
        .admin_request(Method::DELETE, &path)
        .header("if-match", "\"4\"");
    assert_eq!(gateway.send(right).await.status, 204);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway.tenant("acme").await;
    let again = gateway
        .admin(Method::POST, "/tenants", Some(json!({"name": "acme"})))
        .await;
    again.assert_problem(409, "conflict");
    let long = "x".repeat(201);
    for (body, word) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a\u{0}b"}), "name"),
        (json!({"name": long}), "name"),
        (json!({"name": 7}), "name"),
        (json!({"name": "b", "colour": "red"}), "colour"),
        (
            json!({"name": "b", "callback_url": "ftp://x"}),
            "callback_url",
        ),
        (json!({"name": "b", "events": ["A B"]}), "events"),
        (json!([]), "object"),
        (json!("name"), "object"),
    ] {
        let answer = gateway
            .admin(Method::POST, "/tenants", Some(body.clone()))
            .await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let post = || gateway.admin_request(Method::POST, "/tenants");
    for text in ["", "{", "{\"name\": \"b\"} x", "\u{feff}{}", "nul"] {
        let request = post().header("content-type", "application/json").body(text);
        gateway
            .send(request)
            .await
            .assert_problem(400, "bad_request");
    }
    let request = post().header("content-type", "text/xml").body("<a/>");
    gateway
        .send(request)
        .await
        .assert_problem(415, "unsupported_media_type");
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    let request = post().header("content-type", "application/json").body(huge);
    gateway
        .send(request)
        .await
        .assert_problem(413, "payload_too_large");
    let id = "0199aaaa-0000-7000-8000-000000000000";
    for path in [
        format!("/tenants/{id}"),
        "/tenants/x".to_owned(),
        "/tenants/%00".to_owned(),
    ] {
        gateway
            .admin(Method::GET, &path, None)
            .await
            .assert_problem(404, "not_found");
    }
    let patched = gateway
        .admin(Method::PATCH, &format!("/tenants/{id}"), Some(json!({})))
        .await;
    patched.assert_problem(404, "not_found");
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for number in 0..7 {
        gateway.tenant(&format!("tenant {number}")).await;
    }
    let mut names = Vec::new();
    let mut path = "/tenants?limit=3".to_owned();
    loop {
        let page = gateway.admin(Method::GET, &path, None).await;
        let items = page.assert_ok()["items"].as_array().expect("items").clone();
        assert!(items.len() <= 3);
        names.extend(
            items
                .iter()
                .map(|item| item["name"].as_str().expect("a name").to_owned()),
        );
        match page.body["next"].as_str() {
            Some(next) => path = format!("/tenants?limit=3&after={next}"),
            None => break,
        }
    }
    let wanted: Vec<String> = (0..7).map(|number| format!("tenant {number}")).collect();
    assert_eq!(names[0], "default");
    assert_eq!(names[1..], wanted);
    for path in [
        "/tenants", "/keys", "/tokens", "/models", "/audit", "/status",
    ] {
        let listed = gateway.admin(Method::GET, path, None).await;
        listed.assert_ok();
        let tag = listed.header("etag");
        assert!(tag.ends_with('"'), "{path} has no entity tag: {tag}");
    }
    let (one, same) = (
        gateway.admin(Method::GET, "/tenants", None).await,
        gateway.admin(Method::GET, "/tenants", None).await,
    );
    assert_eq!(one.header("etag"), same.header("etag"));
    gateway.tenant("one more").await;
    let other = gateway.admin(Method::GET, "/tenants", None).await;
    assert_ne!(one.header("etag"), other.header("etag"));
    for query in ["limit=0", "limit=1001", "limit=x", "after=x"] {
        let answer = gateway
            .admin(Method::GET, &format!("/tenants?{query}"), None)
            .await;
        answer.assert_problem(400, "bad_request");
    }
}
