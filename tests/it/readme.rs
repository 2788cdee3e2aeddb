//! The walk through the admin plane that the README shows: it runs as it stands there, but for the addresses.

use std::process::Command;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{ADMIN_TOKEN, API_KEY};
use crate::fixture::root;
use crate::fixture::served::Served;
use crate::fixture::store::TestStore;

/// The shell block of the README that begins with this line.
fn block(first: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let blocks = readme.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let found = blocks.find(|block| block.starts_with(first));
    found
        .unwrap_or_else(|| panic!("the README has no block that begins with {first}"))
        .to_owned()
}

async fn walk(database: TestDatabase) {
    let store = TestStore::digits();
    let served = Served::start(&[
        (
            "LENSGATE__MODEL_STORE__URL",
            store.path().to_str().expect("a path"),
        ),
        ("LENSGATE__STORE__URL", &database.url),
    ]);
    served.ready(&crate::fixture::gateway::client()).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(
        root().join("model-store"),
        folder.path().join("model-store"),
    )
    .expect("a link");
    let script = block("A=http://127.0.0.1:8081")
        .replace("http://127.0.0.1:8081", &served.admin_base)
        .replace("http://127.0.0.1:8080", &served.base)
        .replace("target/release/lensgate", env!("CARGO_BIN_EXE_lensgate"));
    let output = Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", &script])
        .env("ADMIN", ADMIN_TOKEN)
        .env("KEY", API_KEY)
        .current_dir(folder.path())
        .output()
        .expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{complained}");
    let lines: Vec<&str> = said.lines().collect();
    let at = |line: &str| lines.iter().filter(|said| said.trim() == line).count();
    let codes = lines
        .iter()
        .find(|line| line.starts_with("200 "))
        .expect("status codes");
    assert!(codes.contains("200 429"), "{codes}");
    assert_eq!(
        (at("7"), at("True"), at("invalid_credentials")),
        (2, 1, 1),
        "{said}"
    );
    assert!(
        said.contains("key.revoke") && said.contains("key.rotate"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_runs_on_sqlite() {
    walk(TestDatabase::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_runs_on_postgres() {
    walk(TestDatabase::postgres().await).await;
}
