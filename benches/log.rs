//! What the prediction log costs and what it can take.
//!
//! `cargo bench --bench log -- cost [rounds] [seconds a measurement]`: answers a second with the log and without it, side by
//! side, round by round: pictures of a model that runs, and cached answers. The log writes into PostgreSQL on this machine, whose
//! own work is in it; and into a spool alone, with the database away.
//! `cargo bench --bench log -- drain [predictions]`: how fast a full spool goes into PostgreSQL beside 1,000 cached answers a second.
//! `cargo bench --bench log -- pages [rows]`: pages of the operators' list over so many rows in PostgreSQL, with their plans.
//!
//! With `LENSGATE_FIXTURES`; without an argument, `cost` and `drain`.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a benchmark ends it"
)]

mod filled;
#[path = "../tests/it/fixture/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it than a benchmark does")]
mod fixture;
#[expect(dead_code, reason = "the load benches use more of it")]
mod load;
mod photo;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::gateway::{API_KEY, TestGateway};
use fixture::postgres;
use fixture::proxy::{Proxy, Way};
use lensgate::config::PredictionsConfig;
use lensgate::domain::clock::SystemClock;
use lensgate::domain::ids::Digest;
use lensgate::domain::prediction::{
    Answer, AnsweredBy, Asked, PictureFacts, PredictedClass, Prediction, Spent,
};
use lensgate::domain::tenant::{KeyId, TenantId};
use lensgate::predictions::PredictionLog;
use load::connection::{self, Connection};
use photo::median;
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::runtime::Runtime;
use uuid::Uuid;

const CALLERS: usize = 32;

fn main() {
    let given = load::Given::read();
    let what: String = given.at(0, String::new());
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let runtime = load::runtime();
    if what.is_empty() || what == "cost" {
        let time = Duration::from_secs_f64(given.at(2, 3.0));
        cost(&runtime, &fixtures, given.at(1, 5), time);
    }
    if what.is_empty() || what == "drain" {
        runtime.block_on(drain(given.at(1, 300_000)));
    }
    if what == "pages" {
        runtime.block_on(pages(given.at(1, 10_000_000)));
    }
}

/// A gateway, and where its log goes.
struct Logged {
    name: &'static str,
    gateway: TestGateway,
    /// Its way to the database, where it is cut.
    _away: Option<Proxy>,
}

impl Logged {
    async fn start(name: &'static str, store: &Path, settings: &[&str], is_away: bool) -> Self {
        let url = postgres::database().await;
        let (proxy, url) = Proxy::before(&url).await;
        let database = format!("store.url={url}");
        let settings: Vec<&str> = [database.as_str()]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
        let gateway = TestGateway::start(store, &settings).await;
        if is_away {
            proxy.set(Way::Cut);
        }
        Self {
            name,
            gateway,
            _away: Some(proxy),
        }
    }

    async fn rate(&self, request: &[u8], time: Duration) -> f64 {
        let address = self.gateway.base.trim_start_matches("http://");
        load::callers::rate(address, request, CALLERS, time).await
    }

