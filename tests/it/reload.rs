//! Changes in the model store while the gateway serves: what is noticed, what is not a change, what is never half loaded.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lensgate::models::LoadedVersion;
use serde_json::{Value, json};

use crate::fixture::gateway::TestGateway;
use crate::fixture::served::Served;
use crate::fixture::store::{TestStore, digest, noted};
use crate::fixture::{data, read};

/// A tiny model's graph.
fn graph() -> Vec<u8> {
    read(data("models/rgb-f32/1/model.onnx"))
}

fn version(view: &Value, number: u64) -> &Value {
    let versions = view["versions"].as_array();
    versions
        .into_iter()
        .flatten()
        .find(|version| version["version"] == number)
        .unwrap_or(&Value::Null)
}

/// Live with this content, and nothing pending.
fn serves(view: &Value, number: u64, graph: &[u8]) -> bool {
    let version = version(view, number);
    version["state"] == "live"
        && version["digest"] == digest(graph)
        && version.get("pending").is_none()
}

/// What executes version 1 now.
fn loaded(gateway: &TestGateway, model: &str) -> Arc<LoadedVersion> {
    let catalog = gateway.manager.catalog().load();
    let id = model.parse().expect("an id");
    let live = catalog.models[&id].live().next().cloned();
    live.expect("a live version")
}

/// The time in which a change that is none would have been acted on.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

#[tokio::test]
async fn a_new_file_serves_and_answers_with_its_digest() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    let other = noted(&graph(), 1);
    store.place_version("rgb-f32", 2, &other);
    gateway
        .until("rgb-f32", |view| serves(view, 2, &other))
        .await;
    let red = read(data("images/red.png"));
    let answer = gateway
        .raw("/v1/models/rgb-f32/classify", "image/png", red)
        .await;
    let body = answer.assert_ok();
    assert_eq!(
        (&body["version"], &body["digest"]),
        (&json!(2), &json!(digest(&other)))
    );
    // A new model, written plainly.
    store.write("new/labels.txt", "red\ngreen\nblue\n");
    store.write("new/1/model.onnx", graph());
    gateway.until("new", |view| serves(view, 1, &graph())).await;
}

#[tokio::test]
async fn content_decides_and_not_time() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let old = noted(&graph(), 1);
    store.write("rgb-f32/1/model.onnx", &old);
    let file = store.path().join("rgb-f32/1/model.onnx");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = loaded(&gateway, "rgb-f32");

    // The same content again, with another time and in another inode, is no change.
    store.place("rgb-f32/1/model.onnx", &old);
    std::fs::File::options()
        .append(true)
        .open(&file)
        .expect("open")
        .write_all(b"")
        .expect("touched");
    a_while().await;
    assert!(
        Arc::ptr_eq(&before, &loaded(&gateway, "rgb-f32")),
        "a touch reloaded it"
    );

    // Another content of the same length and with an older time is one (what `cp -p` and a restore do).
    let other = noted(&graph(), 2);
    assert_eq!(old.len(), other.len());
    let beside = store.write("elsewhere.onnx", &other);
    let past = std::time::SystemTime::now() - Duration::from_hours(1000);
    std::fs::File::options()
        .append(true)
        .open(&beside)
        .and_then(|file| file.set_modified(past))
        .expect("set");
    std::fs::rename(&beside, &file).expect("in place");
    gateway
        .until("rgb-f32", |view| serves(view, 1, &other))
        .await;

    // Overwritten in place.
    store.write("rgb-f32/1/model.onnx", &old);
    gateway.until("rgb-f32", |view| serves(view, 1, &old)).await;
}

