//! Uploads that are taken: live when the call answers, the same again, tried without being kept, side by side.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::{TestStore, digest, noted, tree};
use crate::fixture::{data, read};

const MODEL: &str = "rgb-f32";

pub(super) fn graph() -> Vec<u8> {
    read(data("models/rgb-f32/1/model.onnx"))
}

fn path(version: u64, query: &str) -> String {
    format!("/models/{MODEL}/versions/{version}{query}")
}

/// Sends a version as the body itself.
pub(super) async fn put(gateway: &TestGateway, path: &str, body: Vec<u8>) -> Answer {
    let request = gateway.admin_request(Method::PUT, path);
    gateway.send(request.body(body)).await
}

/// Sends a version as a form of (field, file name, content).
pub(super) async fn put_form(
    gateway: &TestGateway,
    path: &str,
    parts: &[(&'static str, Option<&str>, &[u8])],
) -> Answer {
    let mut form = Form::new().percent_encode_noop();
    for (field, name, content) in parts {
        let part = Part::bytes(content.to_vec());
        form = form.part(
            *field,
            match name {
                Some(name) => part.file_name((*name).to_owned()),
                None => part,
            },
        );
    }
    let request = gateway.admin_request(Method::PUT, path);
    gateway.send(request.multipart(form)).await
}

async fn classify(gateway: &TestGateway, version: &str) -> Answer {
    let route = format!("/v1/models/{MODEL}/versions/{version}/classify");
    gateway
        .raw(&route, "image/png", read(data("images/red.png")))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_live_when_the_call_answers() {
    let store = TestStore::empty();
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    let new = gateway
        .admin(Method::POST, "/models", Some(json!({"id": MODEL})))
        .await;
    assert_eq!(new.status, 201);
    let manifest = String::from_utf8(read(data("models/rgb-f32/model.toml"))).expect("text");
    let manifest = format!("{manifest}\n[[golden]]\nimage = 'golden/red.png'\nlabel = 'red'\n");
    let (labels, picture) = (
        read(data("models/rgb-f32/labels.txt")),
        read(data("images/red.png")),
    );
    let (model, manifest) = (graph(), manifest.into_bytes());
    let parts: [(&'static str, Option<&str>, &[u8]); 4] = [
        ("manifest", Some("anything.toml"), &manifest),
        ("file", Some("golden/red.png"), &picture),
        ("model", Some("/etc/passwd"), &model),
        ("labels", None, &labels),
    ];
    let taken = put_form(&gateway, &path(1, ""), &parts).await;
    assert_eq!(taken.status, 201, "{taken:?}");
    assert_eq!(
        taken.header("location"),
        "/admin/v1/models/rgb-f32/versions/1"
    );
    let view = &taken.body;
    assert_eq!(
        (&view["version"], &view["state"]),
        (&json!(1), &json!("live"))
    );
    assert_eq!(view["digest"], digest(&graph()));
    assert_eq!(view["labels_count"], 3);
    let checks = view["checks"].as_array().expect("checks").clone();
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
    for name in ["file", "manifest", "graph", "labels", "golden"] {
        assert!(
            checks.iter().any(|check| check["name"] == name),
            "{name}: {checks:?}"
        );
    }
    assert_eq!(classify(&gateway, "1").await.assert_ok()["class"], "red");
    let read_again = gateway.admin(Method::GET, &path(1, ""), None).await;
    assert_eq!(read_again.assert_ok()["state"], "live");
    assert_eq!(read_again.header("etag"), taken.header("etag"));
    let names: Vec<_> = tree(store.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let wanted = [
        "",
        "/1",
        "/1/golden",
        "/1/golden/red.png",
        "/1/labels.txt",
        "/1/model.onnx",
        "/1/model.toml",
        "/model.toml",
    ];
    assert_eq!(
        names,
        wanted.map(|name| format!("{MODEL}{name}")),
        "the client's own names mean nothing"
    );
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.upload", None)
        .await;
    let entry = &audit.assert_ok()["items"][0];
    assert_eq!(entry["target"], "models/rgb-f32/versions/1");
    assert_eq!(entry["after"]["digest"], digest(&graph()));
    assert_eq!(entry["request_id"], taken.header("x-request-id"));
}

#[tokio::test]
async fn a_raw_body_takes_what_the_model_has() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    let other = noted(&graph(), 1);
    for content_type in [
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "",
    ] {
        let request = gateway
            .admin_request(Method::PUT, &path(2, ""))
            .body(other.clone());
        let request = match content_type {
            "" => request,
            known => request.header("content-type", known),
        };
        let answer = gateway.send(request).await;
        let first = content_type == "application/octet-stream";
        assert_eq!(answer.status, if first { 201 } else { 200 }, "{answer:?}");
        assert_eq!(answer.body["digest"], digest(&other));
        assert_eq!(answer.body.get("checks").is_some(), first);
    }
    assert_eq!(classify(&gateway, "2").await.assert_ok()["class"], "red");
    // A version never changes, neither one that was uploaded nor one that was copied in.
    for (version, graph) in [(2, graph()), (1, noted(&graph(), 2))] {
        let before = tree(store.path());
        let refused = put(&gateway, &path(version, ""), graph).await;
        let detail = refused.assert_problem(409, "conflict");
        assert!(detail.contains("another"), "{detail}");
        assert_eq!(tree(store.path()), before);
    }
    let same = put(&gateway, &path(1, ""), graph()).await;
    assert_eq!(same.assert_ok()["state"], "live");
    let own_labels = [("model", None, &*graph()), ("labels", None, b"a\nb\nc\n")];
    let refused = put_form(&gateway, &path(1, ""), &own_labels).await;
    assert!(
        refused.assert_problem(409, "conflict").contains("labels"),
        "{refused:?}"
    );
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.", None)
        .await;
    assert_eq!(
        audit.assert_ok()["items"].as_array().expect("items").len(),
        1
    );
}

#[tokio::test]
async fn a_digest_is_checked_in_either_form() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    let with = digest(&graph());
    let without = with.trim_start_matches("sha256:").to_owned();
    let before = tree(store.path());
    for wrong in [
        digest(b"other"),
        "abc".to_owned(),
        String::new(),
        format!("{with}0"),
        format!("md5:{without}"),
    ] {
        let answer = put(&gateway, &path(2, &format!("?sha256={wrong}")), graph()).await;
        answer.assert_problem(400, "bad_request");
        assert_eq!(tree(store.path()), before, "{wrong}");
    }
    for right in [&with, &without, &without.to_uppercase()] {
        let query = format!("?sha256={right}&dry_run=true");
        put(&gateway, &path(2, &query), graph()).await.assert_ok();
    }
    assert_eq!(
        put(&gateway, &path(2, &format!("?sha256={with}")), graph())
            .await
            .status,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_makes_every_check_and_keeps_nothing() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway.ready().await;
    let before = tree(store.path());
    let other = noted(&graph(), 1);
    let failed = |answer: &Answer| {
        let checks = answer.assert_ok()["checks"]
            .as_array()
            .expect("checks")
            .clone();
        let failed = checks.into_iter().filter(|check| check["ok"] == false);
        let mut names: Vec<_> = failed
            .map(|check| check["name"].as_str().expect("text").to_owned())
            .collect();
        // Where one backend refuses a graph the other is asked.
        names.dedup();
        names
    };
    for (version, body, wanted) in [
        (2, other.clone(), vec![]),
        (1, graph(), vec![]),
        (1, other.clone(), vec!["version"]),
        (
            2,
            read(data("hostile/crashing/1/model.onnx")),
            vec!["graph"],
        ),
        (
            2,
            read(data("broken/nan-output/1/model.onnx")),
            vec!["warm_up"],
        ),
        (1, b"nonsense".to_vec(), vec!["version", "file"]),
    ] {
        let answer = put(&gateway, &path(version, "?dry_run=true"), body).await;
        assert_eq!(failed(&answer), wanted, "{answer:?}");
        assert_eq!(answer.body["ok"], wanted.is_empty());
        assert_eq!(tree(store.path()), before);
    }
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.", None)
        .await;
    assert_eq!(audit.assert_ok()["items"], json!([]));
    let view = gateway.get(&format!("/v1/models/{MODEL}")).await;
    assert_eq!(
        view.assert_ok()["versions"]
            .as_array()
            .expect("versions")
            .len(),
        1
    );
    assert_eq!(classify(&gateway, "1").await.assert_ok()["class"], "red");
    let answer = put(&gateway, &path(2, "?dry_run=maybe"), other).await;
    answer.assert_problem(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn external_data_comes_with_its_model() {
    let store = TestStore::empty();
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway
        .admin(Method::POST, "/models", Some(json!({"id": MODEL})))
        .await;
    let file = |name: &str| read(data(&format!("models/rgb-external/{name}")));
    let (model, weights) = (file("1/model.onnx"), file("1/weights.bin"));
    let (manifest, labels) = (file("model.toml"), file("labels.txt"));
    let parts: [(&'static str, Option<&str>, &[u8]); 4] = [
        ("model", None, &model),
        ("manifest", None, &manifest),
        ("labels", None, &labels),
        ("file", Some("weights.bin"), &weights),
    ];
    let refused = put_form(&gateway, &path(1, ""), &parts[..3]).await;
    let detail = refused.assert_problem(422, "model_rejected");
    assert!(detail.contains("weights.bin"), "{detail}");
    assert_eq!(refused.body["checks"][0]["name"], "external");
    let taken = put_form(&gateway, &path(1, ""), &parts).await;
    assert_eq!(taken.status, 201, "{taken:?}");
    assert_eq!(classify(&gateway, "1").await.assert_ok()["class"], "red");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_uploads_side_by_side_one_wins() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    for (version, graphs, wanted) in [
        (
            2,
            [1, 2, 3].map(|note| noted(&graph(), note)),
            [201, 409, 409],
        ),
        (
            3,
            [4, 4, 4].map(|note| noted(&graph(), note)),
            [200, 200, 201],
        ),
    ] {
        let [a, b, c] = graphs.clone();
        let path = path(version, "");
        let (a, b, c) = tokio::join!(
            put(&gateway, &path, a),
            put(&gateway, &path, b),
            put(&gateway, &path, c)
        );
        let mut statuses = [&a, &b, &c].map(|answer| answer.status.as_u16());
        statuses.sort_unstable();
        assert_eq!(statuses, wanted, "{a:?} {b:?} {c:?}");
        let winner = [a, b, c]
            .into_iter()
            .find(|answer| answer.status == 201)
            .expect("a winner");
        let placed = read(store.path().join(format!("{MODEL}/{version}/model.onnx")));
        assert_eq!(winner.body["digest"], digest(&placed));
        assert_eq!(
            classify(&gateway, &version.to_string()).await.assert_ok()["digest"],
            digest(&placed)
        );
    }
    assert!(!store.path().join(".uploads").exists());
}

#[tokio::test]
async fn a_number_is_free_again_when_its_version_is_deleted() {
    let store = TestStore::tiny(&[MODEL]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    for note in [1, 2] {
        let other = noted(&graph(), note);
        let taken = put(&gateway, &path(2, ""), other.clone()).await;
        assert_eq!(taken.status, 201, "{taken:?}");
        assert_eq!(
            classify(&gateway, "2").await.assert_ok()["digest"],
            digest(&other)
        );
        // Out of service was the one that is gone, not the one that comes.
        gateway
            .admin(Method::POST, &path(2, "/unload"), None)
            .await
            .assert_ok();
        let gone = gateway.admin(Method::DELETE, &path(2, ""), None).await;
        assert_eq!(gone.status, 204, "{gone:?}");
        classify(&gateway, "2")
            .await
            .assert_problem(404, "version_not_found");
    }
    // The same content again puts what is there back into service.
    gateway
        .admin(Method::POST, &path(1, "/unload"), None)
        .await
        .assert_ok();
    let same = put(&gateway, &path(1, ""), graph()).await;
    assert_eq!(same.assert_ok()["state"], "live");
    // Also what was taken out of service before it was there at all.
    let stale = put(&gateway, &path(5, ""), noted(&graph(), 5)).await;
    assert_eq!(stale.status, 201);
    gateway
        .admin(Method::POST, &path(5, "/unload"), None)
        .await
        .assert_ok();
    std::fs::remove_dir_all(store.path().join(MODEL).join("5")).expect("removed");
    gateway
        .until(MODEL, |view| {
            view["versions"]
                .as_array()
                .is_some_and(|list| list.len() == 1)
        })
        .await;
    let taken = put(&gateway, &path(5, ""), noted(&graph(), 5)).await;
    assert_eq!(
        (taken.status.as_u16(), &taken.body["state"]),
        (201, &Value::from("live"))
    );
}
