//! Rollouts: one version, or several side by side; who gets which, and what happens when one is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

contract![
    pinned_stays_whatever_is_newer,
    a_split_shares_and_stays,
    weights_move_nobody_away_and_other_arms_shuffle,
    an_arm_that_goes_leaves_its_traffic_to_the_baseline,
    each_picture_of_a_batch_and_a_job_is_assigned,
    nonsense_changes_nothing,
    what_a_rollout_stands_on_is_not_deleted,
];

const ROLLOUT: &str = "/models/digits/rollout";

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

async fn gateway(database: &TestDatabase, store: &TestStore) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let settings = [url.as_str(), "callbacks.allow_private=true"];
    TestGateway::start(store.path(), &settings).await
}

async fn put(gateway: &TestGateway, rollout: Value) -> Answer {
    gateway.admin(Method::PUT, ROLLOUT, Some(rollout)).await
}

fn split(weights: &[(u64, f64)], sticky_by: &str) -> Value {
    let arms = weights.iter();
    let arms: Vec<Value> = arms
        .map(|(version, weight)| json!({"version": version, "weight": weight}))
        .collect();
    json!({"mode": "split", "arms": arms, "sticky_by": sticky_by})
}

/// The version that answers who sends this as `X-User`.
async fn of_user(gateway: &TestGateway, user: &str) -> u64 {
    let request = gateway.post("/v1/models/digits/classify");
    let request = request.header("x-user", user).body(seven());
    let answer = gateway.send(request).await;
    let body = answer.assert_ok();
    let version = body["version"].as_u64().expect("a version");
    let why = json!({"mode": "split", "arm": version.to_string()});
    assert_eq!(body["rollout"], why);
    version
}

/// The versions that users get.
async fn of_users(gateway: &TestGateway) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    for number in 0..60 {
        let user = format!("user {number}");
        versions.insert(user.clone(), of_user(gateway, &user).await);
    }
    versions
}

async fn classify(gateway: &TestGateway) -> Value {
    let path = "/v1/models/digits/classify";
    let answer = gateway.raw(path, "image/png", seven()).await;
    answer.assert_ok().clone()
}

async fn pinned_stays_whatever_is_newer(database: &TestDatabase) {
    let store = TestStore::digits();
    let one = gateway(database, &store).await;
    let other = gateway(database, &store).await;
    let before = one.admin(Method::GET, ROLLOUT, None).await;
    assert_eq!(before.assert_ok(), &json!({"mode": "latest"}));
    assert_eq!(classify(&one).await["version"], 2);
    let pinned = json!({"mode": "pinned", "version": 1});
    let answer = put(&one, pinned.clone()).await;
    assert_eq!(answer.assert_ok(), &pinned);
    // In force when it is answered, and elsewhere within a second.
    let now = classify(&one).await;
    assert_eq!(now["version"], 1);
    assert_eq!(now["rollout"], json!({"mode": "pinned"}));
    let deadline = Instant::now() + Duration::from_secs(10);
    while classify(&other).await["version"] != 1 {
        assert!(Instant::now() < deadline, "the other replica has not heard");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let named = one
        .raw(
            "/v1/models/digits/versions/2/classify",
            "image/png",
            seven(),
        )
        .await;
    assert_eq!(named.assert_ok()["version"], 2);
    assert_eq!(named.body["rollout"], json!({"mode": "pinned"}));
    let models = one.get("/v1/models/digits").await;
    assert_eq!(models.assert_ok()["rollout"], json!({"mode": "pinned"}));
    // Whoever read it before may not overwrite it.
    let stale = one
        .admin_request(Method::PUT, ROLLOUT)
        .header("if-match", before.header("etag"))
        .json(&json!({"mode": "latest"}));
    one.send(stale)
        .await
        .assert_problem(412, "precondition_failed");
    let fresh = one
        .admin_request(Method::PUT, ROLLOUT)
        .header("if-match", answer.header("etag"))
        .json(&json!({"mode": "pinned", "version": 2}));
    one.send(fresh).await.assert_ok();
    put(&one, pinned.clone()).await.assert_ok();
    drop((one, other));
    let again = gateway(database, &store).await;
    assert_eq!(classify(&again).await["version"], 1, "after a restart");
    let audit = again
        .admin(Method::GET, "/audit?action=rollout.put", None)
        .await;
    let entries = audit.assert_ok()["items"].as_array().expect("entries");
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2]["before"], json!({"mode": "latest"}));
    assert_eq!(entries[2]["after"], pinned);
    assert_eq!(entries[2]["target"], "models/digits/rollout");
}

