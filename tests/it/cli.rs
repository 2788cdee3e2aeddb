//! The command line, by running the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::gateway::Answer;
use crate::fixture::served::Served;
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
        (
            &[
                "serve",
                "--set",
                "model_store.url=/no/such",
                "--set",
                "server.listen=127.0.0.1:0",
            ],
            1,
        ),
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

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_gateway_of_this_machine() {
    let served = Served::start(&[]);
    served.ready(&reqwest::Client::new()).await;
    let listen = served.base.trim_start_matches("http://");
    let listen = format!("server.listen={listen}");
    let nothing = format!("{}/health/nothing", served.base);
    for (arguments, code) in [
        (&["health", "--set", &listen][..], 0),
        (&["health", "--live", "--set", &listen], 0),
        (&["health", "--url", &nothing], 1),
        (&["health", "--set", "server.listen=127.0.0.1:1"], 1),
        (&["health", "--url", "no address"], 2),
    ] {
        let seen = lensgate(arguments);
        let said = text(&seen.stdout) + &text(&seen.stderr);
        assert_eq!(seen.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(!said.is_empty(), "{arguments:?} says something");
    }
}

#[test]
fn a_first_start_that_fails_makes_no_secret_that_nobody_has_seen() {
    let own = tempfile::tempdir().expect("a folder");
    let set = |key: &str, value: &str| format!("{key}={value}");
    let place = own.path().display();
    let settings = [
        set("store.url", &format!("sqlite://{place}/lensgate.db")),
        set("predictions.spool", &format!("{place}/spool")),
        set("model_store.trials_file", ""),
        set("server.listen", "127.0.0.1:0"),
        set("admin.listen", "127.0.0.1:0"),
    ];
    let mut arguments = vec!["serve"];
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    let missing = [&arguments[..], &["--set", "model_store.url=/no/such"]].concat();
    let failed = lensgate(&missing);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    let mut serving = Command::new(env!("CARGO_BIN_EXE_lensgate"))
        .args(&arguments)
        .args(["--config", data("empty.toml").to_str().expect("a path")])
        .current_dir(root())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    let mut shown = BufReader::new(serving.stdout.take().expect("its output"));
    shown.read_line(&mut line).expect("a line");
    serving.kill().expect("it runs");
    serving.wait().expect("it ends");
    assert!(line.starts_with("API key") && line.len() > 40, "{line:?}");
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
        [
            "graph", "input", "output", "warm_up", "scores", "labels", "golden"
        ]
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

fn seven() -> Vec<u8> {
    crate::fixture::read(Path::new(&sample("7_a.png")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_a_delay_of_serving_on_and_then_a_good_end() {
    let mut served = Served::start(&[("LENSGATE__SERVER__DRAIN_DELAY", "3s")]);
    let client = crate::fixture::gateway::client();
    served.ready(&client).await;
    assert_eq!(
        served
            .classify(&client, "digits", seven())
            .await
            .assert_ok()["class"],
        "7"
    );
    let signalled = Instant::now();
    served.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let probe = client
        .get(format!("{}/health/ready", served.base))
        .send()
        .await;
    let probe = Answer::of(probe.expect("an answer")).await;
    probe.assert_problem(503, "draining");
    assert_eq!(
        served
            .classify(&client, "digits", seven())
            .await
            .assert_ok()["class"],
        "7"
    );
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(signalled.elapsed() >= Duration::from_secs(3), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_the_delay_short() {
    let mut served = Served::start(&[("LENSGATE__SERVER__DRAIN_DELAY", "30s")]);
    let signalled = Instant::now();
    served.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    served.signal("TERM");
    assert_eq!(served.end().0, Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_a_crowd_of_large_bodies() {
    let served = Served::start(&[("LENSGATE__SERVER__DRAIN_DELAY", "0")]);
    let client = crate::fixture::gateway::client();
    served.ready(&client).await;
    let before = served.resident() >> 10;
    let body = vec![b'x'; 10 << 20];
    for _ in 0..3 {
        let crowd = (0..40).map(|_| served.try_to_classify(&client, "digits", body.clone()));
        let mut answered = 0;
        for answer in futures_util::future::join_all(crowd).await {
            match answer {
                Ok(answer) => {
                    assert!([415, 503].contains(&answer.status.as_u16()), "{answer:?}");
                    answered += 1;
                }
                // Who is refused and sends on for too long is cut off, on a busy machine before it looks for the answer.
                Err(error) => assert!(error.is_request(), "{error:?}"),
            }
        }
        assert!(answered > 20, "{answered} of 40");
    }
    let after = served.resident() >> 10;
    println!("{before} MiB before, {after} MiB after");
    assert!(
        after < before + 200,
        "{before} MiB before, {after} MiB after"
    );
}
