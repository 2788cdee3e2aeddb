//! Who may do what, as a table: every route of both planes, read off their documents, with every kind of credentials.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::gateway::{ADMIN_TOKEN, API_KEY, Answer, TestGateway};
use crate::fixture::store::TestStore;

/// Routes that need no credentials.
const OPEN: [&str; 4] = ["/health", "/health/live", "/health/ready", "/metrics"];

/// Every operation of a plane: method, path with the parameters filled in, whether it has a body.
fn operations(document: &Value) -> Vec<(Method, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, methods)| {
        let path = path
            .replace("{model}", "digits")
            .replace("{version}", "1")
            .replace("{alias}", "stable")
            .replace("{request_id}", "0199aaaa-0000-7000-8000-000000000000")
            .replace("{secret_id}", "0199bbbb-0000-7000-8000-000000000000")
            .replace("{id}", "0199aaaa-0000-7000-8000-000000000000");
        assert!(
            !path.contains('{'),
            "{path} has a parameter that this test does not know"
        );
        let methods = methods
            .as_object()
            .expect("methods")
            .keys()
            .cloned()
            .collect::<Vec<_>>();
        methods.into_iter().map(move |method| {
            let method = method.to_uppercase().parse().expect("a method");
            (method, path.clone())
        })
    });
    operations
        .filter(|(_, path)| !OPEN.contains(&path.as_str()))
        .collect()
}

async fn documents(gateway: &TestGateway) -> (Vec<(Method, String)>, Vec<(Method, String)>) {
    let mut both = Vec::new();
    for base in [&gateway.base, &gateway.admin_base] {
        let request = gateway.bare.get(format!("{base}/openapi.json"));
        both.push(operations(gateway.send(request).await.assert_ok()));
    }
    let admin = both.pop().expect("two");
    (both.pop().expect("two"), admin)
}

#[tokio::test]
async fn every_route_of_both_planes_refuses_who_may_not() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (data, admin) = documents(&gateway).await;
    assert!(
        data.len() >= 7 && admin.len() >= 15,
        "{} and {}",
        data.len(),
        admin.len()
    );
    let expired = json!({"name": "old", "expires_at": "2020-01-01T00:00:00Z"});
    let (_, expired_key) = gateway.key(expired).await;
    let (revoked_id, revoked_key) = gateway.key(json!({"name": "revoked"})).await;
    gateway
        .admin(Method::DELETE, &format!("/keys/{revoked_id}"), None)
        .await;
    let expired = json!({"name": "old", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"});
    let expired = gateway.admin(Method::POST, "/tokens", Some(expired)).await;
    let expired_token = expired.body["token"].as_str().expect("a token").to_owned();
    let (revoked_id, revoked_token) = gateway.token("admin").await;
    gateway
        .admin(Method::DELETE, &format!("/tokens/{revoked_id}"), None)
        .await;
    let well_formed_key =
        lensgate::domain::secret::compose(lensgate::domain::secret::SecretKind::ApiKey, [9; 32]);
    for (base, operations, bad) in [
        (
            &gateway.base,
            &data,
            [
                &expired_key,
                &revoked_key,
                &well_formed_key,
                ADMIN_TOKEN,
                "x",
            ],
        ),
        (
            &gateway.admin_base,
            &admin,
            [
                &expired_token,
                &revoked_token,
                &well_formed_key,
                API_KEY,
                "x",
            ],
        ),
    ] {
        for (method, path) in operations {
            let ask = || {
                gateway
                    .bare
                    .request(method.clone(), format!("{base}{path}"))
            };
            let what = format!("{method} {path}");
            let none = Answer::of(ask().send().await.expect("an answer")).await;
            assert_eq!(none.status, StatusCode::UNAUTHORIZED, "{what}: {none:?}");
            none.assert_problem(401, "missing_credentials");
            assert_eq!(none.header("www-authenticate"), "Bearer", "{what}");
            for secret in bad {
                let refused = ask().bearer_auth(secret).send().await.expect("an answer");
                let refused = Answer::of(refused).await;
                assert_eq!(
                    refused.status,
                    StatusCode::UNAUTHORIZED,
                    "{what}: {refused:?}"
                );
                refused.assert_problem(401, "invalid_credentials");
            }
            let basic = ask()
                .basic_auth("user", Some(API_KEY))
                .send()
                .await
                .expect("an answer");
            let basic = Answer::of(basic).await;
            assert_eq!(basic.status, StatusCode::UNAUTHORIZED, "{what}: {basic:?}");
        }
    }
}

#[tokio::test]
async fn every_data_route_needs_its_scope() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (data, _) = documents(&gateway).await;
    for (method, path) in &data {
        let is_read = *method == Method::GET;
        // Whoever classifies may also see with what.
        let wrong = if is_read {
            json!(["feedback"])
        } else if path.ends_with("/feedback") {
            json!(["classify", "read"])
        } else {
            json!(["read", "feedback"])
        };
        let (_, secret) = gateway.key(json!({"name": "wrong", "scopes": wrong})).await;
        let request = gateway
            .bare
            .request(method.clone(), format!("{}{path}", gateway.base));
        let answer = gateway.send(request.header("x-api-key", &secret)).await;
        assert_eq!(
            answer.status,
            StatusCode::FORBIDDEN,
            "{method} {path}: {answer:?}"
        );
        answer.assert_problem(403, "forbidden");
    }
}

