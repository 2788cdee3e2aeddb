//! Dashboards and rules over a real Prometheus that asks a gateway under load: every query of every panel and every rule gives
//! something. What they say is `tools/dashboards/check.py`'s; here is the load.
//!
//! Prometheus is a distribution's package: where none can be had this says so, and fails where `LENSGATE_PACKAGES` wants it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::digits::{Digit, test_split};
use crate::fixture::gateway::TestGateway;
use crate::fixture::receiver::Receiver;
use crate::fixture::root;
use crate::fixture::script::{self, Script};
use crate::fixture::store::TestStore;

const CLASSIFY: &str = "/v1/models/digits/classify";

/// Whether there is a Prometheus, or one could be fetched.
fn is_there() -> bool {
    script::is_there(
        "prometheus.sh",
        "Prometheus",
        "dashboards over a real Prometheus",
    )
}

/// A gateway with all that can be seen: an archive, a tenant with limits, a canary with a shadow, jobs with callbacks.
struct Scene {
    gateway: TestGateway,
    digits: Vec<Digit>,
    receiver: Receiver,
    /// The key of a tenant with little.
    poor: String,
    _store: TestStore,
    _archive: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let store = TestStore::digits();
        let archive = tempfile::tempdir().expect("a folder");
        let images = format!("archive.images={}", archive.path().display());
        let settings = [images.as_str(), "callbacks.allow_private=true"];
        let gateway = TestGateway::start(store.path(), &settings).await;
        let tenant = gateway.tenant("poor").await;
        let key = json!({
            "name": "k", "tenant_id": tenant, "requests_per_second": 1, "burst": 2, "images_per_day": 30,
        });
        let (_, poor) = gateway.key(key).await;
        let canary = json!({
            "mode": "canary", "baseline": 1, "candidate": 2, "steps": [50, 100], "step_requests": 1_000_000,
            "sticky_by": "none", "agreement_sample": 0.5, "guards": {"max_error_rate": 0.5},
            "shadow": {"version": 1, "sample": 0.5},
        });
        let path = "/models/digits/rollout";
        gateway
            .admin(Method::PUT, path, Some(canary))
            .await
            .assert_ok();
        Self {
            gateway,
            digits: test_split(),
            receiver: Receiver::start().await,
            poor,
            _store: store,
            _archive: archive,
        }
    }

    /// A round of everything that clients and operators do.
    async fn round(&self, number: usize) {
        let gateway = &self.gateway;
        let digit = |n: usize| &self.digits[(number * 4 + n) % self.digits.len()];
        let picture = |n: usize| digit(n).picture.clone();
        // Twice: from the cache, too, where the same version has its turn.
        for _ in 0..3 {
            let answer = gateway.raw(CLASSIFY, "image/png", picture(0)).await;
            self.tell(answer.assert_ok(), &digit(0).label).await;
        }
        let form = (0..3).fold(Form::new(), |form, n| {
            form.part("files", Part::bytes(picture(n)))
        });
        let batch = gateway.post("/v1/models/digits/batch-classify");
        gateway.send(batch.multipart(form)).await.assert_ok();
        let fresh = gateway.post(CLASSIFY).header("cache-control", "no-store");
        let fresh = fresh.header("content-type", "image/png").body(picture(1));
        gateway.send(fresh).await.assert_ok();
        let broken = gateway.raw(CLASSIFY, "image/png", b"\x89PNG\r\n\x1a\n".to_vec());
        broken.await.assert_problem(422, "undecodable_image");
        let gone = gateway.get("/v1/nothing").await;
        assert_eq!(gone.status, StatusCode::NOT_FOUND);
        let stranger = gateway.anonymous(Method::GET, "/v1/models");
        let stranger = gateway
            .send(stranger.header("X-API-Key", "lg_nobody"))
            .await;
        assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
        let poor = gateway.anonymous(Method::POST, CLASSIFY);
        let poor = poor.header("X-API-Key", &self.poor);
        let poor = poor.header("content-type", "image/png").body(picture(2));
        gateway.send(poor).await;
        let url = self.receiver.url("/done");
        let later = format!("{CLASSIFY}?callback_url={url}");
        let later = gateway.raw(&later, "image/png", picture(3)).await;
        assert_eq!(later.status, StatusCode::ACCEPTED, "{}", later.body);
        gateway
            .admin(Method::GET, "/status", None)
            .await
            .assert_ok();
        if number % 20 == 1 {
            for order in ["pause", "resume"] {
                let path = format!("/models/digits/rollout/{order}");
                let body = Some(json!({"reason": "to be seen"}));
                gateway.admin(Method::POST, &path, body).await.assert_ok();
            }
        }
    }

    async fn tell(&self, answer: &Value, label: &str) {
        let label = json!({"request_id": answer["request_id"], "label": label});
        let told = json!({"feedback": [label]});
        let path = "/v1/predictions/feedback";
        self.gateway.json(path, &told).await.assert_ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_rule_says_something_of_a_gateway_under_load() {
    if !tokio::task::block_in_place(is_there) {
        return;
    }
    let scene = Arc::new(Scene::set().await);
    let target = scene.gateway.admin_base.replace("http://", "");
    let (_prometheus, url) =
        tokio::task::block_in_place(|| Script::start_with("prometheus.sh", &[&target], &[]));
    assert!(url.starts_with("http://"), "no Prometheus: it said why");
    let (going, playing) = (Arc::new(AtomicBool::new(true)), Arc::clone(&scene));
    let goes = Arc::clone(&going);
    let load = tokio::spawn(async move {
        let mut number = 0;
        while goes.load(Ordering::Relaxed) {
            playing.round(number).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        number
    });
    // A panel that falls back to zero says so at once: what it says is to be of the load.
    tokio::time::sleep(WARMING_UP).await;
    let checked = tokio::task::spawn_blocking(move || {
        Command::new("python3")
            .arg(root().join("tools/dashboards/check.py"))
            .args(["--against", &url, "--minimum-wait", "90"])
            .args(OPTIONAL.iter().flat_map(|name| ["--optional", name]))
            .output()
            .expect("python3")
    });
    let checked = checked.await.expect("an end");
    going.store(false, Ordering::Relaxed);
    let rounds = load.await.expect("the load goes on to its end");
    let (told, wrong) = (
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr),
    );
    println!("{told}{wrong}{rounds} rounds");
    assert!(checked.status.success(), "see above");
}

/// How long the load goes on before anything is asked.
const WARMING_UP: Duration = Duration::from_secs(30);

/// Metrics of what this gateway has not: a collector.
const OPTIONAL: [&str; 2] = ["lensgate_spans_total", "lensgate_metrics_pushes_total"];

#[tokio::test]
async fn promtool_has_no_complaint_about_the_metrics() {
    if !is_there() {
        return;
    }
    let scene = Scene::set().await;
    scene.round(0).await;
    let url = format!("{}/metrics", scene.gateway.admin_base);
    let text = reqwest::get(url).await.expect("an answer").text().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics");
    std::fs::write(&file, text.expect("text")).expect("written");
    let checked = Command::new(root().join("tools/prometheus.sh"))
        .args(["--promtool", "check", "metrics"])
        .stdin(std::fs::File::open(&file).expect("a file"))
        .output()
        .expect("promtool");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(
        checked.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
