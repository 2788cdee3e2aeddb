//! Versions are swapped, added and removed under load: no request fails, and each answer is of a version that was live.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::gateway::TestGateway;
use crate::fixture::served::Served;
use crate::fixture::store::{TestStore, digest, noted};
use crate::fixture::{data, fixtures, read, real};

const CALLERS: usize = 8;
const SWAPS: u32 = 100;
const ADDITIONS: u32 = 20;
const REQUESTS: usize = 10_000;

/// When a content could serve: from the moment it lay there, to the moment another was seen in its place.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

/// One answer: when it was asked for, when it came, and whose it was.
struct Answered {
    from: Instant,
    to: Instant,
    digest: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_see_every_swap_and_no_failure() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let graph = read(data("models/rgb-f32/1/model.onnx"));
    let settings = ["model_store.quiet_ms=20", "cache.max_bytes=0"];
    let gateway = TestGateway::start(store.path(), &settings).await;
    let began = Instant::now();
    let spans = Mutex::new(BTreeMap::from([(
        digest(&graph),
        Span {
            from: began,
            to: None,
        },
    )]));
    let swapped = AtomicBool::new(false);
    let red = read(data("images/red.png"));
    let ask = async || {
        let mut answered = Vec::new();
        while !swapped.load(Ordering::Acquire) || answered.len() < REQUESTS / CALLERS {
            let from = Instant::now();
            let answer = gateway
                .raw("/v1/models/rgb-f32/classify", "image/png", red.clone())
                .await;
            let body = answer.assert_ok();
            assert_eq!(body["class"], "red");
            let digest = body["digest"].as_str().expect("a digest").to_owned();
            answered.push(Answered {
                from,
                to: Instant::now(),
                digest,
            });
        }
        answered
    };
    let change = async {
        swap(&gateway, &store, &graph, &spans).await;
        swapped.store(true, Ordering::Release);
    };
    let callers = futures_util::future::join_all((0..CALLERS).map(|_| ask()));
    let (answered, ()) = futures_util::future::join(callers, change).await;
    let answered: Vec<Answered> = answered.into_iter().flatten().collect();
    let spans = spans.into_inner().expect("unlocked");
    let mut seen = std::collections::BTreeSet::new();
    for Answered { from, to, digest } in &answered {
        let span = spans
            .get(digest)
            .unwrap_or_else(|| panic!("{digest} was never there"));
        assert!(span.from <= *to, "{digest} answered before it was there");
        assert!(
            span.to.is_none_or(|gone| gone >= *from),
            "{digest} answered after it was replaced"
        );
        seen.insert(digest);
    }
    println!(
        "{} answers of {} digests in {:?}",
        answered.len(),
        seen.len(),
        began.elapsed()
    );
    assert!(answered.len() >= REQUESTS);
    // Nearly every content serves long enough to be met.
    assert!(seen.len() > usize::try_from(SWAPS / 2).expect("a count"));
}

/// A hundred swaps of version 1, and twenty versions that come and go above it.
async fn swap(
    gateway: &TestGateway,
    store: &TestStore,
    graph: &[u8],
    spans: &Mutex<BTreeMap<String, Span>>,
) {
    let begin = |content: &[u8]| {
        let span = Span {
            from: Instant::now(),
            to: None,
        };
        spans
            .lock()
            .expect("unlocked")
            .insert(digest(content), span);
    };
    let end = |content: &[u8]| {
        if let Some(span) = spans.lock().expect("unlocked").get_mut(&digest(content)) {
            span.to = Some(Instant::now());
        }
    };
    let serves = |view: &Value, number: u32, content: &[u8]| {
        let versions = view["versions"].as_array().expect("versions");
        versions.iter().any(|v| {
            v["version"] == number && v["state"] == "live" && v["digest"] == digest(content)
        })
    };
    let mut current = graph.to_vec();
    for turn in 1..=SWAPS {
        let next = noted(graph, turn);
        begin(&next);
        store.place("rgb-f32/1/model.onnx", &next);
        gateway
            .until("rgb-f32", |view| serves(view, 1, &next))
            .await;
        end(&current);
        current = next;
        if turn % (SWAPS / ADDITIONS) == 0 {
            let number = 1 + turn / (SWAPS / ADDITIONS);
            let added = noted(graph, 1000 + turn);
            begin(&added);
            store.place_version("rgb-f32", u64::from(number), &added);
            gateway
                .until("rgb-f32", |view| serves(view, number, &added))
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::fs::remove_dir_all(store.path().join(format!("rgb-f32/{number}")))
                .expect("removed");
            gateway
                .until("rgb-f32", |view| {
                    view["versions"]
                        .as_array()
                        .is_some_and(|list| list.len() == 1)
                })
                .await;
            end(&added);
        }
    }
}

/// The measure is the process's own resident memory, so the process is a real one.
#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_every_swap() {
    let Some(fixtures) = fixtures() else {
        return;
    };
    let store = real::store(&fixtures, &["mobilenetv2"], "ort");
    let graph = read(store.path().join("mobilenetv2/1/model.onnx"));
    let contents = [noted(&graph, 0), noted(&graph, 1)];
    let served = Served::start(&[
        (
            "LENSGATE__MODEL_STORE__URL",
            store.path().to_str().expect("a path"),
        ),
        ("LENSGATE__MODEL_STORE__QUIET_MS", "20"),
    ]);
    let client = crate::fixture::gateway::client();
    served.ready(&client).await;
    let photo = read(fixtures.join("images/cat_meow.jpg"));
    let mut resident = Vec::new();
    for turn in 1..=SWAPS {
        let content = &contents[usize::try_from(turn % 2).expect("a bit")];
        store.place("mobilenetv2/1/model.onnx", content);
        let deadline = Instant::now() + Duration::from_mins(1);
        while served.model(&client, "mobilenetv2").await["versions"][0]["digest"] != digest(content)
        {
            assert!(Instant::now() < deadline, "{}", served.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        served
            .classify(&client, "mobilenetv2", photo.clone())
            .await
            .assert_ok();
        let ended = |log: &str| {
            log.matches("version ended").count() >= usize::try_from(turn).expect("a count")
        };
        while !ended(&served.log()) {
            assert!(Instant::now() < deadline, "{}", served.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        resident.push(served.resident());
        if turn % 10 == 0 || turn == 5 {
            println!("{turn} swaps: {} MiB", resident.last().expect("one") >> 10);
        }
    }
    let after_five = *resident[..5].iter().max().expect("five");
    let after_all = *resident[95..].iter().max().expect("five");
    assert!(
        after_all * 100 <= after_five * 115,
        "{after_five} KiB after 5 swaps, {after_all} KiB after {SWAPS}"
    );
}
