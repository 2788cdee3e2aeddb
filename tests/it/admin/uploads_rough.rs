//! Uploads to the real program when things are rough: large ones, a kill in the middle, a full disk, a read-only store.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, RequestBuilder};

use super::uploads::graph;
use crate::fixture::gateway::{self, ADMIN_TOKEN, Answer};
use crate::fixture::served::Served;
use crate::fixture::store::{TestStore, noted, tree};
use crate::fixture::{data, read, root};

const BINARY: &str = env!("CARGO_BIN_EXE_lensgate");

fn put(served: &Served, client: &Client, version: u64, query: &str) -> RequestBuilder {
    let base = &served.admin_base;
    let url = format!("{base}/admin/v1/models/rgb-f32/versions/{version}{query}");
    client.put(url).bearer_auth(ADMIN_TOKEN)
}

async fn send(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.expect("an answer")).await
}

/// A form with a file beside the model, of so many bytes, that is made while it is sent.
fn with_a_large_file(bytes: u64) -> Form {
    const PIECE: u64 = 1 << 20;
    let piece = Bytes::from(vec![7; 1 << 20]);
    let pieces = futures_util::stream::iter(0..bytes / PIECE);
    let pieces = pieces.map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    let large = Part::stream_with_length(Body::wrap_stream(pieces), bytes / PIECE * PIECE);
    Form::new()
        .part("file", large.file_name("large.bin"))
        .part("model", Part::bytes(graph()))
}

fn start(store: &TestStore, variables: &[(&str, &str)]) -> Served {
    let url = store.path().to_string_lossy().into_owned();
    let own = [
        ("LENSGATE__MODEL_STORE__URL", &*url),
        ("LENSGATE__MODEL_STORE__QUIET_MS", "50"),
    ];
    let variables: Vec<_> = own.into_iter().chain(variables.iter().copied()).collect();
    Served::start(&variables)
}

async fn red_is_red(served: &Served, client: &Client) {
    let answer = served
        .classify(client, "rgb-f32", read(data("images/red.png")))
        .await;
    assert_eq!(answer.assert_ok()["class"], "red");
}

