//! `lensgate models push`: the real command against a real admin plane.

use std::path::Path;
use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::gateway::{ADMIN_TOKEN, TestGateway};
use crate::fixture::store::{TestStore, digest, noted};
use crate::fixture::{data, read, root};

/// Runs the command; the token comes in the environment.
async fn push(gateway: &TestGateway, folder: &Path, arguments: &[&str]) -> Output {
    push_with(
        gateway,
        folder,
        arguments,
        &[("LENSGATE_ADMIN_TOKEN", ADMIN_TOKEN)],
    )
    .await
}

async fn push_with(
    gateway: &TestGateway,
    folder: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
    command
        .args(["models", "push"])
        .arg(folder)
        .args(["--to", &gateway.admin_base])
        .args(arguments)
        .env_remove("LENSGATE_ADMIN_TOKEN")
        .envs(variables.iter().copied());
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("it runs").expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{} {errors}", said(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_over_with_all_that_is_its_own() {
    let target = TestStore::empty();
    let gateway = TestGateway::start_with_trials(target.path(), &[]).await;
    let source = TestStore::digits();
    let folder = source.path().join("digits");
    let output = push(&gateway, &folder, &[]).await;
    assert!(output.status.success(), "{output:?}");
    let text = said(&output);
    for word in [
        "digits  made",
        "digits 1  uploaded, and live",
        "digits 2  uploaded, and live",
        "ok      golden",
    ] {
        assert!(text.contains(word), "{word:?}: {text}");
    }
    let view = gateway.get("/v1/models/digits").await;
    let manifest = String::from_utf8(read(folder.join("model.toml"))).expect("text");
    assert!(manifest.contains(view.assert_ok()["title"].as_str().expect("a title")));
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    for version in 1..=2 {
        let route = format!("/v1/models/digits/versions/{version}/classify");
        let answer = gateway.raw(&route, "image/png", seven.clone()).await;
        assert_eq!(
            answer.assert_ok()["class"],
            "7",
            "with its manifest, labels and golden pictures"
        );
    }
    // The same again is no upload, and is no failure.
    let output = push(&gateway, &folder, &["--json"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = json_of(&output);
    assert_eq!(
        (&said["ok"], &said["created"]),
        (&json!(true), &json!(false))
    );
    let outcomes: Vec<_> = said["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|v| &v["outcome"])
        .collect();
    assert_eq!(outcomes, ["same", "same"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_goes_over_alone_and_may_have_another_name() {
    let target = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start(target.path(), &[]).await;
    let source = TestStore::tiny(&["rgb-external"]);
    let folder = source.path().join("rgb-external/1");
    let tried = push(
        &gateway,
        &folder,
        &[
            "--model",
            "rgb-f32",
            "--version",
            "5",
            "--dry-run",
            "--json",
        ],
    )
    .await;
    assert!(tried.status.success(), "{tried:?}");
    assert_eq!(json_of(&tried)["versions"][0]["outcome"], "passed");
    assert!(!target.path().join("rgb-f32/5").exists());
    let output = push(&gateway, &folder, &["--model", "rgb-f32", "--version", "5"]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        target.path().join("rgb-f32/5/weights.bin").exists(),
        "external data goes with it"
    );
    let view = gateway
        .admin(Method::GET, "/models/rgb-f32/versions/5", None)
        .await;
    assert_eq!(view.assert_ok()["state"], "live");
    let graph = read(data("models/rgb-external/1/model.onnx"));
    assert_eq!(view.body["digest"], digest(&graph));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_said_and_fails() {
    let target = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start(target.path(), &[]).await;
    let source = TestStore::tiny(&["rgb-f32"]);
    let folder = source.path().join("rgb-f32");
    source.write(
        "rgb-f32/1/model.onnx",
        noted(&read(data("models/rgb-f32/1/model.onnx")), 1),
    );
    source.write(
        "rgb-f32/2/model.onnx",
        read(data("broken/nan-output/1/model.onnx")),
    );
    let output = push(&gateway, &folder, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = said(&output);
    for word in [
        "rgb-f32 1  REFUSED",
        "(conflict)",
        "rgb-f32 2  REFUSED",
        "(model_rejected)",
        "FAILED  warm_up",
        "ok      graph",
    ] {
        assert!(text.contains(word), "{word:?}: {text}");
    }
    let output = push(&gateway, &folder.join("2"), &["--dry-run", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = json_of(&output);
    assert_eq!(
        (&said["ok"], &said["versions"][0]["outcome"]),
        (&json!(false), &json!("refused"))
    );
    assert!(!target.path().join("rgb-f32/2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_a_file_or_the_environment_and_never_shows() {
    let target = TestStore::empty();
    let gateway = TestGateway::start(target.path(), &[]).await;
    let source = TestStore::tiny(&["rgb-f32"]);
    let folder = source.path().join("rgb-f32");
    let good = source.write("token", format!("{ADMIN_TOKEN}\n"));
    let good = good.to_str().expect("a path");
    let wrong = [("LENSGATE_ADMIN_TOKEN", "lga_wrong")];
    for (arguments, variables, code, word) in [
        (vec![], vec![], 1, "no admin token"),
        (vec!["--token-file", "/nowhere"], vec![], 1, "/nowhere"),
        (vec![], wrong.to_vec(), 1, "invalid_credentials"),
        (vec!["--token-file", good], wrong.to_vec(), 0, ""),
        (vec![], vec![("LENSGATE_ADMIN_TOKEN_FILE", good)], 0, ""),
        (vec!["--token", "x"], vec![], 2, "--token"),
    ] {
        let output = push_with(&gateway, &folder, &arguments, &variables).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(word), "{arguments:?}: {errors}");
        for text in [&errors, &said(&output)] {
            assert!(
                !text.contains(ADMIN_TOKEN) && !text.contains("lga_wrong"),
                "{text}"
            );
        }
    }
    // A gateway that is not there, and folders that are no models.
    let environment = [("LENSGATE_ADMIN_TOKEN", ADMIN_TOKEN)];
    for (folder, to, word) in [
        (&*folder, "http://127.0.0.1:1", "cannot be reached"),
        (&*folder, "ftp://127.0.0.1", "http"),
        (source.path(), "http://127.0.0.1:1", "folder is"),
        (Path::new("/nowhere"), "http://127.0.0.1:1", "/nowhere"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
        command
            .args(["models", "push"])
            .arg(folder)
            .args(["--to", to])
            .envs(environment);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        let output = output.await.expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && errors.contains(word),
            "{word}: {errors}"
        );
    }
}
