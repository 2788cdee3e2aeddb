//! The result cache and a request's own deadline, over real HTTP: what is kept, what is not, and what the answer says of it.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use reqwest::header::CACHE_CONTROL;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::errors::{digits_with, noise_png};
use crate::fixture::gateway::{API_KEY, Answer, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

const ROUTE: &str = "/v1/models/digits/classify";
const BATCH: &str = "/v1/models/digits/batch-classify";
const MISS: &str = "lensgate; fwd=miss; stored";
const COLLAPSED: &str = "lensgate; fwd=miss; collapsed";

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

fn seven() -> Vec<u8> {
    sample("7_a.png")
}

/// The seven as another file: what follows a picture's end is ignored.
fn another(number: u32) -> Vec<u8> {
    [seven(), number.to_le_bytes().to_vec()].concat()
}

/// What the cache did, without the seconds of a hit.
fn status(answer: &Answer) -> &str {
    let text = answer.header("cache-status");
    text.split("; ttl=").next().expect("text")
}

async fn ask(gateway: &TestGateway, route: &str, picture: Vec<u8>) -> Answer {
    let answer = gateway.raw(route, "image/png", picture).await;
    answer.assert_ok();
    assert_eq!(
        answer.body["cached"],
        status(&answer) == "lensgate; hit",
        "{answer:?}"
    );
    answer
}

async fn ask_with(gateway: &TestGateway, name: &str, value: &str, picture: Vec<u8>) -> Answer {
    let request = gateway.post(ROUTE).header("content-type", "image/png");
    gateway
        .send(request.header(name, value).body(picture))
        .await
}

async fn batch(gateway: &TestGateway, pictures: impl IntoIterator<Item = Vec<u8>>) -> Answer {
    let form = pictures.into_iter().fold(Form::new(), |form, bytes| {
        form.part("files", Part::bytes(bytes).file_name("a"))
    });
    let answer = gateway.send(gateway.post(BATCH).multipart(form)).await;
    answer.assert_ok();
    answer
}

fn cached(batch: &Answer) -> Vec<&Value> {
    let results = batch.body["results"].as_array().expect("results");
    results.iter().map(|result| &result["cached"]).collect()
}

#[tokio::test]
async fn what_was_asked_before_is_answered_with_the_same_numbers() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let first = ask(&gateway, &format!("{ROUTE}?top_k=10"), seven()).await;
    assert_eq!(status(&first), MISS);
    let again = ask(&gateway, &format!("{ROUTE}?top_k=10"), seven()).await;
    let text = again.header("cache-status");
    let ttl = text.strip_prefix("lensgate; hit; ttl=").expect("a hit");
    assert!((3000..=3600).contains(&ttl.parse::<u32>().expect("seconds")));
    for key in [
        "class",
        "confidence",
        "classes",
        "digest",
        "version",
        "rollout",
    ] {
        assert_eq!(first.body[key], again.body[key], "{key}");
    }
    assert_ne!(first.body["request_id"], again.body["request_id"]);
    let timing = &again.body["timing_ms"];
    for step in ["decode", "queue", "inference"] {
        assert_eq!(timing[step], 0.0, "{timing}");
        assert!(first.body["timing_ms"]["decode"].as_f64() > Some(0.0));
    }
    assert!(timing["total"].as_f64() > Some(0.0), "{timing}");
    // The options are applied to what is kept: other ones are hits too.
    let two = ask(&gateway, &format!("{ROUTE}?top_k=2"), seven()).await;
    let all = first.body["classes"].as_array().expect("classes");
    assert_eq!(
        (status(&two), &two.body["classes"]),
        ("lensgate; hit", &json!(all[..2]))
    );
    let none = ask(&gateway, &format!("{ROUTE}?min_confidence=1"), seven()).await;
    assert_eq!(
        (status(&none), &none.body["classes"]),
        ("lensgate; hit", &json!([]))
    );
    // So is the picture in another form, and under another route to the same version.
    let form = gateway.form("/v1/classify", seven()).await;
    assert_eq!(form.assert_ok()["cached"], true);
    // What a hit may not answer it does not answer.
    gateway
        .raw(&format!("{ROUTE}?top_k=11"), "image/png", seven())
        .await
        .assert_problem(400, "bad_request");
}

#[tokio::test]
async fn versions_and_models_do_not_share() {
    let store = TestStore::digits().with(&data("models/rgb-f32"), "rgb");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let routes = [
        "/v1/models/digits/versions/1/classify",
        "/v1/models/digits/versions/2/classify",
        "/v1/models/rgb/classify",
    ];
    let mut numbers = Vec::new();
    for route in routes {
        let answer = ask(&gateway, route, seven()).await;
        assert_eq!(status(&answer), MISS, "{route}");
        numbers.push(answer.body["classes"].clone());
    }
    for (route, first) in routes.into_iter().zip(&numbers) {
        let answer = ask(&gateway, route, seven()).await;
        assert_eq!(status(&answer), "lensgate; hit", "{route}");
        assert_eq!(answer.body["classes"], *first, "{route}");
    }
    assert_ne!(numbers[0], numbers[1], "or nothing was tried");
}

