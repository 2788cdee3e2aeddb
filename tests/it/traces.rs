//! Traces, from the real binary to a real collector: which spans there are, whose they are, which are kept, and that nothing
//! waits for a collector.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::fixture::collector::{Collector, Trace, attributes};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{ADMIN_TOKEN, API_KEY, Answer, client};
use crate::fixture::receiver::Receiver;
use crate::fixture::s3::bucket;
use crate::fixture::served::Served;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn parent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

fn hex(bytes: &[u8]) -> String {
    let bytes = bytes.iter();
    bytes.fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Waits until metrics of ours have come, too.
async fn assert_metrics(collector: &Collector) {
    let names = || {
        let all = collector.metrics().into_iter();
        let all = all.flat_map(|one| one.resource_metrics);
        let all = all.flat_map(|one| one.scope_metrics);
        let all = all.flat_map(|one| one.metrics);
        all.map(|one| one.name).collect::<Vec<String>>()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !names().iter().any(|name| name.starts_with("lensgate")) {
        assert!(Instant::now() < deadline, "only {:?}", names());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The binary over a store, sending to a collector.
async fn serve(store: &TestStore, collector: &Collector, variables: &[(&str, &str)]) -> Served {
    let (url, models) = (collector.url(), store.path().to_str().expect("a path"));
    let usual = [
        ("LENSGATE__TELEMETRY__OTLP_ENDPOINT", url.as_str()),
        ("LENSGATE__MODEL_STORE__URL", models),
        ("LENSGATE__SERVER__DRAIN_DELAY", "0"),
        ("LENSGATE__TELEMETRY__METRICS_INTERVAL", "500ms"),
        ("LENSGATE__CALLBACKS__ALLOW_PRIVATE", "true"),
    ];
    let served = Served::start(&[&usual[..], variables].concat());
    served.ready(&Client::new()).await;
    served
}

/// One picture, as a part of a caller's trace.
async fn classify(served: &Served, query: &str, traceparent: Option<&str>) -> Answer {
    let url = format!("{}/v1/models/digits/classify{query}", served.base);
    let mut request = client().post(url).header("content-type", "image/png");
    if let Some(parent) = traceparent {
        request = request.header("traceparent", parent);
    }
    Answer::of(
        request
            .body(sample("7_a.png"))
            .send()
            .await
            .expect("an answer"),
    )
    .await
}

fn is_of(answer: &Answer) -> impl Fn(&Span) -> bool + use<> {
    let id = answer.header("x-request-id").to_owned();
    move |span| attributes(&span.attributes).get("lensgate.request_id") == Some(&id)
}

/// The steps of a picture that nobody has asked for before; those of a kept one are the same without the engine's.
const STEPS: [&str; 11] = [
    "auth",
    "route",
    "limit",
    "receive",
    "cache",
    "cache",
    "queue",
    "decode",
    "preprocess",
    "inference",
    "postprocess",
];

fn assert_request(trace: &Trace, answer: &Answer, base: &str) {
    let root = trace.root();
    assert_eq!(root.name, "POST /v1/models/{model}/classify");
    assert_eq!(root.kind, i32::from(SpanKind::Server));
    let said = attributes(&root.attributes);
    let port = base.rsplit(':').next().expect("a port");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/models/{model}/classify"),
        ("http.response.status_code", "200"),
        ("url.path", "/v1/models/digits/classify"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("server.port", port),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("lensgate.request_id", answer.header("x-request-id")),
        ("lensgate.model", "digits"),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(said["lensgate.version"], answer.body["version"].to_string());
    assert!(said.contains_key("lensgate.tenant"), "{said:?}");
    assert!(root.status.is_none(), "{root:?}");
    trace.assert_nested();
}

#[tokio::test]
async fn a_request_is_one_trace_with_its_steps() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let everything = ("LENSGATE__TELEMETRY__TRACE_RATIO", "1");
    let served = serve(&store, &collector, &[everything]).await;
    let answer = classify(&served, "", None).await;
    answer.assert_ok();
    let trace = collector.until(is_of(&answer)).await;
    assert_request(&trace, &answer, &served.base);
    let steps = [&STEPS[..], &["record"]].concat();
    assert_eq!(trace.below(trace.root()), steps);
    assert!(trace.root().parent_span_id.is_empty());
    // What the answer says of its time is what the spans say.
    let took = |name| {
        let span = trace.one(name);
        let nanos = span.end_time_unix_nano - span.start_time_unix_nano;
        Duration::from_nanos(nanos).as_secs_f64() * 1e3
    };
    let said = |name: &str| answer.body["timing_ms"][name].as_f64().expect("a time");
    assert!(
        (took("inference") - said("inference")).abs() < 0.01,
        "{answer:?}"
    );
    let kept = classify(&served, "", None).await;
    let trace = collector.until(is_of(&kept)).await;
    let without_engine = [
        "auth",
        "route",
        "limit",
        "receive",
        "cache",
        "postprocess",
        "record",
    ];
    assert_eq!(trace.below(trace.root()), without_engine);
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "lensgate");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(resource.contains_key("service.instance.id") && resource.contains_key("host.name"));
    assert_metrics(&collector).await;
    // Predictions are stored in a trace of its own.
    let stored = collector
        .until(|span| span.name == "store predictions")
        .await;
    let below = stored.below(stored.root());
    assert!(below.contains(&"INSERT predictions"), "{below:?}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_it_is_told_who_asks() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let everything = ("LENSGATE__TELEMETRY__TRACE_RATIO", "1");
    let trusted = ("LENSGATE__SERVER__TRUSTED_PROXIES", "127.0.0.1");
    let served = serve(&store, &collector, &[everything, trusted]).await;
    let url = format!("{}/v1/models/digits/classify", served.base);
    let request = client().post(url).header("content-type", "image/png");
    let request = request.header("x-forwarded-for", "203.0.113.7");
    let sent = request.body(sample("7_a.png")).send().await;
    let answer = Answer::of(sent.expect("an answer")).await;
    answer.assert_ok();
    let trace = collector.until(is_of(&answer)).await;
    let said = attributes(&trace.root().attributes);
    assert_eq!(said["client.address"], "203.0.113.7");
    assert_eq!(said["network.peer.address"], "127.0.0.1");
}

#[tokio::test]
async fn a_callers_trace_is_gone_on_with_as_the_caller_decides() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let nothing = ("LENSGATE__TELEMETRY__TRACE_RATIO", "0");
    let http = ("LENSGATE__TELEMETRY__OTLP_PROTOCOL", "http");
    let headers = (
        "LENSGATE__TELEMETRY__OTLP_HEADERS",
        "x-collector-key=a%20secret",
    );
    let served = serve(&store, &collector, &[nothing, http, headers]).await;
    let unasked = classify(&served, "", None).await;
    let unwanted = classify(&served, "", Some(&parent(false))).await;
    let answer = classify(&served, "", Some(&parent(true))).await;
    let trace = collector.until(is_of(&answer)).await;
    assert_request(&trace, &answer, &served.base);
    assert_eq!(hex(&trace.root().trace_id), TRACE);
    assert_eq!(hex(&trace.root().parent_span_id), PARENT);
    let kept = collector.spans();
    assert!(
        !kept
            .iter()
            .any(|span| is_of(&unasked)(span) || is_of(&unwanted)(span))
    );
    assert_eq!(collector.headers()[0]["x-collector-key"], "a secret");
    assert!(!served.log().contains("a secret"));
    assert_metrics(&collector).await;
    // The prediction is found by its trace.
    let path = format!("{}/admin/v1/predictions?limit=10", served.admin_base);
    let found = async || {
        let request = Client::new()
            .get(&path)
            .bearer_auth(ADMIN_TOKEN)
            .send()
            .await;
        let listed = Answer::of(request.expect("an answer")).await;
        let items = listed.assert_ok()["items"]
            .as_array()
            .expect("items")
            .clone();
        items.iter().any(|one| one["trace_id"] == TRACE)
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !found().await {
        assert!(Instant::now() < deadline, "no prediction has the trace");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_fails_or_is_slow_is_kept_whatever_was_decided() {
    let (store, collector) = (
        TestStore::failing_second("digits"),
        Collector::start().await,
    );
    let nothing = ("LENSGATE__TELEMETRY__TRACE_RATIO", "0");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let served = serve(&store, &collector, &[nothing]).await;
    drop(file);
    let picture = read(crate::fixture::data("images/red.png"));
    let failed = served.classify(&client(), "digits", picture).await;
    assert_eq!(failed.status, 500, "{failed:?}");
    let trace = collector.until(is_of(&failed)).await;
    let root = trace.root();
    assert_eq!(root.status.as_ref().map(|status| status.code), Some(2));
    let said = attributes(&root.attributes);
    assert_eq!(said["http.response.status_code"], "500");
    assert_eq!(said["error.type"], "internal");
    assert!(trace.below(root).contains(&"auth"), "with its steps");
    let refused = served.classify(&client(), "nothing-here", Vec::new()).await;
    assert_eq!(refused.status, 404);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        !collector.spans().iter().any(is_of(&refused)),
        "a 4xx is the client's"
    );
    drop(served);
    let slow = ("LENSGATE__TELEMETRY__TRACE_SLOW", "0");
    let served = serve(&store, &collector, &[nothing, slow]).await;
    let refused = served.classify(&client(), "nothing-here", Vec::new()).await;
    let trace = collector.until(is_of(&refused)).await;
    assert!(trace.root().status.is_none());
}

/// What an examination of a version goes through.
const LOADING: [&str; 9] = [
    "trial", "graph", "input", "output", "warm_up", "scores", "labels", "golden", "start",
];

#[tokio::test]
async fn how_a_version_comes_and_goes_is_always_told() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let nothing = ("LENSGATE__TELEMETRY__TRACE_RATIO", "0");
    let json = ("LENSGATE__TELEMETRY__LOG_FORMAT", "json");
    let served = serve(&store, &collector, &[nothing, json]).await;
    let loaded = collector.until(|span| span.name == "load version").await;
    loaded.assert_nested();
    let root = loaded.root();
    assert_eq!(loaded.below(root), LOADING);
    let said = attributes(&root.attributes);
    assert_eq!(said["lensgate.model"], "digits");
    assert!(["1", "2"].contains(&&*said["lensgate.version"]), "{said:?}");
    assert_eq!(root.status.clone().unwrap_or_default().code, 0);
    assert!(!said.contains_key("error.type"), "{said:?}");
    // The log's lines lead there.
    let trace = hex(&root.trace_id);
    let log = served.log();
    let mut lines = log.lines().filter(|line| line.contains(&trace));
    let line = lines.find(|line| line.contains("version live"));
    let line: Value = serde_json::from_str(line.expect(&log)).expect("JSON");
    assert_eq!(line["trace_id"], trace);
    assert_eq!(line["model"], "digits");
    // Other labels: a version takes the place of another.
    store.place("digits/labels.txt", "0\none\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let ended = collector.until(|span| span.name == "end version").await;
    let said = attributes(&ended.root().attributes);
    assert_eq!(said["lensgate.model"], "digits");
    // Labels that do not fit: nothing comes of it.
    store.place("digits/labels.txt", "0\n1\n");
    let failed = |span: &Span| {
        attributes(&span.attributes)
            .get("error.type")
            .is_some_and(|error| error == "version_failed")
    };
    let failed = collector.until(failed).await;
    let root = failed.root();
    assert_eq!(root.name, "load version");
    assert_eq!(root.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(failed.below(root), ["trial"], "it got no further");
}

#[tokio::test]
async fn a_version_that_comes_out_of_a_bucket_is_told_of() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let (models, cache) = (
        bucket().await.models(),
        tempfile::tempdir().expect("a folder"),
    );
    let settings = models.settings(cache.path());
    let mut variables: Vec<(String, String)> = settings
        .iter()
        .filter_map(|setting| setting.split_once('='))
        .map(|(key, value)| {
            let key = key.to_uppercase().replace('.', "__");
            (format!("LENSGATE__{key}"), value.to_owned())
        })
        .collect();
    let credentials = bucket().await.credentials();
    variables.extend(credentials.map(|(key, value)| (key.to_owned(), value)));
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    models.copy_digits(1).await;
    let _served = serve(&store, &collector, &variables).await;
    let brought = collector.until(|span| span.name == "bring version").await;
    let said = attributes(&brought.root().attributes);
    assert_eq!(said["lensgate.model"], "digits");
    assert_eq!(said["lensgate.version"], "1");
    collector.until(|span| span.name == "load version").await;
}

fn files(names: &[&str]) -> Form {
    names.iter().fold(Form::new(), |form, name| {
        form.part(
            "files",
            Part::bytes(sample(name)).file_name((*name).to_owned()),
        )
    })
}

#[tokio::test]
async fn a_batch_has_a_span_a_picture_and_runs_of_several_are_tied_to_them() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let manifest = store.path().join("digits/model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap_or_default();
    let serving =
        "\n[serving]\nversions = \"latest\"\nmax_batch_size = 4\nmax_queue_delay_ms = 500\n";
    std::fs::write(&manifest, text + serving).expect("a manifest");
    let served = serve(&store, &collector, &[]).await;
    let url = format!("{}/v1/models/digits/batch-classify", served.base);
    let names = ["7_a.png", "3_a.png"];
    let request = client().post(url).header("traceparent", parent(true));
    let sent = request.multipart(files(&names)).send().await;
    let answer = Answer::of(sent.expect("an answer")).await;
    answer.assert_ok();
    let trace = collector.until(is_of(&answer)).await;
    trace.assert_nested();
    let root = trace.root();
    assert_eq!(root.name, "POST /v1/models/{model}/batch-classify");
    let below = ["auth", "route", "limit", "receive", "picture", "picture"];
    assert_eq!(trace.below(root), below);
    let pictures: Vec<&Span> = trace
        .0
        .iter()
        .filter(|span| span.name == "picture")
        .collect();
    let indices = pictures.iter();
    let mut indices: Vec<String> = indices
        .map(|span| attributes(&span.attributes)["lensgate.picture.index"].clone())
        .collect();
    indices.sort();
    assert_eq!(indices, ["0", "1"]);
    let batch = collector.until(|span| span.name == "batch").await;
    let batch = batch.root();
    assert_ne!(batch.trace_id, root.trace_id, "it serves several requests");
    let said = attributes(&batch.attributes);
    assert_eq!(
        (
            said["lensgate.model"].as_str(),
            said["lensgate.batch.pictures"].as_str()
        ),
        ("digits", "2")
    );
    let mut linked: Vec<&[u8]> = batch.links.iter().map(|link| &link.span_id[..]).collect();
    let mut wanted: Vec<&[u8]> = pictures.iter().map(|span| &span.span_id[..]).collect();
    linked.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(linked, wanted);
    for picture in pictures {
        let steps = trace.below(picture);
        for step in [
            "cache",
            "queue",
            "decode",
            "preprocess",
            "gather",
            "inference",
            "postprocess",
            "record",
        ] {
            assert!(steps.contains(&step), "no {step} in {steps:?}");
        }
        let is_run =
            |span: &&Span| span.name == "inference" && span.parent_span_id == picture.span_id;
        let run = trace.0.iter().find(is_run).expect("a run");
        assert_eq!(run.links[0].span_id, batch.span_id);
        assert_eq!(run.links[0].trace_id, batch.trace_id);
    }
}

#[tokio::test]
async fn a_job_and_its_callback_belong_to_the_trace_of_who_asked() {
    assert_job(&TestDatabase::sqlite(), "sqlite").await;
    assert_job(&TestDatabase::postgres().await, "postgresql").await;
}

async fn assert_job(database: &TestDatabase, system: &str) {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let receiver = Receiver::start().await;
    let database = ("LENSGATE__STORE__URL", database.url.as_str());
    let served = serve(&store, &collector, &[database]).await;
    let query = format!("?callback_url={}", receiver.url("/a-path-that-is-secret"));
    let answer = classify(&served, &query, Some(&parent(true))).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let calls = receiver.until(1).await;
    let called = collector.until(|span| span.name == "POST").await;
    let call = called.one("POST");
    assert_eq!(
        calls[0].header("traceparent"),
        format!("00-{TRACE}-{}-01", hex(&call.span_id))
    );
    assert_eq!(call.kind, i32::from(SpanKind::Client));
    let said = attributes(&call.attributes);
    assert_eq!(said["http.request.method"], "POST");
    assert_eq!(said["http.response.status_code"], "204");
    assert_eq!(said["server.address"], "127.0.0.1");
    assert!(!format!("{:?}", collector.spans()).contains("a-path-that-is-secret"));
    let job = called.one("job");
    assert_eq!(call.parent_span_id, job.span_id);
    assert!(
        called.below(job).contains(&"picture"),
        "{:?}",
        called.tree()
    );
    let root = called.root();
    assert_eq!(job.parent_span_id, root.span_id);
    // The database's own spans, by their conventions and without values.
    let statements = called.below(root);
    assert!(statements.contains(&"INSERT jobs"), "{statements:?}");
    let said = attributes(&called.one("INSERT jobs").attributes);
    assert_eq!(said["db.system.name"], system);
    assert_eq!(said["db.operation.name"], "INSERT");
    assert_eq!(said["db.query.summary"], "INSERT jobs");
    assert!(!format!("{:?}", collector.spans()).contains("VALUES"));
    assert!(
        !served.log().contains("sqlx::query"),
        "they are no news for the log"
    );
}

/// Several threads: the collector answers while the test waits for the process to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nobody_and_is_told_of_once() {
    let store = TestStore::digits();
    let collector = Collector::start().await;
    // A port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address").to_string();
    drop(closed);
    let endpoint = format!("http://{address}");
    let all = ("LENSGATE__TELEMETRY__TRACE_RATIO", "1");
    let elsewhere = ("LENSGATE__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str());
    let mut served = serve(&store, &collector, &[all, elsewhere]).await;
    let count = |text: &str| served.log().matches(text).count();
    let deadline = Instant::now() + Duration::from_secs(20);
    while count("the collector is away") == 0 {
        let since = Instant::now();
        classify(&served, "", None).await.assert_ok();
        assert!(since.elapsed() < Duration::from_secs(2));
        assert!(Instant::now() < deadline, "{}", served.log());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(count("the collector is away"), 1);
    let back = Collector::start_at(&address).await;
    let answer = classify(&served, "", None).await;
    back.until(is_of(&answer)).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while count("the collector is back") == 0 {
        assert!(Instant::now() < deadline, "{}", served.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What waits is sent at the end.
    let last = classify(&served, "", None).await;
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0));
    assert!(
        back.spans().iter().any(is_of(&last)),
        "the last trace was lost: {log}"
    );
}

#[tokio::test]
async fn lines_say_whose_they_are_and_tell_no_secret() {
    let (store, collector) = (TestStore::digits(), Collector::start().await);
    let all = ("LENSGATE__TELEMETRY__TRACE_RATIO", "1");
    let loud = ("LENSGATE__TELEMETRY__LOG_LEVEL", "trace");
    let headers = (
        "LENSGATE__TELEMETRY__OTLP_HEADERS",
        "authorization=Bearer%20of-the-collector",
    );
    let receiver = Receiver::start().await;
    let served = serve(&store, &collector, &[all, loud, headers]).await;
    let admin = |method, path: &str| {
        let url = format!("{}/admin/v1{path}", served.admin_base);
        Client::new().request(method, url).bearer_auth(ADMIN_TOKEN)
    };
    let call = async |request: reqwest::RequestBuilder| {
        Answer::of(request.send().await.expect("an answer"))
            .await
            .body
    };
    let tenants = call(admin(Method::GET, "/tenants")).await;
    let tenant = tenants["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/tenants/{tenant}/callback-secrets");
    let made = call(admin(Method::POST, &path).json(&json!({}))).await;
    let signing = made["secret"].as_str().expect("a secret").to_owned();
    let key = json!({"tenant_id": tenant, "name": "another"});
    let made = call(admin(Method::POST, "/keys").json(&key)).await;
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    let picture = b"not a picture but words that must not be told".to_vec();
    let url = format!("{}/v1/models/digits/classify", served.base);
    let refused = client()
        .post(&url)
        .bearer_auth(API_KEY)
        .body(picture.clone());
    let refused = Answer::of(refused.send().await.expect("an answer")).await;
    assert_eq!(refused.status, 415, "{refused:?}");
    let wrong = Client::new()
        .post(&url)
        .bearer_auth("lg_a-key-that-nobody-has");
    assert_eq!(wrong.send().await.expect("an answer").status(), 401);
    let query = format!("?callback_url={}", receiver.url("/hook"));
    let answer = classify(&served, &query, None).await;
    assert_eq!(answer.status, 202);
    receiver.until(1).await;
    collector.until(|span| span.name == "POST").await;
    let trace = collector.until(is_of(&answer)).await;
    let (log, spans) = (served.log(), format!("{:?}", collector.spans()));
    let words = String::from_utf8(picture).expect("text");
    for hidden in [
        API_KEY,
        ADMIN_TOKEN,
        "of-the-collector",
        "a-key-that-nobody-has",
        signing.trim_start_matches("whsec_"),
        secret.as_str(),
        words.as_str(),
    ] {
        assert!(!spans.contains(hidden), "a span tells {hidden}");
        let line = log.lines().find(|line| line.contains(hidden));
        assert!(line.is_none(), "the log tells {hidden}: {line:?}");
    }
    // The line of an answer is written within its request.
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let id = answer.header("x-request-id");
    let line = lines
        .iter()
        .find(|line| line["message"] == "answered" && line["request_id"] == id);
    let line = line.expect("a line");
    assert_eq!(line["trace_id"], hex(&trace.root().trace_id));
    assert_eq!(line["tenant"], tenant);
    assert_eq!(line["model"], "digits");
    let done = lines.iter().find(|line| {
        line["request_id"] == id && line["version"].is_u64() && line["model"] == "digits"
    });
    assert!(done.is_none_or(|line| line["trace_id"] == hex(&trace.root().trace_id)));
}
