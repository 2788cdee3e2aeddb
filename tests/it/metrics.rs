//! Metrics: what they say, that no request makes a series, and that what is gone is not told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fixture::digits::test_split;
use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const CLASSIFY: &str = "/v1/models/digits/classify";

async fn text(gateway: &TestGateway) -> String {
    let answer = reqwest::get(format!("{}/metrics", gateway.admin_base)).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.expect("text")
}

/// A series' value, by its name and some of its labels; all that fit are added up.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    let of_name = text.lines().filter(|line| {
        let (own, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
        own == name && labels.iter().all(|label| rest.contains(label.as_str()))
    });
    let values = of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

/// Waits until the metrics are as they should be; what is counted comes a moment after its answer.
async fn until(gateway: &TestGateway, holds: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = text(gateway).await;
        if holds(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is(value: f64, wanted: u32) -> bool {
    (value - f64::from(wanted)).abs() < 1e-9
}

/// The names of all series without their values.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
    names.collect()
}

#[tokio::test]
async fn pictures_are_counted_by_model_version_and_outcome() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let digits = test_split();
    for digit in &digits[..5] {
        let picture = digit.picture.clone();
        let answer = gateway.raw(CLASSIFY, "image/png", picture).await;
        answer.assert_ok();
    }
    let again = gateway
        .raw(CLASSIFY, "image/png", digits[0].picture.clone())
        .await;
    let id = again.assert_ok()["request_id"].clone();
    let feedback = json!({"feedback": [{"request_id": id, "label": digits[0].label}]});
    let told = gateway.json("/v1/predictions/feedback", &feedback).await;
    told.assert_ok();
    let broken = gateway.raw(CLASSIFY, "image/png", b"\x89PNG\r\n\x1a\nno".to_vec());
    broken.await.assert_problem(422, "undecodable_image");
    let form = digits[5..8].iter().fold(Form::new(), |form, digit| {
        form.part("files", Part::bytes(digit.picture.clone()))
    });
    let batch = gateway.post("/v1/models/digits/batch-classify");
    gateway.send(batch.multipart(form)).await.assert_ok();
    let two = ("version", "2");
    let text = until(&gateway, |text| {
        is(
            value(
                text,
                "lensgate_predictions_total",
                &[two, ("outcome", "ok")],
            ),
            9,
        )
    })
    .await;
    let count = |name: &str, labels: &[(&str, &str)]| value(&text, name, labels);
    let broken = [two, ("outcome", "undecodable_image")];
    assert!(
        is(count("lensgate_predictions_total", &broken), 1),
        "{text}"
    );
    for (result, wanted) in [("hit", 1), ("miss", 8), ("bypass", 0)] {
        let labels = [("model", "digits"), ("result", result)];
        let seen = count("lensgate_cache_requests_total", &labels);
        assert!(is(seen, wanted), "{result}: {seen}");
    }
    for step in ["queue", "decode", "preprocess", "inference", "postprocess"] {
        let labels = [two, ("step", step)];
        let steps = count("lensgate_step_duration_seconds_count", &labels);
        assert!(is(steps, 8), "{step}: {steps}");
        let sum = count("lensgate_step_duration_seconds_sum", &labels);
        assert!(sum > 0.0 && sum < 8.0, "{step}: {sum}");
    }
    let route = ("http_route", "/v1/models/{model}/classify");
    let http = "http_server_request_duration_seconds_count";
    let ok = ("http_response_status_code", "200");
    assert!(is(count(http, &[("plane", "data"), route, ok]), 6));
    let refused = ("http_response_status_code", "422");
    assert!(is(
        count(http, &[route, refused, ("http_request_method", "POST")]),
        1
    ));
    let tenant = ("tenant", "default");
    let pictures = "lensgate_tenant_pictures_total";
    assert!(is(count(pictures, &[tenant, ("outcome", "ok")]), 9));
    assert!(is(
        count(pictures, &[tenant, ("outcome", "client_error")]),
        1
    ));
    let joined = [two, ("result", "correct")];
    assert!(is(count("lensgate_feedback_total", &joined), 1), "{text}");
    let mix = count("lensgate_predicted_class_ratio", &[two]);
    assert!((mix - 1.0).abs() < 1e-9, "{mix}");
    let info = [two, ("backend", "ort")];
    assert!(is(count("lensgate_model_version_info", &info), 1));
    let runs = count("lensgate_batch_pictures_count", &[two]);
    assert!(is(runs, 8), "{runs}");
    assert!(is(count("lensgate_ready", &[]), 1) && is(count("lensgate_store_up", &[]), 1));
}

