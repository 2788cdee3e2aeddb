//! Canaries: a better version promotes itself, a worse one is taken back, on evidence, once for all replicas.

use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::database::TestDatabase;
use crate::fixture::digits::{Digit, mixed_up_labels, test_split};
use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::postgres;
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::receiver::{Received, Receiver};
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

contract![
    a_better_version_promotes_itself_and_a_worse_one_is_taken_back,
    of_three_replicas_one_decides,
    operators_promote_pause_and_roll_back,
    a_failing_candidate_is_taken_back,
    nonsense_changes_nothing,
];

const ROLLOUT: &str = "/models/digits/rollout";

async fn gateway(database: &TestDatabase, store: &TestStore) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let settings = [url.as_str(), "callbacks.allow_private=true"];
    TestGateway::start(store.path(), &settings).await
}

async fn put(gateway: &TestGateway, rollout: Value) -> Answer {
    gateway.admin(Method::PUT, ROLLOUT, Some(rollout)).await
}

async fn rollout(gateway: &TestGateway) -> Value {
    let answer = gateway.admin(Method::GET, ROLLOUT, None).await;
    answer.assert_ok().clone()
}

/// The entries of the audit about an action, newest first.
async fn audit(gateway: &TestGateway, action: &str) -> Vec<Value> {
    let path = format!("/audit?action={action}");
    let answer = gateway.admin(Method::GET, &path, None).await;
    answer.assert_ok()["items"]
        .as_array()
        .expect("entries")
        .clone()
}

/// Sends digits as batches, and their true labels as feedback where `tells`; gives the versions that answered.
async fn send(gateway: &TestGateway, digits: &[Digit], tells: bool) -> Vec<u64> {
    let mut versions = Vec::new();
    for digits in digits.chunks(30) {
        let form = digits.iter().fold(Form::new(), |form, digit| {
            form.part("files", Part::bytes(digit.picture.clone()))
        });
        let request = gateway.post("/v1/models/digits/batch-classify");
        let answer = gateway.send(request.multipart(form)).await;
        let body = answer.assert_ok();
        let results = body["results"].as_array().expect("results");
        versions.extend(
            results
                .iter()
                .map(|one| one["version"].as_u64().expect("a version")),
        );
        if tells {
            let labels = digits.iter().enumerate().map(|(index, digit)| {
                json!({"request_id": body["request_id"], "index": index, "label": digit.label})
            });
            let told = json!({"feedback": labels.collect::<Vec<_>>()});
            let told = gateway.json("/v1/predictions/feedback", &told).await;
            told.assert_ok();
        }
    }
    versions
}

/// Waits until something holds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "it did not come so far: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends digits until the canary is in a state.
async fn until_it_is(gateway: &TestGateway, digits: &[Digit], state: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut digits = digits.chunks(60).cycle();
    loop {
        let now = rollout(gateway).await;
        if now["state"] == state {
            return now;
        }
        assert!(
            now["state"] == "running" && Instant::now() < deadline,
            "{now}"
        );
        send(gateway, digits.next().expect("a cycle"), true).await;
    }
}

/// Only the first version of the shipped model.
fn first_version() -> TestStore {
    let store = TestStore::digits();
    std::fs::remove_dir_all(store.path().join("digits/2")).expect("removed");
    store
}

async fn upload(gateway: &TestGateway, version: u64, labels: Option<String>) {
    let graph = read(root().join("model-store/digits/2/model.onnx"));
    let path = format!("/models/digits/versions/{version}");
    let request = gateway.admin_request(Method::PUT, &path);
    let request = match labels {
        None => request.body(graph),
        Some(labels) => {
            let labels = Part::text(labels).file_name("labels.txt");
            let graph = Part::bytes(graph).file_name("model.onnx");
            request.multipart(Form::new().part("model", graph).part("labels", labels))
        }
    };
    let answer = gateway.send(request).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
}

