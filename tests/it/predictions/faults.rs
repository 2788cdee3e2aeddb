//! Whatever breaks, classify does not fail for it, and every answer that was received has exactly one row.
//!
//! The judge is a client that keeps the ids of its own answers. Each fault is short here; `make soak` (`LENSGATE_SOAK=1`) runs
//! the long form: an outage of 30 s, 20 kills. Run with `--nocapture`, each says what it saw, as a line of a table.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::recorded::seven;
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{ADMIN_TOKEN, client};
use crate::fixture::postgres::{self, Server};
use crate::fixture::served::Served;

/// Callers at the same time: so many requests may be in flight at a kill.
const CALLERS: usize = 6;

/// How long and how often.
struct Form {
    outage: Duration,
    kills: usize,
}

fn form() -> Form {
    if std::env::var_os("LENSGATE_SOAK").is_some() {
        Form {
            outage: Duration::from_secs(30),
            kills: 20,
        }
    } else {
        Form {
            outage: Duration::from_secs(2),
            kills: 3,
        }
    }
}

/// The real binary over a database, with as few connections as are soon taken.
fn serve(url: &str, spool: &Path) -> Served {
    let settings = [
        ("LENSGATE__STORE__MAX_CONNECTIONS", "3"),
        ("LENSGATE__STORE__CALL_TIMEOUT", "2s"),
    ];
    super::serve(url, spool, &settings)
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    /// The ids of the answers they have received.
    answered: Vec<Uuid>,
    /// Requests that were answered by something else than 200.
    refused: Vec<StatusCode>,
    /// Requests without an answer.
    broken: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.answered.extend(other.answered);
        self.refused.extend(other.refused);
        self.broken += other.broken;
    }
}

/// Callers that ask as fast as they are answered, until they are told to stop or nobody answers any more.
struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Seen>,
}

impl Load {
    fn on(served: &Served) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (url, stop) = (format!("{}/v1/classify", served.base), Arc::clone(&stop));
            callers.spawn(async move {
                let (client, mut seen) = (client(), Seen::default());
                while !stop.load(Ordering::Relaxed) {
                    let answer = async {
                        let answer = client.post(&url).body(seven()).send().await?;
                        let status = answer.status();
                        Ok::<_, reqwest::Error>((status, answer.bytes().await?))
                    };
                    match answer.await {
                        Ok((StatusCode::OK, body)) => {
                            let body: Value = serde_json::from_slice(&body).expect("JSON");
                            let id = body["request_id"].as_str().expect("an id");
                            seen.answered.push(id.parse().expect("an id"));
                        }
                        Ok((status, _)) => seen.refused.push(status),
                        Err(_) => {
                            seen.broken += 1;
                            break;
                        }
                    }
                    // Enough to be many, and not so many that the machine does nothing else.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                seen
            });
        }
        Self { stop, callers }
    }

    /// What was seen, once all callers have ended.
    async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for seen in self.callers.join_all().await {
            all.add(seen);
        }
        all
    }
}

/// The rows of the log by request, read beside the gateway.
async fn rows(url: &str) -> HashMap<Uuid, i64> {
    const COUNT: &str = "SELECT request_id, count(*) FROM predictions GROUP BY request_id";
    let rows: Vec<(Uuid, i64)> = if url.starts_with("sqlite:") {
        let mut connection = SqliteConnection::connect(url).await.expect("a file");
        sqlx::query_as(COUNT)
            .fetch_all(&mut connection)
            .await
            .expect("rows")
    } else {
        let mut connection = PgConnection::connect(url).await.expect("a server");
        sqlx::query_as(COUNT)
            .fetch_all(&mut connection)
            .await
            .expect("rows")
    };
    rows.into_iter().collect()
}

/// How the log is, as operators see it.
async fn log(served: &Served) -> Value {
    let url = format!("{}/admin/v1/status", served.admin_base);
    let answer = client().get(url).bearer_auth(ADMIN_TOKEN).send().await;
    let status: Value = answer.expect("an answer").json().await.expect("JSON");
    status["predictions"].clone()
}

