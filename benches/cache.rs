//! What a cached answer costs: hits over HTTP, with a key that has no limits and with one that has all of them, against a bare
//! poem server that only reads the same body, hashes it and answers 300 bytes of JSON. Side by side in one run, round by
//! round, 32 connections each.
//!
//! `cargo bench --bench cache -- [rounds] [seconds a measurement] [another build's lensgate]`, with `LENSGATE_FIXTURES`. Another
//! build, e.g. one from before there were keys, is measured in the same rounds, and this build like it as a process of its own.

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
#[expect(dead_code, reason = "the other benches use more of it")]
mod photo;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::gateway::API_KEY;
use fixture::plane::{TestPlane, key, limited};
use fixture::real;
use lensgate::domain::api_key::KeyLimits;
use lensgate::domain::clock::SystemClock;
use load::connection::{self, Connection};
use photo::median;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Response, Server, handler};
use sha2::{Digest as _, Sha256};

const MODEL: &str = "squeezenet1.1";
const CALLERS: usize = 32;
/// Bytes of the picture: a JPEG of a usual size. What follows its end is ignored.
const BYTES: usize = 61_000;

fn main() {
    let given = load::Given::read();
    let rounds: usize = given.at(0, 7);
    let seconds: f64 = given.at(1, 2.0);
    let other = given.at(2, PathBuf::new());
    let time = Duration::from_secs_f64(seconds);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let mut picture = fixture::read(fixtures.join("images/tennis.jpg"));
    picture.resize(BYTES, 0);
    let plane = plane(&fixtures);
    let mut targets = vec![
        Target::bare(&picture),
        Target::hits("hits, a key", &plane, "free", &picture),
        Target::hits("hits, a key with limits", &plane, "limited", &picture),
    ];
    let mut processes = Vec::new();
    if !other.as_os_str().is_empty() {
        let this = Path::new(env!("CARGO_BIN_EXE_lensgate"));
        for (name, program) in [("hits, other build", &*other), ("hits, this build", this)] {
            let process = Process::start(program, &fixtures);
            targets.push(Target::hits(name, &process.address, API_KEY, &picture));
            processes.push(process);
        }
    }
    let runtime = load::runtime();
    for target in &targets {
        runtime.block_on(target.warm_up());
    }
    measure_all(&runtime, &targets, rounds, time);
}

/// Round by round; each figure also as its ratio to the first of the same round.
fn measure_all(
    runtime: &tokio::runtime::Runtime,
    targets: &[Target],
    rounds: usize,
    time: Duration,
) {
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    println!(
        "answers/s (of the first)\n| round | {} |",
        names.join(" | ")
    );
    println!("| --- |{}", " --- |".repeat(targets.len()));
    let mut rates: Vec<Vec<f64>> = Vec::new();
    let row = |name: &str, rates: &[f64], ratios: &[f64]| {
        let cells = rates.iter().zip(ratios);
        let cells: Vec<String> = cells
            .map(|(rate, ratio)| format!("{rate:.0} ({ratio:.2})"))
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    };
    let ratios = |rates: &[f64]| rates.iter().map(|rate| rate / rates[0]).collect::<Vec<_>>();
    for round in 1..=rounds {
        let measured: Vec<f64> = targets
            .iter()
            .map(|target| runtime.block_on(measure(target, time)))
            .collect();
        row(&round.to_string(), &measured, &ratios(&measured));
        rates.push(measured);
    }
    let each = |of: &dyn Fn(&[f64]) -> Vec<f64>| -> Vec<f64> {
        let per_round: Vec<Vec<f64>> = rates.iter().map(|rates| of(rates)).collect();
        (0..targets.len())
            .map(|place| median(per_round.iter().map(|row| row[place])))
            .collect()
    };
    row("median", &each(&<[f64]>::to_vec), &each(&ratios));
}

/// What is sent again and again, to whom.
struct Target {
    name: &'static str,
    address: String,
    request: Arc<[u8]>,
    expected: &'static str,
}

impl Target {
    fn bare(picture: &[u8]) -> Self {
        Self {
            name: "bare poem",
            address: bare_server(),
            request: connection::post("/", picture),
            expected: "\"sha256\"",
        }
    }

