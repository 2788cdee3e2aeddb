//! The error table: every refusal is a problem document, whoever refuses.

use reqwest::Method;
use reqwest::header::{ALLOW, CONTENT_TYPE};
use serde_json::json;

use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

const ROUTE: &str = "/v1/models/digits/classify";

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

#[tokio::test]
async fn unknown_things_and_wrong_methods() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for path in [
        "/",
        "/nothing",
        "/v1",
        "/v1/models/digits/nothing",
        "/v1/models/digits/",
        "/admin/v1/status",
    ] {
        gateway.get(path).await.assert_problem(404, "not_found");
    }
    for model in ["nothing", "Digits", "%2e%2e%2fdigits", "a%00b", "-a"] {
        let path = format!("/v1/models/{model}/classify");
        let answer = gateway.raw(&path, "image/png", seven()).await;
        assert_eq!(answer.status.as_u16(), 404, "{model}: {answer:?}");
        assert!(["model_not_found", "not_found"].contains(&answer.body["code"].as_str().unwrap()));
    }
    gateway
        .get("/v1/models/nothing")
        .await
        .assert_problem(404, "model_not_found");
    for (method, path, allow) in [
        (Method::GET, ROUTE, "POST"),
        (Method::DELETE, "/v1/models", "GET, HEAD"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::PUT, "/docs", "GET, HEAD"),
    ] {
        let request = gateway
            .client
            .request(method, format!("{}{path}", gateway.base));
        let answer = gateway.send(request).await;
        answer.assert_problem(405, "method_not_allowed");
        assert_eq!(answer.header(ALLOW.as_str()), allow, "{path}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let form = "multipart/form-data; boundary=x";
    let part = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    for (content_type, body, status, code) in [
        ("image/png", "", 400, "missing_image"),
        ("image/png", "hello", 415, "unsupported_media_type"),
        ("text/plain", "hello", 415, "unsupported_media_type"),
        (
            "application/x-www-form-urlencoded",
            "file=1",
            415,
            "unsupported_media_type",
        ),
        ("application/json", "", 400, "bad_request"),
        ("application/json", "{", 400, "bad_request"),
        ("application/json", "[]", 400, "bad_request"),
        ("application/json", "{}", 400, "missing_image"),
        ("application/json", r#"{"image": 7}"#, 400, "bad_request"),
        ("application/json", r#"{"image": ""}"#, 400, "missing_image"),
        ("application/json", r#"{"image": "?"}"#, 400, "bad_request"),
        (
            "application/json",
            r#"{"image": "aGVsbG8="}"#,
            415,
            "unsupported_media_type",
        ),
        (
            "application/json",
            r#"{"images": ["aGVsbG8=", "aGVsbG8="]}"#,
            400,
            "bad_request",
        ),
        (
            "application/json",
            r#"{"image": "aGVsbG8=", "more": 1}"#,
            400,
            "bad_request",
        ),
        ("multipart/form-data", "", 400, "bad_request"),
        (form, "", 400, "bad_request"),
        (form, "no boundary at all", 400, "bad_request"),
        (form, part, 400, "bad_request"),
        (form, &format!("{part}hello"), 400, "bad_request"),
        (
            form,
            &format!("{part}hello\r\n--x--\r\n"),
            415,
            "unsupported_media_type",
        ),
        (form, &format!("{part}\r\n--x--\r\n"), 400, "missing_image"),
        (form, "--x--\r\n", 400, "missing_image"),
        (
            form,
            &format!("{part}a\r\n{part}b\r\n--x--\r\n"),
            400,
            "bad_request",
        ),
    ] {
        let answer = gateway.raw(ROUTE, content_type, body.into()).await;
        println!("{content_type} {body:?}");
        answer.assert_problem(status, code);
    }
    let untyped = gateway.send(gateway.post(ROUTE).body(seven())).await;
    assert_eq!(
        untyped.assert_ok()["class"],
        "7",
        "without a type the bytes tell"
    );
}

#[tokio::test]
async fn without_a_default_model_one_must_be_named() {
    let store = TestStore::digits().with(&crate::fixture::data("models/rgb-f32"), "rgb");
    let gateway = TestGateway::start(store.path(), &[]).await;
    gateway
        .raw("/v1/classify", "image/png", seven())
        .await
        .assert_problem(404, "model_not_found");
    drop(gateway);
    let gateway = TestGateway::start(store.path(), &["default_model=digits"]).await;
    assert_eq!(
        gateway
            .raw("/v1/classify", "image/png", seven())
            .await
            .assert_ok()["model"],
        "digits"
    );
}

#[tokio::test]
async fn a_model_without_a_live_version_is_unavailable() {
    let store = TestStore::digits();
    store.write("digits/1/model.onnx", "broken");
    store.write("digits/2/model.onnx", "broken");
    let gateway = TestGateway::start(store.path(), &[]).await;
    for path in [
        ROUTE,
        "/v1/models/digits/versions/1/classify",
        "/v1/classify",
    ] {
        let answer = gateway.raw(path, "image/png", seven()).await;
        answer.assert_problem(503, "model_unavailable");
        assert!(
            answer
                .header("retry-after")
                .parse::<u32>()
                .is_ok_and(|seconds| seconds > 0)
        );
    }
}

/// `digits` with these settings of its own.
pub(crate) fn digits_with(serving: &str) -> TestStore {
    let store = TestStore::digits();
    let manifest = store.path().join("digits/model.toml");
    let text = std::fs::read_to_string(manifest).expect("a manifest");
    store.write(
        "digits/model.toml",
        format!("{text}\n[serving]\n{serving}\n"),
    );
    store
}

#[tokio::test]
async fn a_request_that_cannot_be_done_in_time_is_told_so() {
    let store = digits_with("timeout_ms = 1");
    let gateway = TestGateway::start(store.path(), &[]).await;
    // A picture that takes far longer than a millisecond to decode.
    let answer = gateway.raw(ROUTE, "image/png", noise_png(4000, 2500)).await;
    answer.assert_problem(504, "deadline_exceeded");
    gateway.get("/health/ready").await.assert_ok();
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_the_rest_is_answered() {
    let store = digits_with("max_queue = 3");
    // The same picture comes again and again: each is to be a run.
    let gateway = TestGateway::start(store.path(), &["cache.max_bytes=0"]).await;
    let large = noise_png(4000, 2500);
    let crowd: Vec<Answer> = futures_util::future::join_all(
        (0..24).map(|_| gateway.raw(ROUTE, "image/png", large.clone())),
    )
    .await;
    let (mut answered, mut refused) = (0, 0);
    for answer in &crowd {
        if answer.status.as_u16() == 200 {
            answered += 1;
        } else {
            answer.assert_problem(503, "overloaded");
            assert!(!answer.header("retry-after").is_empty());
            refused += 1;
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(
        answered >= 4 && refused > 0,
        "three wait and at least one runs, twenty-four came"
    );
    assert_eq!(
        gateway.raw(ROUTE, "image/png", seven()).await.assert_ok()["class"],
        "7"
    );
}

#[tokio::test]
async fn a_stopping_gateway_says_so_and_finishes_what_runs() {
    let store = TestStore::digits();
    let mut gateway = TestGateway::start(store.path(), &["server.drain_delay=2500ms"]).await;
    assert_eq!(
        gateway.raw(ROUTE, "image/png", seven()).await.assert_ok()["class"],
        "7"
    );
    gateway.stop();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    gateway
        .get("/health/ready")
        .await
        .assert_problem(503, "draining");
    gateway.get("/health/live").await.assert_ok();
    assert_eq!(
        gateway.raw(ROUTE, "image/png", seven()).await.assert_ok()["class"],
        "7",
        "still serving"
    );
    gateway.join();
    assert!(
        gateway
            .client
            .get(format!("{}/health", gateway.base))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn pictures_over_a_limit() {
    let store = TestStore::digits();
    let settings = [
        "limits.max_image_bytes=1000",
        "limits.max_image_pixels=4096",
    ];
    let gateway = TestGateway::start(store.path(), &settings).await;
    assert!(seven().len() < 1000, "the sample is within both limits");
    gateway.raw(ROUTE, "image/png", seven()).await.assert_ok();
    let encode = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let heavy = vec![7; 1001];
    gateway
        .raw(ROUTE, "image/png", heavy.clone())
        .await
        .assert_problem(413, "payload_too_large");
    gateway
        .form(ROUTE, heavy.clone())
        .await
        .assert_problem(413, "payload_too_large");
    let body = json!({"image": encode(&heavy)});
    gateway
        .json(ROUTE, &body)
        .await
        .assert_problem(413, "payload_too_large");
    let wide = noise_png(65, 64);
    let tight = TestGateway::start(store.path(), &["limits.max_image_pixels=4159"]).await;
    let detail = tight.raw(ROUTE, "image/png", wide.clone()).await;
    let detail = detail.assert_problem(422, "image_too_large");
    assert!(detail.contains("65") && detail.contains("4159"), "{detail}");
    let exact = TestGateway::start(store.path(), &["limits.max_image_pixels=4160"]).await;
    exact.raw(ROUTE, "image/png", wide).await.assert_ok();
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let mut ids = Vec::new();
    for path in [
        "/health",
        "/nothing",
        "/docs",
        "/openapi.json",
        "/v1/models",
    ] {
        let answer = gateway.get(path).await;
        let id = uuid::Uuid::parse_str(answer.header("x-request-id")).expect("an id");
        assert_eq!(id.get_version_num(), 7, "{path}");
        ids.push(id);
    }
    let request = gateway
        .post(ROUTE)
        .header(CONTENT_TYPE, "image/png")
        .body(seven());
    ids.push(
        gateway
            .send(request)
            .await
            .header("x-request-id")
            .parse()
            .expect("an id"),
    );
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn a_picture_within_the_pixel_limit_runs_alone_when_it_needs_all_the_memory() {
    let store = TestStore::digits();
    let settings = [
        "limits.max_image_bytes=9000000",
        "limits.max_inflight_bytes=12000000",
        "cache.max_bytes=0",
    ];
    let gateway = TestGateway::start(store.path(), &settings).await;
    let large = noise_png(4000, 2500);
    for _ in 0..3 {
        gateway
            .raw(ROUTE, "image/png", large.clone())
            .await
            .assert_ok();
    }
}

#[tokio::test]
async fn heads_that_are_no_request_of_ours() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let zipped = gateway
        .post(ROUTE)
        .header(CONTENT_TYPE, "image/png")
        .header("content-encoding", "gzip")
        .body(seven());
    gateway
        .send(zipped)
        .await
        .assert_problem(415, "unsupported_media_type");
    let long = format!("/v1/models/{}/classify", "a".repeat(20_000));
    let answer = gateway.raw(&long, "image/png", seven()).await;
    let detail = answer.assert_problem(404, "model_not_found");
    assert!(
        detail.chars().count() <= 501,
        "a detail quotes no more than people read"
    );
}

/// A gray PNG that does not compress, stored without compression by hand.
pub(crate) fn noise_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::Fast);
    let mut state = 1_u32;
    let pixels: Vec<u8> = (0..width * height)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 3
        })
        .collect();
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&pixels).expect("pixels");
    writer.finish().expect("an end");
    bytes
}