#[tokio::test]
async fn labels_and_manifest_are_part_of_a_version() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    let first = loaded(&gateway, "rgb-f32");
    store.write("rgb-f32/labels.txt", "rouge\nvert\nbleu\n");
    gateway
        .until("rgb-f32", |view| {
            view["labels"] == json!(["rouge", "vert", "bleu"])
        })
        .await;
    let second = loaded(&gateway, "rgb-f32");
    assert_eq!(first.digest, second.digest);
    assert_ne!(first.fingerprint, second.fingerprint);

    let manifest = String::from_utf8(read(store.path().join("rgb-f32/model.toml"))).expect("text");
    store.write(
        "rgb-f32/model.toml",
        format!("title = \"Colours\"\n# a remark\n{manifest}"),
    );
    gateway
        .until("rgb-f32", |view| view["title"] == "Colours")
        .await;
    a_while().await;
    assert!(
        Arc::ptr_eq(&second, &loaded(&gateway, "rgb-f32")),
        "a title reloaded it"
    );

    store.write(
        "rgb-f32/model.toml",
        format!("{manifest}\n[output]\nactivation = \"sigmoid\"\n"),
    );
    gateway
        .until("rgb-f32", |_| {
            !Arc::ptr_eq(&second, &loaded(&gateway, "rgb-f32"))
        })
        .await;
}

/// A store as Kubernetes mounts a volume: everything is reached through the link `..data`, which is switched.
#[tokio::test]
async fn a_switched_link_is_a_change() {
    let store = TestStore::empty();
    let graphs = [noted(&graph(), 1), noted(&graph(), 2)];
    for (name, graph) in ["..one", "..two"].iter().zip(&graphs) {
        store.write(&format!("{name}/colours/labels.txt"), "red\ngreen\nblue\n");
        store.write(&format!("{name}/colours/1/model.onnx"), graph);
    }
    let link = |target: &str, name: &str| {
        let beside = store.path().join("..part");
        std::os::unix::fs::symlink(target, &beside).expect("a link");
        std::fs::rename(beside, store.path().join(name)).expect("switched");
    };
    link("..one", "..data");
    link("..data/colours", "colours");
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway
        .until("colours", |view| serves(view, 1, &graphs[0]))
        .await;
    link("..two", "..data");
    gateway
        .until("colours", |view| serves(view, 1, &graphs[1]))
        .await;
    link("..one", "..data");
    gateway
        .until("colours", |view| serves(view, 1, &graphs[0]))
        .await;
}

