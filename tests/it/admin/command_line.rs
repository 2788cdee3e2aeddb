//! `lensgate keys create` beside a gateway that serves, and the secrets of a first start.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{API_KEY, client};
use crate::fixture::served::Served;
use crate::fixture::store::TestStore;
use crate::fixture::{data, root};

fn create(url: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
    command.args([
        "keys",
        "create",
        "--config",
        data("empty.toml").to_str().expect("a path"),
    ]);
    command
        .args(arguments)
        .env("LENSGATE__STORE__URL", url)
        .current_dir(root());
    command.output().expect("the binary runs")
}

#[tokio::test]
async fn a_key_that_is_made_beside_a_gateway_opens_it_within_a_second() {
    let database = TestDatabase::sqlite();
    let early = create(&database.url, &["--name", "early"]);
    assert_eq!(early.status.code(), Some(1), "there is no tenant yet");
    assert!(String::from_utf8_lossy(&early.stderr).contains("no tenant \"default\""));

    let store = TestStore::digits();
    let served = Served::start(&[
        (
            "LENSGATE__MODEL_STORE__URL",
            store.path().to_str().expect("a path"),
        ),
        ("LENSGATE__STORE__URL", &database.url),
    ]);
    served.ready(&client()).await;
    let made = create(
        &database.url,
        &["--name", "app", "--model", "other-*", "--json"],
    );
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    let models = async || {
        let request = reqwest::Client::new().get(format!("{}/v1/models", served.base));
        request
            .bearer_auth(&secret)
            .send()
            .await
            .expect("an answer")
    };
    let since = Instant::now();
    while models().await.status() != StatusCode::OK {
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "the key does not come into force"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen: Value = models().await.json().await.expect("JSON");
    assert_eq!(
        seen["models"],
        serde_json::json!([]),
        "it may use other models alone"
    );
    for (arguments, word) in [
        (&["--name", "x", "--tenant", "nobody"][..], "nobody"),
        (&["--name", "x", "--scope", "root"], "scope"),
        (
            &["--name", "x", "--requests-per-second", "0"],
            "requests_per_second",
        ),
        (&["--name", "x", "--expires-at", "soon"], "expires-at"),
    ] {
        let refused = create(&database.url, arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
    assert_eq!(
        create(&database.url, &["--color", "red"]).status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn given_secrets_are_not_shown_and_random_ones_once() {
    let store = TestStore::digits();
    let url = store.path().to_str().expect("a path").to_owned();
    let file = store.write("key.txt", format!("{API_KEY}\n"));
    let mut served = Served::start(&[("LENSGATE__MODEL_STORE__URL", &url)]);
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains(API_KEY), "a given secret shows in the log");

    let folder = tempfile::tempdir().expect("a folder");
    let database = format!("sqlite://{}/lensgate.db", folder.path().display());
    let start = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
        command
            .args([
                "serve",
                "--config",
                data("empty.toml").to_str().expect("a path"),
            ])
            .env("LENSGATE__SERVER__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__ADMIN__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__SERVER__DRAIN_DELAY", "0")
            .env("LENSGATE__MODEL_STORE__URL", &url)
            .env("LENSGATE__MODEL_STORE__TRIALS_FILE", "")
            .env("LENSGATE__STORE__URL", &database)
            .envs(variables.iter().copied())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        std::thread::sleep(Duration::from_secs(3));
        let status = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(status.expect("kill").success());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    // The key comes from a file, the token is random.
    let given = [(
        "LENSGATE__BOOTSTRAP__API_KEY_FILE",
        file.to_str().expect("a path"),
    )];
    let (shown, log) = start(&given);
    let token = shown
        .lines()
        .find_map(|line| line.split("): ").nth(1))
        .expect("a token")
        .to_owned();
    assert!(
        token.starts_with("lga_") && shown.lines().count() == 1,
        "{shown}"
    );
    assert!(!log.contains(&token) && !log.contains(API_KEY) && !shown.contains(API_KEY));
    let (shown, _) = start(&given);
    assert_eq!(shown, "", "only the first start shows anything");
}
