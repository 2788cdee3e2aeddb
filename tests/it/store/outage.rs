//! PostgreSQL that is lost, slow, restarted or not there yet: every call ends within its time and says so, nothing is half
//! written, and the store mends itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lensgate::config::{Seconds, StoreConfig};
use lensgate::store::{self, AuditFilter, Store, StoreError};
use sqlx::{Connection as _, Executor as _, PgConnection, query_scalar};

use super::{ALL, audit, key, note, tenant};
use crate::fixture::postgres::{self, Server};
use crate::fixture::proxy::{Proxy, Way};

/// How long a call of these tests may take; the machine may be busy on top of that.
const LIMIT: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(3);

fn config(url: String) -> StoreConfig {
    StoreConfig {
        url,
        max_connections: 4,
        call_timeout: Seconds::new(LIMIT.as_secs()),
        connect_timeout: Seconds::new(20),
    }
}

/// A store whose way to its database is a proxy, and one that goes straight.
async fn stores() -> (Proxy, Arc<dyn Store>, Arc<dyn Store>) {
    let url = postgres::database().await;
    let (server, database) = url.rsplit_once('/').expect("a URL");
    let address = server.rsplit_once('@').expect("a user").1;
    let proxy = Proxy::to(address.parse().expect("an address")).await;
    let through = server.replace(address, &proxy.address.to_string());
    let through = config(format!("{through}/{database}"));
    let through = store::connect(&through).await.expect("a store");
    let mut straight = config(url.clone());
    straight.call_timeout = Seconds::new(20);
    let straight = store::connect(&straight).await.expect("a store");
    (proxy, through, straight)
}

/// Asserts that a call says within its time that the database is away.
#[track_caller]
fn assert_away<T: std::fmt::Debug>(began: Instant, outcome: &Result<T, StoreError>) {
    let took = began.elapsed();
    assert!(
        matches!(outcome, Err(StoreError::Unavailable(_))),
        "{outcome:?}"
    );
    assert!(took < LIMIT + SLACK, "it took {took:?}");
}