#[tokio::test]
async fn a_request_may_decline_the_cache() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let cache_control = CACHE_CONTROL.as_str();
    let renew =
        async |picture| ask_with(&gateway, cache_control, "max-age=0, No-Cache", picture).await;
    let neither = async |picture| ask_with(&gateway, cache_control, "no-store", picture).await;

    let answer = neither(another(1)).await;
    assert_eq!(answer.assert_ok()["cached"], false);
    assert_eq!(status(&answer), "lensgate; fwd=request");
    let answer = ask(&gateway, ROUTE, another(1)).await;
    assert_eq!(status(&answer), MISS, "nothing was kept");
    for answer in [neither(another(1)).await, renew(another(1)).await] {
        assert_eq!(
            answer.assert_ok()["cached"],
            false,
            "it is kept, and not used"
        );
        assert!(answer.body["timing_ms"]["inference"].as_f64() > Some(0.0));
    }

    let answer = renew(another(2)).await;
    assert_eq!(answer.assert_ok()["cached"], false);
    assert_eq!(status(&answer), "lensgate; fwd=request; stored");
    let answer = ask(&gateway, ROUTE, another(2)).await;
    assert_eq!(
        status(&answer),
        "lensgate; hit",
        "the fresh result is kept for others"
    );
}

#[tokio::test]
async fn the_cache_can_be_turned_off_for_a_model_and_for_all() {
    let store = digits_with("cache = false");
    let gateway = TestGateway::start(store.path(), &[]).await;
    let all = TestStore::digits();
    let none = TestGateway::start(all.path(), &["cache.max_bytes=0"]).await;
    for gateway in [gateway, none] {
        for _ in 0..2 {
            let answer = ask(&gateway, ROUTE, seven()).await;
            assert_eq!(status(&answer), "lensgate; fwd=bypass");
        }
        let answer = batch(&gateway, [seven(), seven()]).await;
        assert_eq!(status(&answer), "lensgate; fwd=bypass");
        assert_eq!(cached(&answer), [false, false]);
    }
}

#[tokio::test]
async fn what_is_kept_is_bounded_in_bytes() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["cache.max_bytes=20000"]).await;
    let count = async || {
        let mut hits = 0;
        for chunk in (0..192).collect::<Vec<u32>>().chunks(32) {
            let answer = batch(&gateway, chunk.iter().map(|&number| another(number))).await;
            hits += cached(&answer)
                .into_iter()
                .filter(|&cached| *cached == true)
                .count();
        }
        hits
    };
    assert_eq!(count().await, 0);
    let hits = count().await;
    // An entry of ten scores is counted for more than 400 bytes.
    assert!(
        hits > 0 && hits < 50,
        "{hits} of 192 were kept in 20000 bytes"
    );
}

#[tokio::test]
async fn each_picture_of_a_batch_uses_the_cache_by_itself() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let answer = batch(&gateway, [another(1), another(2)]).await;
    assert_eq!(
        (status(&answer), cached(&answer)),
        (MISS, vec![&json!(false); 2])
    );
    let answer = batch(&gateway, [another(2), another(1)]).await;
    assert_eq!(status(&answer), "lensgate; hit");
    assert_eq!(cached(&answer), [true, true]);
    let answer = batch(&gateway, [another(1), another(3)]).await;
    assert_eq!(status(&answer), "", "no one word is true of both");
    assert_eq!(cached(&answer), [true, false]);
    let answer = batch(&gateway, [another(1), b"no picture".to_vec()]).await;
    assert_eq!(status(&answer), "");
    assert_eq!(cached(&answer), [&json!(true), &Value::Null]);
    let one = ask(&gateway, ROUTE, another(3)).await;
    assert_eq!(
        status(&one),
        "lensgate; hit",
        "what a batch kept serves all"
    );
}

#[tokio::test]
async fn a_refusal_is_not_kept() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["limits.max_image_pixels=4096"]).await;
    for _ in 0..2 {
        for (picture, http, code) in [
            (seven()[..100].to_vec(), 422, "undecodable_image"),
            (noise_png(65, 64), 422, "image_too_large"),
            (b"no picture".to_vec(), 415, "unsupported_media_type"),
        ] {
            let answer = gateway.raw(ROUTE, "image/png", picture).await;
            answer.assert_problem(http, code);
            assert_eq!(status(&answer), "");
        }
    }
}

