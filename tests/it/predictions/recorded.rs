//! One row a picture, failures of ours and of the caller included; never the picture's content.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::fixture::database::TestDatabase;
use crate::fixture::gateway::TestGateway;
use crate::fixture::store::{TestStore, shipped};
use crate::fixture::{data, read, root};

pub(super) fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

/// A picture of the sample's kind that says it has more pixels; it is refused by its header alone.
fn wide() -> Vec<u8> {
    let mut picture = seven();
    picture[16..20].copy_from_slice(&1000_u32.to_be_bytes());
    let sum = crc32fast::hash(&picture[12..29]);
    picture[29..33].copy_from_slice(&sum.to_be_bytes());
    picture
}

/// A gateway over the database, with the shipped model.
pub(super) async fn gateway(database: &TestDatabase, settings: &[&str]) -> TestGateway {
    let url = format!("store.url={}", database.url);
    let settings: Vec<&str> = [url.as_str()]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    TestGateway::start(shipped(), &settings).await
}

/// The log as operators see it, newest first, once it holds `count` rows.
pub(crate) async fn rows(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = gateway
            .admin(Method::GET, "/predictions?limit=1000", None)
            .await;
        let rows = answer.assert_ok()["items"]
            .as_array()
            .expect("items")
            .clone();
        if rows.len() >= count {
            assert_eq!(rows.len(), count, "{rows:?}");
            return rows;
        }
        assert!(
            Instant::now() < deadline,
            "{count} are wanted, there are {rows:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

contract![
    an_answer_is_a_row_with_all_that_is_known,
    what_is_refused_is_a_row_with_its_code,
    every_picture_of_a_batch_is_a_row,
    what_a_model_has_no_scores_for_is_a_failure_and_a_row,
    who_is_not_let_in_leaves_no_row,
];

async fn an_answer_is_a_row_with_all_that_is_known(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let request = || {
        gateway
            .post("/v1/models/digits/classify?top_k=3")
            .header(CONTENT_TYPE, "image/png")
            .header("x-request-id", "order 66")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .body(seven())
    };
    let first = gateway.send(request()).await;
    let second = gateway.send(request()).await;
    assert_eq!(second.assert_ok()["cached"], true);
    let rows = rows(&gateway, 2).await;
    for (row, answer) in rows.iter().rev().zip([&first, &second]) {
        let answer = answer.assert_ok();
        for field in [
            "request_id",
            "model",
            "version",
            "digest",
            "class",
            "confidence",
            "classes",
            "cached",
        ] {
            assert_eq!(row[field], answer[field], "{field} of {row}");
        }
        for (field, value) in [
            ("index", json!(0)),
            ("bytes", json!(seven().len())),
            ("format", json!("png")),
            ("width", json!(64)),
            ("height", json!(64)),
            ("status", json!(200)),
            ("code", Value::Null),
            ("arm", Value::Null),
            ("trace_id", json!("0af7651916cd43dd8448eb211c80319c")),
            ("client_request_id", json!("order 66")),
        ] {
            assert_eq!(row[field], value, "{field} of {row}");
        }
        assert!(
            row["picture_digest"]
                .as_str()
                .is_some_and(|text| text.starts_with("sha256:") && text.len() == 71)
        );
        for part in ["decode", "queue", "inference"] {
            assert_eq!(row["timing_ms"][part], answer["timing_ms"][part], "{part}");
        }
        assert!(
            row["timing_ms"]["total"]
                .as_f64()
                .is_some_and(|total| total > 0.0)
        );
    }
    assert_eq!(rows[0]["picture_digest"], rows[1]["picture_digest"]);
    let status = gateway.admin(Method::GET, "/status", None).await.body;
    assert_eq!(status["predictions"]["status"], "ok", "{status}");
    assert_eq!(status["predictions"]["spooled"], 2, "{status}");
}

async fn what_is_refused_is_a_row_with_its_code(database: &TestDatabase) {
    let settings = [
        "limits.max_image_bytes=20000",
        "limits.max_image_pixels=5000",
    ];
    let gateway = gateway(database, &settings).await;
    let broken = seven()[..seven().len() / 2].to_vec();
    let large = wide();
    let mut wanted = Vec::new();
    for (body, status, code) in [
        (b"no picture at all".to_vec(), 415, "unsupported_media_type"),
        (vec![0xff; 30_000], 413, "payload_too_large"),
        (Vec::new(), 400, "missing_image"),
        (broken, 422, "undecodable_image"),
        (large, 422, "image_too_large"),
    ] {
        let answer = gateway
            .raw("/v1/models/digits/classify", "image/png", body)
            .await;
        answer.assert_problem(status, code);
        wanted.push((answer.body["request_id"].clone(), status, code));
    }
    let rows = rows(&gateway, 5).await;
    for (row, (id, status, code)) in rows.iter().rev().zip(wanted) {
        assert_eq!(
            (&row["request_id"], &row["status"], &row["code"]),
            (&id, &json!(status), &json!(code))
        );
        assert_eq!((&row["class"], &row["classes"]), (&Value::Null, &json!([])));
        // What was not received is not known; what was is, without its content.
        let received = !["payload_too_large", "missing_image"].contains(&code);
        assert_eq!(row["picture_digest"].is_string(), received, "{row}");
        assert_eq!(
            row["format"].is_string(),
            received && code != "unsupported_media_type",
            "{row}"
        );
        assert_eq!(row["width"].is_number(), code == "image_too_large", "{row}");
    }
}

async fn what_a_model_has_no_scores_for_is_a_failure_and_a_row(database: &TestDatabase) {
    let models = TestStore::empty().with(&data("odd/nan-when-bright"), "odd");
    let url = format!("store.url={}", database.url);
    let gateway = TestGateway::start(models.path(), &[&url]).await;
    let ask = async |name: &str| {
        let picture = read(data(&format!("images/{name}")));
        gateway
            .raw("/v1/models/odd/classify", "image/png", picture)
            .await
    };
    ask("blue.png").await.assert_ok();
    for _ in 0..2 {
        // Nor is it kept for the next one.
        ask("red.png").await.assert_problem(500, "internal");
    }
    let rows = rows(&gateway, 3).await;
    for row in &rows[..2] {
        assert_eq!(
            (&row["status"], &row["code"]),
            (&json!(500), &json!("internal")),
            "{row}"
        );
        assert_eq!(row["cached"], false, "{row}");
    }
    assert_eq!(rows[2]["status"], 200);
}

async fn every_picture_of_a_batch_is_a_row(database: &TestDatabase) {
    let gateway = gateway(database, &["limits.max_batch_images=3"]).await;
    let form = |pictures: &[&[u8]]| {
        pictures.iter().fold(Form::new(), |form, picture| {
            form.part("files", Part::bytes(picture.to_vec()).file_name("x"))
        })
    };
    let send = async |pictures: &[&[u8]]| {
        let request = gateway.post("/v1/models/digits/batch-classify");
        gateway.send(request.multipart(form(pictures))).await
    };
    let seven = seven();
    let answer = send(&[&seven, b"nonsense", b""]).await;
    let id = answer.assert_ok()["request_id"].clone();
    let refused = send(&[&seven, &seven, &seven, &seven]).await;
    refused.assert_problem(413, "batch_too_large");
    let rows = rows(&gateway, 4).await;
    assert_eq!(rows[0]["request_id"], refused.body["request_id"]);
    assert_eq!(
        (&rows[0]["index"], &rows[0]["code"]),
        (&json!(0), &json!("batch_too_large"))
    );
    let batch: Vec<_> = rows[1..]
        .iter()
        .rev()
        .map(|row| {
            assert_eq!(row["request_id"], id);
            (
                row["index"].as_u64(),
                row["code"].as_str(),
                row["class"].as_str(),
            )
        })
        .collect();
    let wanted = [
        (Some(0), None, Some("7")),
        (Some(1), Some("unsupported_media_type"), None),
        (Some(2), Some("missing_image"), None),
    ];
    assert_eq!(batch, wanted);
}

async fn who_is_not_let_in_leaves_no_row(database: &TestDatabase) {
    let gateway = gateway(database, &[]).await;
    let (_, slow) = gateway
        .key(json!({"name": "slow", "requests_per_second": 0.001, "burst": 1}))
        .await;
    let ask = async |key: &str, model: &str| {
        let request = gateway.anonymous(Method::POST, &format!("/v1/models/{model}/classify"));
        let request = request
            .bearer_auth(key)
            .header(CONTENT_TYPE, "image/png")
            .body(seven());
        gateway.send(request).await.status.as_u16()
    };
    assert_eq!(ask("not-a-key-of-anybody", "digits").await, 401);
    assert_eq!(ask(&slow, "nothing").await, 404);
    assert_eq!(ask(&slow, "digits").await, 200);
    assert_eq!(ask(&slow, "digits").await, 429);
    let rows = rows(&gateway, 1).await;
    assert_eq!(rows[0]["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_log_has_none() {
    let database = TestDatabase::sqlite();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = folder.path().join("spool");
    let spool_setting = format!("predictions.spool={}", spool.display());
    let gateway = gateway(&database, &["predictions.log=false", &spool_setting]).await;
    let answer = gateway
        .raw("/v1/models/digits/classify", "image/png", seven())
        .await;
    let id = answer.assert_ok()["request_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let read = gateway.get(&format!("/v1/predictions/{id}")).await;
    read.assert_problem(404, "prediction_not_found");
    let status = gateway.admin(Method::GET, "/status", None).await.body;
    assert_eq!(status["predictions"], Value::Null);
    assert!(!spool.exists());
}
