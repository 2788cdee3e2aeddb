//! Models in a bucket, over a real S3 server: replicas bring them, uploads go there, and nothing that serves depends on it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lensgate::app::{App, Edges};
use lensgate::config::{Config, Environment};
use lensgate::domain::ids::Digest;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway, sources};
use crate::fixture::proxy::Proxy;
use crate::fixture::s3::{Bucket, ModelBucket, bucket};
use crate::fixture::{read, root};

/// How long what happens in the bucket may take to be seen on a busy machine.
const SOON: Duration = Duration::from_secs(30);

fn digits(name: &str) -> std::path::PathBuf {
    root().join("model-store/digits").join(name)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn sheet(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files: serde_json::Map<String, Value> = files
        .iter()
        .map(|(name, bytes)| {
            let digest = Digest::from_bytes(Sha256::digest(bytes).into()).to_string();
            (
                (*name).to_owned(),
                json!({"sha256": digest, "bytes": bytes.len()}),
            )
        })
        .collect();
    serde_json::to_vec(&json!({"files": files})).expect("JSON")
}

async fn classify(gateway: &TestGateway, path: &str) -> Answer {
    let picture = read(digits("samples/7_a.png"));
    gateway.raw(path, "image/png", picture).await
}

/// Waits until a version answers, and answers right.
#[track_caller]
fn answers(gateway: &TestGateway, number: u32) -> impl Future<Output = ()> + '_ {
    let caller = std::panic::Location::caller();
    async move {
        let since = Instant::now();
        let path = format!("/v1/models/digits/versions/{number}/classify");
        loop {
            let answer = classify(gateway, &path).await;
            if answer.status == StatusCode::OK {
                assert_eq!(answer.body["class"], "7", "{answer:?}");
                return;
            }
            assert!(since.elapsed() < SOON, "{caller}: it stays {answer:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

/// Waits until a version's view on the admin plane is as wanted.
async fn until(gateway: &TestGateway, version: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let since = Instant::now();
    loop {
        let path = format!("/models/digits/versions/{version}");
        let answer = gateway.admin(Method::GET, &path, None).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(since.elapsed() < SOON, "it stays {answer:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn upload(gateway: &TestGateway, number: u32, model: Vec<u8>) -> Answer {
    let path = format!("/models/digits/versions/{number}");
    let form = Form::new().part("model", Part::bytes(model).file_name("model.onnx"));
    let request = gateway.admin_request(Method::PUT, &path).multipart(form);
    gateway.send(request).await
}

async fn reasons(gateway: &TestGateway) -> Vec<String> {
    let status = gateway.admin(Method::GET, "/status", None).await;
    let reasons = status.assert_ok()["reasons"].as_array().expect("a list");
    let names = reasons
        .iter()
        .map(|one| one["reason"].as_str().expect("text"));
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_somebody_copies_there_serves_when_it_is_whole_and_goes_when_it_is_gone() {
    let (models, cache) = (bucket().await.models(), folder());
    models.copy_digits(1).await;
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &[]).await;
    answers(&gateway, 1).await;
    // By its list of files a version waits for what is not there.
    let graph = read(digits("2/model.onnx"));
    let labels = read(digits("labels.txt"));
    let files: [(&str, &[u8]); 2] = [("model.onnx", &graph), ("labels.txt", &labels)];
    models.put("digits/2/version.json", sheet(&files)).await;
    models.put("digits/2/model.onnx", graph.clone()).await;
    let waiting = until(&gateway, "2", |answer| answer.status == StatusCode::OK).await;
    assert_eq!(waiting.body["state"], "waiting", "{waiting:?}");
    let waiting = until(&gateway, "2", |answer| {
        answer.body["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("labels.txt"))
    });
    waiting.await;
    models.put("digits/2/labels.txt", labels.clone()).await;
    answers(&gateway, 2).await;
    // One that is not what its list says is refused, and says so; the others serve.
    models.put("digits/3/model.onnx", graph.clone()).await;
    let mut other = graph.clone();
    other[0] ^= 1;
    models
        .put("digits/3/version.json", sheet(&[("model.onnx", &other)]))
        .await;
    let failed = until(&gateway, "3", |answer| answer.body["state"] == "failed").await;
    assert!(
        failed.body["reason"]
            .as_str()
            .is_some_and(|r| r.contains("version.json")),
        "{failed:?}"
    );
    answers(&gateway, 2).await;
    assert!(
        reasons(&gateway)
            .await
            .contains(&"version_failed".to_owned())
    );
    models.delete("digits/2/version.json").await;
    models.delete("digits/2/model.onnx").await;
    models.delete("digits/2/labels.txt").await;
    until(&gateway, "2", |answer| {
        answer.status == StatusCode::NOT_FOUND
    })
    .await;
    answers(&gateway, 1).await;
}

#[tokio::test]
async fn a_model_that_takes_long_to_bring_holds_up_no_other() {
    let (mut models, cache) = (bucket().await.models(), folder());
    let proxy = through_a_proxy(&mut models).await;
    models.copy_digits(1).await;
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &[]).await;
    answers(&gateway, 1).await;
    proxy.keep("slow/1/model.onnx HTTP/1.1");
    let graph = digits("1/model.onnx");
    models.copy(&graph, "slow/1/model.onnx").await;
    models.copy(digits("model.toml"), "slow/model.toml").await;
    let slow = async || {
        let path = "/models/slow/versions/1";
        gateway.admin(Method::GET, path, None).await
    };
    let since = Instant::now();
    while !proxy.has_kept() {
        assert!(since.elapsed() < SOON, "nobody asks for it");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // It is on its way, and others come and go.
    models
        .copy(digits("2/model.onnx"), "digits/2/model.onnx")
        .await;
    answers(&gateway, 2).await;
    models.delete("digits/2/model.onnx").await;
    until(&gateway, "2", |answer| {
        answer.status == StatusCode::NOT_FOUND
    })
    .await;
    let put = upload(&gateway, 3, read(&graph)).await;
    assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    let coming = slow().await;
    assert_eq!(coming.assert_ok()["state"], "waiting", "{coming:?}");
}

#[tokio::test]
async fn what_lies_there_is_the_same_also_where_it_was_not_brought_yet() {
    let (mut models, caches) = (bucket().await.models(), [folder(), folder()]);
    models.copy_digits(1).await;
    let first = TestGateway::start_of_bucket(&models, caches[0].path(), &[]).await;
    let proxy = through_a_proxy(&mut models).await;
    let second = TestGateway::start_of_bucket(&models, caches[1].path(), &[]).await;
    answers(&first, 1).await;
    answers(&second, 1).await;
    proxy.keep("digits/3/model.onnx HTTP/1.1");
    let graph = read(digits("2/model.onnx"));
    let put = upload(&first, 3, graph.clone()).await;
    assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    let since = Instant::now();
    while !proxy.has_kept() {
        assert!(since.elapsed() < SOON, "nobody asks for it");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let same = upload(&second, 3, graph).await;
    assert_eq!(same.status, StatusCode::OK, "{same:?}");
    answers(&second, 3).await;
}

/// Another way to the bucket's server.
async fn through_a_proxy(models: &mut ModelBucket) -> Proxy {
    let key = "model_store.s3_endpoint=";
    let settings = models.settings.iter_mut();
    let mut endpoint = settings.filter(|setting| setting.starts_with(key));
    let endpoint = endpoint.next().expect("an endpoint");
    let address = endpoint.rsplit_once("//").expect("a URL").1;
    let proxy = Proxy::to(address.parse().expect("an address")).await;
    *endpoint = format!("{key}http://{}", proxy.address);
    proxy
}

#[tokio::test]
async fn an_upload_through_one_replica_serves_on_the_other_and_a_deletion_reaches_it() {
    let (models, one, two) = (bucket().await.models(), folder(), folder());
    let database = TestDatabase::postgres().await;
    let store = format!("store.url={}", database.url);
    let one = TestGateway::start_of_bucket(&models, one.path(), &[&store]).await;
    let two = TestGateway::start_of_bucket(&models, two.path(), &[&store]).await;
    let new = json!({"id": "digits", "title": "Digits"});
    let made = one.admin(Method::POST, "/models", Some(new.clone())).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    // At once through the other: neither the model nor the version is made twice.
    let again = two.admin(Method::POST, "/models", Some(new)).await;
    again.assert_problem(409, "conflict");
    let graph = read(digits("1/model.onnx"));
    let uploaded = upload(&two, 1, graph.clone()).await;
    assert_eq!(uploaded.status, StatusCode::CREATED, "{uploaded:?}");
    let same = upload(&one, 1, graph.clone()).await;
    assert_eq!(same.status, StatusCode::OK, "{same:?}");
    let other = upload(&one, 1, read(digits("2/model.onnx"))).await;
    other.assert_problem(409, "conflict");
    let picture = read(digits("samples/7_a.png"));
    for gateway in [&one, &two] {
        let path = "/v1/models/digits/versions/1/classify";
        let answer = gateway.raw(path, "image/png", picture.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let names = models.names().await;
    assert_eq!(
        names,
        [
            "digits/1/model.onnx",
            "digits/1/version.json",
            "digits/model.toml"
        ]
    );
    assert_eq!(models.get("digits/1/model.onnx").await, Some(graph.clone()));
    // A text that one changes, the other shows.
    let patch = json!({"title": "Handwritten digits"});
    one.admin(Method::PATCH, "/models/digits", Some(patch))
        .await
        .assert_ok();
    let titled = |view: &Value| view["title"] == "Handwritten digits";
    two.until("digits", titled).await;
    // What may not serve leaves nothing in the bucket.
    let broken = upload(&one, 2, b"no graph".to_vec()).await;
    assert!(broken.status.is_client_error(), "{broken:?}");
    assert_eq!(models.names().await.len(), 3);
    let uploaded = upload(&one, 2, read(digits("2/model.onnx"))).await;
    assert_eq!(uploaded.status, StatusCode::CREATED, "{uploaded:?}");
    until(&two, "2", |answer| answer.body["state"] == "live").await;
    let deleted = two
        .admin(Method::DELETE, "/models/digits/versions/2", None)
        .await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    until(&one, "2", |answer| answer.status == StatusCode::NOT_FOUND).await;
    assert_eq!(models.names().await, names);
    let deleted = one.admin(Method::DELETE, "/models/digits", None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    assert_eq!(models.names().await, Vec::<String>::new());
    until(&two, "1", |answer| answer.status == StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn a_bucket_that_is_away_changes_nothing_that_serves() {
    let mut server = tokio::task::spawn_blocking(Bucket::start)
        .await
        .expect("a server");
    let (models, cache) = (server.models(), folder());
    models.copy_digits(1).await;
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &[]).await;
    answers(&gateway, 1).await;
    server.stop();
    let since = Instant::now();
    while !reasons(&gateway).await.contains(&"models_away".to_owned()) {
        assert!(since.elapsed() < SOON * 2, "the status does not say it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.get("/health/ready").await.status, StatusCode::OK);
    answers(&gateway, 1).await;
    // Nothing can be registered, and nothing of it is left.
    let refused = upload(&gateway, 2, read(digits("2/model.onnx"))).await;
    refused.assert_problem(503, "store_unavailable");
    until(&gateway, "2", |answer| {
        answer.status == StatusCode::NOT_FOUND
    })
    .await;
    let refused = gateway
        .admin(Method::DELETE, "/models/digits/versions/1", None)
        .await;
    refused.assert_problem(503, "store_unavailable");
    answers(&gateway, 1).await;
    // A restart serves what was brought before.
    drop(gateway);
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &[]).await;
    answers(&gateway, 1).await;
    server.start_again();
    models
        .copy(digits("2/model.onnx"), "digits/2/model.onnx")
        .await;
    answers(&gateway, 2).await;
    let since = Instant::now();
    while !reasons(&gateway).await.is_empty() {
        assert!(
            since.elapsed() < SOON,
            "the status does not say that it is back"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_half_upload_and_a_half_deletion_are_taken_for_what_they_are() {
    let (models, cache) = (bucket().await.models(), folder());
    models.copy_digits(1).await;
    // As gateways leave them that were killed in the middle of it.
    models.put("digits/2/.upload", "another gateway").await;
    models
        .copy(digits("2/model.onnx"), "digits/2/model.onnx")
        .await;
    models.put("digits/3/.deleted", "").await;
    models
        .copy(digits("2/model.onnx"), "digits/3/model.onnx")
        .await;
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &[]).await;
    answers(&gateway, 1).await;
    let second = until(&gateway, "2", |answer| answer.status == StatusCode::OK).await;
    assert_eq!(second.body["state"], "waiting", "{second:?}");
    until(&gateway, "3", |answer| {
        answer.status == StatusCode::NOT_FOUND
    })
    .await;
    // The number is in another's hands for a while; what is deleted is free.
    let refused = upload(&gateway, 2, read(digits("2/model.onnx"))).await;
    let detail = refused.assert_problem(409, "conflict").to_owned();
    assert!(detail.contains("another replica"), "{detail}");
    let uploaded = upload(&gateway, 3, read(digits("2/model.onnx"))).await;
    assert_eq!(uploaded.status, StatusCode::CREATED, "{uploaded:?}");
    answers(&gateway, 3).await;
}

#[tokio::test]
async fn a_cache_without_room_says_so_and_what_serves_goes_on() {
    let (models, cache) = (bucket().await.models(), folder());
    models.copy_digits(1).await;
    let room = ["model_store.cache_max_bytes=100000"];
    let bytes = fs::metadata(digits("1/model.onnx")).expect("a file").len();
    let large = fs::metadata(digits("2/model.onnx")).expect("a file").len();
    assert!(
        bytes < 50_000 && bytes + large > 100_000,
        "{bytes} and {large}"
    );
    let gateway = TestGateway::start_of_bucket(&models, cache.path(), &room).await;
    answers(&gateway, 1).await;
    models
        .copy(digits("2/model.onnx"), "digits/2/model.onnx")
        .await;
    let failed = until(&gateway, "2", |answer| answer.body["state"] == "failed").await;
    let reason = failed.body["reason"].as_str().expect("a reason");
    assert!(reason.contains("cache_max_bytes"), "{reason}");
    answers(&gateway, 1).await;
}

async fn refusal(models: &ModelBucket, cache: &Path, more: &[&str], env: Environment) -> String {
    let own = models.settings(cache);
    let data = format!("store.url=sqlite://{}/lensgate.db", cache.display());
    let spool = format!("predictions.spool={}/spool", cache.display());
    let own = own
        .iter()
        .map(String::as_str)
        .chain([data.as_str(), spool.as_str()]);
    let all: Vec<&str> = own.chain(more.iter().copied()).collect();
    let sources = sources(cache, &all);
    let config = Config::load(&sources).expect("settings");
    let edges = Edges {
        environment: env,
        ..Edges::of(sources)
    };
    match App::build(config, &edges).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_wrong_bucket_and_wrong_credentials_stop_a_start_that_has_nothing_to_serve() {
    let server = bucket().await;
    let models = server.models();
    let missing = ["model_store.url=s3://no-such-bucket/here"];
    let cache = folder();
    let error = refusal(&models, cache.path(), &missing, server.environment()).await;
    assert!(error.contains("NoSuchBucket"), "{error}");
    let error = refusal(&models, folder().path(), &[], server.wrong_environment()).await;
    assert!(error.contains("refuses the gateway"), "{error}");
    let claimed = folder();
    models.copy_digits(1).await;
    let gateway = TestGateway::start_of_bucket(&models, claimed.path(), &[]).await;
    answers(&gateway, 1).await;
    let error = refusal(&models, claimed.path(), &[], server.environment()).await;
    assert!(error.contains("another process"), "{error}");
    drop(gateway);
    // With what was brought before it serves, and says what is wrong.
    let own = ModelBucket {
        environment: server.wrong_environment(),
        ..models
    };
    let gateway = TestGateway::start_of_bucket(&own, claimed.path(), &[]).await;
    answers(&gateway, 1).await;
    assert!(reasons(&gateway).await.contains(&"models_away".to_owned()));
}