/// A receiver of what the first tenant is told of rollouts.
async fn receiver(gateway: &TestGateway) -> Receiver {
    let receiver = Receiver::start().await;
    let tenants = gateway.admin(Method::GET, "/tenants?limit=1", None).await;
    let tenant = &tenants.assert_ok()["items"][0]["id"];
    let events = ["rollout.promoted", "rollout.rolled_back"];
    let subscription = json!({"callback_url": receiver.url("/told"), "events": events});
    let path = format!("/tenants/{}", tenant.as_str().expect("an id"));
    gateway
        .admin(Method::PATCH, &path, Some(subscription))
        .await
        .assert_ok();
    receiver
}

/// The version that `stable` names.
async fn stable(gateway: &TestGateway) -> u64 {
    let path = "/v1/models/digits/versions/stable/classify";
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway.raw(path, "image/png", seven).await;
    answer.assert_ok()["version"].as_u64().expect("a version")
}

fn guarded(baseline: u64, candidate: u64) -> Value {
    json!({
        "mode": "canary", "baseline": baseline, "candidate": candidate, "steps": [20, 50, 100], "step_requests": 60,
        "sticky_by": "none", "agreement_sample": 0.5, "promote_aliases": ["stable"],
        "guards": {"max_error_rate": 0.05, "min_agreement": 0.85, "max_accuracy_drop": 0.05, "min_accuracy": 0.9},
    })
}

