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

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::gateway::TestGateway;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Response, Server, handler};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MODEL: &str = "squeezenet1.1";
const CALLERS: usize = 32;
/// Bytes of the picture: a JPEG of a usual size. What follows its end is ignored.
const BYTES: usize = 61_000;

fn main() {
    // `cargo bench` adds --bench.
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let rounds = given
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(7);
    let seconds = given
        .get(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let store = fixture::real::store(&fixtures, &[MODEL], "ort");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let gateway = runtime.block_on(TestGateway::start(store.path(), &[]));
    let mut picture = fixture::read(fixtures.join("images/tennis.jpg"));
    picture.resize(BYTES, 0);
    let gateway = Target {
        address: gateway.base.trim_start_matches("http://").to_owned(),
        request: request(&format!("/v1/models/{MODEL}/classify"), &picture),
        expected: "\"cached\":true",
        _gateway: Some(gateway),
    };
    let bare = Target {
        address: bare_server(),
        request: request("/", &picture),
        expected: "\"sha256\"",
        _gateway: None,
    };
    // The first is a miss; from then on every answer must be a hit.
    runtime.block_on(async {
        let mut stream = TcpStream::connect(&gateway.address)
            .await
            .expect("connected");
        stream.write_all(&gateway.request).await.expect("sent");
        answer(&mut stream, "\"cached\":false").await;
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

fn request(route: &str, picture: &[u8]) -> Arc<[u8]> {
    let head = format!(
        "POST {route} HTTP/1.1\r\nHost: bench\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        picture.len()
    );
    [head.as_bytes(), picture].concat().into()
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
        let mut stream = TcpStream::connect(&target.address)
            .await
            .expect("connected");
        stream.set_nodelay(true).expect("set");
        let mut answered = 0_u32;
        while started.elapsed() < time {
            stream.write_all(&target.request).await.expect("sent");
            answer(&mut stream, target.expected).await;
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

/// Reads one answer, which must be a 200 with a length and hold `expected`.
async fn answer(stream: &mut TcpStream, expected: &str) {
    let mut read = Vec::with_capacity(4096);
    loop {
        assert!(
            stream.read_buf(&mut read).await.expect("an answer") > 0,
            "closed"
        );
        let text = String::from_utf8_lossy(&read);
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text[..end]
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse::<usize>().ok())
            .expect("a length");
        if read.len() >= end + 4 + length {
            assert!(text.contains(expected), "{text}");
            return;
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
