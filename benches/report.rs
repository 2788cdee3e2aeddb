//! How long a report takes over many predictions.
//!
//! `cargo bench --bench report -- [predictions]`: a report of a day of so many predictions (a million where left out) of three
//! versions with 50,000 labels, on PostgreSQL on this machine, over HTTP: with nothing in the day before, then with as many
//! there. Cold is right after the server was started, with its files out of the system's memory; then what each of the
//! store's calls takes, warm.

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
#[expect(dead_code, reason = "the benches of pictures use more of it")]
mod photo;

use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use fixture::gateway::TestGateway;
use fixture::postgres::Server;
use lensgate::config::StoreConfig;
use lensgate::domain::ids::{ModelId, VersionNumber};
use lensgate::store::{self, Window};
use photo::median;
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, query_scalar};

const ROUNDS: usize = 7;

/// Labels in the window.
const LABELS: u32 = 50_000;

/// Rows from `FROM_MS` on, one every `STEP_MS`: versions 1, 2 and 3 with 60, 30 and 10 % of them, a thousand classes of which low
/// ones are frequent, a fifth from the cache, one in a thousand a failure.
const ROWS: &str = "INSERT INTO predictions \
 SELECT (to_timestamp(t / 1000.0) AT TIME ZONE 'UTC')::date, \
 (lpad(to_hex(t), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid, 0, \
 ('00000000-0000-0000-0000-' || lpad((i % 50)::text, 12, '0'))::uuid, \
 ('00000000-0000-0000-0000-' || lpad((i % 200)::text, 12, '0'))::uuid, \
 'digits', CASE WHEN i % 10 < 6 THEN 1 WHEN i % 10 < 9 THEN 2 ELSE 3 END, 'sha256:' || repeat('ab', 32), NULL, \
 'sha256:' || h || h, 61000, 'jpeg', 500, 375, \
 CASE WHEN is_answer THEN 'class number ' || floor(1000 * r * r * r) END, CASE WHEN is_answer THEN 1 - r * r END, \
 CASE WHEN is_answer THEN '[{\"class\":\"class number 1\",\"index\":1,\"confidence\":0.5},{\"class\":\"class number 2\",\"index\":2,\"confidence\":0.1}]' END, \
 is_answer AND (i / 7) % 5 = 0, 0.8 + r, r / 10, 7.3 + r, 8.9 + 3 * r, CASE WHEN is_answer THEN 200 ELSE 503 END, \
 CASE WHEN is_answer THEN NULL ELSE 'overloaded' END, NULL, NULL, to_timestamp(t / 1000.0) \
 FROM (SELECT i, FROM_MS + (i * STEP_MS)::bigint AS t, md5((i + FROM_MS)::text) AS h, random() AS r, (i / 3) % 1000 <> 0 AS is_answer \
 FROM generate_series(0, COUNT - 1) AS i) AS rows";

/// Labels for some of the answers, nine of ten right.
const LABEL: &str = "INSERT INTO feedback (day, request_id, \"index\", tenant_id, label, at, joined, model, version, arm, class) \
 SELECT day, request_id, \"index\", tenant_id, CASE WHEN hashtext(request_id::text) % 10 <> 0 THEN class ELSE 'another' END, at, true, model, version, \
 version::text, class FROM predictions WHERE class IS NOT NULL ORDER BY random() LIMIT ";

fn main() {
    let given = load::Given::read();
    let runtime = load::runtime();
    runtime.block_on(reports(given.at(0, 1_000_000)));
}

/// A server, and what is on it.
struct Filled {
    server: Server,
    url: String,
    rows: u32,
    now: DateTime<Utc>,
}

async fn reports(rows: u32) {
    let server = Server::start();
    let url = server.empty_database("report").await;
    let config = StoreConfig {
        url: url.clone(),
        ..StoreConfig::default()
    };
    store::migrate(&config).await.expect("a migrated database");
    let mut filled = Filled {
        server,
        url,
        rows,
        now: Utc::now().trunc_subsecs(3),
    };
    filled.fill(1).await;
    filled.label().await;
    println!(
        "| predictions | cold ms | first ms | median of {ROUNDS} ms |\n| --- | --- | --- | --- |"
    );
    filled.measure("a day, and nothing before").await;
    filled.fill(2).await;
    filled.measure("a day, and as many the day before").await;
    filled.calls(&config).await;
}

