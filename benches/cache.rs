//! What a cached answer costs: hits over HTTP against a bare poem server that only reads the same body, hashes it and
//! answers 300 bytes of JSON. Side by side in one run, round by round, 32 connections each.
//!
//! `cargo bench --bench cache -- [rounds] [seconds a measurement]`, with `LENSGATE_FIXTURES`.

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

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::gateway::TestGateway;
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
    let time = Duration::from_secs_f64(seconds);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let store = fixture::real::store(&fixtures, &[MODEL], "ort");
    let runtime = load::runtime();
    let gateway = runtime.block_on(TestGateway::start(store.path(), &[]));
    let mut picture = fixture::read(fixtures.join("images/tennis.jpg"));
    picture.resize(BYTES, 0);
    let gateway = Target {
        address: gateway.base.trim_start_matches("http://").to_owned(),
        request: connection::post(&format!("/v1/models/{MODEL}/classify"), &picture),
        expected: "\"cached\":true",
        _gateway: Some(gateway),
    };
    let bare = Target {
        address: bare_server(),
        request: connection::post("/", &picture),
        expected: "\"sha256\"",
        _gateway: None,
    };
    // The first is a miss; from then on every answer must be a hit.
    runtime.block_on(async {
        let mut connection = Connection::open(&gateway.address).await.expect("connected");
        let first = connection.ok(&gateway.request).await;
        assert!(first.contains("\"cached\":false"), "{first}");
    });
    let mut rates: [Vec<f64>; 2] = Default::default();
    println!(
        "| round | bare poem, answers/s | hits, answers/s | ratio |\n| --- | --- | --- | --- |"
    );
    for round in 1..=rounds {
        let bare = runtime.block_on(measure(&bare, time));
        let hits = runtime.block_on(measure(&gateway, time));
        println!("| {round} | {bare:.0} | {hits:.0} | {:.2} |", hits / bare);
        rates[0].push(bare);
        rates[1].push(hits);
    }
    let ratios = rates[0]
        .iter()
        .zip(&rates[1])
        .map(|(bare, hits)| hits / bare);
    let ratio = median(ratios);
    let [bare, hits] = rates.map(|rates| median(rates.into_iter()));
    println!("| median | {bare:.0} | {hits:.0} | {ratio:.2} |");
}

/// A server and what it is sent again and again.
struct Target {
    address: String,
    request: Arc<[u8]>,
    expected: &'static str,
    _gateway: Option<TestGateway>,
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

/// The least that a poem server can do with such a request, on a runtime of its own like the gateway's.
fn bare_server() -> String {
    let (tell, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await;
            let acceptor = acceptor.expect("bound");
            let address = acceptor.local_addr()[0].to_string();
            tell.send(address).expect("somebody waits");
            let routes = poem::Route::new().at("/", poem::post(hash));
            Server::new_with_acceptor(acceptor)
                .run(routes)
                .await
                .expect("served");
        });
    });
    let address = address.recv().expect("an address");
    address.trim_start_matches("socket://").to_owned()
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