async fn a_better_version_promotes_itself_and_a_worse_one_is_taken_back(database: &TestDatabase) {
    let store = first_version();
    let gateway = gateway(database, &store).await;
    let receiver = receiver(&gateway).await;
    let digits = test_split();
    let pinned = json!({"mode": "pinned", "version": 1});
    put(&gateway, pinned).await.assert_ok();
    let alias = Some(json!({"version": 1}));
    let path = "/models/digits/aliases/stable";
    let named = gateway.admin(Method::PUT, path, alias).await;
    assert_eq!(named.status, StatusCode::CREATED);
    upload(&gateway, 2, None).await;
    // Shadowed: nobody hears of version 2.
    let shadowed = json!({"mode": "pinned", "version": 1, "shadow": {"version": 2, "sample": 1.0}});
    put(&gateway, shadowed.clone()).await.assert_ok();
    assert_eq!(rollout(&gateway).await, shadowed);
    let answered = send(&gateway, &digits[..90], false).await;
    assert_eq!(answered, vec![1; 90]);
    is_promoted(&gateway, &digits).await;
    // A sabotaged one, which passes the golden pictures.
    upload(&gateway, 3, Some(mixed_up_labels())).await;
    let reason = is_taken_back(&gateway, &digits).await;
    // What is gone is not told of.
    let gone = gateway.admin(Method::DELETE, "/models/digits", None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    until("its series are gone", async || {
        metrics(&gateway).await.is_empty()
    })
    .await;
    // Tenants hear of both.
    let told = receiver.until(2).await;
    let kinds: Vec<String> = told.iter().map(Received::kind).collect();
    assert_eq!(kinds, ["rollout.promoted", "rollout.rolled_back"]);
    assert_eq!(told[1].json()["data"]["candidate"], 3);
    assert_eq!(told[1].json()["data"]["reason"], reason);
}

/// The lines of the metrics that name the model.
async fn metrics(gateway: &TestGateway) -> Vec<String> {
    let url = format!("{}/metrics", gateway.admin_base);
    let answer = reqwest::get(url).await.expect("an answer");
    let kind = answer.headers()["content-type"].to_str().expect("text");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.expect("text");
    let lines = text
        .lines()
        .filter(|line| line.contains("model=\"digits\""));
    lines.map(str::to_owned).collect()
}

/// Version 2 goes through all its steps, and everything is on record.
async fn is_promoted(gateway: &TestGateway, digits: &[Digit]) {
    let began = put(gateway, guarded(1, 2)).await;
    let body = began.assert_ok();
    let stands = (&body["state"], &body["step"], &body["share"]);
    assert_eq!(stands, (&json!("running"), &json!(0), &json!(20.0)));
    let promoted = until_it_is(gateway, digits, "promoted").await;
    assert_eq!(promoted["share"], 100.0);
    assert_eq!(audit(gateway, "rollout.move_on").await.len(), 2);
    let entries = audit(gateway, "rollout.promote").await;
    let [entry] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!(entry["actor"], "canary");
    assert_eq!(entry["target"], "models/digits/rollout");
    let figures = &entry["after"]["figures"]["candidate"];
    let count = |figure: &str| figures[figure].as_u64().expect("a count");
    assert!(count("answers") >= 60, "{entry}");
    assert!(count("compared") > 0 && count("labels") > 0, "{entry}");
    let answered = send(gateway, &digits[..30], false).await;
    assert_eq!(answered, vec![2; 30]);
    assert_eq!(stable(gateway).await, 2, "the alias has moved");
    let metrics = metrics(gateway).await;
    for line in [
        "lensgate_rollout_decisions_total{decision=\"move_on\",model=\"digits\"} 2",
        "lensgate_rollout_decisions_total{decision=\"promote\",model=\"digits\"} 1",
        "lensgate_rollout_share_ratio{arm=\"candidate\",model=\"digits\",version=\"2\"} 1",
        "lensgate_canary_state{model=\"digits\",state=\"promoted\"} 1",
        "lensgate_canary_step{model=\"digits\"} 2",
    ] {
        assert!(
            metrics.iter().any(|one| one == line),
            "{line} in {metrics:#?}"
        );
    }
    let answers = "lensgate_canary_figures{arm=\"candidate\",figure=\"answers\",model=\"digits\",version=\"2\"} ";
    let answers = metrics.iter().find_map(|line| line.strip_prefix(answers));
    let answers: Option<u64> = answers.and_then(|count| count.parse().ok());
    assert_eq!(answers, Some(count("answers")), "as in the audit");
}

/// Version 3 is taken back at the first step; gives the reason.
async fn is_taken_back(gateway: &TestGateway, digits: &[Digit]) -> String {
    put(gateway, guarded(2, 3)).await.assert_ok();
    let back = until_it_is(gateway, digits, "rolled_back").await;
    assert_eq!((&back["step"], &back["share"]), (&json!(0), &json!(0.0)));
    let reason = back["reason"].as_str().expect("a reason");
    let known = [
        "another class than the baseline's",
        "right for",
        "wrong answers",
    ];
    assert!(known.iter().any(|part| reason.contains(part)), "{reason}");
    let entries = audit(gateway, "rollout.rollback").await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["after"]["stage"]["reason"], reason);
    let answered = send(gateway, &digits[..30], false).await;
    assert_eq!(answered, vec![2; 30]);
    assert_eq!(stable(gateway).await, 2, "the alias stays");
    reason.to_owned()
}

async fn of_three_replicas_one_decides(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateways = [
        gateway(database, &store).await,
        gateway(database, &store).await,
        gateway(database, &store).await,
    ];
    let digits = test_split();
    let canary = json!({
        "mode": "canary", "baseline": 1, "candidate": 2, "steps": [25, 50, 75, 100], "step_requests": 40,
        "sticky_by": "none",
    });
    put(&gateways[0], canary).await.assert_ok();
    for other in &gateways[1..] {
        until("the others have heard of it", async || {
            rollout(other).await["mode"] == "canary"
        })
        .await;
    }
    let deadline = Instant::now() + Duration::from_secs(90);
    // Each sees a third of what is counted.
    for (turn, digits) in digits.chunks(30).cycle().enumerate() {
        send(&gateways[turn % 3], digits, false).await;
        let now = rollout(&gateways[2]).await;
        if now["state"] == "promoted" {
            break;
        }
        assert!(
            now["state"] == "running" && Instant::now() < deadline,
            "{now}"
        );
    }
    for gateway in &gateways {
        until("the candidate is everywhere", async || {
            send(gateway, &digits[..10], false).await == vec![2; 10]
        })
        .await;
    }
    let moves = audit(&gateways[0], "rollout.move_on").await;
    let steps: Vec<_> = moves
        .iter()
        .rev()
        .map(|entry| entry["after"]["stage"]["step"].clone())
        .collect();
    assert_eq!(steps, [1, 2, 3], "each once");
    assert_eq!(audit(&gateways[0], "rollout.promote").await.len(), 1);
}

