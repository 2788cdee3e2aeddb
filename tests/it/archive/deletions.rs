//! A tenant's pictures are deleted on one replica: what another has in hand goes too, what is asked for later stays.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lensgate::config::{ArchiveConfig, Environment};
use lensgate::domain::operator::AuditEntry;
use lensgate::domain::tenant::TenantId;
use lensgate::predictions::ArchiveError;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::folder::Folder;
use super::{A, B, Kept, now, picture};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::s3::bucket;
use crate::fixture::store::{TestStore, tree};
use crate::fixture::{read, root};

/// Marks a deletion, as a gateway does before it deletes anything.
async fn mark(database: &TestDatabase, tenant: TenantId, until: DateTime<Utc>) {
    let entry = AuditEntry {
        id: Uuid::now_v7(),
        at: until,
        actor: "tests".to_owned(),
        token: None,
        action: "predictions.delete".to_owned(),
        target: format!("tenants/{tenant}/predictions"),
        before: None,
        after: None,
        address: None,
        request_id: None,
    };
    let store = database.store().await;
    let marked = store.purge_predictions(tenant, until, &entry).await;
    marked.expect("marked");
}

/// Waits until it is so.
#[track_caller]
fn until(mut wanted: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let since = Instant::now();
        while !wanted() {
            assert!(since.elapsed() < Duration::from_mins(1), "{caller}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

const SECOND: TimeDelta = TimeDelta::seconds(1);
/// Long before anything is put: the age of what is there tells nothing then.
const LONG: TimeDelta = TimeDelta::hours(1);

#[tokio::test]
async fn what_another_replica_has_in_hand_goes_and_what_was_asked_for_later_stays() {
    let (folder, database) = (Folder::new(), Arc::new(TestDatabase::sqlite()));
    let open = || Kept::open_over(&folder.config(), &Environment::default(), &database);
    let (one, mut other) = (open(), open());
    let deleted = now() - LONG;
    for tenant in [A, B] {
        other.offer_asked(tenant, 1, deleted - SECOND);
    }
    mark(&database, A, deleted).await;
    let forgotten = one.archive.forget(A, deleted).await;
    assert_eq!(forgotten.expect("forgotten"), 0, "none is there yet");
    // It may have been asked for before and be answered now.
    other.offer_asked(A, 2, deleted);
    other.offer_asked(A, 3, deleted + SECOND);
    other.run().await;
    let is_there = |tenant, number| folder.file(tenant, number).exists();
    until(|| {
        let goes = is_there(A, 1) || is_there(A, 2);
        other.archive.status().waiting == 0 && is_there(A, 3) && is_there(B, 1) && !goes
    })
    .await;
    let stored = other.archive.status().stored;
    for number in [1, 4] {
        other.offer_asked(A, number, deleted);
        other.offer_asked(A, 5, deleted + SECOND);
    }
    other.until_stored(stored + 1).await;
    assert!(is_there(A, 5));
    other.stop().await;
    assert_eq!(folder.files(), 3);
}

#[tokio::test]
async fn what_a_crash_left_undone_is_done_at_the_start() {
    let (folder, database) = (Folder::new(), Arc::new(TestDatabase::sqlite()));
    let open = || Kept::open_over(&folder.config(), &Environment::default(), &database);
    let mut killed = open();
    killed.run().await;
    for tenant in [A, B] {
        killed.offer(tenant, 1);
    }
    killed.until_stored(2).await;
    killed.stop().await;
    // As a kill leaves it in the middle of a write.
    let torn = format!("{}#1", folder.file(A, 1).display());
    fs::write(&torn, "pic").expect("a file");
    sleep(Duration::from_millis(50)).await;
    mark(&database, A, now()).await;
    sleep(Duration::from_millis(50)).await;
    let mut later = open();
    later.offer(A, 2);
    later.run().await;
    later.until_stored(1).await;
    until(|| folder.files() == 2).await;
    assert!(folder.file(A, 2).exists() && folder.file(B, 1).exists());
    later.stop().await;
}

#[tokio::test]
async fn what_its_place_did_not_delete_goes_when_it_is_back() {
    let folder = Folder::new();
    let kept = Kept::running(&folder.config(), &Environment::default()).await;
    let deleted = now() - LONG;
    kept.offer_asked(A, 1, deleted);
    kept.offer_asked(A, 2, deleted);
    kept.offer_asked(B, 1, deleted);
    kept.until_stored(3).await;
    // Known, and asked for again since.
    kept.offer_asked(A, 2, deleted + SECOND);
    let (path, aside) = (folder.path(), folder.path().with_extension("aside"));
    fs::rename(&path, &aside).expect("away");
    let heed = || kept.archive.heed(vec![(A, deleted)]);
    for _ in 0..2 {
        assert!(matches!(heed().await, Err(ArchiveError::Away(_))));
        // Missing or none at all: it is not believed that all is gone.
        fs::write(&path, "no folder").expect("a file");
    }
    let forgotten = kept.archive.forget(A, deleted).await;
    assert!(matches!(forgotten, Err(ArchiveError::Away(_))));
    fs::remove_file(&path).expect("gone");
    fs::rename(&aside, &path).expect("back");
    assert_eq!(heed().await.expect("heeded"), 1);
    assert!(!folder.file(A, 1).exists() && folder.file(A, 2).exists());
    assert_eq!(folder.files(), 2);
    // Once done it is done: what is there by now was asked for later.
    kept.offer_asked(A, 1, deleted + SECOND);
    kept.until_stored(4).await;
    assert_eq!(heed().await.expect("heeded"), 0);
    assert_eq!(folder.files(), 3);
}

/// An archive in a bucket behind a proxy.
async fn behind_a_proxy() -> (Proxy, Kept) {
    let bucket = bucket().await;
    let config = bucket.config();
    let endpoint = config.s3_endpoint.as_deref().expect("an address");
    let address = endpoint.trim_start_matches("http://");
    let proxy = Proxy::to(address.parse().expect("an address")).await;
    let config = ArchiveConfig {
        s3_endpoint: Some(format!("http://{}", proxy.address)),
        ..config
    };
    let kept = Kept::running(&config, &bucket.environment()).await;
    (proxy, kept)
}

#[tokio::test]
async fn what_is_being_put_into_a_bucket_is_deleted_when_it_is_there() {
    let (proxy, mut kept) = behind_a_proxy().await;
    let deleted = now() - LONG;
    kept.offer_asked(A, 1, deleted);
    kept.until_stored(1).await;
    proxy.set(Way::Stalled);
    kept.offer_asked(A, 2, deleted);
    kept.offer_asked(A, 3, deleted);
    kept.offer_asked(A, 4, deleted + SECOND);
    kept.offer_asked(B, 2, deleted);
    // They are under way.
    sleep(Duration::from_millis(300)).await;
    let archive = Arc::clone(&kept.archive);
    let heeding = tokio::spawn(async move { archive.heed(vec![(A, deleted)]).await });
    sleep(Duration::from_millis(300)).await;
    assert!(!heeding.is_finished(), "it waits");
    kept.offer_asked(A, 3, deleted + SECOND);
    proxy.set(Way::Open);
    let heeded = heeding.await.expect("it ends well");
    assert_eq!(heeded.expect("heeded"), 2);
    kept.until_stored(5).await;
    for (tenant, number, is_there) in [
        (A, 1, false),
        (A, 2, false),
        (A, 3, true),
        (A, 4, true),
        (B, 2, true),
    ] {
        let found = kept.find(tenant, number).await;
        assert_eq!(found, is_there.then(|| picture(number)), "{number}");
    }
    kept.stop().await;
}

#[tokio::test]
async fn who_waits_for_what_is_under_way_does_not_wait_beyond_the_end() {
    let (proxy, mut kept) = behind_a_proxy().await;
    proxy.set(Way::Stalled);
    kept.offer(A, 1);
    sleep(Duration::from_millis(300)).await;
    let (archive, deleted) = (Arc::clone(&kept.archive), now());
    let forgetting = tokio::spawn(async move { archive.forget(A, deleted).await });
    sleep(Duration::from_millis(100)).await;
    kept.stop().await;
    assert!(!forgetting.is_finished());
    proxy.set(Way::Cut);
    let forgotten = timeout(Duration::from_secs(25), forgetting).await;
    let forgotten = forgotten.expect("it does not hang").expect("it ends well");
    assert!(forgotten.is_err(), "nobody knows");
}

contract![
    a_deletion_on_one_gateway_reaches_what_another_has,
    a_gateway_that_starts_deletes_what_a_killed_one_did_not,
];

/// A gateway over the database and the folder.
async fn gateway(store: &TestStore, database: &TestDatabase, folder: &Folder) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let images = format!("archive.images={}", folder.path().display());
    TestGateway::start(store.path(), &[&url, &images]).await
}

/// A tenant of its own, and a key of it that the gateway knows.
async fn caller(gateway: &TestGateway, name: &str) -> (TenantId, String) {
    let tenant = gateway.tenant(name).await;
    let key = json!({"name": name, "tenant_id": tenant});
    let (_, secret) = gateway.key(key).await;
    (tenant.parse().expect("an id"), secret)
}

/// Classifies a sample, in a millisecond of its own.
async fn classify(gateway: &TestGateway, key: &str, name: &str) {
    sleep(Duration::from_millis(5)).await;
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let answer = gateway
        .send(request.bearer_auth(key).body(sample(name)))
        .await;
    answer.assert_ok();
    sleep(Duration::from_millis(5)).await;
}

/// Waits until the archive's view is such.
async fn until_archive(gateway: &TestGateway, wanted: impl Fn(&Value) -> bool) {
    let since = Instant::now();
    loop {
        let status = gateway.admin(Method::GET, "/status", None).await.body;
        if wanted(&status["archive"]) {
            return;
        }
        assert!(since.elapsed() < Duration::from_mins(1), "{status}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The pictures that are there of a tenant.
fn pictures(folder: &Folder, tenant: TenantId) -> Vec<Vec<u8>> {
    let found = tree(&folder.path().join(tenant.to_string()));
    found
        .into_iter()
        .filter_map(|(_, content)| content)
        .collect()
}

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

async fn a_deletion_on_one_gateway_reaches_what_another_has(database: &TestDatabase) {
    let (store, folder) = (TestStore::digits(), Folder::new());
    let one = gateway(&store, database, &folder).await;
    let (tenant, key) = caller(&one, "acme").await;
    let (beside, other_key) = caller(&one, "beside").await;
    let other = gateway(&store, database, &folder).await;
    classify(&other, &key, "7_a.png").await;
    classify(&other, &other_key, "7_a.png").await;
    until_archive(&other, |archive| archive["stored"] == 2).await;
    // The folder goes away: what is classified now waits.
    let (path, aside) = (folder.path(), folder.path().with_extension("aside"));
    fs::rename(&path, &aside).expect("away");
    fs::write(&path, "no folder").expect("a file");
    classify(&other, &key, "8_a.png").await;
    let deleted = format!("/predictions?tenant={tenant}");
    let deleted = one.admin(Method::DELETE, &deleted, None).await;
    // It is marked, although the folder is away.
    deleted.assert_problem(503, "store_unavailable");
    classify(&other, &key, "3_a.png").await;
    until_archive(&other, |archive| {
        archive["waiting"] == 1 && archive["stored"] == 2
    })
    .await;
    fs::remove_file(&path).expect("gone");
    fs::rename(&aside, &path).expect("back");
    until(|| pictures(&folder, tenant) == [sample("3_a.png")]).await;
    assert_eq!(pictures(&folder, beside), [sample("7_a.png")]);
    // Whoever has put them, they are gone at once; and what comes then is kept.
    classify(&one, &key, "2_a.png").await;
    until_archive(&one, |archive| archive["stored"] == 1).await;
    assert_eq!(pictures(&folder, tenant).len(), 2);
    let deleted = format!("/predictions?tenant={tenant}");
    let deleted = one.admin(Method::DELETE, &deleted, None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    assert_eq!(pictures(&folder, tenant).len(), 0);
    // Of what the other one has put before, it may delete one too many until it has heeded all.
    classify(&other, &key, "6_a.png").await;
    until(|| pictures(&folder, tenant) == [sample("6_a.png")]).await;
}

async fn a_gateway_that_starts_deletes_what_a_killed_one_did_not(database: &TestDatabase) {
    let (store, folder) = (TestStore::digits(), Folder::new());
    let mut killed = gateway(&store, database, &folder).await;
    let (tenant, key) = caller(&killed, "acme").await;
    let (beside, other_key) = caller(&killed, "beside").await;
    classify(&killed, &key, "7_a.png").await;
    classify(&killed, &other_key, "7_a.png").await;
    until_archive(&killed, |archive| archive["stored"] == 2).await;
    killed.join();
    mark(database, tenant, now()).await;
    assert_eq!(pictures(&folder, tenant).len(), 1);
    let started = gateway(&store, database, &folder).await;
    classify(&started, &key, "8_a.png").await;
    until(|| pictures(&folder, tenant) == [sample("8_a.png")]).await;
    assert_eq!(pictures(&folder, beside), [sample("7_a.png")]);
}