/// Writes `content` piece by piece; `reopen` closes the file after each piece, as `cat >>` does.
async fn write_slowly(path: &Path, content: &[u8], pieces: usize, pause: Duration, reopen: bool) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    let mut file = Some(std::fs::File::create(path).expect("created"));
    for piece in content.chunks(content.len().div_ceil(pieces)) {
        let mut open = file.take().unwrap_or_else(|| {
            let appending = std::fs::File::options().append(true).open(path);
            appending.expect("open")
        });
        open.write_all(piece).expect("written");
        file = (!reopen).then_some(open);
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test]
async fn a_copy_in_progress_is_loaded_once_and_whole() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let whole = read(store.path().join("digits/2/model.onnx"));
    for (number, reopen) in [(3, false), (4, true)] {
        let path = store.path().join(format!("digits/{number}/model.onnx"));
        let writing = write_slowly(&path, &whole, 10, Duration::from_millis(500), reopen);
        let mut seen = Vec::new();
        let watching = async {
            loop {
                let view = gateway.get("/v1/models/digits").await.body;
                let state = (
                    version(&view, number)["state"].clone(),
                    version(&view, number)["digest"].clone(),
                );
                if seen.last() != Some(&state) {
                    seen.push(state.clone());
                }
                if state.0 == "live" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let both = async { futures_util::future::join(writing, watching).await };
        tokio::time::timeout(Duration::from_mins(1), both)
            .await
            .expect("it gets live");
        println!("{seen:?}");
        let states: Vec<&Value> = seen.iter().map(|(state, _)| state).collect();
        assert!(states.contains(&&json!("waiting")), "{seen:?}");
        assert!(!states.contains(&&json!("failed")), "{seen:?}");
        let digests: Vec<&Value> = seen
            .iter()
            .map(|(_, digest)| digest)
            .filter(|d| !d.is_null())
            .collect();
        assert!(
            digests.iter().all(|seen| **seen == json!(digest(&whole))),
            "half of it was loaded: {seen:?}"
        );
    }
}

#[tokio::test]
async fn what_stays_truncated_fails_and_is_still_watched() {
    let store = TestStore::digits();
    let whole = read(store.path().join("digits/2/model.onnx"));
    let gateway = TestGateway::start(store.path(), &[]).await;
    let began = Instant::now();
    let half = &whole[..whole.len() / 2];
    store.write("digits/3/model.onnx", half);
    // Over a version that serves: it goes on serving.
    store.write("digits/1/model.onnx", half);
    let view = gateway
        .until("digits", |view| version(view, 3)["state"] == "waiting")
        .await;
    assert!(version(&view, 3)["reason"].is_string(), "{view}");
    let view = gateway
        .until("digits", |view| version(view, 3)["state"] == "failed")
        .await;
    assert!(
        began.elapsed() >= Duration::from_secs(10),
        "it was given up early"
    );
    assert!(
        version(&view, 3)["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("truncated")),
        "{view}"
    );
    let view = gateway
        .until("digits", |view| {
            version(view, 1)["pending"]["state"] == "failed"
        })
        .await;
    assert_eq!(version(&view, 1)["state"], "live", "{view}");
    store.write("digits/3/model.onnx", &whole);
    gateway
        .until("digits", |view| serves(view, 3, &whole))
        .await;
}

#[tokio::test]
async fn external_data_may_come_late_and_counts() {
    let store = TestStore::tiny(&["rgb-external"]);
    let weights = read(store.path().join("rgb-external/1/weights.bin"));
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = loaded(&gateway, "rgb-external");
    // The graph first, its data later and in pieces.
    store.write(
        "rgb-external/2/model.onnx",
        read(store.path().join("rgb-external/1/model.onnx")),
    );
    gateway
        .until("rgb-external", |view| {
            version(view, 2)["state"] == "waiting"
        })
        .await;
    let path = store.path().join("rgb-external/2/weights.bin");
    write_slowly(&path, &weights, 4, Duration::from_millis(150), false).await;
    gateway
        .until("rgb-external", |view| version(view, 2)["state"] == "live")
        .await;
    // Other weights under the same graph are another version in all but the number.
    let mut other = weights.clone();
    other.reverse();
    store.place("rgb-external/1/weights.bin", &other);
    gateway
        .until("rgb-external", |_| {
            loaded(&gateway, "rgb-external").fingerprint != before.fingerprint
        })
        .await;
    assert_eq!(loaded(&gateway, "rgb-external").digest, before.digest);
}

#[tokio::test]
async fn a_removed_version_finishes_its_requests_and_goes() {
    let store = TestStore::tiny(&["rgb-f32"]);
    store.place_version("rgb-f32", 2, &noted(&graph(), 2));
    let gateway = TestGateway::start(store.path(), &[]).await;
    let red = read(data("images/red.png"));
    let (send, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
    let body = futures_util::stream::unfold(body, |mut body| async {
        body.recv().await.map(|piece| (piece, body))
    });
    let request = gateway
        .post("/v1/models/rgb-f32/classify")
        .header("content-type", "image/png")
        .body(reqwest::Body::wrap_stream(body));
    let slow = gateway.send(request);
    let rest = async {
        send.send(Ok(red[..10].to_vec())).await.expect("sent");
        a_while().await;
        std::fs::remove_dir_all(store.path().join("rgb-f32/2")).expect("removed");
        let view = gateway
            .until("rgb-f32", |view| version(view, 2)["state"] == "draining")
            .await;
        assert_eq!(version(&view, 1)["state"], "live");
        let quick = gateway
            .raw("/v1/models/rgb-f32/classify", "image/png", red.clone())
            .await;
        assert_eq!(quick.assert_ok()["version"], 1, "new requests go elsewhere");
        send.send(Ok(red[10..].to_vec())).await.expect("sent");
        drop(send);
    };
    let (answer, ()) = futures_util::future::join(slow, rest).await;
    assert_eq!(
        answer.assert_ok()["version"],
        2,
        "it keeps the catalog it began with"
    );
    gateway
        .until("rgb-f32", |view| version(view, 2).is_null())
        .await;
    let gone = gateway
        .raw(
            "/v1/models/rgb-f32/versions/2/classify",
            "image/png",
            red.clone(),
        )
        .await;
    gone.assert_problem(404, "version_not_found");
    // The whole model, too.
    std::fs::remove_dir_all(store.path().join("rgb-f32")).expect("removed");
    gateway
        .until("rgb-f32", |view| view["code"] == "model_not_found")
        .await;
}

#[tokio::test]
async fn a_store_that_cannot_be_read_takes_nothing_away() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let inner = store.path().join("store");
    std::fs::create_dir(&inner).expect("a folder");
    std::fs::rename(store.path().join("rgb-f32"), inner.join("rgb-f32")).expect("moved");
    let gateway = TestGateway::start(&inner, &[]).await;
    let away = store.path().join("away");
    std::fs::rename(&inner, &away).expect("gone");
    gateway.manager.nudge(None);
    a_while().await;
    let red = read(data("images/red.png"));
    let answer = gateway
        .raw("/v1/models/rgb-f32/classify", "image/png", red.clone())
        .await;
    assert_eq!(answer.assert_ok()["class"], "red");
    // Now it is there, now it is not, whenever it is looked at.
    for _ in 0..50 {
        for (from, to) in [(&away, &inner), (&inner, &away)] {
            std::fs::rename(from, to).expect("moved");
            gateway.manager.nudge(None);
            tokio::time::sleep(Duration::from_millis(7)).await;
            let route = "/v1/models/rgb-f32/classify";
            let answer = gateway.raw(route, "image/png", red.clone()).await;
            assert_eq!(answer.assert_ok()["class"], "red");
        }
    }
    // It comes back with something new in it.
    let other = noted(&graph(), 1);
    std::fs::write(away.join("rgb-f32/1/model.onnx"), &other).expect("written");
    std::fs::rename(&away, &inner).expect("back");
    gateway.manager.nudge(None);
    gateway
        .until("rgb-f32", |view| serves(view, 1, &other))
        .await;
}

#[tokio::test]
async fn without_events_scans_and_nudges_find_changes() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let other = noted(&graph(), 1);
    let polled = ["model_store.watch=false", "model_store.poll=100ms"];
    let gateway = TestGateway::start(store.path(), &polled).await;
    store.write("rgb-f32/1/model.onnx", &other);
    gateway
        .until("rgb-f32", |view| serves(view, 1, &other))
        .await;
    drop(gateway);

    let deaf = ["model_store.watch=false", "model_store.scan_interval=1h"];
    let gateway = TestGateway::start(store.path(), &deaf).await;
    // What is loaded is looked at once more by itself.
    a_while().await;
    store.write("rgb-f32/1/model.onnx", graph());
    a_while().await;
    let view = gateway.get("/v1/models/rgb-f32").await.body;
    assert!(serves(&view, 1, &other), "nobody told it: {view}");
    gateway.manager.nudge(None);
    gateway
        .until("rgb-f32", |view| serves(view, 1, &graph()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_is_a_nudge() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let mut served = Served::start(&[
        (
            "LENSGATE__MODEL_STORE__URL",
            store.path().to_str().expect("a path"),
        ),
        ("LENSGATE__MODEL_STORE__WATCH", "false"),
        ("LENSGATE__MODEL_STORE__SCAN_INTERVAL", "1h"),
        ("LENSGATE__SERVER__DRAIN_DELAY", "0"),
    ]);
    let client = crate::fixture::gateway::client();
    served.ready(&client).await;
    let other = noted(&graph(), 1);
    store.write("rgb-f32/1/model.onnx", &other);
    a_while().await;
    served.signal("HUP");
    let deadline = Instant::now() + Duration::from_mins(1);
    while !serves(&served.model(&client, "rgb-f32").await, 1, &other) {
        assert!(Instant::now() < deadline, "{}", served.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    for step in [
        "version seen",
        "version waiting",
        "version loading",
        "version testing",
        "version live",
        "version replaced",
        "version ended",
    ] {
        assert!(log.contains(step), "{step}: {log}");
    }
}

#[tokio::test]
async fn another_choice_of_versions_opens_no_gap() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let manifest = String::from_utf8(read(store.path().join("rgb-f32/model.toml"))).expect("text");
    store.write(
        "rgb-f32/model.toml",
        format!("{manifest}\n[serving]\nversions = \"latest\"\n"),
    );
    let gateway = TestGateway::start(store.path(), &[]).await;
    // The latest cannot be served: the one before goes on.
    store.write("rgb-f32/2/model.onnx", "not a model");
    let view = gateway
        .until("rgb-f32", |view| version(view, 2)["state"] == "failed")
        .await;
    assert_eq!(version(&view, 1)["state"], "live", "{view}");
    store.place_version("rgb-f32", 3, &noted(&graph(), 3));
    let view = gateway
        .until("rgb-f32", |view| version(view, 1)["state"] == "unloaded")
        .await;
    assert_eq!(version(&view, 3)["state"], "live", "{view}");
}

/// The default `model_store.url` is relative; events name files by their whole path.
#[tokio::test(flavor = "multi_thread")]
async fn a_relative_folder_is_watched_like_any_other() {
    let store = TestStore::tiny(&["rgb-f32", "rgb-bgr"]);
    let served = Served::start_in(
        store.path(),
        &[
            ("LENSGATE__MODEL_STORE__URL", "."),
            ("LENSGATE__MODEL_STORE__SCAN_INTERVAL", "1h"),
            ("LENSGATE__TELEMETRY__LOG_LEVEL", "debug"),
        ],
    );
    let client = crate::fixture::gateway::client();
    served.ready(&client).await;
    a_while().await;
    // All the length at once, the content later: only who has it open tells that it is not finished.
    let path = store.path().join("rgb-f32/1/model.onnx");
    let mut other = noted(&graph(), 1);
    let end = other.split_off(other.len() - 4);
    let mut file = std::fs::File::create(&path).expect("created");
    file.write_all(&other)
        .and_then(|()| file.write_all(b"half"))
        .expect("written");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let view = served.model(&client, "rgb-f32").await;
    assert_eq!(version(&view, 1)["digest"], digest(&graph()), "{view}");
    assert_eq!(version(&view, 1)["pending"]["state"], "waiting", "{view}");
    std::os::unix::fs::FileExt::write_at(
        &file,
        &end,
        u64::try_from(other.len()).expect("a length"),
    )
    .expect("written");
    drop(file);
    let whole = [other, end].concat();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !serves(&served.model(&client, "rgb-f32").await, 1, &whole) {
        assert!(Instant::now() < deadline, "{}", served.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_odd_entry_harms_itself_alone() {
    let store = TestStore::tiny(&["rgb-f32"]);
    std::os::unix::fs::symlink("loop", store.path().join("loop")).expect("a link");
    std::os::unix::fs::symlink("nowhere", store.path().join("dangling")).expect("a link");
    store.write("file", "not a folder");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let red = read(data("images/red.png"));
    let answer = gateway
        .raw("/v1/models/rgb-f32/classify", "image/png", red)
        .await;
    assert_eq!(answer.assert_ok()["class"], "red");
}
