//! What is broken or hostile arrives while the gateway serves: it fails with its reason, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::{TestStore, noted};
use crate::fixture::{data, read, root};

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

/// Asks for a seven until `done`; every answer must be right. Gives their number.
async fn keep_asking(gateway: &TestGateway, done: impl Future<Output = ()>) -> usize {
    let mut done = std::pin::pin!(done);
    let mut answers = 0;
    loop {
        let ask = gateway.raw("/v1/models/digits/classify", "image/png", seven());
        tokio::select! {
            () = &mut done => return answers,
            answer = ask => {
                assert_eq!(answer.assert_ok()["class"], "7");
                answers += 1;
            }
        }
    }
}

/// The only version of a model.
fn only(view: &Value) -> &Value {
    &view["versions"][0]
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_broken_models_arrive_and_the_good_one_does_not_notice() {
    let store = TestStore::digits();
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway.ready().await;
    let broken: Vec<String> = std::fs::read_dir(data("broken"))
        .expect("a folder")
        .filter_map(|entry| Some(entry.expect("an entry").file_name().to_str()?.to_owned()))
        .filter(|name| name != "outside.bin")
        .collect();
    let arriving = async {
        let mut copies = Vec::new();
        for name in &broken {
            store.add(&data(&format!("broken/{name}")), name);
            copies.push(name.clone());
        }
        // Also a folder where the file should be, and one without any file.
        std::fs::create_dir_all(store.path().join("folder/1/model.onnx")).expect("folders");
        std::fs::create_dir_all(store.path().join("nothing/1")).expect("folders");
        copies.extend(["folder".to_owned(), "nothing".to_owned()]);
        for name in &copies {
            let view = gateway
                .until(name, |view| only(view)["state"] == "failed")
                .await;
            assert!(
                only(&view)["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
                "{view}"
            );
        }
        copies.len()
    };
    let mut count = 0;
    let answers = keep_asking(&gateway, async { count = arriving.await }).await;
    println!("{count} broken models, {answers} good answers meanwhile");
    assert!(count >= 20 && answers > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_hangs_or_swells_does_so_in_the_child_alone() {
    let store = TestStore::digits();
    let settings = [
        "model_store.trial_timeout=3s",
        "model_store.trial_max_bytes=1500000000",
    ];
    let gateway = TestGateway::start_with_trials(store.path(), &settings).await;
    gateway.ready().await;
    let began = Instant::now();
    for name in ["endless", "crashing", "swelling"] {
        store.add(&data(&format!("hostile/{name}")), name);
    }
    // Two more of the endless kind, so that every loading thread has one.
    for name in ["endless-2", "endless-3"] {
        store.add(&data("hostile/endless"), name);
    }
    store.add(&data("models/rgb-f32"), "good");
    let answers = keep_asking(&gateway, async {
        gateway
            .until("good", |view| only(view)["state"] == "live")
            .await;
    });
    let answers = answers.await;
    println!(
        "a good model among hostile ones: live after {:?}, {answers} answers",
        began.elapsed()
    );
    for (name, words) in [
        ("endless", "longer than"),
        ("crashing", "crashed"),
        ("swelling", "memory"),
    ] {
        let view = gateway
            .until(name, |view| only(view)["state"] == "failed")
            .await;
        let reason = only(&view)["reason"].as_str().expect("a reason");
        println!("{name}: {reason}");
        assert!(reason.contains(words), "{name}: {reason}");
    }
    let answer = gateway
        .raw("/v1/models/digits/classify", "image/png", seven())
        .await;
    assert_eq!(answer.assert_ok()["class"], "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_replacement_leaves_the_old_one_in_force() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start_with_trials(store.path(), &[]).await;
    gateway.ready().await;
    let whole = read(store.path().join("rgb-f32/1/model.onnx"));
    let hostile = read(data("hostile/crashing/1/model.onnx"));
    store.place("rgb-f32/1/model.onnx", &hostile);
    let view = gateway
        .until("rgb-f32", |view| only(view)["pending"]["state"] == "failed")
        .await;
    assert_eq!(only(&view)["state"], "live");
    assert!(
        only(&view)["pending"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("crashed")),
        "{view}"
    );
    let red = read(data("images/red.png"));
    let answer = gateway
        .raw("/v1/models/rgb-f32/classify", "image/png", red)
        .await;
    assert_eq!(answer.assert_ok()["class"], "red");
    let mended = noted(&whole, 1);
    store.place("rgb-f32/1/model.onnx", &mended);
    gateway
        .until("rgb-f32", |view| {
            only(view).get("pending").is_none()
                && only(view)["digest"] == crate::fixture::store::digest(&mended)
        })
        .await;
}

#[tokio::test]
async fn a_failed_load_is_tried_again() {
    // The program that tries it is not there at first.
    let store = TestStore::tiny(&["rgb-f32"]);
    let program = store.path().join("lensgate");
    let gateway = TestGateway::start_with_program(store.path(), &[], &program).await;
    let view = gateway
        .until("rgb-f32", |view| only(view)["state"] == "failed")
        .await;
    assert!(
        only(&view)["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("cannot be started")),
        "{view}"
    );
    std::fs::copy(env!("CARGO_BIN_EXE_lensgate"), &program).expect("a copy");
    let waiting = Instant::now();
    gateway
        .until("rgb-f32", |view| only(view)["state"] == "live")
        .await;
    assert!(waiting.elapsed() < Duration::from_secs(50));
}

/// What a plain `cp` over the files does first: it makes them empty, while their version serves.
#[tokio::test]
async fn files_overwritten_in_place_do_not_change_what_serves() {
    for backend in ["ort", "tract"] {
        let store = TestStore::tiny(&["rgb-external"]);
        let manifest = read(store.path().join("rgb-external/model.toml"));
        let manifest = String::from_utf8(manifest).expect("text");
        let manifest = format!("{manifest}\n[serving]\nbackend = \"{backend}\"\n");
        store.write("rgb-external/model.toml", manifest);
        let settings = ["cache.max_bytes=0"];
        let gateway = TestGateway::start(store.path(), &settings).await;
        let red = read(data("images/red.png"));
        let ask = async || {
            let route = "/v1/models/rgb-external/classify";
            let answer = gateway.raw(route, "image/png", red.clone()).await;
            answer.assert_ok()["confidence"].clone()
        };
        let before = ask().await;
        for file in ["weights.bin", "model.onnx"] {
            std::fs::File::create(store.path().join("rgb-external/1").join(file)).expect("emptied");
            assert_eq!(ask().await, before, "{backend}");
        }
        let view = gateway.until("rgb-external", |view| {
            only(view)["pending"]["state"] == "waiting"
        });
        assert_eq!(only(&view.await)["backend"], backend);
        assert_eq!(ask().await, before, "{backend}");
    }
}