/// Half a gigabyte costs a few pieces of it in memory, whatever becomes of it.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_gigabyte_is_never_whole_in_memory() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let served = start(&store, &[]);
    let client = gateway::client();
    served.ready(&client).await;
    // The same way once, so that what is made once is made.
    let small = put(&served, &client, 2, "?dry_run=true").multipart(with_a_large_file(4 << 20));
    send(small).await.assert_ok();
    served.forget_peak();
    let before = served.resident();
    let began = Instant::now();
    for query in ["?dry_run=true", ""] {
        let large = put(&served, &client, 2, query).multipart(with_a_large_file(500 << 20));
        let answer = send(large).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let grown = served.most_resident().saturating_sub(before);
    println!(
        "two uploads of 500 MiB: {grown} KiB more at the peak, {:?}",
        began.elapsed()
    );
    assert!(grown < 64 << 10, "{grown} KiB more");
    let placed = store.path().join("rgb-f32/2/large.bin");
    assert_eq!(placed.metadata().expect("it is there").len(), 500 << 20);
    assert!(!store.path().join(".uploads").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_nothing_after_the_next_start() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let before = tree(store.path());
    let mut served = start(&store, &[]);
    let client = gateway::client();
    served.ready(&client).await;
    let pieces = futures_util::stream::unfold(0_u32, |sent| async move {
        if sent > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some((
            Ok::<_, std::io::Error>(Bytes::from(vec![7; 1 << 18])),
            sent + 1,
        ))
    });
    let request = put(&served, &client, 2, "").body(Body::wrap_stream(pieces));
    let uploading = tokio::spawn(request.send());
    let staged = |tree: &[(String, Option<Vec<u8>>)]| {
        let large =
            |content: &Option<Vec<u8>>| content.as_ref().is_some_and(|bytes| bytes.len() > 1 << 20);
        tree.iter()
            .any(|(name, content)| name.ends_with("model.onnx") && large(content))
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !staged(&tree(store.path())) {
        assert!(Instant::now() < deadline, "nothing is staged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A neighbour's upload on the same folder goes on.
    let neighbour = lensgate::model_store::StoreEditor::new(
        lensgate::model_store::FolderStore::new(store.path().to_path_buf(), 1 << 20),
    );
    let (id, number) = (
        "rgb-f32".parse().expect("an id"),
        "7".parse().expect("a number"),
    );
    let theirs = neighbour.upload(&id, number).await.expect("begun");
    served.signal("KILL");
    served.end();
    assert!(uploading.await.expect("it ends").is_err());
    assert!(staged(&tree(store.path())), "a kill removes nothing");
    let served = start(&store, &[]);
    served.ready(&client).await;
    assert!(!staged(&tree(store.path())), "the start does");
    assert!(
        store.path().join(".uploads").exists(),
        "but not what a neighbour works on"
    );
    theirs.discard().await;
    assert_eq!(tree(store.path()), before);
    red_is_red(&served, &client).await;
    assert_eq!(
        send(put(&served, &client, 2, "").body(noted(&graph(), 1)))
            .await
            .status,
        201
    );
}

/// Files of more than 8 MiB cannot be written: to a program that is as a full disk, and needs no disk of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let url = store.path().to_string_lossy().into_owned();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\"",
        BINARY,
    ]);
    let served = Served::start_by(command, root(), &[("LENSGATE__MODEL_STORE__URL", &url)]);
    let client = gateway::client();
    served.ready(&client).await;
    let before = tree(store.path());
    for query in ["", "?dry_run=true"] {
        let large = put(&served, &client, 2, query).multipart(with_a_large_file(12 << 20));
        let answer = send(large).await;
        answer.assert_problem(507, "storage_full");
        assert_eq!(tree(store.path()), before);
    }
    red_is_red(&served, &client).await;
    // What fits is taken.
    let fits = put(&served, &client, 2, "").multipart(with_a_large_file(2 << 20));
    assert_eq!(send(fits).await.status, 201);
}

/// The real disk, where the system lets a small one be made; elsewhere it is said that this was not run.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_really_full_is_said_too() {
    let disk = tempfile::tempdir().expect("a folder");
    let mount = |arguments: &[&str]| {
        let done = Command::new("mount")
            .args(arguments)
            .arg(disk.path())
            .output();
        done.is_ok_and(|done| done.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"]) {
        println!(
            "a small disk: NOT RUN, the system mounts none; the file size limit stands in for it"
        );
        return;
    }
    let store = TestStore::tiny(&["rgb-f32"]);
    let copied = Command::new("cp")
        .arg("-r")
        .arg(store.path().join("rgb-f32"))
        .arg(disk.path())
        .status();
    assert!(copied.expect("cp").success());
    let url = disk.path().to_string_lossy().into_owned();
    let served = Served::start(&[("LENSGATE__MODEL_STORE__URL", &url)]);
    let client = gateway::client();
    served.ready(&client).await;
    let before = tree(disk.path());
    let large = put(&served, &client, 2, "").multipart(with_a_large_file(12 << 20));
    let answer = send(large).await;
    let after = tree(disk.path());
    drop(served);
    let gone = Command::new("umount").arg(disk.path()).status();
    assert!(gone.expect("umount").success());
    answer.assert_problem(507, "storage_full");
    assert_eq!(after, before);
}

/// Runs the program as somebody who may read the store and not write it: root may write everything.
fn as_somebody_else(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::getuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_store_serves_and_takes_no_upload() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let place = tempfile::tempdir().expect("a folder");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    let (program, config) = (place.path().join("lensgate"), place.path().join("data"));
    std::fs::copy(BINARY, &program).expect("a copy");
    std::fs::create_dir(&config).expect("a folder");
    mode(place.path(), 0o755);
    mode(&program, 0o755);
    mode(&config, 0o777);
    mode(store.path(), 0o555);
    mode(&store.path().join("rgb-f32"), 0o555);
    let url = store.path().to_string_lossy().into_owned();
    let database = format!("sqlite://{}/lensgate.db", config.display());
    let spool = format!("{}/spool", config.display());
    let variables = [
        ("LENSGATE__MODEL_STORE__URL", &*url),
        ("LENSGATE__STORE__URL", &*database),
        ("LENSGATE__PREDICTIONS__SPOOL", &*spool),
    ];
    let served = Served::start_by(as_somebody_else(&program), place.path(), &variables);
    let client = gateway::client();
    served.ready(&client).await;
    let before = tree(store.path());
    let answer = send(put(&served, &client, 2, "").body(graph())).await;
    let detail = answer.assert_problem(503, "store_unavailable");
    assert!(!detail.contains(&url), "{detail}");
    let admin = format!("{}/admin/v1/models", served.admin_base);
    for (request, code) in [
        (
            client.post(&admin).json(&serde_json::json!({"id": "new"})),
            "store_unavailable",
        ),
        (
            client.delete(format!("{admin}/rgb-f32/versions/1")),
            "store_unavailable",
        ),
    ] {
        send(request.bearer_auth(ADMIN_TOKEN))
            .await
            .assert_problem(503, code);
    }
    assert_eq!(tree(store.path()), before);
    red_is_red(&served, &client).await;
    drop(served);
    mode(store.path(), 0o755);
    mode(&store.path().join("rgb-f32"), 0o755);
}
