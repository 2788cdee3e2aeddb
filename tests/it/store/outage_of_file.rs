//! SQLite's file: made where it is missing, locked by another process, broken, or in a place that cannot be.

use std::time::{Duration, Instant};

use lensgate::config::{Seconds, StoreConfig};
use lensgate::store::{self, StoreError};
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use super::{note, tenant};
use crate::fixture::database::TestDatabase;

fn config(url: String) -> StoreConfig {
    StoreConfig {
        url,
        call_timeout: Seconds::new(1),
        connect_timeout: Seconds::new(30),
        ..StoreConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_and_folder_are_made_for_their_owner() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a b/c#d/lensgate.db");
    let escaped = file
        .to_string_lossy()
        .replace(' ', "%20")
        .replace('#', "%23");
    let config = config(format!("sqlite://{escaped}"));
    let store = store::connect(&config).await.expect("a store");
    store
        .create_tenant(&tenant("acme"), &note())
        .await
        .expect("made");
    let mode = std::fs::metadata(&file)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    store.close().await;
    let again = store::connect(&config).await.expect("a store");
    assert_eq!(again.revision().await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_lock_holds_up_writers_alone() {
    let database = TestDatabase::sqlite();
    let store = store::connect(&config(database.url.clone()))
        .await
        .expect("a store");
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let mut other = SqliteConnection::connect(&database.url)
        .await
        .expect("a file");
    other.execute("BEGIN IMMEDIATE").await.expect("the lock");
    let began = Instant::now();
    let outcome = store.create_tenant(&tenant("late"), &note()).await;
    assert!(
        matches!(outcome, Err(StoreError::Unavailable(_))),
        "{outcome:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(store.find_tenant(acme.id).await, Ok(Some(acme)));
    assert_eq!(store.changes_since(0).await.expect("changes").revision, 1);
    // Who leaves before there is an answer leaves nothing, and the one writer there is to those behind.
    let (late, entry) = (tenant("late"), note());
    let creating = store.create_tenant(&late, &entry);
    let leaving = tokio::time::timeout(Duration::from_millis(100), creating).await;
    leaving.expect_err("it left");
    other.execute("ROLLBACK").await.expect("no lock");
    store
        .create_tenant(&tenant("late"), &note())
        .await
        .expect("made");
    assert_eq!(store.revision().await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.db");
    std::fs::write(
        &file,
        "this is no database, but a text of some length".repeat(100),
    )
    .expect("a file");
    for url in [
        format!("sqlite://{}", file.display()),
        // Below a file there is no folder; a folder is no file.
        format!("sqlite://{}/lensgate.db", file.display()),
        format!("sqlite://{}", folder.path().display()),
        format!("sqlite://{}?mode=nonsense", file.display()),
    ] {
        let began = Instant::now();
        let Err(error) = store::connect(&config(url.clone())).await else {
            panic!("{url} was opened");
        };
        assert!(matches!(error, StoreError::Failed(_)), "{url}: {error}");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{url} was tried again: {error}"
        );
    }
}
