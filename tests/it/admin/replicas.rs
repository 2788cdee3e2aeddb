//! Two gateways over one database: what one changes is in force on the other within a second, and across restarts.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

/// Within a second, and a bit more for a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(4);

async fn classify(gateway: &TestGateway, secret: &str) -> StatusCode {
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let request = request
        .bearer_auth(secret)
        .header("content-type", "image/png")
        .body(picture);
    gateway.send(request).await.status
}

async fn becomes(gateway: &TestGateway, secret: &str, wanted: StatusCode) {
    let since = Instant::now();
    while classify(gateway, secret).await != wanted {
        assert!(since.elapsed() < SOON, "it does not become {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn changes_reach_the_other_replica(database: TestDatabase) {
    let setting = format!("store.url={}", database.url);
    let store = TestStore::digits();
    let one = TestGateway::start(store.path(), &[&setting]).await;
    let two = TestGateway::start(store.path(), &[&setting]).await;
    let (id, secret) = one.key(json!({"name": "app"})).await;
    assert_eq!(
        classify(&one, &secret).await,
        StatusCode::OK,
        "at once where it was made"
    );
    becomes(&two, &secret, StatusCode::OK).await;
    let patch = json!({"requests_per_second": 0.001, "burst": 1});
    two.admin(Method::PATCH, &format!("/keys/{id}"), Some(patch))
        .await
        .assert_ok();
    becomes(&one, &secret, StatusCode::TOO_MANY_REQUESTS).await;
    two.admin(Method::DELETE, &format!("/keys/{id}"), None)
        .await;
    assert_eq!(classify(&two, &secret).await, StatusCode::UNAUTHORIZED);
    becomes(&one, &secret, StatusCode::UNAUTHORIZED).await;
    // Only one of them filled the empty database.
    let audit = one
        .admin(Method::GET, "/audit?action=bootstrap", None)
        .await;
    assert_eq!(
        audit.assert_ok()["items"].as_array().expect("items").len(),
        1
    );
}

#[tokio::test]
async fn changes_reach_the_other_replica_on_sqlite() {
    changes_reach_the_other_replica(TestDatabase::sqlite()).await;
}

#[tokio::test]
async fn changes_reach_the_other_replica_on_postgres() {
    changes_reach_the_other_replica(TestDatabase::postgres().await).await;
}

async fn keys_and_quotas_survive_a_restart(database: TestDatabase) {
    let setting = format!("store.url={}", database.url);
    let store = TestStore::digits();
    let mut gateway = TestGateway::start(store.path(), &[&setting]).await;
    let limits = json!({"name": "app", "images_per_day": 5});
    let (id, secret) = gateway.key(limits).await;
    for _ in 0..3 {
        assert_eq!(classify(&gateway, &secret).await, StatusCode::OK);
    }
    gateway.join();
    let gateway = TestGateway::start(store.path(), &[&setting]).await;
    let view = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    assert_eq!(
        view.assert_ok()["images_today"],
        3,
        "exact across a restart"
    );
    for _ in 0..2 {
        assert_eq!(classify(&gateway, &secret).await, StatusCode::OK);
    }
    assert_eq!(
        classify(&gateway, &secret).await,
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn keys_and_quotas_survive_a_restart_on_sqlite() {
    keys_and_quotas_survive_a_restart(TestDatabase::sqlite()).await;
}

#[tokio::test]
async fn keys_and_quotas_survive_a_restart_on_postgres() {
    keys_and_quotas_survive_a_restart(TestDatabase::postgres().await).await;
}

#[tokio::test]
async fn a_quota_is_shared_by_replicas() {
    let database = TestDatabase::postgres().await;
    let setting = format!("store.url={}", database.url);
    let store = TestStore::digits();
    let one = TestGateway::start(store.path(), &[&setting]).await;
    let two = TestGateway::start(store.path(), &[&setting]).await;
    let (_, secret) = one.key(json!({"name": "app", "images_per_day": 4})).await;
    becomes(&two, &secret, StatusCode::OK).await;
    for _ in 0..3 {
        assert_eq!(classify(&one, &secret).await, StatusCode::OK);
    }
    // Four were sent, one of them to the other: soon both know.
    becomes(&two, &secret, StatusCode::TOO_MANY_REQUESTS).await;
    becomes(&one, &secret, StatusCode::TOO_MANY_REQUESTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_shared_by_three_replicas_but_for_what_they_have_not_heard_yet() {
    const REPLICAS: usize = 3;
    const PER_SECOND: f64 = 20.0;
    const BURST: u32 = 20;
    let database = TestDatabase::postgres().await;
    let setting = format!("store.url={}", database.url);
    let store = TestStore::digits();
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(TestGateway::start(store.path(), &[&setting]).await);
    }
    let limits = json!({"name": "app", "requests_per_second": PER_SECOND, "burst": BURST});
    let (_, secret) = replicas[0].key(limits).await;
    for replica in &replicas {
        becomes(replica, &secret, StatusCode::OK).await;
    }
    // From a full bucket everywhere.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let since = Instant::now();
    let (mut given, mut most_over) = (0_u32, 0_f64);
    let allowed = |at: Instant| f64::from(BURST) + PER_SECOND * (at - since).as_secs_f64();
    while since.elapsed() < Duration::from_secs(12) {
        let asked = replicas.iter().map(|replica| classify(replica, &secret));
        let asked = futures_util::future::join_all(asked).await;
        let ok = asked.iter().filter(|status| **status == StatusCode::OK);
        given += u32::try_from(ok.count()).expect("three");
        most_over = most_over.max(f64::from(given) - allowed(Instant::now()));
    }
    let allowed = allowed(Instant::now());
    println!(
        "{REPLICAS} replicas, {PER_SECOND}/s, burst {BURST}: {given} given in 12 s of {allowed:.0}, at most {most_over:.0} too many at a time"
    );
    // Each may give a burst and what flows in until it has heard of the others: 0.8 s, and what a busy machine takes.
    let unheard = f64::from(BURST) + PER_SECOND * 2.5;
    let bound = unheard * f64::from(u32::try_from(REPLICAS - 1).expect("two"));
    assert!(most_over <= bound, "{most_over} of {bound}");
    // Each of its own they would have given 3 * 260.
    assert!(f64::from(given) <= allowed + bound, "{given}");
    assert!(f64::from(given) >= allowed * 0.6, "{given}: it is not shut");
}

/// Waits until each of the others is as `wanted` says; how long the slowest took.
async fn others_follow<F: Future<Output = bool>>(
    replicas: &[TestGateway],
    through: usize,
    what: &str,
    wanted: impl Fn(usize) -> F,
) {
    let since = Instant::now();
    for number in (0..replicas.len()).filter(|number| *number != through) {
        while !wanted(number).await {
            assert!(
                since.elapsed() < SOON,
                "{what}: replica {number} does not follow"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    println!(
        "| {what} | {} | {} ms |",
        through + 1,
        since.elapsed().as_millis()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_have_one_truth() {
    let database = TestDatabase::postgres().await;
    let setting = format!("store.url={}", database.url);
    let store = TestStore::digits();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(TestGateway::start(store.path(), &[&setting]).await);
    }
    println!("| change | through replica | the others have it after |");
    println!("| --- | --- | --- |");
    let (id, secret) = replicas[0].key(json!({"name": "app"})).await;
    let answers = |number: usize, status: StatusCode| {
        let (replica, secret) = (&replicas[number], &secret);
        async move { classify(replica, secret).await == status }
    };
    let made = |number| answers(number, StatusCode::OK);
    others_follow(&replicas, 0, "a key", made).await;
    let rollout = json!({"mode": "pinned", "version": 1});
    let pinned = replicas[2].admin(Method::PUT, "/models/digits/rollout", Some(rollout));
    pinned.await.assert_ok();
    let by_first = |number: usize| {
        let (replica, secret) = (&replicas[number], &secret);
        async move {
            let picture = read(root().join("model-store/digits/samples/7_a.png"));
            let request = replica.anonymous(Method::POST, "/v1/models/digits/classify");
            let request = request
                .bearer_auth(secret)
                .header("content-type", "image/png");
            replica.send(request.body(picture)).await.body["version"] == 1
        }
    };
    others_follow(&replicas, 2, "a rollout", by_first).await;
    let new = json!({"id": "letters"});
    let made = replicas[1].admin(Method::POST, "/models", Some(new)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let registered = |number: usize| {
        let replica = &replicas[number];
        async move {
            let found = replica.admin(Method::GET, "/models/letters", None).await;
            found.status == StatusCode::OK
        }
    };
    others_follow(&replicas, 1, "a model", registered).await;
    let limit = json!({"requests_per_second": 0.001, "burst": 1});
    let path = format!("/keys/{id}");
    let limited = replicas[1].admin(Method::PATCH, &path, Some(limit));
    limited.await.assert_ok();
    let full = |number| answers(number, StatusCode::TOO_MANY_REQUESTS);
    others_follow(&replicas, 1, "a limit", full).await;
    let revoked = replicas[0].admin(Method::DELETE, &path, None);
    assert_eq!(revoked.await.status, StatusCode::NO_CONTENT);
    let refused = |number| answers(number, StatusCode::UNAUTHORIZED);
    others_follow(&replicas, 0, "a revocation", refused).await;
}
