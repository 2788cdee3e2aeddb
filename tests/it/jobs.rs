//! Classifications that nobody waits for: kept, done once, told once, whatever ends in the middle.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lensgate::domain::job::{Job, JobPicture, PictureContent};
use lensgate::domain::prediction::Asked;
use lensgate::store::{JobBounds, Kept, NewJob};
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::{Answer, TestGateway, client};
use crate::fixture::postgres::{self};
use crate::fixture::proxy::{Proxy, Way};
use crate::fixture::receiver::Receiver;
use crate::fixture::served::Served;
use crate::fixture::store::{TestStore, shipped};
use crate::fixture::{read, root};

contract![
    a_result_is_what_would_have_been_answered,
    a_batch_is_told_as_one,
    a_repeated_submit_is_the_same_job,
    a_tenant_has_so_many_jobs,
    replicas_do_each_job_once,
    what_is_refused_at_once_is_not_kept,
    a_tenants_deletion_reaches_jobs,
    a_model_that_a_replica_has_not_seen_yet_is_waited_for,
];

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

async fn gateway(database: &TestDatabase, settings: &[&str]) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let usual = [url.as_str(), "callbacks.allow_private=true"];
    let settings = [&usual[..], settings].concat();
    TestGateway::start(shipped(), &settings).await
}

fn submit(gateway: &TestGateway, query: &str) -> RequestBuilder {
    let request = gateway.post(&format!("/v1/models/digits/classify{query}"));
    request
        .header(CONTENT_TYPE, "image/png")
        .body(sample("7_a.png"))
}

/// The id of a request that was taken in.
#[track_caller]
fn queued(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body["status"], "queued");
    let id = answer.body["request_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(answer.header("location"), format!("/v1/predictions/{id}"));
    id
}