/// Waits until the log says that the database takes no predictions: the fault is one.
async fn waits(served: &Served) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while log(served).await["status"] != "waiting" {
        assert!(
            Instant::now() < deadline,
            "the database goes on: {}",
            log(served).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing waits in the spool any more.
async fn drained(served: &Served) {
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        let log = log(served).await;
        if log["waiting_bytes"] == 0 {
            for count in ["unlogged", "lost", "refused"] {
                assert_eq!(log[count], 0, "{log}");
            }
            return;
        }
        assert!(Instant::now() < deadline, "it does not become empty: {log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Holds the rows against what was seen: one for each answer, and at most `in_flight` others.
async fn judge(fault: &str, seen: &Seen, url: &str, in_flight: usize) {
    let rows = rows(url).await;
    let missing = seen
        .answered
        .iter()
        .filter(|id| !rows.contains_key(id))
        .count();
    let duplicates = rows.values().filter(|&&count| count != 1).count();
    let without = rows.len() + missing - seen.answered.len();
    println!(
        "| {fault} | {} answers | {} rows | {missing} missing | {duplicates} twice | {without} without an answer (at most {in_flight}) | {} refused | {} broken |",
        seen.answered.len(),
        rows.len(),
        seen.refused.len(),
        seen.broken,
    );
    assert!(!seen.answered.is_empty());
    assert_eq!((missing, duplicates), (0, 0), "{fault}");
    assert!(without <= in_flight, "{fault}: {without}");
}

/// Load before, during and after something that happens to the database.
async fn while_serving(fault: &str, url: &str, happens: impl AsyncFnOnce(&Served, Duration)) {
    let spool = tempfile::tempdir().expect("a folder");
    let served = serve(url, spool.path());
    served.ready(&client()).await;
    let load = Load::on(&served);
    tokio::time::sleep(Duration::from_millis(300)).await;
    happens(&served, form().outage).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = load.end().await;
    assert_eq!(
        (&seen.refused[..], seen.broken),
        (&[][..], 0),
        "{fault}: nobody who classifies notices"
    );
    drained(&served).await;
    judge(fault, &seen, url, 0).await;
}

/// A server of a test's own, with one database.
struct Own {
    server: Arc<Mutex<Server>>,
    url: String,
}

impl Own {
    async fn start(start: fn() -> Server) -> Self {
        let server = tokio::task::spawn_blocking(start).await.expect("a server");
        let url = server.empty_database("log").await;
        Self {
            server: Arc::new(Mutex::new(server)),
            url,
        }
    }

    /// Does something to the server, beside the callers.
    async fn does(&self, what: fn(&mut Server)) {
        let server = Arc::clone(&self.server);
        let done = move || what(&mut server.lock().expect("the server"));
        tokio::task::spawn_blocking(done).await.expect("it is done");
    }
}

/// Runs statements beside the gateway.
async fn execute(url: &str, statements: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("a server");
    connection.execute(statements).await.expect("statements");
    connection.close().await.expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_stopped_and_started_again() {
    let own = Own::start(Server::start_durable).await;
    while_serving("PostgreSQL stopped", &own.url, async |served, outage| {
        own.does(Server::stop).await;
        tokio::time::sleep(outage).await;
        waits(served).await;
        own.does(Server::start_again).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_killed() {
    let own = Own::start(Server::start_durable).await;
    while_serving("PostgreSQL killed", &own.url, async |served, outage| {
        for _ in 0..2 {
            own.does(Server::kill).await;
            tokio::time::sleep(outage / 2).await;
            waits(served).await;
            own.does(Server::start_again).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_slow() {
    let url = postgres::database().await;
    while_serving("PostgreSQL slow", &url, async |_, outage| {
        execute(
            &url,
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$; \
             CREATE TRIGGER slow BEFORE INSERT ON predictions FOR EACH STATEMENT EXECUTE FUNCTION slow();",
        )
        .await;
        tokio::time::sleep(outage * 2).await;
        execute(&url, "DROP TRIGGER slow ON predictions").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_has_no_more_room() {
    // tools/test.sh says so too, where it is read.
    if !rustix::process::geteuid().is_root() {
        println!("a full disk: NOT RUN (a disk of its own takes root)");
        return;
    }
    let own = Own::start(Server::start_on_a_small_disk).await;
    while_serving(
        "PostgreSQL's disk full",
        &own.url,
        async |served, outage| {
            own.does(Server::fill_the_disk).await;
            tokio::time::sleep(outage).await;
            waits(served).await;
            own.does(Server::empty_the_disk).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_taken() {
    let url = postgres::database().await;
    while_serving("connections exhausted", &url, async |served, outage| {
        let mut holder = PgConnection::connect(&url).await.expect("a server");
        // All connections of the gateway's wait behind these locks: whoever writes, reads, or follows.
        let lock = "BEGIN; LOCK TABLE predictions, revision, api_keys IN ACCESS EXCLUSIVE MODE";
        holder.execute(lock).await.expect("a lock");
        tokio::time::sleep(outage).await;
        waits(served).await;
        holder.execute("COMMIT").await.expect("an end");
    })
    .await;
}

/// Load, and in the middle of it the gateway ends, again and again; each time another takes its place.
async fn while_it_ends(fault: &str, url: &str, end: impl Fn(&mut Served), times: usize) {
    let spool = tempfile::tempdir().expect("a folder");
    let mut all = Seen::default();
    for _ in 0..times {
        let mut served = serve(url, spool.path());
        served.ready(&client()).await;
        let load = Load::on(&served);
        tokio::time::sleep(Duration::from_millis(700)).await;
        end(&mut served);
        all.add(load.end().await);
    }
    // Who comes while it drains is told to go elsewhere; nobody else is refused.
    let told = |status: &StatusCode| *status == StatusCode::SERVICE_UNAVAILABLE;
    assert!(all.refused.iter().all(told), "{fault}: {:?}", all.refused);
    let served = serve(url, spool.path());
    served.ready(&client()).await;
    drained(&served).await;
    judge(fault, &all, url, times * CALLERS).await;
}

contract![the_gateway_is_killed, the_gateway_is_stopped];

async fn the_gateway_is_killed(database: &TestDatabase) {
    let fault = format!("gateway killed {} times, {}", form().kills, kind(database));
    let kill = |served: &mut Served| served.signal("KILL");
    while_it_ends(&fault, &database.url, kill, form().kills).await;
}

async fn the_gateway_is_stopped(database: &TestDatabase) {
    let fault = format!("gateway stopped, {}", kind(database));
    let stop = |served: &mut Served| {
        served.signal("TERM");
        assert_eq!(served.end().0, Some(0));
    };
    while_it_ends(&fault, &database.url, stop, 2).await;
}

fn kind(database: &TestDatabase) -> &'static str {
    if database.is_sqlite() {
        "SQLite"
    } else {
        "PostgreSQL"
    }
}