/// A gateway whose one instance has work for a while, and that work: await it with what is to happen meanwhile.
async fn busy(store: &TestStore) -> (TestGateway, Vec<Vec<u8>>) {
    let gateway = TestGateway::start(store.path(), &[]).await;
    let slow = noise_png(4000, 2500);
    let work = (0..6_u8).map(|number| [&slow[..], &[number]].concat());
    (gateway, work.collect())
}

async fn work_off(gateway: &TestGateway, work: Vec<Vec<u8>>) {
    let calls = work
        .into_iter()
        .map(|picture| ask_with(gateway, CACHE_CONTROL.as_str(), "no-store", picture));
    for answer in futures_util::future::join_all(calls).await {
        answer.assert_ok();
    }
}

async fn after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test]
async fn equal_requests_at_the_same_time_are_one_run() {
    let store = digits_with("instances = 1");
    let (gateway, work) = busy(&store).await;
    let crowd = async {
        after(100).await;
        let crowd = (0..12).map(|_| ask(&gateway, ROUTE, seven()));
        futures_util::future::join_all(crowd).await
    };
    let (crowd, ()) = tokio::join!(crowd, work_off(&gateway, work));
    let count = |wanted| {
        crowd
            .iter()
            .filter(|answer| status(answer) == wanted)
            .count()
    };
    assert_eq!(count(MISS), 1, "one ran: {crowd:?}");
    assert!(count(COLLAPSED) > 0, "some waited for it: {crowd:?}");
    assert_eq!(1 + count(COLLAPSED) + count("lensgate; hit"), crowd.len());
    for answer in &crowd {
        assert_eq!(answer.body["classes"], crowd[0].body["classes"]);
        if status(answer) == COLLAPSED {
            let timing = &answer.body["timing_ms"];
            assert_eq!(
                (&timing["decode"], &timing["inference"]),
                (&json!(0.0), &json!(0.0))
            );
            assert!(
                timing["queue"].as_f64() <= timing["total"].as_f64(),
                "{timing}"
            );
        }
    }
}

#[tokio::test]
async fn who_waits_for_another_is_not_harmed_by_its_end() {
    let store = digits_with("instances = 1");
    let (gateway, work) = busy(&store).await;
    let meanwhile = async {
        after(100).await;
        // The first to ask for one picture has little time, the first to ask for the other leaves.
        let hasty = ask_with(&gateway, "x-request-timeout-ms", "60", another(1));
        let leaves = tokio::time::timeout(Duration::from_millis(60), async {
            ask(&gateway, ROUTE, another(2)).await
        });
        let follow = async |number| {
            after(30).await;
            ask(&gateway, ROUTE, another(number)).await
        };
        tokio::join!(hasty, leaves, follow(1), follow(1), follow(2), follow(2))
    };
    let (met, ()) = tokio::join!(meanwhile, work_off(&gateway, work));
    let (hasty, leaves, a, b, c, d) = met;
    hasty.assert_problem(504, "deadline_exceeded");
    assert!(leaves.is_err(), "it had to wait longer than it wanted");
    for followers in [[&a, &b], [&c, &d]] {
        for answer in followers {
            assert_eq!(answer.body["class"], "7", "{answer:?}");
        }
    }
    assert_eq!(
        ask(&gateway, ROUTE, another(1)).await.body["cached"],
        true,
        "somebody took over, and what it found is kept"
    );
}

#[tokio::test]
async fn a_request_may_set_its_own_deadline() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let within =
        async |time: &str, picture| ask_with(&gateway, "X-Request-Timeout-Ms", time, picture).await;
    within("5", noise_png(4000, 2500))
        .await
        .assert_problem(504, "deadline_exceeded");
    for plenty in ["60000", "18446744073709551615"] {
        assert_eq!(within(plenty, seven()).await.assert_ok()["class"], "7");
    }
    for bad in ["0", "-1", "1.5", "soon", "", "1,2", "18446744073709551616"] {
        let answer = within(bad, seven()).await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains("X-Request-Timeout-Ms"), "{detail}");
    }
    let strict = digits_with("timeout_ms = 1");
    let strict = TestGateway::start(strict.path(), &[]).await;
    let answer = ask_with(
        &strict,
        "X-Request-Timeout-Ms",
        "60000",
        noise_png(4000, 2500),
    )
    .await;
    answer.assert_problem(504, "deadline_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_counts_from_the_head_also_while_the_body_comes() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let address = gateway.base.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("set");
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\
         X-Request-Timeout-Ms: 200\r\n\r\nhalf"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut piece = [0; 4096];
    let mut text = String::new();
    while !text.contains("request_id") {
        let read = stream.read(&mut piece).expect("an answer");
        assert!(read > 0, "closed: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(text.starts_with("HTTP/1.1 504"), "{text}");
    assert!(text.contains("deadline_exceeded"), "{text}");
}