/// What became of a request, once it has ended.
async fn ended(gateway: &TestGateway, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let answer = gateway.get(&format!("/v1/predictions/{id}")).await;
        let body = answer.assert_ok();
        match body["status"].as_str() {
            Some("done" | "failed") => return body.clone(),
            Some("queued" | "running") if Instant::now() < deadline => {}
            _ => panic!("{body}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_result_is_what_would_have_been_answered(database: &TestDatabase) {
    let (gateway, receiver) = (gateway(database, &[]).await, Receiver::start().await);
    let now = gateway.send(submit(&gateway, "?top_k=3")).await;
    let url = format!("?top_k=3&callback_url={}", receiver.url("/hook"));
    let id = queued(&gateway.send(submit(&gateway, &url)).await);
    let polled = submit(&gateway, "?top_k=3").header("prefer", "respond-async, wait=10");
    let polled = gateway.send(polled).await;
    assert_eq!(polled.header("preference-applied"), "respond-async");
    for id in [id.clone(), queued(&polled)] {
        let result = ended(&gateway, &id).await;
        assert_eq!(
            (&result["status"], &result["model"]),
            (&json!("done"), &json!("digits"))
        );
        assert_eq!(
            result["results"].as_array().map(Vec::len),
            Some(1),
            "{result}"
        );
        for field in [
            "class",
            "confidence",
            "classes",
            "version",
            "digest",
            "model",
        ] {
            assert_eq!(
                result["results"][0][field],
                now.assert_ok()[field],
                "{field}"
            );
        }
    }
    let told = receiver.until(1).await.remove(0);
    assert_eq!(
        (told.path.as_str(), told.kind().as_str()),
        ("/hook", "prediction.completed")
    );
    assert_eq!(told.json()["data"], ended(&gateway, &id).await);
    // The log has it under the same id, once.
    let rows = super::predictions::rows(&gateway, 3).await;
    assert!(
        rows.iter()
            .any(|row| row["request_id"] == id && row["status"] == 200)
    );
}

async fn a_batch_is_told_as_one(database: &TestDatabase) {
    let (gateway, receiver) = (gateway(database, &[]).await, Receiver::start().await);
    let pictures = [
        sample("7_a.png"),
        b"nonsense".to_vec(),
        sample("0_a.png"),
        Vec::new(),
    ];
    let form = pictures
        .into_iter()
        .enumerate()
        .fold(Form::new(), |form, (place, picture)| {
            form.part(
                "files",
                Part::bytes(picture).file_name(format!("{place}.png")),
            )
        });
    let path = format!("/v1/batch-classify?callback_url={}", receiver.url("/"));
    let id = queued(&gateway.send(gateway.post(&path).multipart(form)).await);
    let told = receiver.until(1).await.remove(0).json();
    let results = told["data"]["results"].as_array().expect("results");
    assert_eq!(
        (&told["data"]["request_id"], &told["data"]["status"]),
        (&json!(id), &json!("done"))
    );
    let wanted = [
        (Some("7"), None),
        (None, Some("unsupported_media_type")),
        (Some("0"), None),
        (None, Some("missing_image")),
    ];
    for (index, (result, (class, code))) in results.iter().zip(wanted).enumerate() {
        assert_eq!(result["index"], index, "{result}");
        assert_eq!(result["filename"], format!("{index}.png"));
        assert_eq!(
            (result["class"].as_str(), result["error"]["code"].as_str()),
            (class, code)
        );
    }
    assert_eq!(results.len(), 4);
}

async fn a_repeated_submit_is_the_same_job(database: &TestDatabase) {
    let (gateway, receiver) = (gateway(database, &[]).await, Receiver::start().await);
    let query = format!("?callback_url={}", receiver.url("/"));
    let send = async |picture: &str, key: &str| {
        let request = gateway.post(&format!("/v1/models/digits/classify{query}"));
        let request = request.header("idempotency-key", key).body(sample(picture));
        gateway.send(request).await
    };
    let together = futures_util::future::join_all((0..8).map(|_| send("7_a.png", "order 1"))).await;
    let ids: BTreeSet<String> = together.iter().map(queued).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let (first, _) = (
        ids.first().expect("one"),
        ended(&gateway, ids.first().expect("one")).await,
    );
    assert_eq!(
        queued(&send("7_a.png", "order 1").await),
        *first,
        "also when it has ended"
    );
    send("0_a.png", "order 1")
        .await
        .assert_problem(409, "conflict");
    let other = queued(&send("7_a.png", "order 2").await);
    assert_ne!(other, *first);
    send("7_a.png", "").await.assert_problem(400, "bad_request");
    receiver.until(2).await;
    ended(&gateway, &other).await;
    assert_eq!(receiver.received().len(), 2, "each is told once");
}

async fn a_tenant_has_so_many_jobs(database: &TestDatabase) {
    let settings = ["jobs.max_queued_per_tenant=0"];
    let gateway = gateway(database, &settings).await;
    let (id, secret) = gateway
        .key(json!({"name": "app", "images_per_day": 5}))
        .await;
    let request = gateway.anonymous(Method::POST, "/v1/models/digits/classify");
    let request = request
        .header("prefer", "respond-async")
        .bearer_auth(secret);
    let refused = gateway.send(request.body(sample("7_a.png"))).await;
    refused.assert_problem(429, "rate_limited");
    assert!(!refused.header("retry-after").is_empty());
    let key = gateway
        .admin(Method::GET, &format!("/keys/{id}"), None)
        .await;
    assert_eq!(
        key.assert_ok()["images_today"],
        0,
        "nothing is taken of the day: {key:?}"
    );
    let read = gateway
        .get(&format!(
            "/v1/predictions/{}",
            refused.header("x-request-id")
        ))
        .await;
    assert_ne!(read.body["status"], "queued");
}

async fn replicas_do_each_job_once(database: &TestDatabase) {
    let receiver = Receiver::start().await;
    let replicas = [gateway(database, &[]).await, gateway(database, &[]).await];
    let query = format!("?callback_url={}", receiver.url("/"));
    let mut ids = BTreeSet::new();
    for number in 0..20 {
        ids.insert(queued(
            &replicas[number % 2]
                .send(submit(&replicas[number % 2], &query))
                .await,
        ));
    }
    for id in &ids {
        assert_eq!(ended(&replicas[0], id).await["status"], "done");
    }
    let told = receiver.until(20).await;
    let told: Vec<String> = told
        .iter()
        .map(|one| {
            one.json()["data"]["request_id"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect();
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), ids);
    assert_eq!(told.len(), 20, "each once");
}

async fn what_is_refused_at_once_is_not_kept(database: &TestDatabase) {
    let url = format!("store.url={}", database.url);
    let gateway = TestGateway::start(shipped(), &[&url]).await;
    let send = async |query: &str, body: &[u8]| {
        let request = gateway.post(&format!("/v1/models/digits/classify{query}"));
        gateway
            .send(
                request
                    .header("prefer", "respond-async")
                    .body(body.to_vec()),
            )
            .await
    };
    let seven = sample("7_a.png");
    for url in [
        "http://127.0.0.1/",
        "http://169.254.169.254/",
        "ftp://example.com",
        "nonsense",
    ] {
        let refused = send(&format!("?callback_url={url}"), &seven).await;
        refused.assert_problem(400, "bad_request");
    }
    send("", b"nonsense")
        .await
        .assert_problem(415, "unsupported_media_type");
    send("", b"").await.assert_problem(400, "missing_image");
    send("?top_k=99", &seven)
        .await
        .assert_problem(400, "bad_request");
    // A picture that is broken is found out later.
    let broken = queued(&send("", &seven[..seven.len() / 2]).await);
    let result = ended(&gateway, &broken).await;
    assert_eq!(
        result["results"][0]["error"]["code"], "undecodable_image",
        "{result}"
    );
    let (_, other) = gateway.key(json!({"name": "other"})).await;
    let request = gateway.anonymous(Method::GET, &format!("/v1/predictions/{broken}"));
    gateway.send(request.bearer_auth(other)).await.assert_ok();
    let stranger = gateway.tenant("stranger").await;
    let (_, secret) = gateway
        .key(json!({"name": "x", "tenant_id": stranger}))
        .await;
    let request = gateway.anonymous(Method::GET, &format!("/v1/predictions/{broken}"));
    let hidden = gateway.send(request.bearer_auth(secret)).await;
    hidden.assert_problem(404, "prediction_not_found");
}

async fn a_tenants_deletion_reaches_jobs(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let id = queued(
        &gateway
            .send(submit(&gateway, "").header("prefer", "respond-async"))
            .await,
    );
    ended(&gateway, &id).await;
    let tenants = gateway.admin(Method::GET, "/tenants", None).await;
    let tenant = tenants.assert_ok()["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let deleted = gateway
        .admin(
            Method::DELETE,
            &format!("/predictions?tenant={tenant}"),
            None,
        )
        .await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    let gone = gateway.get(&format!("/v1/predictions/{id}")).await;
    gone.assert_problem(404, "prediction_not_found");
}

/// One replica has taken the job in, another one takes it up before it has seen the model.
async fn a_model_that_a_replica_has_not_seen_yet_is_waited_for(database: &TestDatabase) {
    let models = TestStore::empty();
    let url = format!("store.url={}", database.url);
    let gateway = TestGateway::start(models.path(), &[&url]).await;
    let tenant = gateway.tenant("acme").await;
    let (key, secret) = gateway
        .key(json!({"name": "own", "tenant_id": tenant}))
        .await;
    let job = Job {
        asked: Asked {
            request_id: Uuid::now_v7(),
            tenant: tenant.parse().expect("a tenant"),
            key: key.parse().expect("a key"),
            client_request_id: None,
            trace_id: None,
        },
        model: "digits".parse().expect("an id"),
        terms: json!({"version": "1", "top_k": null, "min_confidence": null, "cache": "allowed"}),
        callback_url: None,
        created_at: chrono::Utc::now(),
        traceparent: None,
    };
    let new = NewJob {
        job: &job,
        pictures: &[JobPicture {
            index: 0,
            filename: None,
            content: PictureContent::Waiting(sample("7_a.png").into()),
        }],
        key: None,
        bounds: JobBounds {
            jobs: 10,
            bytes: 1 << 20,
            callbacks: 10,
        },
    };
    let store = database.store().await;
    assert_eq!(store.add_job(&new).await, Ok(Kept::New));
    let path = format!("/v1/predictions/{}", job.asked.request_id);
    let read = async || {
        let request = gateway.anonymous(Method::GET, &path).bearer_auth(&secret);
        gateway.send(request).await.assert_ok().clone()
    };
    // Two looks of the worker at least.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let waits = read().await;
    assert!(
        waits["status"] == "queued" || waits["status"] == "running",
        "{waits}"
    );
    models.add(&root().join("model-store/digits"), "digits");
    let deadline = Instant::now() + Duration::from_mins(1);
    let ended = loop {
        let read = read().await;
        if read["status"] != "queued" && read["status"] != "running" {
            break read;
        }
        assert!(Instant::now() < deadline, "{read}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ended["status"], "done", "{ended}");
    assert_eq!(ended["results"][0]["class"], "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_no_job_is_taken_in() {
    let (proxy, url) = Proxy::before(&postgres::database().await).await;
    let gateway = gateway(&TestDatabase::at(url), &["store.call_timeout=1s"]).await;
    proxy.set(Way::Cut);
    let refused = gateway
        .send(submit(&gateway, "").header("prefer", "respond-async"))
        .await;
    refused.assert_problem(503, "store_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    gateway.send(submit(&gateway, "")).await.assert_ok();
    proxy.set(Way::Open);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = gateway
            .send(submit(&gateway, "").header("prefer", "respond-async"))
            .await;
        if answer.status == StatusCode::ACCEPTED {
            assert_eq!(ended(&gateway, &queued(&answer)).await["status"], "done");
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The gateway is killed with jobs in it; the next one does them, and each is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_loses_no_job() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let database = format!("sqlite://{}/lensgate.db", folder.path().display());
    let store = shipped();
    let serve = || {
        Served::start(&[
            (
                "LENSGATE__MODEL_STORE__URL",
                store.to_str().expect("a path"),
            ),
            ("LENSGATE__STORE__URL", &database),
            ("LENSGATE__CALLBACKS__ALLOW_PRIVATE", "true"),
            ("LENSGATE__JOBS__LEASE", "1s"),
            ("LENSGATE__SERVER__DRAIN_DELAY", "0"),
        ])
    };
    let (served, client) = (serve(), client());
    served.ready(&client).await;
    let url = format!(
        "{}/v1/classify?callback_url={}",
        served.base,
        receiver.url("/")
    );
    let mut ids = BTreeSet::new();
    for _ in 0..30 {
        let request = client.post(&url).body(sample("7_a.png"));
        ids.insert(queued(
            &Answer::of(request.send().await.expect("an answer")).await,
        ));
    }
    drop(served);
    let served = serve();
    served.ready(&client).await;
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let told = receiver.received();
        let told: BTreeSet<String> = told
            .iter()
            .filter_map(|one| one.json()["data"]["request_id"].as_str().map(str::to_owned))
            .collect();
        if told == ids {
            return;
        }
        assert!(Instant::now() < deadline, "{} of {}", told.len(), ids.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
