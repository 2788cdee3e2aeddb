//! What a process left in its spool is in the database after the next start, whoever starts it.

use std::path::Path;

use super::recorded::seven;
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{ADMIN_TOKEN, client};
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::read;
use crate::fixture::served::Served;

fn serve(url: &str, spool: &Path) -> Served {
    super::serve(url, spool, &[("LENSGATE__STORE__CALL_TIMEOUT", "1s")])
}

async fn classify(served: &Served, count: usize) -> Vec<String> {
    let (client, mut ids) = (client(), Vec::new());
    served.ready(&client).await;
    for _ in 0..count {
        let answer = served.classify(&client, "digits", seven()).await;
        ids.push(
            answer.assert_ok()["request_id"]
                .as_str()
                .expect("an id")
                .to_owned(),
        );
    }
    ids
}

/// Waits until the database holds these requests, and nothing else.
async fn hold(served: &Served, mut ids: Vec<String>) {
    ids.sort();
    let url = format!("{}/admin/v1/predictions?limit=1000", served.admin_base);
    let mut found = Vec::new();
    for _ in 0..400 {
        let answer = client()
            .get(&url)
            .bearer_auth(ADMIN_TOKEN)
            .send()
            .await
            .expect("an answer");
        let body: serde_json::Value = answer.json().await.expect("JSON");
        let items = body["items"].as_array().cloned().unwrap_or_default();
        found = items
            .iter()
            .filter_map(|item| item["request_id"].as_str().map(str::to_owned))
            .collect();
        found.sort();
        if found == ids {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{} are wanted, {} are there", ids.len(), found.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_has_lost_nothing_that_the_database_missed() {
    let database = TestDatabase::postgres().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(&url, folder.path());
    let mut ids = classify(&served, 5).await;
    proxy.set(Way::Cut);
    ids.extend(classify(&served, 30).await);
    // SIGKILL, with all of it in the spool.
    drop(served);
    proxy.set(Way::Open);
    let served = serve(&url, folder.path());
    ids.extend(classify(&served, 3).await);
    hold(&served, ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_gateway_leaves_what_the_database_does_not_take() {
    let database = TestDatabase::postgres().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = serve(&url, folder.path());
    let mut ids = classify(&served, 5).await;
    served.signal("TERM");
    assert_eq!(served.end().0, Some(0));
    // What could be written at the end was.
    let waits = |entry: &Path| entry.extension().is_some_and(|ending| ending == "log");
    let left = std::fs::read_dir(folder.path().join("0")).expect("a place");
    let left = left
        .filter(|entry| entry.as_ref().is_ok_and(|entry| waits(&entry.path())))
        .count();
    let mut served = serve(&url, folder.path());
    ids.extend(classify(&served, 1).await);
    hold(&served, ids.clone()).await;
    assert!(left <= 1, "one segment at most, read to its end");
    proxy.set(Way::Cut);
    ids.extend(classify(&served, 10).await);
    served.signal("TERM");
    assert_eq!(served.end().0, Some(0));
    proxy.set(Way::Open);
    // Another gateway in the same folder takes over what nobody owns.
    let served = serve(&url, folder.path());
    hold(&served, ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_a_database_does_not_take_are_logged_in_another_form() {
    let database = TestDatabase::postgres().await;
    let store = crate::fixture::store::TestStore::digits();
    let manifest = store.path().join("digits/model.toml");
    let text = String::from_utf8(read(&manifest)).expect("text");
    let labels: Vec<String> = (0..10).map(|n| format!("\"{n}\\u0000\"")).collect();
    let labels = format!("labels = [{}]", labels.join(", "));
    let text = text.replace("labels = \"labels.txt\"", &labels);
    // The golden pictures' labels are the old ones.
    let (text, _) = text.split_once("[[golden]]").expect("golden pictures");
    std::fs::write(&manifest, text).expect("written");
    let settings = format!("store.url={}", database.url);
    let gateway = crate::fixture::gateway::TestGateway::start(store.path(), &[&settings]).await;
    let mut wanted = Vec::new();
    for _ in 0..3 {
        let answer = gateway
            .raw("/v1/models/digits/classify", "image/png", seven())
            .await;
        assert_eq!(answer.assert_ok()["class"], "7\0");
        wanted.push(answer.body["request_id"].clone());
    }
    let refused = gateway
        .raw("/v1/models/digits/classify", "image/png", b"x".to_vec())
        .await;
    wanted.push(refused.body["request_id"].clone());
    wanted.reverse();
    // The ones that it takes as they are, and those that it does not: once each.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let rows = super::recorded::rows(&gateway, 4).await;
        let ids: Vec<_> = rows.iter().map(|row| row["request_id"].clone()).collect();
        assert_eq!(ids, wanted);
        if rows[1]["class"] == "7\u{fffd}" {
            assert_eq!(rows[1]["classes"][0]["class"], "7\u{fffd}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{rows:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let status = gateway
        .admin(reqwest::Method::GET, "/status", None)
        .await
        .body;
    assert_eq!(status["predictions"]["refused"], 0, "{status}");
}