async fn a_split_shares_and_stays(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateways = [
        gateway(database, &store).await,
        gateway(database, &store).await,
    ];
    let wanted = split(&[(1, 50.0), (2, 50.0)], "header:X-User");
    let is = put(&gateways[0], wanted).await;
    let is = is.assert_ok();
    assert_eq!(is["sticky_by"], "header:x-user");
    assert_eq!(is["arms"][1], json!({"version": 2, "weight": 50.0}));
    let first = of_users(&gateways[0]).await;
    let versions: BTreeSet<u64> = first.values().copied().collect();
    assert_eq!(versions, BTreeSet::from([1, 2]), "both have users");
    // The same on another replica, and again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while classify(&gateways[1]).await["rollout"]["mode"] != "split" {
        assert!(Instant::now() < deadline, "the other replica has not heard");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(of_users(&gateways[1]).await, first);
    // Who has no such header is assigned by itself.
    let mut alone = BTreeSet::new();
    for _ in 0..60 {
        alone.insert(classify(&gateways[0]).await["version"].as_u64());
    }
    assert_eq!(alone.len(), 2, "{alone:?}");
    // A key or a picture stays with its version, also where the sticky thing is left out.
    for sticky_by in ["key", "image"] {
        put(&gateways[0], split(&[(1, 50.0), (2, 50.0)], sticky_by))
            .await
            .assert_ok();
        let mut versions = BTreeSet::new();
        for _ in 0..20 {
            versions.insert(classify(&gateways[0]).await["version"].as_u64());
        }
        assert_eq!(versions.len(), 1, "{sticky_by}");
    }
    // What is logged says why.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = gateways[0]
            .admin(Method::GET, "/predictions?limit=1", None)
            .await;
        let row = &listed.assert_ok()["items"][0];
        if row["arm"].is_string() {
            assert_eq!(row["arm"], row["version"].to_string());
            break;
        }
        assert!(Instant::now() < deadline, "{row}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn weights_move_nobody_away_and_other_arms_shuffle(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let put = async |weights: &[(u64, f64)]| {
        let answer = put(&gateway, split(weights, "header:x-user")).await;
        answer.assert_ok()["experiment"].clone()
    };
    let first = put(&[(1, 90.0), (2, 10.0)]).await;
    let before = of_users(&gateway).await;
    assert_eq!(put(&[(1, 50.0), (2, 50.0)]).await, first);
    let after = of_users(&gateway).await;
    let moved = before
        .iter()
        .filter(|(user, version)| after[*user] != **version);
    let moved: Vec<_> = moved.map(|(_, version)| *version).collect();
    assert!(
        !moved.is_empty() && moved.iter().all(|&from| from == 1),
        "{moved:?}"
    );
    assert_ne!(put(&[(1, 50.0)]).await, first);
    assert_ne!(
        put(&[(1, 50.0), (2, 50.0)]).await,
        first,
        "another experiment"
    );
    assert_ne!(of_users(&gateway).await, after, "all are assigned anew");
}

async fn an_arm_that_goes_leaves_its_traffic_to_the_baseline(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split(&[(1, 1.0), (2, 9.0)], "header:x-user"))
        .await
        .assert_ok();
    assert!(
        of_users(&gateway)
            .await
            .values()
            .any(|&version| version == 2)
    );
    let mut events = gateway
        .admin_request(Method::GET, "/events")
        .send()
        .await
        .expect("a stream");
    let unloaded = gateway
        .admin(Method::POST, "/models/digits/versions/2/unload", None)
        .await;
    unloaded.assert_ok();
    let all: BTreeSet<u64> = of_users(&gateway).await.into_values().collect();
    assert_eq!(all, BTreeSet::from([1]));
    let mut heard = String::new();
    let listening = async {
        while !heard.contains("rollout.arm_lost") {
            let piece = events.chunk().await.expect("a stream").expect("more");
            heard += &String::from_utf8_lossy(&piece);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), listening)
        .await
        .expect("an event");
    // It comes back with its traffic.
    gateway
        .admin(Method::POST, "/models/digits/versions/2/load", None)
        .await
        .assert_ok();
    assert!(
        of_users(&gateway)
            .await
            .values()
            .any(|&version| version == 2)
    );
    // Nobody stands in for what is pinned.
    put(&gateway, json!({"mode": "pinned", "version": 2}))
        .await
        .assert_ok();
    gateway
        .admin(Method::POST, "/models/digits/versions/2/unload", None)
        .await
        .assert_ok();
    let refused = gateway
        .raw("/v1/models/digits/classify", "image/png", seven())
        .await;
    refused.assert_problem(503, "model_unavailable");
}