#[tokio::test]
async fn no_request_makes_a_series() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    // What is asked below with other names, asked once.
    let ask = async |n: u32| {
        let path = format!("/v1/models/none{n}/classify");
        let answer = gateway.raw(&path, "image/png", picture.clone()).await;
        answer.assert_problem(404, "model_not_found");
        let path = format!("/v1/models/digits/versions/{}/classify", 1000 + n);
        let answer = gateway.raw(&path, "image/png", picture.clone()).await;
        answer.assert_problem(404, "version_not_found");
        let answer = gateway.get(&format!("/nowhere{n}/at/all{n}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        let method = Method::from_bytes(format!("ODD{n}").as_bytes()).expect("a method");
        let _ = gateway.send(gateway.anonymous(method, "/v1/models")).await;
        let key = gateway.anonymous(Method::GET, "/v1/models");
        let answer = gateway
            .send(key.header("X-API-Key", format!("lg_none{n}")))
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let request = gateway.post(CLASSIFY).header("X-User", format!("user{n}"));
        let request = request.header("X-Request-Id", format!("request{n}"));
        let sent = request.header("content-type", "image/png");
        gateway.send(sent.body(picture.clone())).await.assert_ok();
    };
    ask(1).await;
    let asked = |text: &str| value(text, "http_server_request_duration_seconds_count", &[]);
    let before = text(&gateway).await;
    let _ = until(&gateway, |text| asked(text) > asked(&before)).await;
    let before = text(&gateway).await;
    for n in 2..9 {
        ask(n).await;
    }
    let after = until(&gateway, |text| asked(text) > asked(&before) + 40.0).await;
    let (before, after) = (series(&before), series(&after));
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    let unmatched = ("http_route", "unmatched");
    let text = text(&gateway).await;
    let unmatched = value(
        &text,
        "http_server_request_duration_seconds_count",
        &[unmatched],
    );
    assert!(is(unmatched, 8), "{unmatched}");
    let odd = ("http_request_method", "_OTHER");
    assert!(value(&text, "http_server_request_duration_seconds_count", &[odd]) >= 8.0);
}

#[tokio::test]
async fn what_is_gone_is_not_told_and_what_is_swapped_goes_on() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let digits = test_split();
    let path = "/v1/models/digits/versions/1/classify";
    for digit in &digits[..3] {
        let picture = digit.picture.clone();
        let answer = gateway.raw(path, "image/png", picture).await;
        answer.assert_ok();
    }
    let one = [("model", "digits"), ("version", "1")];
    let answered = |text: &str| value(text, "lensgate_predictions_total", &one);
    until(&gateway, |text| is(answered(text), 3)).await;
    // The same version anew, with other labels: a swap under one number.
    let reversed = "9\n8\n7\n6\n5\n4\n3\n2\n1\n0\n";
    std::fs::write(store.path().join("digits/1/labels.txt"), reversed).expect("labels");
    let loads = |text: &str| {
        let labels = [("model", "digits")];
        value(text, "lensgate_model_load_duration_seconds_count", &labels)
            + value(text, "lensgate_model_loads_total", &[("outcome", "failed")])
    };
    until(&gateway, |text| loads(text) > 2.5).await;
    assert!(is(answered(&text(&gateway).await), 3));
    std::fs::remove_dir_all(store.path().join("digits/1")).expect("removed");
    let gone = until(&gateway, |text| !text.contains("version=\"1\"")).await;
    assert!(gone.contains("version=\"2\""));
    std::fs::remove_dir_all(store.path().join("digits")).expect("removed");
    until(&gateway, |text| !text.contains("\"digits\"")).await;
}

#[tokio::test]
async fn a_tenant_goes_with_its_series() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let body = json!({"name": "k", "tenant_id": tenant, "limits": {"requests_per_second": 0.001, "burst": 1}});
    let (_, secret) = gateway.key(body).await;
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = gateway.anonymous(Method::POST, CLASSIFY);
        let request = request.header("X-API-Key", &secret);
        let request = request.header("content-type", "image/png");
        let answer = gateway.send(request.body(picture.clone())).await;
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [200, 429, 429]);
    let acme = ("tenant", "acme");
    until(&gateway, |text| {
        is(
            value(text, "lensgate_limited_total", &[acme, ("limit", "rate")]),
            2,
        )
    })
    .await;
    let path = format!("/tenants/{tenant}");
    let renamed = Some(json!({"name": "acme two"}));
    let renamed = gateway.admin(Method::PATCH, &path, renamed).await;
    renamed.assert_ok();
    until(&gateway, |text| {
        text.contains("\"acme two\"") && !text.contains("\"acme\"")
    })
    .await;
    let gone = gateway.admin(Method::DELETE, &path, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.body);
    until(&gateway, |text| !text.contains("acme")).await;
}

/// The names in the table of `docs/metrics.md`, as they are or as the first of several in a row.
fn documented() -> BTreeSet<String> {
    let text = read(root().join("docs/metrics.md"));
    let text = String::from_utf8(text).expect("text");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`'));
    names
        .filter(|name| name.contains('_'))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_documents_list_what_there_is() {
    let store = TestStore::digits();
    let archive = tempfile::tempdir().expect("a folder");
    let images = format!("archive.images={}", archive.path().display());
    let gateway = TestGateway::start(store.path(), &[images.as_str()]).await;
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    gateway
        .raw(CLASSIFY, "image/png", picture)
        .await
        .assert_ok();
    let text = until(&gateway, |text| {
        text.contains("lensgate_predicted_class_ratio")
    })
    .await;
    let told: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let documented = documented();
    let hidden: Vec<&String> = told.difference(&documented).collect();
    assert!(hidden.is_empty(), "not in docs/metrics.md: {hidden:?}");
    // Those that only come with what this gateway has not seen.
    let rare = [
        "lensgate_canary_figures",
        "lensgate_canary_p95_seconds",
        "lensgate_canary_state",
        "lensgate_canary_step",
        "lensgate_metrics_pushes_total",
        "lensgate_rollout_decisions_total",
        "lensgate_shadow_comparisons_total",
        "lensgate_spans_total",
    ];
    let missing = documented.difference(&told).map(String::as_str);
    let missing: Vec<&str> = missing.filter(|name| !rare.contains(name)).collect();
    assert!(missing.is_empty(), "only in docs/metrics.md: {missing:?}");
}
