//! What telemetry costs.
//!
//! `cargo bench --bench telemetry -- cost [rounds] [seconds a measurement]`: answers a second of the real binary without a collector
//! and with one (traces at 10 %, metrics every second), side by side, round by round: pictures of a model that runs, and cached
//! answers. The collector decodes what it gets, on the same cores. `LENSGATE_BEFORE` names another build of the gateway to compare
//! with, e.g. one from before there were metrics.
//! `cargo bench --bench telemetry -- scrape [models] [versions]`: how long `GET /metrics` takes with so many, all in use.
//! `cargo bench --bench telemetry -- spans [traces]`: what it costs to note the steps of a request, beside the same steps as spans of
//! `tracing` through tracing-opentelemetry and OpenTelemetry's SDK.
//!
//! `cost` with `LENSGATE_FIXTURES`; without an argument, all of them.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a benchmark ends it"
)]

#[path = "../tests/it/fixture/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it than a benchmark does")]
mod fixture;
#[expect(dead_code, reason = "the load benches use more of it")]
mod load;
mod photo;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fixture::collector::Collector;
use fixture::gateway::{API_KEY, TestGateway};
use fixture::store::{TestStore, noted};
use futures_util::FutureExt as _;
use lensgate::config::{Environment, TelemetryConfig};
use lensgate::telemetry;
use lensgate::telemetry::otlp::Target;
use lensgate::telemetry::trace::{self, Work};
use load::callers::rate;
use load::connection;
use load::gateway::Gateway;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use photo::median;
use tokio::runtime::Runtime;
use tracing_subscriber::layer::SubscriberExt as _;

const CALLERS: usize = 32;

fn main() {
    let given = load::Given::read();
    let what: String = given.at(0, String::new());
    let runtime = load::runtime();
    if what.is_empty() || what == "scrape" {
        runtime.block_on(scrape(given.at(1, 50), given.at(2, 3)));
    }
    if what.is_empty() || what == "spans" {
        let _within = runtime.enter();
        spans(given.at(1, 100_000));
    }
    if what.is_empty() || what == "cost" {
        let Some(fixtures) = fixture::fixtures() else {
            return;
        };
        let time = Duration::from_secs_f64(given.at(2, 2.5));
        cost(&runtime, &fixtures, given.at(1, 7), time);
    }
}

/// A request's steps, as ours, and as `tracing`'s spans: these take their names at compile time.
macro_rules! steps {
    ($step:ident) => {
        $step!("auth");
        $step!("limit");
        $step!("route");
        $step!("receive");
        $step!("cache");
        $step!("queue");
        $step!("inference");
        $step!("record");
    };
}

/// Nanoseconds of one trace, the least of some rounds.
fn nanos_of(traces: u32, mut trace: impl FnMut()) -> f64 {
    let round = |_| {
        let began = Instant::now();
        (0..traces).for_each(|_| trace());
        began.elapsed().as_secs_f64() * 1e9 / f64::from(traces)
    };
    (0..5).map(round).fold(f64::INFINITY, f64::min)
}

