//! Shadows: they hear what they are to hear, and nobody hears them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::database::TestDatabase;
use crate::fixture::digits::{Digit, mixed_up_labels, test_split};
use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

contract![
    agreement_is_counted_and_the_strongest_disagreements_are_kept,
    a_shadow_that_fails_fails_nobody,
    what_is_kept_of_a_tenant_goes_with_it,
];

async fn gateway(database: &TestDatabase, store: &TestStore) -> TestGateway {
    let url = format!("store.url={}", database.url);
    TestGateway::start(store.path(), &[url.as_str()]).await
}

async fn put(gateway: &TestGateway, model: &str, rollout: Value) {
    let path = format!("/models/{model}/rollout");
    gateway
        .admin(Method::PUT, &path, Some(rollout))
        .await
        .assert_ok();
}

async fn report(gateway: &TestGateway, model: &str) -> Value {
    let path = format!("/models/{model}/report");
    gateway
        .admin(Method::GET, &path, None)
        .await
        .assert_ok()
        .clone()
}

/// The agreement of the version that is pinned, once so many pictures were compared or dropped.
async fn agreement(gateway: &TestGateway, model: &str, pictures: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let report = report(gateway, model).await;
        let arms = report["arms"].as_array().expect("arms");
        let arm = arms
            .iter()
            .find(|arm| arm["version"] == 1)
            .expect("version 1");
        let agreement = &arm["agreement"][0];
        let count = |field: &str| agreement[field].as_u64().unwrap_or_default();
        if count("compared") + count("dropped") >= pictures {
            return agreement.clone();
        }
        assert!(Instant::now() < deadline, "{report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn classify(gateway: &TestGateway, digits: &[Digit]) {
    for digit in digits {
        let path = "/v1/models/digits/classify";
        let answer = gateway.raw(path, "image/png", digit.picture.clone()).await;
        let body = answer.assert_ok();
        assert_eq!(body["version"], 1);
        assert_eq!(body["rollout"], json!({"mode": "pinned"}));
    }
}

/// The shipped model, and a third version with mixed up labels.
fn with_a_mixed_up_version() -> TestStore {
    let store = TestStore::digits();
    let graph = read(root().join("model-store/digits/2/model.onnx"));
    store.write("digits/3/labels.txt", mixed_up_labels());
    store.write("digits/3/model.onnx", graph);
    store
}

async fn agreement_is_counted_and_the_strongest_disagreements_are_kept(database: &TestDatabase) {
    let store = with_a_mixed_up_version();
    let gateway = gateway(database, &store).await;
    gateway
        .until("digits", |view| view["versions"][2]["state"] == "live")
        .await;
    let digits = &test_split()[..60];
    put(
        &gateway,
        "digits",
        json!({"mode": "pinned", "version": 1, "shadow": {"version": 3, "sample": 1}}),
    )
    .await;
    classify(&gateway, digits).await;
    let all = u64::try_from(digits.len()).expect("a count");
    let agreement = agreement(&gateway, "digits", all).await;
    assert_eq!(agreement["with"], 3);
    let compared = agreement["compared"].as_u64().expect("a count");
    assert!(compared >= all / 2, "most are compared: {agreement}");
    // Digits that were not mixed up, but for what version 1 gets wrong.
    let same = digits
        .iter()
        .filter(|digit| "047".contains(&digit.label))
        .count();
    let value = agreement["value"].as_f64().expect("a share");
    let expected = f64::from(u32::try_from(same).expect("few")) / 60.0;
    assert!(
        (value - expected).abs() < 0.2,
        "{agreement}, {expected} expected"
    );
    let report = report(&gateway, "digits").await;
    let kept = report["disagreements"].as_array().expect("a list");
    assert_eq!(kept.len(), 20);
    let strengths: Vec<f64> = kept
        .iter()
        .map(|one| one["strength"].as_f64().expect("a number"))
        .collect();
    assert!(
        strengths.is_sorted_by(|a, b| a >= b) && strengths[0] > 0.9,
        "{strengths:?}"
    );
    let one = &kept[0];
    assert_eq!((&one["version"], &one["shadow"]), (&json!(1), &json!(3)));
    assert_ne!(one["class"], one["shadow_class"]);
    let id = one["request_id"].as_str().expect("an id");
    let prediction = gateway.get(&format!("/v1/predictions/{id}")).await;
    assert_eq!(prediction.assert_ok()["results"][0]["class"], one["class"]);
    // A part of them is a part of them; who names a version is not heard; a sample of nothing is none.
    put(
        &gateway,
        "digits",
        json!({"mode": "pinned", "version": 1, "shadow": {"version": 2, "sample": 0.3}}),
    )
    .await;
    classify(&gateway, digits).await;
    for digit in digits {
        let path = "/v1/models/digits/versions/1/classify";
        gateway
            .raw(path, "image/png", digit.picture.clone())
            .await
            .assert_ok();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = report_of(&gateway, 2).await;
    let heard = report["compared"].as_u64().expect("a count")
        + report["dropped"].as_u64().expect("a count");
    assert!((5..=35).contains(&heard), "{report}");
}

async fn report_of(gateway: &TestGateway, shadow: u64) -> Value {
    let report = report(gateway, "digits").await;
    let arms = report["arms"].as_array().expect("arms");
    let arm = arms
        .iter()
        .find(|arm| arm["version"] == 1)
        .expect("version 1");
    let agreements = arm["agreement"].as_array().expect("a list");
    agreements
        .iter()
        .find(|one| one["with"] == shadow)
        .expect("the shadow")
        .clone()
}

async fn a_shadow_that_fails_fails_nobody(database: &TestDatabase) {
    let store = TestStore::failing_second("odd");
    let gateway = gateway(database, &store).await;
    put(
        &gateway,
        "odd",
        json!({"mode": "pinned", "version": 1, "shadow": {"version": 2, "sample": 1}}),
    )
    .await;
    let red = read(data("images/red.png"));
    for _ in 0..10 {
        let answer = gateway
            .raw("/v1/models/odd/classify", "image/png", red.clone())
            .await;
        assert_eq!(answer.assert_ok()["version"], 1);
    }
    let agreement = agreement(&gateway, "odd", 10).await;
    assert_eq!(
        (&agreement["compared"], &agreement["dropped"]),
        (&json!(0), &json!(10))
    );
    // A shadow that is gone is not heard, and missed by nobody.
    std::fs::remove_dir_all(store.path().join("odd/2")).expect("removed");
    gateway
        .until("odd", |view| {
            view["versions"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await;
    let answer = gateway
        .raw("/v1/models/odd/classify", "image/png", red)
        .await;
    assert_eq!(answer.assert_ok()["version"], 1);
}

async fn what_is_kept_of_a_tenant_goes_with_it(database: &TestDatabase) {
    let store = with_a_mixed_up_version();
    let gateway = gateway(database, &store).await;
    gateway
        .until("digits", |view| view["versions"][2]["state"] == "live")
        .await;
    put(
        &gateway,
        "digits",
        json!({"mode": "pinned", "version": 1, "shadow": {"version": 3, "sample": 1}}),
    )
    .await;
    classify(&gateway, &test_split()[..20]).await;
    agreement(&gateway, "digits", 20).await;
    let kept = report(&gateway, "digits").await["disagreements"].clone();
    assert!(!kept.as_array().expect("a list").is_empty());
    let tenants = gateway.admin(Method::GET, "/tenants?limit=1", None).await;
    let tenant = tenants.assert_ok()["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/predictions?tenant={tenant}");
    let gone = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!(gone.status, 204);
    assert_eq!(report(&gateway, "digits").await["disagreements"], json!([]));
}
