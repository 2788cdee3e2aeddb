//! Uploads that are refused: each says why, leaves nothing, and what serves goes on serving.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::uploads::{graph, put, put_form};
use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::store::{TestStore, noted, tree};
use crate::fixture::{data, read};

pub(super) const PATH: &str = "/models/rgb-f32/versions/2";

pub(super) fn store() -> TestStore {
    TestStore::tiny(&["rgb-f32"])
}

pub(super) async fn still_serves(gateway: &TestGateway) {
    let red = read(data("images/red.png"));
    let answer = gateway
        .raw("/v1/models/rgb-f32/classify", "image/png", red)
        .await;
    assert_eq!(answer.assert_ok()["class"], "red");
}

/// One part of a form: field, file name, content.
type FormPart<'a> = (&'static str, Option<&'a str>, &'a [u8]);

/// Sends a version that may not serve; the check of this name fails, with this word, and all before it hold.
async fn rejected(
    gateway: &TestGateway,
    store: &TestStore,
    parts: &[FormPart<'_>],
    name: &str,
    word: &str,
) {
    let before = tree(store.path());
    let refused = put_form(gateway, PATH, parts).await;
    let detail = refused.assert_problem(422, "model_rejected");
    let leak = store.path().to_str().expect("a path");
    assert!(!refused.body.to_string().contains(leak), "{refused:?}");
    let checks = refused.body["checks"].as_array().expect("checks");
    let (last, first) = checks.split_last().expect("a check");
    let failed = (&last["name"], &last["ok"]);
    assert_eq!(
        failed,
        (&json!(name), &json!(false)),
        "{detail}: {checks:?}"
    );
    assert!(
        last["detail"]
            .as_str()
            .is_some_and(|text| text.contains(word)),
        "{last}"
    );
    // Where one backend refuses a graph the other is asked.
    let holds = |check: &serde_json::Value| check["ok"] == true || check["name"] == "graph";
    assert!(first.iter().all(holds), "{checks:?}");
    assert_eq!(tree(store.path()), before, "{detail}");
}

const GOLDEN: &[u8] = b"[[golden]]\nimage = 'red.png'\nlabel = 'blue'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_may_not_serve_is_rejected() {
    let store = store();
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway.ready().await;
    let own = graph();
    for (model, name, word) in [
        (&own[..own.len() - 9], "file", "truncated"),
        (b"nonsense", "file", "ONNX"),
        (b"", "file", "empty"),
        (
            &*read(data("hostile/crashing/1/model.onnx")),
            "graph",
            "crashed",
        ),
        (
            &*read(data("broken/unknown-op/1/model.onnx")),
            "graph",
            "Frobnicate",
        ),
        (
            &*read(data("broken/external-escape/1/model.onnx")),
            "external",
            "`..`",
        ),
        (
            &*read(data("broken/external-absolute/1/model.onnx")),
            "external",
            "hostname",
        ),
    ] {
        rejected(&gateway, &store, &[("model", None, model)], name, word).await;
    }
    still_serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_graph_is_checked_too() {
    let store = store();
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway.ready().await;
    let own = graph();
    let picture = read(data("images/red.png"));
    for (other, name, word) in [
        (
            vec![
                ("manifest", None, GOLDEN),
                ("file", Some("red.png"), &*picture),
            ],
            "golden",
            "should be",
        ),
        (
            vec![("manifest", None, GOLDEN)],
            "golden",
            "no file red.png",
        ),
        (
            vec![("labels", None, b"a\nb\n")],
            "labels",
            "2 labels for 3",
        ),
        (vec![("manifest", None, b"sise = 1")], "manifest", "sise"),
    ] {
        let parts: Vec<FormPart<'_>> = std::iter::once(("model", None, &*own))
            .chain(other)
            .collect();
        rejected(&gateway, &store, &parts, name, word).await;
    }
    still_serves(&gateway).await;
    let manifest = String::from_utf8(read(store.path().join("rgb-f32/model.toml"))).expect("text");
    store.write(
        "rgb-f32/model.toml",
        format!("{manifest}\n[serving]\nversions = [1]\n"),
    );
    rejected(
        &gateway,
        &store,
        &[("model", None, &own)],
        "manifest",
        "serving.versions",
    )
    .await;
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.", None)
        .await;
    assert_eq!(audit.assert_ok()["items"], json!([]));
}

#[tokio::test]
async fn names_never_lead_out_of_the_versions_folder() {
    let outside = tempfile::tempdir().expect("a folder");
    let store = store();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = tree(store.path());
    let absolute = outside.path().join("x").display().to_string();
    let long = "a".repeat(300);
    for name in [
        "../x",
        "..",
        ".",
        "a/../../x",
        "/etc/passwd",
        &absolute,
        "..%2fx",
        "a%2f..%2f..%2fx",
        "a\\..\\x",
        "C:\\x",
        ".hidden",
        "a/.hidden",
        "a//b",
        "a/",
        "model.onnx",
        "model.toml",
        "labels.txt",
        "MODEL.ONNX",
        &long,
        " x",
        "x\u{0}y",
        "a:b",
        "*/_ORT_MEM_ADDR_/*",
    ] {
        // A hostile client needs no library: the form by hand.
        let body = [
            b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n".as_slice(),
            &graph(),
            b"\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"",
            name.as_bytes(),
            b"\"\r\n\r\nevil\r\n--x--\r\n",
        ]
        .concat();
        let request = gateway.admin_request(Method::PUT, PATH).body(body);
        let request = request.header("content-type", "multipart/form-data; boundary=x");
        let refused = gateway.send(request).await;
        assert_eq!(refused.status, 400, "{name:?}: {refused:?}");
        refused.assert_problem(400, "bad_request");
        assert_eq!(tree(store.path()), before, "{name:?}");
    }
    assert!(tree(outside.path()).is_empty());
    // A model's own golden picture of a hostile name is no way out, either.
    let manifest = b"[[golden]]\nimage = '../../../etc/hostname'\nlabel = 'red'\n";
    let refused = put_form(
        &gateway,
        PATH,
        &[("model", None, &graph()), ("manifest", None, manifest)],
    )
    .await;
    refused.assert_problem(422, "model_rejected");
    let manifest = b"labels = '/etc/hostname'\n";
    let refused = put_form(
        &gateway,
        PATH,
        &[("model", None, &graph()), ("manifest", None, manifest)],
    )
    .await;
    refused.assert_problem(422, "model_rejected");
    assert_eq!(tree(store.path()), before);
}

#[tokio::test]
async fn models_and_versions_that_cannot_be_are_refused_and_leave_nothing() {
    let store = store();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = tree(store.path());
    for (path, status, code) in [
        ("/models/none/versions/1", 404, "model_not_found"),
        ("/models/A/versions/1", 400, "bad_request"),
        ("/models/..%2fx/versions/1", 400, "bad_request"),
        ("/models/.uploads/versions/1", 400, "bad_request"),
        ("/models/rgb-f32%00/versions/1", 400, "bad_request"),
        ("/models/rgb-f32/versions/0", 400, "bad_request"),
        ("/models/rgb-f32/versions/01", 400, "bad_request"),
        ("/models/rgb-f32/versions/-1", 400, "bad_request"),
        ("/models/rgb-f32/versions/stable", 400, "bad_request"),
        ("/models/rgb-f32/versions/..%2f..%2fx", 400, "bad_request"),
        (
            "/models/rgb-f32/versions/99999999999999999999",
            400,
            "bad_request",
        ),
    ] {
        let refused = put(&gateway, path, graph()).await;
        assert_eq!(refused.status, status, "{path}: {refused:?}");
        refused.assert_problem(status, code);
        assert_eq!(tree(store.path()), before, "{path}");
    }
    for (parts, word) in [
        (
            vec![("model", None, b"x".as_slice()), ("colour", None, b"x")],
            "colour",
        ),
        (vec![("file", None, b"x")], "file name"),
        (vec![("labels", None, b"x")], "no model"),
        (
            vec![("labels", None, b"x"), ("labels", None, b"x")],
            "twice",
        ),
        (
            vec![("file", Some("a"), b"x"), ("file", Some("a/b"), b"x")],
            "twice",
        ),
    ] {
        let refused = put_form(&gateway, PATH, &parts).await;
        let detail = refused.assert_problem(400, "bad_request");
        assert!(detail.contains(word), "{detail}");
    }
    put(&gateway, PATH, Vec::new())
        .await
        .assert_problem(400, "bad_request");
    let json = gateway
        .admin(Method::PUT, PATH, Some(json!({"model": "x"})))
        .await;
    json.assert_problem(415, "unsupported_media_type");
    let request = gateway.admin_request(Method::PUT, PATH);
    let request = request
        .header("content-type", "multipart/form-data; boundary=x")
        .body("--x\r\nnonsense");
    gateway
        .send(request)
        .await
        .assert_problem(400, "bad_request");
    assert_eq!(tree(store.path()), before);
}

/// Waits until the store is as it is `wanted`.
pub(super) async fn becomes(store: &TestStore, wanted: &[(String, Option<Vec<u8>>)]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while tree(store.path()) != wanted {
        assert!(Instant::now() < deadline, "{:?}", tree(store.path()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_said_without_its_path() {
    let store = store();
    // Where uploads are staged there is a file: nobody can make a folder, whoever runs the test.
    store.write(".uploads", "in the way");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = tree(store.path());
    let calls = [
        (Method::POST, "/models", Some(json!({"id": "new"}))),
        (
            Method::PATCH,
            "/models/rgb-f32",
            Some(json!({"title": "T"})),
        ),
        (Method::DELETE, "/models/rgb-f32", None),
        (Method::DELETE, "/models/rgb-f32/versions/1", None),
    ];
    let mut answers = vec![put(&gateway, PATH, graph()).await];
    for (method, path, body) in calls {
        answers.push(gateway.admin(method, path, body).await);
    }
    for answer in answers {
        let detail = answer.assert_problem(503, "store_unavailable");
        assert!(
            !detail.contains(store.path().to_str().expect("a path")),
            "{detail}"
        );
        assert!(!answer.header("retry-after").is_empty());
    }
    assert_eq!(tree(store.path()), before);
    still_serves(&gateway).await;
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.", None)
        .await;
    assert_eq!(audit.assert_ok()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_away_nothing_is_changed() {
    let database = TestDatabase::postgres().await;
    let (server, name) = database.url.rsplit_once('/').expect("a URL");
    let address = server.rsplit_once('@').expect("a user").1;
    let proxy = Proxy::to(address.parse().expect("an address")).await;
    let through = server.replace(address, &proxy.address.to_string());
    let through = format!("{through}/{name}");
    let store = store();
    let setting = format!("store.url={through}");
    let gateway = TestGateway::start(store.path(), &[&setting, "store.call_timeout=2s"]).await;
    assert_eq!(put(&gateway, PATH, noted(&graph(), 1)).await.status, 201);
    let before = tree(store.path());
    proxy.set(Way::Cut);
    let three = "/models/rgb-f32/versions/3";
    let mut answers = vec![put(&gateway, three, noted(&graph(), 2)).await];
    for (method, path, body) in [
        (Method::POST, "/models", Some(json!({"id": "new"}))),
        (
            Method::PATCH,
            "/models/rgb-f32",
            Some(json!({"title": "T"})),
        ),
        (Method::DELETE, "/models/rgb-f32", None),
        (Method::DELETE, PATH, None),
        (Method::POST, "/models/rgb-f32/versions/2/unload", None),
        (
            Method::PUT,
            "/models/rgb-f32/aliases/stable",
            Some(json!({"version": 1})),
        ),
    ] {
        answers.push(gateway.admin(method, path, body).await);
    }
    for answer in &answers {
        answer.assert_problem(503, "store_unavailable");
    }
    becomes(&store, &before).await;
    still_serves(&gateway).await;
    // A dry run needs no database, and what is read comes from memory.
    let tried = put(
        &gateway,
        &format!("{three}?dry_run=true"),
        noted(&graph(), 2),
    )
    .await;
    assert_eq!(tried.assert_ok()["ok"], true);
    gateway.admin(Method::GET, PATH, None).await.assert_ok();
    proxy.set(Way::Open);
    let deadline = Instant::now() + Duration::from_secs(30);
    while put(&gateway, three, noted(&graph(), 2)).await.status != 201 {
        assert!(Instant::now() < deadline, "it does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