async fn operators_promote_pause_and_roll_back(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let digits = test_split();
    let order = async |order: &str, body: Option<Value>| {
        gateway
            .admin(Method::POST, &format!("{ROLLOUT}/{order}"), body)
            .await
    };
    for what in ["promote", "rollback", "pause", "resume"] {
        order(what, None).await.assert_problem(409, "conflict");
    }
    let canary = json!({
        "mode": "canary", "baseline": 1, "candidate": 2, "steps": [50], "step_requests": 20, "sticky_by": "none",
        "promote_aliases": ["stable"],
    });
    put(&gateway, canary).await.assert_ok();
    let paused = order("pause", Some(json!({"reason": "lunch"}))).await;
    assert_eq!(
        (&paused.assert_ok()["state"], &paused.body["reason"]),
        (&json!("paused"), &json!("lunch"))
    );
    send(&gateway, &digits[..120], false).await;
    until("the answers are counted", async || {
        rollout(&gateway).await["figures"]["candidate"]["answers"].as_u64() >= Some(40)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(
        rollout(&gateway).await["state"],
        "paused",
        "it does not move on"
    );
    order("pause", None).await.assert_problem(409, "conflict");
    order("resume", Some(json!({"reason": ""})))
        .await
        .assert_problem(400, "bad_request");
    order("resume", Some(json!({"why": "x"})))
        .await
        .assert_problem(400, "bad_request");
    // The order is for what was read.
    let stale = gateway
        .admin_request(Method::POST, &format!("{ROLLOUT}/resume"))
        .header("if-match", "\"1\"");
    gateway
        .send(stale)
        .await
        .assert_problem(412, "precondition_failed");
    let resumed = order("resume", None).await;
    assert_eq!(resumed.assert_ok()["state"], "running");
    until("it is promoted", async || {
        rollout(&gateway).await["state"] == "promoted"
    })
    .await;
    let aliases = gateway
        .admin(Method::GET, "/models/digits/aliases", None)
        .await;
    assert!(
        aliases.assert_ok().to_string().contains("\"version\":2"),
        "{}",
        aliases.body
    );
    order("promote", None).await.assert_problem(409, "conflict");
    is_rolled_back_from_promoted(&gateway, &digits).await;
    assert_eq!(
        order("promote", None).await.assert_ok()["state"],
        "promoted"
    );
}

async fn is_rolled_back_from_promoted(gateway: &TestGateway, digits: &[Digit]) {
    // The candidate is what everything stands on now.
    let version = gateway
        .admin(Method::DELETE, "/models/digits/versions/2", None)
        .await;
    version.assert_problem(409, "conflict");
    let path = format!("{ROLLOUT}/rollback");
    let reason = Some(json!({"reason": "regrets"}));
    let back = gateway.admin(Method::POST, &path, reason).await;
    assert_eq!(back.assert_ok()["state"], "rolled_back");
    assert_eq!(send(gateway, &digits[..20], false).await, vec![1; 20]);
    let aliases = gateway
        .admin(Method::GET, "/models/digits/aliases", None)
        .await;
    assert!(
        aliases.assert_ok().to_string().contains("\"version\":1"),
        "{}",
        aliases.body
    );
    let entries = audit(gateway, "rollout.rollback").await;
    assert_eq!(entries[0]["after"]["stage"]["reason"], "regrets");
}

async fn a_failing_candidate_is_taken_back(database: &TestDatabase) {
    let store = TestStore::failing_second("odd");
    let url = format!("store.url={}", database.url);
    let gateway = TestGateway::start(store.path(), &[url.as_str()]).await;
    let path = "/models/odd/rollout";
    let canary = json!({
        "mode": "canary", "baseline": 1, "candidate": 2, "steps": [50, 100], "step_requests": 30, "sticky_by": "none",
        "guards": {"max_error_rate": 0.1},
    });
    gateway
        .admin(Method::PUT, path, Some(canary))
        .await
        .assert_ok();
    let red = read(data("images/red.png"));
    let deadline = Instant::now() + Duration::from_mins(1);
    let now = loop {
        for _ in 0..10 {
            let answer = gateway
                .raw("/v1/models/odd/classify", "image/png", red.clone())
                .await;
            if answer.status == StatusCode::OK {
                assert_eq!(answer.body["version"], 1);
            } else {
                answer.assert_problem(500, "internal");
            }
        }
        let now = gateway.admin(Method::GET, path, None).await;
        if now.assert_ok()["state"] == "rolled_back" {
            break now.body;
        }
        assert!(Instant::now() < deadline, "{}", now.body);
    };
    let reason = now["reason"].as_str().expect("a reason");
    assert!(reason.contains("errors of the candidate"), "{reason}");
    assert!(
        now["figures"]["candidate"]["errors"].as_u64() >= Some(10),
        "{now}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_a_canary_stands_still_and_nothing_is_lost() {
    let url = postgres::database().await;
    let (proxy, url) = Proxy::before(&url).await;
    let store = TestStore::digits();
    let url = format!("store.url={url}");
    let gateway = TestGateway::start(store.path(), &[&url, "store.call_timeout=1s"]).await;
    let digits = test_split();
    let canary = json!({
        "mode": "canary", "baseline": 1, "candidate": 2, "steps": [50, 100], "step_requests": 60, "sticky_by": "none",
    });
    put(&gateway, canary).await.assert_ok();
    proxy.set(Way::Cut);
    let answered = send(&gateway, &digits[..240], false).await;
    let candidate = answered.iter().filter(|&&version| version == 2).count();
    assert!(candidate >= 60, "{candidate}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = rollout(&gateway).await;
    assert_eq!(
        (&now["state"], &now["step"]),
        (&json!("running"), &json!(0))
    );
    assert_eq!(now["figures"], Value::Null, "nobody knows now");
    proxy.set(Way::Open);
    // What was counted meanwhile is enough.
    until("it moves on", async || rollout(&gateway).await["step"] == 1).await;
    let moves = audit(&gateway, "rollout.move_on").await;
    let figures = &moves[0]["after"]["figures"]["candidate"];
    assert_eq!(figures["answers"].as_u64(), u64::try_from(candidate).ok());
}

async fn nonsense_changes_nothing(database: &TestDatabase) {
    let store = TestStore::digits();
    let gateway = gateway(database, &store).await;
    let before = json!({"mode": "pinned", "version": 1});
    put(&gateway, before.clone()).await.assert_ok();
    let canary = |more: Value| {
        let mut canary = json!({"mode": "canary", "baseline": 1, "candidate": 2});
        let fields = canary.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        canary
    };
    for (wanted, field) in [
        (canary(json!({"candidate": 7})), "candidate"),
        (canary(json!({"baseline": 9})), "baseline"),
        (canary(json!({"steps": [50, 10]})), "steps[1]"),
        (canary(json!({"steps": [-1]})), "steps[0]"),
        (
            canary(json!({"guards": {"max_rate": 0.1}})),
            "guards.max_rate",
        ),
        (
            canary(json!({"guards": {"min_agreement": 90}})),
            "guards.min_agreement",
        ),
        (
            canary(json!({"shadow": {"version": 9, "sample": 0.5}})),
            "shadow.version",
        ),
        (
            canary(json!({"shadow": {"version": 2, "sample": 9}})),
            "shadow.sample",
        ),
        (json!({"mode": "bluegreen"}), "mode"),
    ] {
        let refused = put(&gateway, wanted).await;
        let detail = refused.assert_problem(400, "bad_request");
        assert!(detail.contains(&format!("`{field}`")), "{field}: {detail}");
        assert_eq!(rollout(&gateway).await, before);
    }
}
