//! `lensgate models tune`, by running the real binary on tiny models: what it prints, what it writes, how it fails.
//! How fast anything is, nobody asks here.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixture::store::TestStore;
use crate::fixture::{data, root};

/// The binary over this store, as short as a measurement may be.
fn lensgate(store: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lensgate"))
        .args(arguments)
        .args(["--config", data("empty.toml").to_str().expect("a path")])
        .args(["--set", &format!("model_store.url={}", store.display())])
        .current_dir(root())
        .output()
        .expect("the binary runs")
}

fn tune(store: &TestStore, arguments: &[&str]) -> Output {
    let arguments = [&["models", "tune", "--seconds", "0.02"], arguments].concat();
    lensgate(store.path(), &arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(seen: &Output) -> Value {
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    serde_json::from_slice(&seen.stdout).expect("one JSON object")
}

fn manifest(store: &TestStore, file: &str) -> String {
    std::fs::read_to_string(store.path().join(file)).unwrap_or_default()
}

/// The files of a model's folder.
fn files(store: &TestStore, model: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.path().join(model)).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn the_table_has_a_row_for_each_settings_and_names_the_best() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let before = files(&store, "rgb-f32");
    let seen = tune(&store, &["rgb-f32"]);
    let table = text(&seen.stdout);
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    for word in [
        "rgb-f32 version 1",
        "instances",
        "pictures/s",
        "p99 ms",
        "the default",
        "best for throughput:",
        "best for latency:",
    ] {
        assert!(table.contains(word), "{word} is missing in:\n{table}");
    }
    assert_eq!(text(&seen.stderr), "", "no progress where nobody watches");
    assert_eq!(files(&store, "rgb-f32"), before, "nothing is written");
}

#[test]
fn json_is_one_object_with_every_measurement() {
    let store = TestStore::digits();
    let seen = tune(
        &store,
        &["digits", "--json", "--version", "1", "--goal", "latency"],
    );
    let report = report(&seen);
    assert_eq!(
        [&report["model"], &report["version"], &report["goal"]],
        [&json!("digits"), &json!(1), &json!("latency")]
    );
    assert_eq!(report["written"], Value::Null);
    let picture = report["picture"].as_str().expect("a picture");
    assert!(picture.contains("_a."), "one of its own: {picture}");
    let candidates = report["candidates"].as_array().expect("candidates");
    assert_eq!(candidates[0]["origin"], "default");
    assert_eq!(candidates[0]["serving"], json!({}));
    assert!(candidates.len() >= 2, "{candidates:?}");
    let cores = report["cores"].as_u64().expect("cores");
    for candidate in candidates {
        assert_eq!(candidate["error"], Value::Null, "{candidate}");
        assert!(candidate["pictures_per_second"].as_f64() > Some(0.0));
        assert!(candidate["p50_ms"].as_f64() > Some(0.0));
        assert!(candidate["p99_ms"].as_f64() >= candidate["p50_ms"].as_f64());
        let serving = &candidate["serving"];
        let number = |key: &str| serving[key].as_u64().unwrap_or(1);
        assert!(number("instances") * number("threads") <= cores);
    }
    for goal in ["throughput", "latency"] {
        let best = &report["best"][goal];
        assert!(best["recommended"].is_object(), "{best}");
        // What is chosen has been measured in every round.
        let chosen = candidates
            .iter()
            .find(|one| one["serving"] == best["recommended"])
            .expect("one of the candidates");
        assert_eq!(chosen["finished"], true, "{chosen}");
        // Within noise, the default is recommended.
        assert_eq!(
            best["within_noise"] == true,
            best["recommended"] == json!({})
        );
    }
    assert_eq!(
        report["recommended"],
        report["best"]["latency"]["recommended"]
    );
}

#[test]
fn batches_are_tried_only_where_they_may_pay() {
    let store =
        TestStore::tiny(&["rgb-f32", "rgb-f32-fixed1"]).with(&data("models/rgb-f32"), "tract");
    let given = manifest(&store, "tract/model.toml");
    store.write(
        "tract/model.toml",
        format!("{given}\n[serving]\nbackend = 'tract'\n"),
    );
    for model in ["rgb-f32", "rgb-f32-fixed1", "tract"] {
        let report = report(&tune(&store, &[model, "--json"]));
        let candidates = report["candidates"].as_array().expect("candidates");
        let has = |key: &str, least: u64| {
            let value = |one: &Value| one["serving"][key].as_u64();
            candidates.iter().any(|one| value(one) >= Some(least))
        };
        let may_pay = model == "rgb-f32" && report["backend"] == "ort";
        assert_eq!(has("max_batch_size", 2), may_pay, "{model}: {report}");
        // tract's runs have one thread.
        assert!(
            report["backend"] == "ort" || !has("threads", 2),
            "{model}: {report}"
        );
    }
}

/// A store in which what is written is so bad that anything else is clearly better: batches that wait to fill.
fn slow_store(rest: &str) -> TestStore {
    let store = TestStore::tiny(&["rgb-f32"]);
    let given = manifest(&store, "rgb-f32/model.toml");
    assert!(!given.contains("[serving]"), "{given}");
    store.write(
        "rgb-f32/model.toml",
        format!(
            "# by hand\n{given}\n{rest}[serving] # this machine\nmax_queue_delay_ms = 300\n# many\nmax_batch_size = 64 # more\n"
        ),
    );
    store
}

#[test]
fn what_is_clearly_better_replaces_what_is_written_and_nothing_else() {
    let store = slow_store("");
    let before = manifest(&store, "rgb-f32/model.toml");
    let report = report(&tune(
        &store,
        &["rgb-f32", "--json", "--write", "--goal", "latency"],
    ));
    let origin = |candidate: &Value| candidate["origin"] == "written";
    let candidates = report["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.iter().filter(|one| origin(one)).count(), 1);
    assert_eq!(report["best"]["latency"]["within_noise"], false, "{report}");
    assert_eq!(report["written"], true, "{report}");
    let after = manifest(&store, "rgb-f32/model.toml");
    assert_ne!(before, after);
    let parsed: toml::Table = toml::from_str(&after).expect("TOML");
    let keys = ["instances", "threads", "max_batch_size"];
    for key in keys {
        let written = parsed["serving"].get(key).and_then(toml::Value::as_integer);
        assert_eq!(
            written,
            report["recommended"][key].as_i64(),
            "{key} in\n{after}"
        );
    }
    // Line by line, everything but the three keys is as it was, comments with it.
    let rest = |text: &str| {
        let own = |line: &&str| !keys.iter().any(|key| line.starts_with(key));
        let mut lines: Vec<String> = text.lines().filter(own).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(rest(&after), rest(&before));
    assert!(
        !files(&store, "rgb-f32")
            .iter()
            .any(|name| name.starts_with('.'))
    );
    let seen = lensgate(store.path(), &["models", "check", "--model", "rgb-f32"]);
    assert!(seen.status.success(), "{}", text(&seen.stdout));
}

#[test]
fn a_versions_own_manifest_is_left_alone_and_named() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let own = "[serving]\nmax_queue_delay_ms = 300\nmax_batch_size = 64\n";
    store.write("rgb-f32/1/model.toml", own);
    let seen = tune(&store, &["rgb-f32", "--write", "--goal", "latency"]);
    let table = text(&seen.stdout);
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    assert!(
        table.contains("version 1's own model.toml sets max_batch_size"),
        "{table}"
    );
    assert_eq!(manifest(&store, "rgb-f32/1/model.toml"), own);
    let seen = lensgate(store.path(), &["models", "check", "--model", "rgb-f32"]);
    assert!(seen.status.success(), "{}", text(&seen.stdout));
}

#[test]
fn failures_are_told_from_wrong_usage_and_say_why() {
    let store = TestStore::tiny(&["rgb-f32"]).with(&data("broken/truncated"), "cut");
    let no_picture = data("empty.toml");
    let no_picture = no_picture.to_str().expect("a path");
    for (arguments, code, word) in [
        (&["nothing"][..], 1, "there is no model nothing"),
        (&["cut"], 1, "no version of model cut"),
        (&["rgb-f32", "--version", "7"], 1, "no such version"),
        (&["rgb-f32", "--picture", "/no/such.png"], 1, "/no/such.png"),
        (
            &["rgb-f32", "--picture", no_picture],
            1,
            "cannot be classified",
        ),
        (&[], 2, "<ID>"),
        (&["No Model"], 2, "ID"),
        (&["rgb-f32", "--goal", "fame"], 2, "latency"),
        (&["rgb-f32", "--seconds", "0"], 2, "0.01"),
        (&["rgb-f32", "--seconds", "soon"], 2, "number"),
    ] {
        let seen = lensgate(store.path(), &[&["models", "tune"], arguments].concat());
        let said = text(&seen.stderr);
        assert_eq!(seen.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn a_given_picture_is_what_is_measured() {
    let store = TestStore::tiny(&["gray-f32"]);
    let picture = data("images/green.png");
    let picture = picture.to_str().expect("a path");
    let report = report(&tune(&store, &["gray-f32", "--json", "--picture", picture]));
    assert_eq!(report["picture"], picture);
}