    fn hits(name: &'static str, address: &str, key: &str, picture: &[u8]) -> Self {
        let route = format!("/v1/models/{MODEL}/classify");
        Self {
            name,
            address: address.to_owned(),
            request: connection::post_as(key, &route, picture),
            expected: "\"cached\":true",
        }
    }

    /// Until it answers as expected: the model may still be loading, and the first answer is a miss.
    async fn warm_up(&self) {
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut connection = Connection::open(&self.address).await.expect("connected");
        loop {
            let answer = connection.exchange(&self.request).await.expect("an answer");
            if answer.status == 200 && answer.body.contains(self.expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{}: {answer:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The data plane in this process, on a runtime of its own, with the keys `free` and `limited`. Gives its address.
fn plane(fixtures: &Path) -> String {
    let store = real::store(fixtures, &[MODEL], "ort");
    let limits = KeyLimits {
        requests_per_second: Some(1e6),
        burst: Some(1_000_000),
        images_per_day: Some(1 << 40),
        max_image_bytes: Some(1 << 20),
        ..KeyLimits::default()
    };
    let keys = [key("free"), limited("limited", limits)];
    on_its_own(async move |tell| {
        let plane = TestPlane::start_by(Arc::new(SystemClock), store, &[], &keys).await;
        tell.send(plane.base.trim_start_matches("http://").to_owned())
            .expect("somebody waits");
        std::future::pending::<()>().await;
    })
}

/// A gateway as a process of its own.
struct Process {
    child: Child,
    address: String,
    _store: fixture::store::TestStore,
    _data: tempfile::TempDir,
}

impl Process {
    fn start(program: &Path, fixtures: &Path) -> Self {
        let store = real::store(fixtures, &[MODEL], "ort");
        let root = fixture::root();
        let data = tempfile::tempdir().expect("a folder");
        let database = format!("sqlite://{}/lensgate.db", data.path().display());
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(fixture::data("empty.toml"))
            .env("LENSGATE__SERVER__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__ADMIN__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__STORE__URL", database)
            .env("LENSGATE__BOOTSTRAP__API_KEY", API_KEY)
            .env("LENSGATE__MODEL_STORE__URL", store.path())
            .env("LENSGATE__MODEL_STORE__TRIALS_FILE", "")
            .env("LENSGATE__TELEMETRY__LOG_FORMAT", "json")
            .current_dir(root)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("a log"));
        let address = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).expect("text") > 0,
                "it ended early"
            );
            let entry: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
            if let Some(address) = entry["address"].as_str() {
                break address.to_owned();
            }
        };
        // It must never wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            address,
            _store: store,
            _data: data,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[handler]
async fn hash(body: Vec<u8>) -> Response {
    let digest = format!("{:x}", Sha256::digest(&body));
    Response::builder()
        .content_type("application/json")
        .body(format!(
            "{{\"sha256\":\"{digest}\",\"padding\":\"{digest}{digest}{digest}\"}}"
        ))
}

/// The least that a poem server can do with such a request. Gives its address.
fn bare_server() -> String {
    on_its_own(async |tell| {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await;
        let acceptor = acceptor.expect("bound");
        let address = acceptor.local_addr()[0].to_string();
        let address = address.trim_start_matches("socket://").to_owned();
        tell.send(address).expect("somebody waits");
        let routes = poem::Route::new().at("/", poem::post(hash));
        Server::new_with_acceptor(acceptor)
            .run(routes)
            .await
            .expect("served");
    })
}

/// Serves for ever on a runtime of its own; gives the address that is told.
fn on_its_own<F>(
    serve: impl FnOnce(std::sync::mpsc::Sender<String>) -> F + Send + 'static,
) -> String
where
    F: Future<Output = ()>,
{
    let (tell, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(serve(tell));
    });
    address.recv().expect("an address")
}

/// Answers a second, of connections that each ask again as soon as they are answered.
async fn measure(target: &Target, time: Duration) -> f64 {
    let started = Instant::now();
    let calls = (0..CALLERS).map(|_| async {
        let mut connection = Connection::open(&target.address).await.expect("connected");
        let mut answered = 0_u32;
        while started.elapsed() < time {
            let body = connection.ok(&target.request).await;
            assert!(body.contains(target.expected), "{body}");
            answered += 1;
        }
        answered
    });
    let answered: u32 = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .sum();
    f64::from(answered) / started.elapsed().as_secs_f64()
}
