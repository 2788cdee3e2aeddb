//! What `GET /v1/models` says of good and of broken versions; the broken never harm the good.

use serde_json::{Value, json};

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

#[tokio::test]
async fn a_model_says_what_it_is() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let list = gateway.get("/v1/models").await;
    let models = list.assert_ok()["models"]
        .as_array()
        .expect("models")
        .clone();
    assert_eq!(models.len(), 1);
    assert!(
        models[0].get("labels").is_none(),
        "labels come with a single model alone"
    );
    let one = gateway.get("/v1/models/digits").await;
    let body = one.assert_ok();
    let labels: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    assert_eq!(body["labels"], json!(labels));
    assert_eq!(
        (&body["id"], &body["rollout"]),
        (&json!("digits"), &json!({"mode": "latest"}))
    );
    assert!(body["title"].is_string() && body["description"].is_string());
    for (index, version) in body["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .enumerate()
    {
        assert_eq!(version["version"], index + 1);
        assert_eq!(version["state"], "live");
        assert_eq!(version["labels_count"], 10);
        assert_eq!(
            (&version["reason"], &version["aliases"]),
            (&Value::Null, &json!([]))
        );
        assert_eq!(version["input"]["color"], "gray");
        assert!(
            version["digest"]
                .as_str()
                .is_some_and(|digest| digest.starts_with("sha256:"))
        );
        assert!(
            version["providers"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        );
    }
}

/// Broken version, and a word of the reason that an operator must read.
const BROKEN: [(&str, &str); 17] = [
    ("empty", "empty"),
    ("text", "ONNX"),
    ("truncated", "truncated"),
    ("future-opset", "opset"),
    ("unknown-op", "Frobnicate"),
    ("external-missing", "weights.bin"),
    ("external-escape", "outside"),
    ("external-absolute", "hostname"),
    ("external-short", "bytes"),
    ("two-inputs", "2 inputs"),
    ("rank-3-output", "shape"),
    ("int64-output", "64; float32"),
    ("string-output", "string"),
    ("nan-output", "finite"),
    ("wrong-labels", "4 labels for 3"),
    ("bad-manifest", "sise"),
    ("bad-golden", "should be"),
];

#[tokio::test]
async fn a_broken_version_fails_with_its_reason_and_harms_nobody() {
    let mut store = TestStore::digits();
    for (name, _) in BROKEN {
        store = store.with(&data(&format!("broken/{name}")), name);
    }
    // What `external-escape` points at exists: only the rule keeps it out.
    store.write("outside.bin", read(data("broken/outside.bin")));
    let gateway = TestGateway::start(store.path(), &[]).await;
    for (name, word) in BROKEN {
        let view = gateway.get(&format!("/v1/models/{name}")).await;
        let version = &view.assert_ok()["versions"][0];
        assert_eq!(version["state"], "failed", "{name}: {version}");
        let reason = version["reason"].as_str().expect("a reason");
        println!("{name}: {reason}");
        assert!(
            reason.to_lowercase().contains(&word.to_lowercase()),
            "{name}: {reason:?}"
        );
        let leak = store.path().to_str().expect("a path");
        assert!(!reason.contains(leak), "{name} leaks a path: {reason}");
    }
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway
        .raw("/v1/models/digits/classify", "image/png", seven)
        .await;
    assert_eq!(answer.assert_ok()["class"], "7");
}

#[tokio::test]
async fn a_broken_version_leaves_the_others_of_its_model_serving() {
    let store = TestStore::digits();
    store.write("digits/3/model.onnx", "not a model");
    store.write("digits/007/model.onnx", "not a version");
    store.write("digits/notes/model.onnx", "not a version either");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let view = gateway.get("/v1/models/digits").await;
    let states: Vec<(&Value, &Value)> = view.assert_ok()["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|version| (&version["version"], &version["state"]))
        .collect();
    let (live, failed) = (json!("live"), json!("failed"));
    assert_eq!(
        states,
        [(&json!(1), &live), (&json!(2), &live), (&json!(3), &failed)]
    );
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway
        .raw("/v1/models/digits/classify", "image/png", seven.clone())
        .await;
    assert_eq!(answer.assert_ok()["version"], 2, "the latest that is live");
    let pinned = "/v1/models/digits/versions/3/classify";
    gateway
        .raw(pinned, "image/png", seven)
        .await
        .assert_problem(503, "model_unavailable");
}

#[tokio::test]
async fn versions_are_selected_by_the_manifest() {
    for (choice, states) in [
        ("\"latest\"", ["unloaded", "live"]),
        ("[1]", ["live", "unloaded"]),
        ("\"all\"", ["live", "live"]),
    ] {
        let store = TestStore::digits();
        let manifest =
            std::fs::read_to_string(store.path().join("digits/model.toml")).expect("a manifest");
        store.write(
            "digits/model.toml",
            format!("{manifest}\n[serving]\nversions = {choice}\n"),
        );
        let gateway = TestGateway::start(store.path(), &[]).await;
        let view = gateway.get("/v1/models/digits").await;
        let versions = &view.assert_ok()["versions"];
        assert_eq!(
            [&versions[0]["state"], &versions[1]["state"]],
            states.map(|s| json!(s)).each_ref()
        );
    }
}

#[tokio::test]
async fn a_model_without_labels_names_classes_by_their_index() {
    let store = TestStore::digits();
    std::fs::remove_file(store.path().join("digits/labels.txt")).expect("removed");
    store.write(
        "digits/model.toml",
        "[input]\ncolor='gray'\nresize='stretch'\ncrop='none'\n",
    );
    let gateway = TestGateway::start(store.path(), &[]).await;
    let view = gateway.get("/v1/models/digits").await;
    assert_eq!(view.assert_ok()["versions"][1]["unlabelled"], true);
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway.raw("/v1/classify", "image/png", seven).await;
    assert_eq!(answer.assert_ok()["class"], "7");
}

#[tokio::test]
async fn a_versions_own_manifest_and_labels_win_for_it_alone() {
    let store = TestStore::digits();
    let own = (0..10)
        .map(|digit| format!("digit {digit}"))
        .collect::<Vec<_>>()
        .join("\n");
    store.write("digits/1/labels.txt", own);
    store.write("digits/1/model.toml", "golden = []\n");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    for (version, class) in [(1, "digit 7"), (2, "7")] {
        let route = format!("/v1/models/digits/versions/{version}/classify");
        let answer = gateway.raw(&route, "image/png", seven.clone()).await;
        assert_eq!(answer.assert_ok()["class"], class);
    }
}

#[tokio::test]
async fn without_the_library_tract_serves() {
    let store = TestStore::digits();
    let none = "backend.ort_library=/nowhere/libonnxruntime.so";
    let gateway = TestGateway::start(store.path(), &[none]).await;
    let view = gateway.get("/v1/models/digits").await;
    assert_eq!(view.assert_ok()["versions"][1]["backend"], "tract");
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let answer = gateway.raw("/v1/classify", "image/png", seven).await;
    assert_eq!(answer.assert_ok()["class"], "7");
}

#[tokio::test]
async fn providers_that_are_not_there_fall_back_to_the_cpu() {
    let store = TestStore::digits();
    let providers = "backend.execution_providers=tensorrt,cuda,cpu";
    let gateway = TestGateway::start(store.path(), &[providers]).await;
    let view = gateway.get("/v1/models/digits").await;
    let version = &view.assert_ok()["versions"][1];
    // On a machine with a GPU and its library the list is longer; the CPU is always the last.
    let used = version["providers"].as_array().expect("providers");
    assert_eq!(used.last(), Some(&json!("cpu")), "{version}");
}

#[tokio::test]
async fn a_pipe_where_a_file_should_be_fails_its_version_and_blocks_nobody() {
    let store = TestStore::digits();
    for (model, pipe) in [
        ("labels", "labels.txt"),
        ("manifest", "model.toml"),
        ("graph", "1/model.onnx"),
    ] {
        let digits = root().join("model-store/digits/1/model.onnx");
        store.write(&format!("{model}/1/model.onnx"), read(digits));
        let path = store.path().join(model).join(pipe);
        let _ = std::fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
    }
    let gateway = TestGateway::start(store.path(), &[]).await;
    for model in ["labels", "manifest", "graph"] {
        let view = gateway.get(&format!("/v1/models/{model}")).await;
        let version = &view.assert_ok()["versions"][0];
        assert_eq!(version["state"], "failed", "{model}: {version}");
        let reason = version["reason"].as_str().expect("a reason");
        assert!(reason.contains("not a file"), "{model}: {reason}");
    }
}