/// Waits until the store has mended itself.
async fn mended(store: &dyn Store) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "it stays away: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_are_made_anew() {
    let (proxy, store, _) = stores().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    for _ in 0..3 {
        proxy.set(Way::Cut);
        let began = Instant::now();
        assert_away(began, &store.ping().await);
        let began = Instant::now();
        assert_away(began, &store.create_tenant(&tenant("lost"), &note()).await);
        let began = Instant::now();
        assert_away(began, &store.changes_since(0).await);
        proxy.set(Way::Open);
        mended(&*store).await;
        assert_eq!(store.find_tenant(acme.id).await, Ok(Some(acme.clone())));
    }
    assert_eq!(store.revision().await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_costs_each_call_its_time_and_no_more() {
    let (proxy, store, _) = stores().await;
    store
        .create_tenant(&tenant("acme"), &note())
        .await
        .expect("made");
    for _ in 0..2 {
        proxy.set(Way::Stalled);
        // Many more than there are connections: who waits for one waits no longer.
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..40 {
            let store = Arc::clone(&store);
            calls.spawn(async move {
                let began = Instant::now();
                let outcome = match number % 4 {
                    0 => store.ping().await,
                    1 => store.create_tenant(&tenant("lost"), &note()).await,
                    2 => store.changes_since(0).await.map(|_| ()),
                    _ => {
                        store
                            .touch_keys(&[(key(&tenant("x"), "k").id, super::at(1))])
                            .await
                    }
                };
                assert_away(began, &outcome);
            });
        }
        calls.join_all().await;
        proxy.set(Way::Open);
        mended(&*store).await;
    }
    // What was on its way may have come late; it is whole or not there.
    let tenants = store.list_tenants(ALL).await.expect("a page").items.len();
    let entries = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("a page")
        .items
        .len();
    assert_eq!(tenants, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_lost_without_a_word_are_given_up() {
    let (proxy, store, _) = stores().await;
    for round in 0..3 {
        // All connections are in use, and none of them will ever hear anything again.
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = Arc::clone(&store);
            calls.spawn(async move { store.ping().await });
        }
        for outcome in calls.join_all().await {
            outcome.expect("a sign of life");
        }
        proxy.lose();
        let began = Instant::now();
        mended(&*store).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "round {round}: {took:?}");
        // Not one of them is counted as open any more: as many calls at once as there may be connections.
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = Arc::clone(&store);
            calls.spawn(async move {
                mended(&*store).await;
                store.changes_since(0).await
            });
        }
        for outcome in calls.join_all().await {
            outcome.expect("changes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_lost_in_a_change_does_not_hold_up_the_others() {
    let (proxy, store, other) = stores().await;
    store
        .create_tenant(&tenant("first"), &note())
        .await
        .expect("made");
    // It has the lock by then: the revision is risen, and the row is about to be written.
    proxy.trap("INSERT INTO tenants", Way::Stalled);
    let began = Instant::now();
    assert_away(began, &store.create_tenant(&tenant("lost"), &note()).await);
    proxy.lose();
    proxy.set(Way::Open);
    let began = Instant::now();
    other
        .create_tenant(&tenant("second"), &audit("tenant.create", "x"))
        .await
        .expect("made");
    let took = began.elapsed();
    assert!(took < LIMIT * 2 + SLACK, "it waited {took:?}");
    mended(&*store).await;
    let found = store.list_tenants(ALL).await.expect("a page").items;
    let names: Vec<&str> = found.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(
        store.revision().await,
        Ok(2),
        "what was not written has no revision"
    );
    let entries = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("a page");
    assert_eq!(entries.items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_lost_while_keys_are_loaded_costs_one_calls_time() {
    let (proxy, store, _) = stores().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    store
        .create_key(&key(&acme, "k"), &note())
        .await
        .expect("made");
    proxy.trap("FROM api_keys WHERE (revision", Way::Stalled);
    let began = Instant::now();
    assert_away(began, &store.changes_since(0).await);
    proxy.lose();
    proxy.set(Way::Open);
    mended(&*store).await;
    assert_eq!(store.changes_since(0).await.expect("changes").keys.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_lock_holds_up_writers_alone() {
    let url = postgres::database().await;
    let store = store::connect(&config(url.clone())).await.expect("a store");
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let mut other = PgConnection::connect(&url).await.expect("a server");
    let lock = "BEGIN; UPDATE revision SET value = value";
    other.execute(lock).await.expect("the lock");
    for _ in 0..6 {
        let began = Instant::now();
        assert_away(began, &store.create_tenant(&tenant("late"), &note()).await);
    }
    assert_eq!(store.find_tenant(acme.id).await, Ok(Some(acme)));
    assert_eq!(store.changes_since(0).await.expect("changes").revision, 1);
    // Nor does the server go on with what nobody waits for.
    let mut watching = PgConnection::connect(&url).await.expect("a server");
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + LIMIT + SLACK;
    while query_scalar::<_, i64>(waiting)
        .fetch_one(&mut watching)
        .await
        .expect("a number")
        > 0
    {
        assert!(Instant::now() < deadline, "they still wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.execute("ROLLBACK").await.expect("no lock");
    store
        .create_tenant(&tenant("late"), &note())
        .await
        .expect("made");
    assert_eq!(store.revision().await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_a_change_undoes_it() {
    let (proxy, store, _) = stores().await;
    proxy.trap("INSERT INTO audit", Way::Stalled);
    let lost = tenant("lost");
    let leaving = tokio::time::timeout(LIMIT / 4, store.create_tenant(&lost, &note())).await;
    leaving.expect_err("it left");
    proxy.set(Way::Open);
    mended(&*store).await;
    assert_eq!(store.find_tenant(lost.id).await, Ok(None));
    store.create_tenant(&lost, &note()).await.expect("made");
    assert_eq!(store.revision().await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_restarted_and_may_start_late() {
    let mut server = tokio::task::spawn_blocking(Server::start)
        .await
        .expect("a server");
    let config = config(server.empty_database("restarted").await);
    let store = store::connect(&config).await.expect("a store");
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");

    server.stop();
    let began = Instant::now();
    assert_away(began, &store.ping().await);
    let began = Instant::now();
    assert_away(began, &store.create_tenant(&tenant("lost"), &note()).await);
    // A start gives up after its own time, a patient one waits for the server.
    let hasty = StoreConfig {
        connect_timeout: Seconds::new(1),
        ..config.clone()
    };
    let began = Instant::now();
    assert_away(began, &store::migrate(&hasty).await);
    let patient = {
        let config = config.clone();
        tokio::spawn(async move { store::connect(&config).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!patient.is_finished(), "it waits");
    server.start_again();
    mended(&*store).await;
    assert_eq!(store.find_tenant(acme.id).await, Ok(Some(acme.clone())));
    let late = patient.await.expect("no panic").expect("a store");
    assert_eq!(late.find_tenant(acme.id).await, Ok(Some(acme)));
    store
        .create_tenant(&tenant("second"), &note())
        .await
        .expect("made");
    assert_eq!(late.revision().await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_does_not_mend_fails_at_once_and_keeps_the_password() {
    let url = postgres::database().await;
    let (server, _) = url.rsplit_once('/').expect("a URL");
    let server = server.replace("lensgate@", "lensgate:hunter2@");
    for url in [
        format!("{server}/there_is_none"),
        format!("{server}/db?sslmode=nonsense"),
        "postgres://u:hunter2@host:port/db".to_owned(),
        "postgres://u:hunter2@/ /".to_owned(),
        "mysql://u:hunter2@host/db".to_owned(),
    ] {
        let began = Instant::now();
        let Err(error) = store::connect(&config(url.clone())).await else {
            panic!("{url} was opened");
        };
        assert!(matches!(error, StoreError::Failed(_)), "{url}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{url} was tried again"
        );
    }
    // A port on which nobody listens.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    let mut away = config(format!("postgres://u:hunter2@{address}/db"));
    away.connect_timeout = Seconds::new(1);
    let Err(error) = store::connect(&away).await else {
        panic!("there is nobody");
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