#[tokio::test]
async fn every_admin_route_needs_its_role() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (_, admin) = documents(&gateway).await;
    let (_, viewer) = gateway.token("viewer").await;
    let (_, operator) = gateway.token("operator").await;
    let (_, administrator) = gateway.token("admin").await;
    // A stream that is open has been let in.
    let ask = async |token: &str, method: &Method, path: &str| {
        let request = gateway
            .bare
            .request(method.clone(), format!("{}{path}", gateway.admin_base));
        request
            .bearer_auth(token)
            .send()
            .await
            .expect("an answer")
            .status()
    };
    for (method, path) in &admin {
        // The path as it is filled in does nothing: nothing of it is there, or the body is missing.
        let harmless =
            *path != "/admin/v1/models/digits" && !path.contains("/models/digits/versions/1");
        // Who deletes what a tenant has asked for could as well delete the tenant.
        let identities = ["/tenants", "/keys", "/tokens", "/predictions"];
        let about_identities = identities
            .iter()
            .any(|part| path.starts_with(&format!("/admin/v1{part}")));
        let least = match (method, about_identities) {
            // What a person sent is more than figures.
            (&Method::GET, _) if path.ends_with("/image") => 1,
            (&Method::GET, _) => 0,
            (_, false) => 1,
            (_, true) => 2,
        };
        for (rank, token) in [&viewer, &operator, &administrator].into_iter().enumerate() {
            if rank >= least && !harmless && *method != Method::GET {
                continue;
            }
            let status = ask(token, method, path).await;
            let refused = status == StatusCode::FORBIDDEN;
            assert_eq!(refused, rank < least, "{method} {path} as {rank}: {status}");
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_key_sees_the_models_it_may_use_and_no_others() {
    let store = TestStore::digits();
    store.add(
        &crate::fixture::root().join("model-store/digits"),
        "secret-digits",
    );
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (_, secret) = gateway
        .key(json!({"name": "app", "models": ["digits"]}))
        .await;
    let ask = async |method: Method, path: &str| {
        let request = gateway
            .bare
            .request(method, format!("{}{path}", gateway.base));
        gateway.send(request.header("x-api-key", &secret)).await
    };
    let seen = ask(Method::GET, "/v1/models").await;
    let ids: Vec<&Value> = seen.assert_ok()["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["digits"]);
    for (method, route) in [
        (Method::GET, "/v1/models/{}"),
        (Method::POST, "/v1/models/{}/classify"),
        (Method::POST, "/v1/models/{}/versions/1/classify"),
        (Method::POST, "/v1/models/{}/batch-classify"),
    ] {
        let hidden = ask(method.clone(), &route.replace("{}", "secret-digits")).await;
        let missing = ask(method, &route.replace("{}", "nothing")).await;
        let hidden = hidden.assert_problem(404, "model_not_found").to_owned();
        let missing = missing.assert_problem(404, "model_not_found").to_owned();
        assert_eq!(
            hidden.replace("secret-digits", "nothing"),
            missing,
            "they look the same"
        );
    }
    // The only model that this key may use is its default.
    let picture =
        crate::fixture::read(crate::fixture::root().join("model-store/digits/samples/7_a.png"));
    let request = gateway.bare.post(format!("{}/v1/classify", gateway.base));
    let request = request
        .header("x-api-key", &secret)
        .header("content-type", "image/png")
        .body(picture);
    let answer = gateway.send(request).await;
    assert_eq!(answer.assert_ok()["model"], "digits");
}
