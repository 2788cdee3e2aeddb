//! A tenant that floods a model does not starve another: counted, not timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

/// Requests of the flood that wait at the same time.
const FLOOD: usize = 120;
/// Requests of the quiet tenant while the flood waits.
const ASKED: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_tenant_waits_for_a_few_of_a_flood_and_not_for_all() {
    let store = TestStore::digits();
    // Every picture costs a run, and each has to wait its turn.
    let settings = ["cache.max_bytes=0", "limits.max_queue_ms=60000"];
    let gateway = Arc::new(TestGateway::start(store.path(), &settings).await);
    let secret = async |name: &str| {
        let tenant = gateway.tenant(name).await;
        gateway
            .key(json!({"tenant_id": tenant, "name": name}))
            .await
            .1
    };
    let (loud, quiet) = (secret("loud").await, secret("quiet").await);
    let picture = large_picture();
    let done = Arc::new(AtomicUsize::new(0));
    let flood: Vec<_> = (0..FLOOD)
        .map(|_| {
            let (gateway, loud, picture) = (Arc::clone(&gateway), loud.clone(), picture.clone());
            let done = Arc::clone(&done);
            tokio::task::spawn(async move {
                let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
                let request = request
                    .header("x-api-key", loud)
                    .header("content-type", "image/png");
                let answer = gateway.send(request.body(picture)).await;
                done.fetch_add(1, Ordering::SeqCst);
                answer.status
            })
        })
        .collect();
    let since = Instant::now();
    while done.load(Ordering::SeqCst) < 4 {
        assert!(
            since.elapsed() < Duration::from_mins(1),
            "the flood does not begin"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut overtaken_by = Vec::new();
    for _ in 0..ASKED {
        let before = done.load(Ordering::SeqCst);
        let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
        let request = request
            .header("x-api-key", &quiet)
            .header("content-type", "image/png");
        let small = read(root().join("model-store/digits/samples/7_a.png"));
        gateway.send(request.body(small)).await.assert_ok();
        overtaken_by.push(done.load(Ordering::SeqCst) - before);
    }
    let left = FLOOD - done.load(Ordering::SeqCst);
    for status in futures_util::future::join_all(flood).await {
        assert_eq!(status.expect("an answer"), StatusCode::OK);
    }
    assert!(
        left > 0,
        "the flood was over before the quiet tenant was answered"
    );
    overtaken_by.sort_unstable();
    // Two run, and one more of the loud tenant's may have its turn; the rest is the machine's own disorder.
    let median = overtaken_by[ASKED / 2];
    assert!(
        median <= 8,
        "the quiet tenant waited for {overtaken_by:?} of {FLOOD}"
    );
}

/// A PNG whose decoding takes some milliseconds.
fn large_picture() -> Vec<u8> {
    let (side, mut bytes) = (1500_u32, Vec::new());
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("a header");
    let pixels: Vec<u8> = (0..side * side)
        .map(|at| u8::try_from((at.wrapping_mul(2_654_435_761) >> 24) & 0x3f).expect("small"))
        .collect();
    writer.write_image_data(&pixels).expect("pixels");
    writer.finish().expect("an end");
    bytes
}
