//! The command line, by running the real binary.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::store::TestStore;
use crate::fixture::{data, root};

fn lensgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lensgate"))
        .args(arguments)
        .args(["--config", data("empty.toml").to_str().expect("a path")])
        .current_dir(root())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sample(name: &str) -> String {
    root()
        .join("model-store/digits/samples")
        .join(name)
        .to_string_lossy()
        .into_owned()
}

#[test]
fn classify_shows_a_table_or_json() {
    let seen = lensgate(&["classify", "--model", "digits", &sample("7_a.png")]);
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    let table = text(&seen.stdout);
    assert!(
        table.contains("digits version 2") && table.contains('%'),
        "{table}"
    );
    let seen = lensgate(&[
        "classify",
        "--json",
        "--top-k",
        "2",
        &sample("7_a.png"),
        &sample("3_a.png"),
    ]);
    let lines: Vec<Value> = text(&seen.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let classes: Vec<&Value> = lines.iter().map(|line| &line["class"]).collect();
    assert_eq!(classes, [&json!("7"), &json!("3")]);
    assert_eq!(lines[0]["classes"].as_array().map(Vec::len), Some(2));
    let seen = lensgate(&["classify", "--json", "--version", "1", &sample("7_a.png")]);
    let line: Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    assert_eq!(line["version"], 1);
}

#[test]
fn exit_codes_tell_failure_from_wrong_usage() {
    for (arguments, code) in [
        (&["classify", "/no/such/picture.png"][..], 1),
        (&["classify", "--model", "nothing", "x.png"], 1),
        (&["classify", "--top-k", "0", "x.png"], 1),
        (&["models", "check", "/no/such/folder"], 1),
        (&["config", "check", "--set", "server.listen=x"], 1),
        (&["config", "check", "--set", "server.nothing=x"], 1),
        (&["classify"], 2),
        (&["nonsense"], 2),
        (&["openapi", "nothing"], 2),
        (&["config", "check"], 0),
        (&["openapi", "data"], 0),
    ] {
        let seen = lensgate(arguments);
        assert_eq!(
            seen.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&seen.stderr)
        );
        assert!(
            code == 0 || !seen.stderr.is_empty(),
            "{arguments:?} says why"
        );
    }
}

#[test]
fn models_check_says_what_each_version_is_or_why_it_fails() {
    let store = TestStore::digits()
        .with(&data("broken/truncated"), "cut")
        .with(&data("broken/bad-golden"), "wrong");
    let dir = store.path().to_str().expect("a path");
    let seen = lensgate(&["models", "check", dir, "--json"]);
    assert_eq!(seen.status.code(), Some(1), "{}", text(&seen.stderr));
    let report: Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    let version = |model: usize, version: usize| &report["models"][model]["versions"][version];
    assert_eq!(version(0, 0)["state"], "failed");
    let digits = version(1, 1);
    assert_eq!(
        (&digits["state"], &digits["labels_count"]),
        (&json!("live"), &json!(10))
    );
    assert!(digits["warm_up_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    let names: Vec<&str> = digits["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .map(|check| check["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        ["graph", "input", "output", "warm_up", "labels", "golden"]
    );
    let wrong = version(2, 0);
    let last = wrong["checks"]
        .as_array()
        .and_then(|checks| checks.last())
        .expect("a check");
    assert_eq!(
        (&last["name"], &last["ok"]),
        (&json!("golden"), &json!(false))
    );
    let seen = lensgate(&["models", "check", dir]);
    let table = text(&seen.stdout);
    for word in [
        "digits", "ok", "FAILED", "backend", "warm-up", "labels", "golden",
    ] {
        assert!(table.contains(word), "{word} is missing in:\n{table}");
    }
    let good = lensgate(&["models", "check", dir, "--model", "digits"]);
    assert_eq!(good.status.code(), Some(0));
}

#[test]
fn config_check_shows_no_secret() {
    let seen = lensgate(&[
        "config",
        "check",
        "--json",
        "--set",
        "bootstrap.api_key=a-secret-of-enough-length",
        "--set",
        "store.url=postgres://user:hidden@host/db",
    ]);
    let shown = text(&seen.stdout);
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    assert!(
        !shown.contains("a-secret") && !shown.contains("hidden"),
        "{shown}"
    );
    let value: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(value["limits"]["max_batch_images"], 32);
}

/// The real binary from its start to its end: ready, answering, ended by SIGTERM with exit code 0.
#[test]
fn serve_starts_answers_and_ends_on_sigterm() {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_lensgate"))
        .arg("serve")
        .args(["--config", data("empty.toml").to_str().expect("a path")])
        .env("LENSGATE__SERVER__LISTEN", "127.0.0.1:0")
        .env("LENSGATE__SERVER__DRAIN_DELAY", "0")
        .env("LENSGATE__TELEMETRY__LOG_FORMAT", "json")
        .current_dir(root())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut log = BufReader::new(gateway.stderr.take().expect("a log"));
    let mut seen = String::new();
    let address = loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).expect("text") > 0,
            "it ended early:\n{seen}"
        );
        seen.push_str(&line);
        let entry: Value = serde_json::from_str(&line).expect("a log line is JSON");
        if entry["message"]
            .as_str()
            .is_some_and(|message| message.contains("lensgate serves"))
        {
            break entry["address"].as_str().expect("an address").to_owned();
        }
    };
    let base = format!("http://{address}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::new();
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let answer = client
                .get(format!("{base}/health/ready"))
                .send()
                .await
                .expect("an answer");
            if answer.status().is_success() {
                break;
            }
            assert!(Instant::now() < deadline, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let picture = crate::fixture::read(Path::new(&sample("7_a.png")));
        let request = client
            .post(format!("{base}/v1/models/digits/classify"))
            .header("content-type", "image/png")
            .body(picture);
        let answer =
            crate::fixture::gateway::Answer::of(request.send().await.expect("an answer")).await;
        assert_eq!(answer.assert_ok()["class"], "7");
    });
    let pid = gateway.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill")
            .success()
    );
    let ended = gateway.wait().expect("it ends");
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("text");
    assert_eq!(ended.code(), Some(0), "{rest}");
    assert!(rest.contains("stopped"), "{rest}");
}
