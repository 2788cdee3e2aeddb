//! The house rules: who may import whom, one door for each big dependency, a `//!` in each file, no drawers for odds and ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::fixture::root;

/// Room → rooms it may import. `app`, `cli`, `lifecycle` and `main` may import all and are imported by none below.
const MAY_IMPORT: [(&str, &[&str]); 16] = [
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("vision", &["domain", "config", "telemetry"]),
    ("backend", &["domain", "config", "telemetry"]),
    ("store", &["domain", "config", "telemetry"]),
    ("engine", &["domain", "backend", "config", "telemetry"]),
    ("model_store", &["domain", "config"]),
    (
        "models",
        &[
            "domain",
            "engine",
            "backend",
            "model_store",
            "store",
            "vision",
            "config",
            "telemetry",
        ],
    ),
    ("access", &["domain", "store", "config", "telemetry"]),
    ("predictions", &["domain", "store", "config", "telemetry"]),
    ("callbacks", &["domain", "store", "config", "telemetry"]),
    (
        "admin",
        &[
            "domain",
            "store",
            "models",
            "model_store",
            "access",
            "predictions",
            "callbacks",
            "config",
            "telemetry",
        ],
    ),
    (
        "classify",
        &[
            "domain",
            "vision",
            "models",
            "engine",
            "predictions",
            "config",
            "telemetry",
        ],
    ),
    (
        "jobs",
        &[
            "domain",
            "classify",
            "callbacks",
            "store",
            "config",
            "telemetry",
        ],
    ),
    (
        "api",
        &[
            "domain",
            "config",
            "telemetry",
            "access",
            "classify",
            "predictions",
            "admin",
            "models",
            "callbacks",
            "jobs",
        ],
    ),
];

/// Rooms on the roof.
const ROOF: [&str; 4] = ["app", "cli", "lifecycle", "main"];

/// Crate → the places that may name it.
const DOORS: [(&str, &[&str]); 31] = [
    ("poem", &["api/", "app.rs"]),
    ("poem_openapi", &["api/"]),
    ("hyper", &["api/listener"]),
    ("hyper_util", &["api/listener"]),
    ("ort", &["backend/ort"]),
    ("tract_onnx", &["backend/tract"]),
    ("turbojpeg", &["vision/jpeg"]),
    ("png", &["vision/"]),
    ("tiff", &["vision/"]),
    ("image_webp", &["vision/"]),
    ("arc_swap", &["models/catalog.rs", "config/live.rs"]),
    ("clap", &["cli/", "main.rs"]),
    ("notify", &["model_store/watcher.rs"]),
    ("moka", &["classify/cache.rs"]),
    ("indicatif", &["cli/"]),
    ("toml_edit", &["cli/tune/", "model_store/manifest.rs"]),
    // Its events are heard by the name that it gives them.
    ("sqlx", &["store/", "telemetry/trace/statements.rs"]),
    ("trait_gen", &["store/"]),
    ("governor", &["access/limiter.rs"]),
    ("dashmap", &["access/"]),
    (
        "reqwest",
        &[
            "cli/gateway.rs",
            "cli/health.rs",
            "cli/push.rs",
            "cli/rollout",
            "callbacks/delivery",
            "telemetry/otlp",
        ],
    ),
    ("hmac", &["callbacks/signature.rs"]),
    ("prometheus", &["telemetry/metrics/page.rs"]),
    ("opentelemetry", &["telemetry/trace/upkeep.rs"]),
    ("opentelemetry_sdk", &["telemetry/trace/upkeep.rs"]),
    ("tracing_opentelemetry", &["telemetry/trace/upkeep.rs"]),
    ("opentelemetry_proto", &["telemetry/"]),
    ("tonic", &["telemetry/otlp"]),
    ("prost", &["telemetry/otlp"]),
    (
        "object_store",
        &["predictions/archive", "model_store/remote/bucket.rs"],
    ),
    ("parquet", &["cli/predictions/columnar.rs"]),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&src)
                .expect("below src")
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect()
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().expect("a room")
}

/// The code before the file's own tests, without comments.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Words that stand where a path begins: `crate::x` gives x.
fn crate_paths(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            rooms.push(word);
        } else {
            rooms.push(rest.to_owned());
        }
    }
    let name = |text: &String| {
        text.trim()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    rooms
        .iter()
        .map(name)
        .filter(|room| !room.is_empty())
        .collect()
}

#[test]
fn calls_go_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let own = room(&file);
        if own == "lib" || ROOF.contains(&own) {
            continue;
        }
        let allowed = allowed
            .get(own)
            .unwrap_or_else(|| panic!("{file}: a room without a rule"));
        for other in crate_paths(&code(&text)) {
            if other != own && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{file} imports {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rule_sees_what_it_should() {
    assert_eq!(
        crate_paths("use crate::domain::ids;\n crate::{app, vision::x}"),
        ["domain", "app", "vision"]
    );
    assert_eq!(
        crate_paths("pub(crate) fn x() {} poem_crate::y"),
        [] as [&str; 0]
    );
}

#[test]
fn each_big_dependency_has_one_door() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let code = code(&text);
        for (dependency, doors) in DOORS {
            let named = code
                .match_indices(&format!("{dependency}::"))
                .any(|(at, _)| {
                    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                        || code[..at].ends_with(" ::")
                });
            // `crate::backend::ort::…` and a room's own module of the same name are no crate.
            let own_module = code.contains(&format!("mod {dependency};"));
            if named && !own_module && !doors.iter().any(|door| file.starts_with(door)) {
                wrong.push(format!("{file} names {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_raw_run_of_ort_and_the_allocator_are_unsafe() {
    for (file, text) in sources() {
        if !file.starts_with("backend/ort") && file != "backend/memory.rs" {
            assert!(!code(&text).contains("unsafe "), "{file} has unsafe code");
        }
    }
}

#[test]
fn vision_and_domain_know_no_async() {
    for (file, text) in sources() {
        if ["domain", "vision"].contains(&room(&file)) {
            let code = code(&text);
            assert!(
                !code.contains("tokio") && !code.contains("async fn"),
                "{file}"
            );
        }
    }
}

#[test]
fn every_file_says_what_lives_in_it() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{file} does not begin with //!");
    }
}

#[test]
fn there_is_no_drawer_for_odds_and_ends() {
    for (file, _) in sources() {
        for part in file.split(['/', '.']) {
            assert!(
                !["utils", "util", "common", "helpers", "misc"].contains(&part),
                "{file}"
            );
        }
    }
}