    /// Waits until what was logged is in the database, so that it burdens nobody else's turn.
    async fn rests(&self) {
        while waiting(&self.gateway).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Bytes that wait in the spool; 0 without a log.
async fn waiting(gateway: &TestGateway) -> u64 {
    let status = gateway.admin(Method::GET, "/status", None).await.body;
    status["predictions"]["waiting_bytes"]
        .as_u64()
        .unwrap_or_default()
}

fn cost(runtime: &Runtime, fixtures: &Path, rounds: usize, time: Duration) {
    let store = fixture::real::store(fixtures, &["mobilenetv2"], "ort");
    let photo = fixture::read(fixtures.join("images/cat_meow.jpg"));
    let photo = photo::jpeg(&photo, 375, 500);
    let route = "/v1/models/mobilenetv2/classify";
    println!(
        "answers/s with {CALLERS} callers (of the first), medians of {rounds} rounds of {time:?}"
    );
    println!("| mobilenetv2, 500x375 | no log | log | log, database away |");
    println!("| --- | --- | --- | --- |");
    let cache = "cache.max_bytes=1000000";
    for (name, lines) in [("runs", "Cache-Control: no-cache\r\n"), ("cached", "")] {
        let request = connection::post_with(API_KEY, route, lines, &photo);
        let gateways = runtime.block_on(async {
            [
                Logged::start(
                    "no log",
                    store.path(),
                    &[cache, "predictions.log=false"],
                    false,
                )
                .await,
                Logged::start("log", store.path(), &[cache], false).await,
                Logged::start(
                    "log, database away",
                    store.path(),
                    &[cache, "store.call_timeout=1s"],
                    true,
                )
                .await,
            ]
        });
        let mut rates: Vec<[f64; 3]> = Vec::new();
        for round in 0..=rounds {
            let mut row = [0.0; 3];
            // Each is first in turn.
            for place in 0..3 {
                let place = (place + round) % 3;
                row[place] = runtime.block_on(async {
                    let rate = gateways[place].rate(&request, time).await;
                    if gateways[place].name == "log" {
                        gateways[place].rests().await;
                    }
                    rate
                });
            }
            // The first round warms up.
            if round > 0 {
                rates.push(row);
            }
        }
        let cells: Vec<String> = (0..3)
            .map(|place| {
                let rate = median(rates.iter().map(|row| row[place]));
                let ratio = median(rates.iter().map(|row| row[place] / row[0]));
                format!("{rate:.1} ({ratio:.3})")
            })
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// A prediction as most are.
fn prediction(index: u32) -> Prediction {
    let class = |index: usize| PredictedClass {
        class: format!("class number {index}"),
        index,
        confidence: 0.123_456,
    };
    Prediction {
        asked: Asked {
            request_id: Uuid::now_v7(),
            tenant: TenantId(Uuid::from_u128(u128::from(index % 50))),
            key: KeyId(Uuid::from_u128(u128::from(index % 200))),
            client_request_id: None,
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        },
        index: 0,
        model: "mobilenetv2".parse().expect("an id"),
        answered_by: Some(AnsweredBy {
            version: "1".parse().expect("a version"),
            digest: Digest::from_bytes([7; 32]),
            arm: None,
        }),
        picture: Some(PictureFacts {
            digest: Digest::from_bytes([9; 32]),
            bytes: 61_000,
            format: Some("jpeg".to_owned()),
            size: Some((500, 375)),
        }),
        answer: Some(Answer {
            class: format!("class number {}", index % 1000),
            confidence: 0.123_456,
            classes: (0..5).map(class).collect(),
        }),
        cached: false,
        timings: Spent {
            decode: 0.812,
            queue: 0.012,
            inference: 7.312,
            total: 8.912,
        },
        status: 200,
        code: None,
    }
}

async fn drain(count: u32) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = PredictionsConfig {
        spool: folder.path().to_path_buf(),
        ..PredictionsConfig::default()
    };
    let log = PredictionLog::open(&config, Arc::new(SystemClock)).expect("a log");
    for first in (0..count).step_by(1000) {
        let some: Vec<Prediction> = (first..(first + 1000).min(count)).map(prediction).collect();
        futures_util::future::join_all(some.iter().map(|one| log.record(one))).await;
    }
    let bytes = log.status().waiting_bytes;
    assert_eq!(log.status().spooled, u64::from(count));
    drop(log);
    let url = postgres::database().await;
    let settings = [
        format!("store.url={url}"),
        format!("predictions.spool={}", folder.path().display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let store = fixture::root().join("model-store");
    let gateway = TestGateway::start_unready(&store, &settings).await;
    let started = Instant::now();
    gateway.ready().await;
    let picture = fixture::read(store.join("digits/samples/7_a.png"));
    let request = connection::post_as(API_KEY, "/v1/models/digits/classify", &picture);
    let address = gateway.base.trim_start_matches("http://").to_owned();
    let (ended, mut took) = (std::cell::Cell::new(false), Vec::new());
    let hits = async {
        let mut connection = Connection::open(&address).await.expect("connected");
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while !ended.get() {
            tick.tick().await;
            let before = Instant::now();
            connection.ok(&request).await;
            took.push(before.elapsed().as_secs_f64() * 1e3);
        }
    };
    let drained = async {
        // What is answered meanwhile is logged too: a little always waits.
        while waiting(&gateway).await > 200_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended.set(true);
        started.elapsed()
    };
    let ((), time) = tokio::join!(hits, drained);
    took.sort_by(f64::total_cmp);
    let rate = f64::from(count) / time.as_secs_f64();
    println!("\ndrain: {count} predictions ({bytes} bytes) in {time:.1?}: {rate:.0} rows/s");
    println!(
        "beside {:.0} answers/s from the cache: p50 {:.2} ms, p99 {:.2} ms",
        f64::from(u32::try_from(took.len()).expect("a count")) / time.as_secs_f64(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
    );
}

/// Rows of ten days: 50 tenants, 200 keys, 4 models of which one is rare, 1,000 classes of which one is rare.
const ROWS: &str = "INSERT INTO predictions \
 SELECT (to_timestamp(t / 1000.0) AT TIME ZONE 'UTC')::date, \
 (lpad(to_hex(t), 12, '0') || '7' || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 4, 15))::uuid, 0, \
 ('00000000-0000-0000-0000-' || lpad((i % 50)::text, 12, '0'))::uuid, \
 ('00000000-0000-0000-0000-' || lpad((i % 200)::text, 12, '0'))::uuid, \
 CASE WHEN i % 100003 = 0 THEN 'rare' ELSE 'model-' || (i % 3) END, 1 + i % 2, 'sha256:' || repeat('ab', 32), NULL, \
 'sha256:' || md5(i::text) || md5(i::text), 61000, 'jpeg', 500, 375, \
 CASE WHEN i % 70001 = 0 THEN 'rare' ELSE 'class number ' || (i % 1000) END, 0.5, \
 '[{\"class\":\"class number 1\",\"index\":1,\"confidence\":0.5},{\"class\":\"class number 2\",\"index\":2,\"confidence\":0.1}]', \
 false, 0.8, 0.01, 7.3, 8.9, 200, NULL, NULL, NULL, to_timestamp(t / 1000.0) \
 FROM (SELECT i, FROM_MS + i * STEP_MS AS t FROM generate_series(FIRST::bigint, LAST::bigint) AS i) AS rows";

async fn pages(rows: u32) {
    let url = postgres::database().await;
    let setting = format!("store.url={url}");
    let gateway = TestGateway::start(
        &fixture::root().join("model-store"),
        &[&setting, "store.call_timeout=60s"],
    )
    .await;
    let mut database = PgConnection::connect(&url).await.expect("a server");
    let first = chrono::Utc::now() - chrono::TimeDelta::days(9);
    fill(&mut database, rows, first).await;
    println!("| page of 100 | first ms | median of 5 ms | rows |\n| --- | --- | --- | --- |");
    let middle =
        (first + chrono::TimeDelta::days(4)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    for query in [
        String::new(),
        "tenant=00000000-0000-0000-0000-000000000007".to_owned(),
        "key=00000000-0000-0000-0000-000000000123".to_owned(),
        "model=model-1".to_owned(),
        "model=rare".to_owned(),
        "model=model-2&version=1".to_owned(),
        "class=rare".to_owned(),
        "class=class+number+77&tenant=00000000-0000-0000-0000-000000000027".to_owned(),
        "class=nothing".to_owned(),
        format!("to={middle}"),
        format!("tenant=00000000-0000-0000-0000-000000000007&to={middle}"),
        format!("model=rare&class=rare&from={middle}"),
    ] {
        let (mut took, mut count) = (Vec::new(), 0);
        for _ in 0..6 {
            let before = Instant::now();
            let answer = gateway
                .admin(Method::GET, &format!("/predictions?{query}"), None)
                .await;
            took.push(before.elapsed().as_secs_f64() * 1e3);
            count = answer.assert_ok()["items"].as_array().expect("items").len();
        }
        println!(
            "| {query} | {:.1} | {:.1} | {count} |",
            took[0],
            median(took[1..].iter().copied())
        );
    }
    explain(&mut database).await;
}

/// Fills the log with rows from a time until now.
async fn fill(database: &mut PgConnection, rows: u32, first: chrono::DateTime<chrono::Utc>) {
    let indexes = filled::drop_indexes(database).await;
    let now = chrono::Utc::now();
    filled::make_days(database, first, now).await;
    let step = (now - first).num_milliseconds() / i64::from(rows);
    let began = Instant::now();
    for from in (0..rows).step_by(1_000_000) {
        let statement = ROWS
            .replace("FROM_MS", &first.timestamp_millis().to_string())
            .replace("STEP_MS", &step.max(1).to_string())
            .replace("FIRST", &from.to_string())
            .replace("LAST", &(from + 999_999).min(rows - 1).to_string());
        database
            .execute(AssertSqlSafe(statement))
            .await
            .expect("rows");
    }
    filled::make_indexes(database, &indexes).await;
    println!("{rows} rows of ten days in {:.0?}", began.elapsed());
}

async fn explain(database: &mut PgConnection) {
    for (name, condition) in [
        ("first page", "true"),
        (
            "a tenant",
            "true AND tenant_id = '00000000-0000-0000-0000-000000000007'",
        ),
        ("a rare class", "true AND class = 'rare'"),
    ] {
        println!("\nEXPLAIN, {name}:");
        let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY ON) SELECT * FROM predictions WHERE {condition} \
             ORDER BY day DESC, request_id DESC, \"index\" DESC LIMIT 101"
        )))
        .fetch_all(&mut *database)
        .await
        .expect("a plan");
        println!("{}", lines.join("\n"));
    }
}