/// Traces that are not kept: 9 of 10. Ours notes all of them, as it is not known before the end which fail or are slow; so does the
/// SDK where it records all. Where it records one of ten, it knows of no failure in the other nine.
fn spans(traces: u32) {
    let config = TelemetryConfig {
        otlp_endpoint: "http://127.0.0.1:9".to_owned(),
        trace_ratio: 0.0,
        ..TelemetryConfig::default()
    };
    let target = Target::of(&config, &Environment::default()).expect("an address");
    let target = target.expect("a collector");
    let _exporting = telemetry::send_traces(&config, &target).expect("a sender");
    let ours = nanos_of(traces, || {
        let noted = trace::work(Work::named("request"), async {
            macro_rules! step {
                ($name:literal) => {
                    drop(trace::step($name));
                };
            }
            steps!(step);
        });
        noted.now_or_never();
    });
    println!("a request with 8 steps that is not kept, ns: {ours:.0} noted by us");
    for (sampler, what) in [
        (
            Sampler::AlwaysOff,
            "tracing-opentelemetry, nothing recorded",
        ),
        (
            Sampler::AlwaysOn,
            "tracing-opentelemetry, all recorded and nowhere sent",
        ),
    ] {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("lensgate"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let theirs = tracing::subscriber::with_default(subscriber, || {
            nanos_of(traces, || {
                let _request = tracing::info_span!("request").entered();
                macro_rules! step {
                    ($name:literal) => {
                        drop(tracing::info_span!($name).entered());
                    };
                }
                steps!(step);
            })
        });
        println!("{theirs:.0} by {what}: {:.1} times", theirs / ours);
    }
}

async fn scrape(models: u32, versions: u32) {
    let graph = fixture::read(fixture::data("models/rgb-f32/1/model.onnx"));
    let store = TestStore::empty();
    for model in 0..models {
        store.add(&fixture::data("models/rgb-f32"), &format!("m{model}"));
        for version in 2..=versions {
            let graph = noted(&graph, model * 1000 + version);
            store.write(&format!("m{model}/{version}/model.onnx"), graph);
        }
    }
    let settings = ["model_store.watch=false", "predictions.log=false"];
    let gateway = TestGateway::start(store.path(), &settings).await;
    let picture = fixture::read(fixture::data("images/red.png"));
    for model in 0..models {
        for version in 1..=versions {
            let path = format!("/v1/models/m{model}/versions/{version}/classify");
            gateway
                .raw(&path, "image/png", picture.clone())
                .await
                .assert_ok();
        }
    }
    let url = format!("{}/metrics", gateway.admin_base);
    let (mut times, mut bytes, mut series) = (Vec::new(), 0, 0);
    // One that is kept, as Prometheus keeps its own.
    let client = reqwest::Client::new();
    for round in 0..31 {
        let began = Instant::now();
        let answer = client.get(&url).send().await.expect("an answer");
        let text = answer.text().await.expect("text");
        if round > 0 {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        bytes = text.len();
        series = text.lines().filter(|line| !line.starts_with('#')).count();
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    println!(
        "GET /metrics with {models} models of {versions} versions: median {:.1} ms, longest of {} {longest:.1} ms ({series} series, {} kB)",
        median(times.iter().copied()),
        times.len(),
        bytes / 1000
    );
}

/// A collector on a thread of its own.
fn collector() -> Collector {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        load::runtime().block_on(async move {
            tell.send(Collector::start().await)
                .expect("it is waited for");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("a collector")
}

fn cost(runtime: &Runtime, fixtures: &Path, rounds: usize, time: Duration) {
    let store = fixture::real::store(fixtures, &["mobilenetv2"], "ort");
    let photo = fixture::read(fixtures.join("images/cat_meow.jpg"));
    let photo = photo::jpeg(&photo, 375, 500);
    let collector = collector();
    let url = collector.url();
    let on = [
        ("LENSGATE__TELEMETRY__OTLP_ENDPOINT", url.as_str()),
        ("LENSGATE__TELEMETRY__METRICS_INTERVAL", "1s"),
    ];
    let this = PathBuf::from(env!("CARGO_BIN_EXE_lensgate"));
    let mut sides = vec![
        ("no collector", this.clone(), &[][..]),
        ("collector", this, &on[..]),
    ];
    if let Some(before) = std::env::var_os("LENSGATE_BEFORE") {
        sides.push(("before", PathBuf::from(before), &[][..]));
    }
    let gateways: Vec<Gateway> = sides
        .iter()
        .map(|(_, program, variables)| {
            let cache = ("LENSGATE__CACHE__MAX_BYTES", "1000000");
            let variables = [&[cache], *variables].concat();
            runtime.block_on(Gateway::start_by(program, store.path(), &variables))
        })
        .collect();
    println!(
        "answers/s with {CALLERS} callers (of the first), medians of {rounds} rounds of {time:?}"
    );
    let names: Vec<&str> = sides.iter().map(|(name, ..)| *name).collect();
    println!("| mobilenetv2, 500x375 | {} |", names.join(" | "));
    println!("| --- |{}", " --- |".repeat(names.len()));
    let route = "/v1/models/mobilenetv2/classify";
    for (name, lines) in [("runs", "Cache-Control: no-cache\r\n"), ("cached", "")] {
        let request = connection::post_with(API_KEY, route, lines, &photo);
        let mut rates: Vec<Vec<f64>> = Vec::new();
        for round in 0..=rounds {
            let mut row = vec![0.0; gateways.len()];
            // Each is first in turn.
            for place in 0..gateways.len() {
                let place = (place + round) % gateways.len();
                row[place] =
                    runtime.block_on(rate(&gateways[place].address, &request, CALLERS, time));
            }
            // The first round warms up.
            if round > 0 {
                rates.push(row);
            }
        }
        let cells: Vec<String> = (0..gateways.len())
            .map(|place| {
                let rate = median(rates.iter().map(|row| row[place]));
                let ratio = median(rates.iter().map(|row| row[place] / row[0]));
                format!("{rate:.1} ({ratio:.3})")
            })
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!("{} spans came to the collector", collector.spans().len());
}
