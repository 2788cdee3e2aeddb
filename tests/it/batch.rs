//! Several pictures in one request: one result or one error each, in order.

use base64::Engine as _;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

fn files(parts: &[(&str, Vec<u8>)]) -> Form {
    parts.iter().fold(Form::new(), |form, (name, bytes)| {
        form.part(
            "files",
            Part::bytes(bytes.clone()).file_name((*name).to_owned()),
        )
    })
}

#[tokio::test]
async fn every_picture_gets_its_own_result_or_error_in_order() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["limits.max_image_bytes=20000"]).await;
    let parts = [
        ("seven.png", sample("7_a.png")),
        ("text.png", b"not a picture".to_vec()),
        ("empty.png", Vec::new()),
        ("large.png", vec![0; 20_001]),
        ("cut.png", sample("3_a.png")[..100].to_vec()),
        ("three.png", sample("3_a.png")),
    ];
    for route in ["/v1/models/digits/batch-classify", "/v1/batch-classify"] {
        let answer = gateway
            .send(gateway.post(route).multipart(files(&parts)))
            .await;
        let body = answer.assert_ok();
        assert_eq!(
            (&body["model"], &body["request_id"]),
            (&json!("digits"), &json!(answer.header("x-request-id")))
        );
        let results = body["results"].as_array().expect("results");
        assert_eq!(results.len(), parts.len());
        for (index, (result, (name, _))) in results.iter().zip(&parts).enumerate() {
            assert_eq!(
                (&result["index"], &result["filename"]),
                (&json!(index), &json!(name))
            );
        }
        let classes: Vec<&Value> = results.iter().map(|result| &result["class"]).collect();
        assert_eq!(
            classes,
            [
                &json!("7"),
                &Value::Null,
                &Value::Null,
                &Value::Null,
                &Value::Null,
                &json!("3")
            ]
        );
        let codes: Vec<Option<&str>> = results
            .iter()
            .map(|result| result["error"]["code"].as_str())
            .collect();
        assert_eq!(
            codes,
            [
                None,
                Some("unsupported_media_type"),
                Some("missing_image"),
                Some("payload_too_large"),
                Some("undecodable_image"),
                None
            ]
        );
        assert_eq!(results[1]["error"]["request_id"], body["request_id"]);
    }
}

#[tokio::test]
async fn a_name_of_a_file_has_a_bound() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let send = async |name: String| {
        let request = gateway.post("/v1/models/digits/batch-classify");
        let form = files(&[(&name, sample("7_a.png"))]);
        gateway.send(request.multipart(form)).await
    };
    let longest = send("n".repeat(1024)).await;
    let echoed = longest.assert_ok()["results"][0]["filename"].as_str();
    assert_eq!(echoed.map(str::len), Some(1024));
    let longer = send("n".repeat(1025)).await;
    assert!(
        longer
            .assert_problem(400, "bad_request")
            .contains("1025 bytes")
    );
}

#[tokio::test]
async fn a_batch_comes_as_json_too() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["limits.max_batch_images=3"]).await;
    let encode = |name| base64::engine::general_purpose::STANDARD.encode(sample(name));
    let images = json!([encode("7_a.png"), "!!!", encode("3_a.png")]);
    let answer = gateway
        .json("/v1/batch-classify", &json!({"images": images, "top_k": 2}))
        .await;
    let results = answer.assert_ok()["results"]
        .as_array()
        .expect("results")
        .clone();
    assert_eq!(
        (&results[0]["class"], &results[2]["class"]),
        (&json!("7"), &json!("3"))
    );
    assert_eq!(results[0]["classes"].as_array().map(Vec::len), Some(2));
    assert_eq!(results[1]["error"]["code"], "bad_request");
    let four = json!({"images": ["", "", "", ""]});
    gateway
        .json("/v1/batch-classify", &four)
        .await
        .assert_problem(413, "batch_too_large");
    let none = json!({"images": []});
    gateway
        .json("/v1/batch-classify", &none)
        .await
        .assert_problem(400, "missing_image");
}

#[tokio::test]
async fn too_many_pictures_are_refused_and_options_hold_for_all() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["limits.max_batch_images=2"]).await;
    let three = [
        ("a", sample("7_a.png")),
        ("b", sample("7_a.png")),
        ("c", sample("7_a.png")),
    ];
    let route = "/v1/models/digits/batch-classify";
    let answer = gateway
        .send(gateway.post(route).multipart(files(&three)))
        .await;
    answer.assert_problem(413, "batch_too_large");
    let bad = format!("{route}?top_k=11");
    let answer = gateway
        .send(gateway.post(&bad).multipart(files(&three[..2])))
        .await;
    answer.assert_problem(400, "bad_request");
    let one = gateway.raw(route, "image/png", sample("7_a.png")).await;
    assert_eq!(
        one.assert_ok()["results"][0]["class"],
        "7",
        "a raw body is a batch of one"
    );
    let empty = gateway
        .send(
            gateway
                .post(route)
                .multipart(Form::new().text("other", "x")),
        )
        .await;
    assert!(empty.assert_problem(400, "missing_image").contains("other"));
}
