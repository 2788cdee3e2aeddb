//! Who may call the data plane and how often, over real HTTP: the order of the checks, what the head says of the limits,
//! batches, days, tenants.

use chrono::TimeDelta;
use lensgate::domain::api_key::{ApiKey, KeyLimits, LimitMode, Scope};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::errors::{digits_with, noise_png};
use crate::fixture::gateway::Answer;
use crate::fixture::plane::{TestPlane, key, limited, per_day, rate, send, tenant};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const ROUTE: &str = "/v1/models/digits/classify";
const BATCH: &str = "/v1/models/digits/batch-classify";

/// A gateway's limit, and a body over it that is still short enough to be sent whole while the answer comes.
const SMALL: [&str; 1] = ["limits.max_image_bytes=20000"];

fn too_large() -> Vec<u8> {
    vec![0; 30_000]
}

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

async fn batch(plane: &TestPlane, secret: &str, pictures: usize) -> Answer {
    let form = (0..pictures).fold(Form::new(), |form, _| {
        form.part("files", Part::bytes(seven()).file_name("seven.png"))
    });
    send(
        plane
            .request(Method::POST, BATCH)
            .bearer_auth(secret)
            .multipart(form),
    )
    .await
}

/// `digits`, and the same again as `hidden`.
fn two_models() -> TestStore {
    TestStore::digits().with(&root().join("model-store/digits"), "hidden")
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_before_all_but_the_route() {
    let reader = ApiKey {
        scopes: vec![Scope::Read],
        ..key("reader")
    };
    let plane = TestPlane::start(TestStore::digits(), &SMALL, &[key("good"), reader]).await;
    let post = |path: &str| plane.request(Method::POST, path);
    send(post("/v1/nothing"))
        .await
        .assert_problem(404, "not_found");
    send(plane.request(Method::DELETE, ROUTE))
        .await
        .assert_problem(405, "method_not_allowed");
    for path in [
        "/health",
        "/health/live",
        "/health/ready",
        "/docs",
        "/openapi.json",
    ] {
        send(plane.request(Method::GET, path)).await.assert_ok();
    }
    for path in [
        ROUTE,
        "/v1/models/nothing/classify",
        "/v1/models/digits/versions/9/classify",
        "/v1/classify?top_k=many",
        BATCH,
        "/v1/batch-classify",
    ] {
        // Not even a body that could never be taken is looked at.
        let without = post(path)
            .header("content-type", "text/plain")
            .body(too_large());
        let without = send(without).await;
        without.assert_problem(401, "missing_credentials");
        assert_eq!(without.header("www-authenticate"), "Bearer");
        let wrong = send(post(path).bearer_auth("wrong")).await;
        wrong.assert_problem(401, "invalid_credentials");
        assert_eq!(wrong.header("www-authenticate"), "Bearer");
        assert!(!wrong.headers.contains_key("ratelimit"));
        let reader = send(
            post(path)
                .bearer_auth("reader")
                .header("x-request-timeout-ms", "x"),
        );
        let detail = reader.await.assert_problem(403, "forbidden").to_owned();
        assert!(detail.contains("classify"), "{detail}");
    }
    for path in ["/v1/models", "/v1/models/digits", "/v1/models/nothing"] {
        let without = send(plane.request(Method::GET, path)).await;
        without.assert_problem(401, "missing_credentials");
    }
    let basic = send(post(ROUTE).basic_auth("user", Some("good"))).await;
    basic.assert_problem(401, "invalid_credentials");
    let both = post(ROUTE).bearer_auth("good").header("x-api-key", "other");
    send(both).await.assert_problem(401, "invalid_credentials");
    let text = reqwest::header::HeaderValue::from_bytes(b"\xff").expect("a value");
    send(post(ROUTE).header("x-api-key", text))
        .await
        .assert_problem(400, "bad_request");
    let both = post(ROUTE).bearer_auth("good").header("x-api-key", "good");
    let both = both.header("content-type", "image/png").body(seven());
    assert_eq!(send(both).await.assert_ok()["class"], "7");
    let lower = post(ROUTE)
        .header("authorization", "bearer good")
        .body(seven());
    assert_eq!(send(lower).await.assert_ok()["class"], "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rotated_and_revoked_keys_open_nothing_any_more() {
    let plane = TestPlane::start(TestStore::digits(), &[], &[key("one"), key("two")]).await;
    let minute = TimeDelta::seconds(60);
    let until = crate::fixture::plane::noon() + minute;
    plane.classify("one", ROUTE, seven()).await.assert_ok();
    plane.change(&[
        ApiKey {
            hash: key("new").hash,
            previous: Some((key("one").hash, until)),
            ..key("one")
        },
        ApiKey {
            expires_at: Some(until),
            ..key("two")
        },
    ]);
    for secret in ["one", "new", "two"] {
        plane.classify(secret, ROUTE, seven()).await.assert_ok();
    }
    plane.pass(minute);
    for secret in ["one", "two"] {
        let answer = plane.classify(secret, ROUTE, seven()).await;
        let detail = answer.assert_problem(401, "invalid_credentials");
        assert!(detail.contains("expired"), "{detail}");
    }
    plane.classify("new", ROUTE, seven()).await.assert_ok();
    plane.revoke(&key("one"));
    let answer = plane.classify("new", ROUTE, seven()).await;
    answer.assert_problem(401, "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_its_models_and_those_alone() {
    let scoped = |secret: &str, scope| ApiKey {
        models: vec!["dig*".parse().expect("a pattern")],
        scopes: vec![scope],
        ..key(secret)
    };
    let keys = [
        scoped("reader", Scope::Read),
        scoped("app", Scope::Classify),
        scoped("critic", Scope::Feedback),
        key("all"),
    ];
    let plane = TestPlane::start(two_models(), &[], &keys).await;
    let ids = |list: &Answer| {
        let models = list.assert_ok()["models"].as_array().expect("models");
        let ids = models
            .iter()
            .map(|model| model["id"].as_str().expect("an id").to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&plane.get("all", "/v1/models").await),
        ["digits", "hidden"]
    );
    for secret in ["reader", "app"] {
        assert_eq!(ids(&plane.get(secret, "/v1/models").await), ["digits"]);
        plane.get(secret, "/v1/models/digits").await.assert_ok();
        let hidden = plane.get(secret, "/v1/models/hidden").await;
        let missing = plane.get(secret, "/v1/models/nothin").await;
        same_but_for_the_name(&hidden, &missing);
    }
    let critic = plane.get("critic", "/v1/models").await;
    let detail = critic.assert_problem(403, "forbidden");
    assert!(detail.contains("read or classify"), "{detail}");
    for route in [
        "/v1/models/{}/classify",
        "/v1/models/{}/versions/1/classify",
        "/v1/models/{}/versions/77/classify",
        "/v1/models/{}/batch-classify",
    ] {
        let hidden = plane
            .classify("app", &route.replace("{}", "hidden"), seven())
            .await;
        let missing = plane
            .classify("app", &route.replace("{}", "nothin"), seven())
            .await;
        same_but_for_the_name(&hidden, &missing);
    }
    // Without a name: the only one that the key may use.
    let only = plane.classify("app", "/v1/classify", seven()).await;
    assert_eq!(only.assert_ok()["model"], "digits");
    let only = plane.classify("app", "/v1/batch-classify", seven()).await;
    assert_eq!(only.assert_ok()["model"], "digits");
    let several = plane.classify("all", "/v1/classify", seven()).await;
    several.assert_problem(404, "model_not_found");
}

#[track_caller]
fn same_but_for_the_name(hidden: &Answer, missing: &Answer) {
    let hidden = hidden.assert_problem(404, "model_not_found");
    let missing = missing.assert_problem(404, "model_not_found");
    assert_eq!(hidden.replace("hidden", "nothin"), missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_model_that_a_key_may_not_use_is_none() {
    let other = ApiKey {
        models: vec!["digits".parse().expect("a pattern")],
        ..key("other")
    };
    let plane = TestPlane::start(
        two_models(),
        &["default_model=hidden"],
        &[other, key("all")],
    )
    .await;
    for route in ["/v1/classify", "/v1/batch-classify"] {
        plane.classify("all", route, seven()).await.assert_ok();
        let none = plane.classify("other", route, seven()).await;
        let detail = none.assert_problem(404, "model_not_found");
        assert!(!detail.contains("hidden"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_after_the_model_and_before_the_body() {
    let mut key = limited("app", rate(1.0, 1));
    key.models = vec!["digits".parse().expect("a pattern")];
    let plane = TestPlane::start(two_models(), &SMALL, &[key]).await;
    // What is not there, and what may not be seen, costs nothing.
    for model in ["hidden", "nothing"] {
        let route = format!("/v1/models/{model}/classify");
        let missing = plane.classify("app", &route, seven()).await;
        missing.assert_problem(404, "model_not_found");
        assert_eq!(missing.header("ratelimit"), "\"burst\";r=1;t=0");
    }
    // A body that is too large costs the token: it is only looked at after it.
    let large = plane.classify("app", ROUTE, too_large()).await;
    large.assert_problem(413, "payload_too_large");
    assert_eq!(large.header("ratelimit"), "\"burst\";r=0;t=1");
    let again = plane.classify("app", ROUTE, too_large()).await;
    again.assert_problem(429, "rate_limited");
    plane.pass(TimeDelta::seconds(1));
    let again = plane
        .classify("app", &format!("{ROUTE}?top_k=99"), seven())
        .await;
    again.assert_problem(400, "bad_request");
    let again = plane.classify("app", ROUTE, seven()).await;
    again.assert_problem(429, "rate_limited");
    assert_eq!(again.header("retry-after"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_how_the_key_stands() {
    let both = KeyLimits {
        images_per_day: Some(100),
        ..rate(5.0, 10)
    };
    let keys = [
        limited("both", both),
        limited("rate", rate(0.5, 1)),
        limited("day", per_day(2)),
        key("free"),
    ];
    let plane = TestPlane::start(TestStore::digits(), &[], &keys).await;
    let answer = plane.classify("both", ROUTE, seven()).await;
    answer.assert_ok();
    let policy = "\"burst\";q=10;w=2, \"day\";q=100;w=86400";
    assert_eq!(answer.header("ratelimit-policy"), policy);
    let left = "\"burst\";r=9;t=1, \"day\";r=99;t=43200";
    assert_eq!(answer.header("ratelimit"), left);
    let refused = plane.classify("both", ROUTE, b"no picture".to_vec()).await;
    refused.assert_problem(415, "unsupported_media_type");
    assert_eq!(refused.header("ratelimit-policy"), policy);
    assert_eq!(
        refused.header("ratelimit"),
        "\"burst\";r=8;t=1, \"day\";r=98;t=43200"
    );
    // Looking costs a token too, and no picture.
    let list = plane.get("both", "/v1/models").await;
    list.assert_ok();
    assert_eq!(
        list.header("ratelimit"),
        "\"burst\";r=7;t=1, \"day\";r=98;t=43200"
    );

    plane.classify("rate", ROUTE, seven()).await.assert_ok();
    let refused = plane.classify("rate", ROUTE, seven()).await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "2");
    assert_eq!(refused.header("ratelimit-policy"), "\"burst\";q=1;w=2");
    assert_eq!(refused.header("ratelimit"), "\"burst\";r=0;t=2");
    plane.pass(TimeDelta::milliseconds(1999));
    let refused = plane.get("rate", "/v1/models").await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1", "never less");
    plane.pass(TimeDelta::milliseconds(1));
    plane.classify("rate", ROUTE, seven()).await.assert_ok();

    let answer = plane.classify("day", ROUTE, seven()).await;
    answer.assert_ok();
    assert_eq!(answer.header("ratelimit-policy"), "\"day\";q=2;w=86400");
    assert_eq!(answer.header("ratelimit"), "\"day\";r=1;t=43198");
    let free = plane.classify("free", ROUTE, seven()).await;
    free.assert_ok();
    for field in ["ratelimit", "ratelimit-policy", "retry-after"] {
        assert!(!free.headers.contains_key(field), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_costs_its_pictures() {
    let keys = [limited("app", rate(1.0, 4)), key("free")];
    let settings = ["limits.max_batch_images=6"];
    let plane = TestPlane::start(TestStore::digits(), &settings, &keys).await;
    let answer = batch(&plane, "app", 3).await;
    assert_eq!(
        answer.assert_ok()["results"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(answer.header("ratelimit"), "\"burst\";r=1;t=3");
    // One token admits it, two more are missing; the one is gone.
    let refused = batch(&plane, "app", 3).await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("ratelimit"), "\"burst\";r=0;t=4");
    assert_eq!(refused.header("retry-after"), "3");
    plane.pass(TimeDelta::seconds(3));
    batch(&plane, "app", 3).await.assert_ok();
    // More than there ever are: to wait does not help.
    plane.pass(TimeDelta::seconds(60));
    let never = batch(&plane, "app", 5).await;
    let detail = never.assert_problem(413, "batch_too_large");
    assert!(detail.contains('5') && detail.contains('4'), "{detail}");
    assert!(!never.headers.contains_key("retry-after"));
    assert_eq!(never.header("ratelimit"), "\"burst\";r=3;t=1");
    let never = batch(&plane, "free", 7).await;
    never.assert_problem(413, "batch_too_large");
    batch(&plane, "free", 6).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_picture_is_a_batch_where_the_gateway_allows_no_more() {
    let settings = ["limits.max_batch_images=1"];
    let plane = TestPlane::start(TestStore::digits(), &settings, &[key("app")]).await;
    batch(&plane, "app", 1).await.assert_ok();
    let two = batch(&plane, "app", 2).await;
    two.assert_problem(413, "batch_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_counts_answers_also_cached_ones_and_nothing_else_stops_later() {
    let keys = [limited("app", per_day(4)), limited("other", per_day(1))];
    let plane = TestPlane::start(TestStore::digits(), &SMALL, &keys).await;
    let first = plane.classify("app", ROUTE, seven()).await;
    assert_eq!(first.assert_ok()["cached"], false);
    let second = plane.classify("app", ROUTE, seven()).await;
    assert_eq!(second.assert_ok()["cached"], true);
    assert_eq!(second.header("ratelimit"), "\"day\";r=2;t=43200");
    // All or nothing: three are more than are left.
    let refused = batch(&plane, "app", 3).await;
    refused.assert_problem(429, "quota_exceeded");
    assert_eq!(refused.header("retry-after"), "43200");
    assert_eq!(refused.header("ratelimit"), "\"day\";r=2;t=43200");
    batch(&plane, "app", 2).await.assert_ok();
    let refused = plane.classify("app", ROUTE, seven()).await;
    refused.assert_problem(429, "quota_exceeded");
    // It is the last check: what is wrong with the request is said first.
    let large = plane.classify("app", ROUTE, too_large()).await;
    large.assert_problem(413, "payload_too_large");
    let malformed = plane.request(Method::POST, ROUTE).bearer_auth("app");
    let malformed = malformed
        .header("content-type", "application/json")
        .body("{");
    send(malformed).await.assert_problem(400, "bad_request");
    // Looking is no picture, and other keys have days of their own.
    plane.get("app", "/v1/models").await.assert_ok();
    plane.classify("other", ROUTE, seven()).await.assert_ok();
    plane.pass(TimeDelta::hours(12));
    let tomorrow = plane.classify("app", ROUTE, seven()).await;
    tomorrow.assert_ok();
    assert_eq!(tomorrow.header("ratelimit"), "\"day\";r=3;t=86400");
    assert_eq!(plane.access.use_of(key("app").id).images_today, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_reasons_of_ours_does_not_count() {
    let keys = [limited("app", per_day(10))];
    let plane = TestPlane::start(digits_with("timeout_ms = 1"), &[], &keys).await;
    let slow = noise_png(4000, 2500);
    let late = plane.classify("app", ROUTE, slow.clone()).await;
    late.assert_problem(504, "deadline_exceeded");
    assert_eq!(late.header("ratelimit"), "\"day\";r=10;t=43200");
    // Of a batch, those that failed so; the broken picture was the caller's own.
    let form = Form::new()
        .part("files", Part::bytes(slow.clone()).file_name("slow"))
        .part(
            "files",
            Part::bytes(b"no picture".to_vec()).file_name("text"),
        )
        .part("files", Part::bytes(slow).file_name("slow"));
    let request = plane.request(Method::POST, BATCH).bearer_auth("app");
    let answer = send(request.multipart(form)).await;
    let results = answer.assert_ok()["results"].as_array().expect("results");
    let statuses: Vec<&Value> = results
        .iter()
        .map(|result| &result["error"]["status"])
        .collect();
    assert_eq!(statuses[0], 504, "{statuses:?}");
    let ours = statuses
        .iter()
        .filter(|status| status.as_u64() >= Some(500))
        .count();
    let counted = 3 - ours;
    assert_eq!(
        answer.header("ratelimit"),
        format!("\"day\";r={};t=43200", 10 - counted)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_observes_refuses_nobody() {
    let watched = KeyLimits {
        images_per_day: Some(1),
        mode: LimitMode::Observe,
        ..rate(1.0, 1)
    };
    let plane =
        TestPlane::start(TestStore::digits(), &[], &[limited("app", watched.clone())]).await;
    for _ in 0..3 {
        plane.classify("app", ROUTE, seven()).await.assert_ok();
    }
    let answer = batch(&plane, "app", 3).await;
    answer.assert_ok();
    assert_eq!(
        answer.header("ratelimit-policy"),
        "\"burst\";q=1;w=1, \"day\";q=1;w=86400"
    );
    assert_eq!(
        answer.header("ratelimit"),
        "\"burst\";r=0;t=1, \"day\";r=0;t=43200"
    );
    let counts = plane.access.counts();
    // Two singles over the rate and the day; the batch at its first token, at its rest, and over the day.
    assert_eq!(
        (counts.observed_over_limit, counts.refused_for_limit),
        (7, 0)
    );
    // From one moment to the next it is in force, and what was used counts.
    let enforced = KeyLimits {
        mode: LimitMode::Enforce,
        ..watched
    };
    plane.change(&[limited("app", enforced)]);
    let refused = plane.classify("app", ROUTE, seven()).await;
    refused.assert_problem(429, "rate_limited");
    plane.pass(TimeDelta::seconds(1));
    let refused = plane.classify("app", ROUTE, seven()).await;
    refused.assert_problem(429, "quota_exceeded");
    assert_eq!(plane.access.use_of(key("app").id).images_today, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_is_in_force_at_once_and_nobody_starts_anew() {
    let plane = TestPlane::start(TestStore::digits(), &[], &[limited("app", rate(0.1, 3))]).await;
    for _ in 0..3 {
        plane.classify("app", ROUTE, seven()).await.assert_ok();
    }
    plane
        .classify("app", ROUTE, seven())
        .await
        .assert_problem(429, "rate_limited");
    plane.change(&[limited("app", rate(0.1, 4))]);
    let raised = plane.classify("app", ROUTE, seven()).await;
    raised.assert_ok();
    assert_eq!(raised.header("ratelimit"), "\"burst\";r=0;t=40");
    let refused = plane.classify("app", ROUTE, seven()).await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "10");
    // A hundred times faster: what is owed is paid a hundred times faster, and not forgiven.
    plane.change(&[limited("app", rate(10.0, 4))]);
    let refused = plane.classify("app", ROUTE, seven()).await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    plane.pass(TimeDelta::milliseconds(100));
    plane.classify("app", ROUTE, seven()).await.assert_ok();
    plane.change(&[key("app")]);
    plane.classify("app", ROUTE, seven()).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_smaller_pictures_than_the_gateway() {
    let small = |bytes| KeyLimits {
        max_image_bytes: Some(bytes),
        ..KeyLimits::default()
    };
    let keys = [
        limited("small", small(100)),
        limited("large", small(100 << 20)),
    ];
    let plane = TestPlane::start(TestStore::digits(), &SMALL, &keys).await;
    let refused = plane.classify("small", ROUTE, seven()).await;
    let detail = refused.assert_problem(413, "payload_too_large");
    assert!(detail.contains("100"), "{detail}");
    let results = batch(&plane, "small", 2).await;
    let results = results.assert_ok()["results"]
        .as_array()
        .expect("results")
        .clone();
    for result in results {
        assert_eq!(result["error"]["code"], "payload_too_large", "{result}");
    }
    plane.classify("large", ROUTE, seven()).await.assert_ok();
    let refused = plane.classify("large", ROUTE, too_large()).await;
    refused.assert_problem(413, "payload_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_neither_results_nor_limits_and_keys_of_one_share_results() {
    let theirs = ApiKey {
        tenant: tenant(2).id,
        ..limited("theirs", rate(1.0, 2))
    };
    let keys = [
        limited("ours", rate(1.0, 2)),
        key("ours too"),
        theirs.clone(),
    ];
    let plane = TestPlane::start(TestStore::digits(), &[], &keys).await;
    let cached = async |secret: &str| {
        let answer = plane.classify(secret, ROUTE, seven()).await;
        answer.assert_ok()["cached"].clone()
    };
    assert_eq!(cached("ours").await, json!(false));
    assert_eq!(cached("ours too").await, json!(true));
    assert_eq!(
        cached("theirs").await,
        json!(false),
        "another tenant's results are not told"
    );
    assert_eq!(cached("theirs").await, json!(true));
    assert_eq!(cached("ours").await, json!(true), "its own second token");
    let refused = plane.classify("ours", ROUTE, seven()).await;
    refused.assert_problem(429, "rate_limited");
    let settings = ["cache.shared=true"];
    let plane = TestPlane::start(TestStore::digits(), &settings, &[key("ours"), theirs]).await;
    plane.classify("ours", ROUTE, seven()).await.assert_ok();
    let answer = plane.classify("theirs", ROUTE, seven()).await;
    assert_eq!(answer.assert_ok()["cached"], true, "unless they are shared");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knocks_too_often_is_told_so_and_a_valid_key_passes() {
    let settings = [
        "limits.unauthenticated_per_minute=6",
        "server.trusted_proxies=127.0.0.1",
    ];
    let plane = TestPlane::start(TestStore::digits(), &settings, &[key("good")]).await;
    let knock = async |secret: &str, client: &str| {
        let request = plane.request(Method::GET, "/v1/models").bearer_auth(secret);
        send(request.header("x-forwarded-for", client)).await
    };
    for _ in 0..6 {
        knock("wrong", "192.0.2.1")
            .await
            .assert_problem(401, "invalid_credentials");
    }
    let refused = knock("wrong", "192.0.2.1").await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "10");
    let without = plane.request(Method::GET, "/v1/models");
    let without = send(without.header("forwarded", "for=192.0.2.1")).await;
    without.assert_problem(429, "rate_limited");
    knock("good", "192.0.2.1").await.assert_ok();
    // Who says that somebody else stands before it is still the one that the proxy saw.
    let refused = knock("wrong", "203.0.113.5, 192.0.2.1").await;
    refused.assert_problem(429, "rate_limited");
    let other = knock("wrong", "198.51.100.1").await;
    other.assert_problem(401, "invalid_credentials");
    plane.pass(TimeDelta::seconds(10));
    knock("wrong", "192.0.2.1")
        .await
        .assert_problem(401, "invalid_credentials");
    assert_eq!(plane.access.counts().unauthenticated, 11);
    // A key without the scope is no wrong key.
    plane.change(&[ApiKey {
        scopes: vec![Scope::Feedback],
        ..key("good")
    }]);
    for _ in 0..10 {
        knock("good", "192.0.2.1")
            .await
            .assert_problem(403, "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_which_routes_need_a_key_and_how() {
    let plane = TestPlane::start(TestStore::digits(), &[], &[]).await;
    let document = send(plane.request(Method::GET, "/openapi.json")).await;
    let document = document.assert_ok();
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["BearerKey"]["type"], "http");
    assert_eq!(schemes["BearerKey"]["scheme"], "bearer");
    assert_eq!(schemes["HeaderKey"]["type"], "apiKey");
    assert_eq!(schemes["HeaderKey"]["in"], "header");
    assert_eq!(schemes["HeaderKey"]["name"], "X-API-Key");
    let either = json!([{"BearerKey": []}, {"HeaderKey": []}]);
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if path.starts_with("/health") {
                assert!(operation["security"].is_null(), "{path}");
                continue;
            }
            assert_eq!(operation["security"], either, "{method} {path}");
            for (status, header) in [
                ("200", "RateLimit"),
                ("200", "RateLimit-Policy"),
                ("401", "WWW-Authenticate"),
                ("429", "RateLimit"),
                ("429", "Retry-After"),
                ("503", "Retry-After"),
            ] {
                let told = &operation["responses"][status]["headers"][header];
                assert!(told.is_object(), "{method} {path} {status} {header}");
            }
        }
    }
}