impl Filled {
    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a server")
    }

    /// Fills one of the days before now.
    async fn fill(&mut self, day: i32) {
        let mut database = self.connect().await;
        let first = self.now - TimeDelta::days(day.into());
        let began = Instant::now();
        let indexes = filled::drop_indexes(&mut database).await;
        filled::make_days(&mut database, first, self.now).await;
        let step = 86_400_000.0 / f64::from(self.rows);
        let statement = ROWS
            .replace("FROM_MS", &first.timestamp_millis().to_string())
            .replace("STEP_MS", &step.to_string())
            .replace("COUNT", &self.rows.to_string());
        filled::run(&mut database, statement).await;
        filled::make_indexes(&mut database, &indexes).await;
        filled::run(&mut database, "VACUUM".to_owned()).await;
        let megabytes: i64 = query_scalar(
            "SELECT (sum(pg_table_size(inhrelid)) / 1000000)::bigint FROM pg_inherits WHERE inhparent = 'predictions'::regclass",
        )
        .fetch_one(&mut database)
        .await
        .expect("a size");
        println!(
            "\n{} rows of a day in {:.0?}; the table has {megabytes} MB",
            self.rows,
            began.elapsed()
        );
    }

    async fn label(&self) {
        let mut database = self.connect().await;
        filled::run(&mut database, format!("{LABEL}{LABELS}")).await;
        filled::run(&mut database, "ANALYZE feedback".to_owned()).await;
    }

    /// Starts the server anew, with nothing of its files in memory.
    async fn restart(&mut self) {
        let mut database = self.connect().await;
        let folder: String = query_scalar("SHOW data_directory")
            .fetch_one(&mut database)
            .await
            .expect("a folder");
        drop(database);
        self.server.stop();
        forget(Path::new(&folder));
        self.server.start_again();
    }

    async fn measure(&mut self, name: &str) {
        let (mut cold, mut first, mut warm) = (0.0, 0.0, Vec::new());
        let model_store = fixture::root().join("model-store");
        let setting = format!("store.url={}", self.url);
        let query = format!(
            "/models/digits/report?from={}&to={}",
            time(self.now - TimeDelta::days(1)),
            time(self.now)
        );
        for is_cold in [true, false] {
            if is_cold {
                self.restart().await;
            }
            let gateway = TestGateway::start(&model_store, &[&setting]).await;
            let arms = json!([{"version": 1, "weight": 1}, {"version": 2, "weight": 1}]);
            let split = json!({"mode": "split", "arms": arms});
            let put = gateway.admin(Method::PUT, "/models/digits/rollout", Some(split));
            put.await.assert_ok();
            let report = async || {
                let began = Instant::now();
                let report = gateway.admin(Method::GET, &query, None).await;
                let took = began.elapsed().as_secs_f64() * 1e3;
                let arms = report.assert_ok()["arms"].as_array().expect("arms");
                let requests: u64 = arms.iter().filter_map(|arm| arm["requests"].as_u64()).sum();
                assert_eq!(requests, u64::from(self.rows), "{:?}", report.body);
                assert!(arms[2]["accuracy"]["labels"].as_u64() > Some(0));
                took
            };
            if is_cold {
                cold = report().await;
                continue;
            }
            first = report().await;
            for _ in 0..ROUNDS {
                warm.push(report().await);
            }
        }
        println!(
            "| {name} | {cold:.0} | {first:.0} | {:.0} |",
            median(warm.iter().copied())
        );
    }

    /// What each of the store's calls takes.
    async fn calls(&self, config: &StoreConfig) {
        let store = store::connect(config).await.expect("a store");
        let model: ModelId = "digits".parse().expect("an id");
        let versions: Vec<VersionNumber> = ["1", "2", "3"]
            .map(|text| text.parse().expect("a version"))
            .to_vec();
        let window = Window {
            from: self.now - TimeDelta::days(1),
            to: self.now,
        };
        let share = (100_000.0 / f64::from(self.rows)).min(1.0);
        let mut took = [const { Vec::new() }; 5];
        let mut rows = [0; 5];
        for _ in 0..=ROUNDS {
            let mut began = Instant::now();
            let mut note = |call: usize, count: usize| {
                took[call].push(began.elapsed().as_secs_f64() * 1e3);
                rows[call] = count;
                began = Instant::now();
            };
            let outcomes = store.outcomes(&model, window).await;
            note(0, outcomes.expect("outcomes").len());
            let times = store.latencies(&model, &versions, window, share).await;
            note(1, times.expect("times").len());
            let labelled = store.labelled(&model, window).await;
            note(2, labelled.expect("labels").len());
            let compared = store.compared(&model, window).await;
            note(3, compared.expect("comparisons").len());
            let found = store.disagreements(&model, &versions, 20).await;
            note(4, found.expect("disagreements").len());
        }
        println!("\n| call | median of {ROUNDS} ms | rows |\n| --- | --- | --- |");
        let names = [
            "outcomes",
            "latencies",
            "labelled",
            "compared",
            "disagreements",
        ];
        for ((name, took), rows) in names.iter().zip(&took).zip(rows) {
            println!(
                "| {name} | {:.1} | {rows} |",
                median(took[1..].iter().copied())
            );
        }
        store.close().await;
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Has the system drop what it keeps of the files in a folder, where it may.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget(&path);
        } else if let Ok(file) = std::fs::File::open(&path) {
            let _ = rustix::fs::fsync(&file);
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}