async fn each_picture_of_a_batch_and_a_job_is_assigned(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    put(&gateway, split(&[(1, 1.0), (2, 1.0)], "none"))
        .await
        .assert_ok();
    let text = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(seven())
    };
    let pictures = vec![text; 32];
    let batch = gateway
        .json(
            "/v1/models/digits/batch-classify",
            &json!({"images": pictures}),
        )
        .await;
    let results = batch.assert_ok()["results"].as_array().expect("results");
    let versions: BTreeSet<_> = results.iter().map(|one| one["version"].as_u64()).collect();
    assert_eq!(versions.len(), 2, "{results:?}");
    put(&gateway, split(&[(1, 1.0), (2, 1.0)], "header:x-user"))
        .await
        .assert_ok();
    for user in ["a", "b", "c", "d", "e", "f"] {
        let wanted = of_user(&gateway, user).await;
        let request = gateway.post("/v1/models/digits/classify");
        let request = request
            .header("x-user", user)
            .header("prefer", "respond-async");
        let queued = gateway.send(request.body(seven())).await;
        assert_eq!(queued.status, StatusCode::ACCEPTED, "{queued:?}");
        let path = queued.header("location").to_owned();
        let deadline = Instant::now() + Duration::from_mins(1);
        let ended = loop {
            let read = gateway.get(&path).await;
            let read = read.assert_ok().clone();
            if read["status"] == "done" {
                break read;
            }
            assert!(Instant::now() < deadline, "{read}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(ended["results"][0]["version"], wanted, "{user}");
    }
}

async fn nonsense_changes_nothing(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let is = put(&gateway, split(&[(1, 1.0), (2, 1.0)], "key")).await;
    let is = is.assert_ok().clone();
    for (rollout, field) in [
        (json!({"mode": "newest"}), "mode"),
        (json!({"mode": "pinned", "version": 9}), "version"),
        (split(&[(1, 1.0), (9, 1.0)], "key"), "arms[1].version"),
        (split(&[(1, -1.0)], "key"), "arms[0].weight"),
        (split(&[(1, 0.0)], "key"), "arms"),
        (split(&[(1, 1.0), (1, 1.0)], "key"), "arms[1].version"),
        (split(&[(1, 1.0)], "cookie"), "sticky_by"),
        (json!({"mode": "latest", "weight": 1}), "weight"),
    ] {
        let refused = put(&gateway, rollout.clone()).await;
        let detail = refused.assert_problem(400, "bad_request");
        assert!(
            detail.contains(&format!("`{field}`")),
            "{rollout}: {detail}"
        );
    }
    let no_json = gateway
        .admin_request(Method::PUT, ROLLOUT)
        .header("content-type", "application/json")
        .body(r#"{"mode": "split", "arms": [{"version": 1, "weight": 1e999}]}"#);
    let refused = gateway.send(no_json).await;
    refused.assert_problem(400, "bad_request");
    // One that may not serve gets no traffic.
    gateway
        .admin(Method::POST, "/models/digits/versions/2/unload", None)
        .await
        .assert_ok();
    let refused = put(&gateway, json!({"mode": "pinned", "version": 2})).await;
    let detail = refused.assert_problem(400, "bad_request");
    assert!(detail.contains("unloaded"), "{detail}");
    let missing = gateway
        .admin(
            Method::PUT,
            "/models/none/rollout",
            Some(json!({"mode": "latest"})),
        )
        .await;
    missing.assert_problem(404, "model_not_found");
    let still = gateway.admin(Method::GET, ROLLOUT, None).await;
    assert_eq!(still.assert_ok(), &is);
}

async fn what_a_rollout_stands_on_is_not_deleted(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let delete = async |version: u64| {
        let path = format!("/models/digits/versions/{version}");
        gateway.admin(Method::DELETE, &path, None).await
    };
    put(&gateway, json!({"mode": "pinned", "version": 1}))
        .await
        .assert_ok();
    delete(1).await.assert_problem(409, "conflict");
    put(&gateway, split(&[(1, 1.0), (2, 1.0)], "none"))
        .await
        .assert_ok();
    delete(1).await.assert_problem(409, "conflict");
    assert_eq!(delete(2).await.status, StatusCode::NO_CONTENT);
    assert_eq!(classify(&gateway).await["version"], 1);
    // A model that comes again begins with `latest`.
    let gone = gateway.admin(Method::DELETE, "/models/digits", None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    store.add(&root().join("model-store/digits"), "digits");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = gateway.get("/v1/models/digits").await;
        let is_live = |place: usize| answer.body["versions"][place]["state"] == "live";
        if answer.status == StatusCode::OK && is_live(0) && is_live(1) {
            break;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        classify(&gateway).await["rollout"],
        json!({"mode": "latest"})
    );
}
