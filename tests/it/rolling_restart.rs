//! Three replicas over one PostgreSQL behind a real proxy, restarted one after the other under load: no request is lost, and no
//! prediction.
//!
//! `HAProxy` is a distribution's package: where none can be had this says so, and fails where `LENSGATE_PACKAGES` wants it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use sqlx::Connection as _;
use tokio::task::JoinSet;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::client;
use crate::fixture::script::{self, Script};
use crate::fixture::served::Served;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const REPLICAS: usize = 3;
const CALLERS: usize = 6;

fn is_there() -> bool {
    script::is_there(
        "haproxy.sh",
        "HAProxy",
        "a rolling restart behind a real proxy",
    )
}

/// Ports that were free a moment ago.
fn ports() -> Vec<u16> {
    let bound: Vec<_> = (0..REPLICAS)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    bound.iter().map(port).collect()
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    right: u64,
    failures: Vec<String>,
}

/// Asks until `stop`, a new connection now and then as clients do.
async fn ask(url: String, picture: Vec<u8>, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut asked = 0_u32;
    let mut client = client();
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        if asked.is_multiple_of(50) {
            client = crate::fixture::gateway::client();
        }
        let request = client.post(&url).header("content-type", "image/png");
        match request.body(picture.clone()).send().await {
            Ok(answer) => {
                let status = answer.status();
                let body = answer.text().await;
                if status.is_success() && body.as_ref().is_ok_and(|body| body.contains("\"class\""))
                {
                    seen.right += 1;
                } else {
                    seen.failures.push(format!("{status}: {body:?}"));
                }
            }
            Err(error) => seen.failures.push(format!("{error:?}")),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}

async fn rows(url: &str) -> i64 {
    let mut connection = sqlx::PgConnection::connect(url).await.expect("the server");
    sqlx::query_scalar("SELECT count(*) FROM predictions")
        .fetch_one(&mut connection)
        .await
        .expect("a count")
}

async fn until_ready(client: &Client, base: &str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let asked = client.get(format!("{base}/health/ready")).send().await;
        if asked.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(Instant::now() < deadline, "{base} does not become ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Restarts each replica when the one before serves again.
async fn roll(replicas: &mut [Served], client: &Client, start: impl Fn(usize) -> Served) {
    println!("| replica | stopped after | ready again after |");
    println!("| --- | --- | --- |");
    for (number, replica) in replicas.iter_mut().enumerate() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stopping = Instant::now();
        replica.signal("TERM");
        let (code, log) = tokio::task::block_in_place(|| replica.end());
        let stopped = stopping.elapsed();
        assert_eq!(code, Some(0), "{log}");
        assert!(stopped < Duration::from_secs(30), "{stopped:?}");
        let starting = Instant::now();
        *replica = tokio::task::block_in_place(|| start(number));
        until_ready(client, &replica.base).await;
        let started = starting.elapsed();
        println!("| {} | {stopped:.1?} | {started:.1?} |", number + 1);
        // Until the proxy has seen it, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_request_and_no_prediction() {
    if !tokio::task::block_in_place(is_there) {
        return;
    }
    let database = TestDatabase::postgres().await;
    let (store, ports, client) = (TestStore::digits(), ports(), Client::new());
    let models = store.path().display().to_string();
    let spool = tempfile::tempdir().expect("a folder");
    let start = |number: usize| {
        let listen = format!("127.0.0.1:{}", ports[number]);
        // A volume of its own, which outlasts the restart.
        let spool = spool.path().join(number.to_string()).display().to_string();
        Served::start(&[
            ("LENSGATE__SERVER__LISTEN", &listen),
            ("LENSGATE__SERVER__DRAIN_DELAY", "1s"),
            ("LENSGATE__STORE__URL", &database.url),
            ("LENSGATE__MODEL_STORE__URL", &models),
            ("LENSGATE__PREDICTIONS__SPOOL", &spool),
            ("LENSGATE__CACHE__MAX_BYTES", "0"),
        ])
    };
    let mut replicas: Vec<Served> = (0..REPLICAS).map(start).collect();
    for replica in &replicas {
        until_ready(&client, &replica.base).await;
    }
    let targets: Vec<String> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let (_proxy, url) =
        tokio::task::block_in_place(|| Script::start_with("haproxy.sh", &targets, &[]));
    until_ready(&client, &url).await;
    let stop = Arc::new(AtomicBool::new(false));
    let picture = read(root().join("model-store/digits/samples/7_a.png"));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let url = format!("{url}/v1/models/digits/classify");
        callers.spawn(ask(url, picture.clone(), Arc::clone(&stop)));
    }
    roll(&mut replicas, &client, start).await;
    stop.store(true, Ordering::Relaxed);
    let (mut right, mut failures) = (0, Vec::new());
    while let Some(seen) = callers.join_next().await {
        let seen = seen.expect("a caller");
        right += seen.right;
        failures.extend(seen.failures);
    }
    println!(
        "requests: {}, failures: {}",
        right + failures.len() as u64,
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(right > 200, "there was load: {right}");
    for replica in &mut replicas {
        replica.signal("TERM");
    }
    for replica in &mut replicas {
        let (code, log) = tokio::task::block_in_place(|| replica.end());
        assert_eq!(code, Some(0), "{log}");
    }
    let rows = rows(&database.url).await;
    println!("answers: {right}, rows: {rows}");
    assert_eq!(u64::try_from(rows).expect("a count"), right);
}
