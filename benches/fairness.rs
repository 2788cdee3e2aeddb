//! What a flood costs a quiet tenant: B asks ten times a second, alone and while A floods the same model with as many
//! callers as it likes; side by side, round by round. B's p99 should stay within three times its quiet one.
//!
//! `cargo bench --bench fairness -- [rounds] [seconds a measurement] [model] [callers of A]`, with `LENSGATE_FIXTURES`.

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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fixture::gateway::TestGateway;
use load::connection::{self, Connection};
use photo::median;
use serde_json::json;

/// B asks so often.
const PAUSE: Duration = Duration::from_millis(100);

fn main() {
    let given = load::Given::read();
    let rounds: usize = given.at(0, 5);
    let time = Duration::from_secs_f64(given.at(1, 5.0));
    let model: String = given.at(2, "squeezenet1.1".to_owned());
    let flood: usize = given.at(3, 64);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let store = fixture::real::store(&fixtures, &[&model], "ort");
    let runtime = load::runtime();
    let gateway = runtime.block_on(TestGateway::start(store.path(), &["cache.max_bytes=0"]));
    let photo = photo::jpeg(
        &fixture::read(fixtures.join("images/cat_meow.jpg")),
        375,
        500,
    );
    let route = format!("/v1/models/{model}/classify");
    let request = |name: &str| {
        let secret = runtime.block_on(async {
            let tenant = gateway.tenant(name).await;
            gateway
                .key(json!({"tenant_id": tenant, "name": name}))
                .await
                .1
        });
        connection::post_as(&secret, &route, &photo)
    };
    let (a, b) = (request("A"), request("B"));
    let address = gateway.base.trim_start_matches("http://");
    println!(
        "{model}, 500x375, A floods with {flood} callers; ms, medians of {rounds} rounds of {time:?}"
    );
    println!("| B | p50 | p99 | answers of A a second | refusals of A a second |");
    println!("| --- | --- | --- | --- | --- |");
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (flooded, figures) in [false, true].into_iter().zip(&mut figures) {
            let callers = if flooded { flood } else { 0 };
            figures.push(runtime.block_on(measure(address, &a, &b, callers, time)));
        }
    }
    for (name, rounds) in ["alone", "beside the flood"].iter().zip(&figures) {
        let column = |column: usize| median(rounds.iter().map(|round: &[f64; 4]| round[column]));
        println!(
            "| {name} | {:.2} | {:.2} | {:.1} | {:.1} |",
            column(0),
            column(1),
            column(2),
            column(3)
        );
    }
    let pairs = figures[1].iter().zip(&figures[0]);
    let ratio = median(pairs.map(|(flooded, alone)| flooded[1] / alone[1]));
    println!("p99 beside the flood / alone, median of the rounds: {ratio:.2}");
}

/// B's p50 and p99 in milliseconds, and A's answers and refusals a second.
async fn measure(
    address: &str,
    a: &Arc<[u8]>,
    b: &Arc<[u8]>,
    callers: usize,
    time: Duration,
) -> [f64; 4] {
    let stop = AtomicBool::new(false);
    let flood = (0..callers).map(|_| flood(address, a, &stop));
    let quiet = async {
        let mut connection = Connection::open(address).await.expect("connected");
        // The flood comes first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (started, mut took) = (Instant::now(), Vec::new());
        while started.elapsed() < time {
            let before = Instant::now();
            connection.ok(b).await;
            took.push(before.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        stop.store(true, Ordering::Relaxed);
        took
    };
    let (mut took, flooded) = tokio::join!(quiet, futures_util::future::join_all(flood));
    took.sort_by(f64::total_cmp);
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    let sum = |part: fn(&(u32, u32)) -> u32| {
        let count: u32 = flooded.iter().map(part).sum();
        f64::from(count) / time.as_secs_f64()
    };
    [at(50), at(99), sum(|one| one.0), sum(|one| one.1)]
}

/// One caller of A: again and again, whatever the answer. Gives its answers and refusals.
async fn flood(address: &str, request: &[u8], stop: &AtomicBool) -> (u32, u32) {
    let mut counts = (0, 0);
    let mut connection = Connection::open(address).await.expect("connected");
    while !stop.load(Ordering::Relaxed) {
        if !connection.is_kept() {
            connection = Connection::open(address).await.expect("connected");
        }
        match connection.exchange(request).await {
            Ok(answer) if answer.status == 200 => counts.0 += 1,
            Ok(_) => counts.1 += 1,
            Err(_) => connection = Connection::open(address).await.expect("connected"),
        }
    }
    counts
}
