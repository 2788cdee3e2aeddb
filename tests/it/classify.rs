//! One picture in, a label out: the three forms, the answer, the options.

use base64::Engine as _;
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{data, read, root};

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

#[tokio::test]
async fn every_sample_is_classified_right_in_every_form() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for entry in std::fs::read_dir(store.path().join("digits/samples")).expect("samples") {
        let path = entry.expect("an entry").path();
        let digit = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")[..1]
            .to_owned();
        let picture = read(&path);
        let route = "/v1/models/digits/classify";
        let encoded = base64::engine::general_purpose::STANDARD.encode(&picture);
        for answer in [
            gateway.form(route, picture.clone()).await,
            gateway.raw(route, "image/png", picture.clone()).await,
            gateway
                .raw(route, "application/octet-stream", picture.clone())
                .await,
            gateway.json(route, &json!({"image": encoded})).await,
            gateway
                .json(
                    route,
                    &json!({"image": format!("data:image/png;base64,{encoded}")}),
                )
                .await,
            gateway
                .raw("/v1/classify", "IMAGE/PNG; x=1", picture.clone())
                .await,
        ] {
            assert_eq!(
                answer.assert_ok()["class"],
                digit.as_str(),
                "{}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn an_answer_says_everything_that_is_promised() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let answer = gateway.form("/v1/models/digits/classify", seven()).await;
    let body = answer.assert_ok();
    let id = body["request_id"].as_str().expect("an id");
    assert_eq!(
        uuid::Uuid::parse_str(id).map(|id| id.get_version_num()),
        Ok(7)
    );
    assert_eq!(answer.header("x-request-id"), id);
    assert_eq!(
        (&body["model"], &body["version"]),
        (&json!("digits"), &json!(2))
    );
    let digest = body["digest"].as_str().expect("a digest");
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
    assert_eq!(body["rollout"], json!({"mode": "latest"}));
    assert_eq!(body["cached"], false);
    let classes = body["classes"].as_array().expect("classes");
    assert_eq!(classes.len(), 5, "five, unless top_k says otherwise");
    assert_eq!(
        classes[0],
        json!({"class": "7", "index": 7, "confidence": body["confidence"]})
    );
    let confidences: Vec<f64> = classes
        .iter()
        .map(|class| class["confidence"].as_f64().expect("a number"))
        .collect();
    assert!(confidences.is_sorted_by(|a, b| a >= b), "{confidences:?}");
    for step in ["decode", "queue", "inference", "total"] {
        assert!(
            body["timing_ms"][step].as_f64().is_some_and(|ms| ms >= 0.0),
            "{body}"
        );
        assert!(
            answer
                .header("server-timing")
                .contains(&format!("{step};dur="))
        );
    }
    // A client's own id is not adopted.
    let own = gateway
        .post("/v1/classify")
        .header("x-request-id", "mine")
        .header("content-type", "image/png")
        .body(seven());
    assert_ne!(gateway.send(own).await.header("x-request-id"), "mine");
}

#[tokio::test]
async fn a_version_can_be_named() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for version in [1, 2] {
        let route = format!("/v1/models/digits/versions/{version}/classify");
        let answer = gateway.raw(&route, "image/png", seven()).await;
        assert_eq!(answer.assert_ok()["version"], version);
        assert_eq!(answer.body["class"], "7");
    }
    for unknown in ["3", "0", "01", "stable", "-1"] {
        let route = format!("/v1/models/digits/versions/{unknown}/classify");
        gateway
            .raw(&route, "image/png", seven())
            .await
            .assert_problem(404, "version_not_found");
    }
}

#[tokio::test]
async fn options_choose_how_much_is_answered() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let classes = async |query: &str| {
        let route = format!("/v1/models/digits/classify{query}");
        let answer = gateway.raw(&route, "image/png", seven()).await;
        answer.assert_ok()["classes"]
            .as_array()
            .expect("classes")
            .len()
    };
    assert_eq!(classes("?top_k=1").await, 1);
    assert_eq!(classes("?top_k=10").await, 10);
    assert_eq!(classes("?top_k=10&min_confidence=0.5").await, 1);
    assert_eq!(
        classes("?min_confidence=1").await,
        0,
        "min_confidence filters classes alone"
    );
    let encoded = base64::engine::general_purpose::STANDARD.encode(seven());
    let body = json!({"image": encoded, "top_k": 3});
    let inside = gateway.json("/v1/classify", &body).await;
    assert_eq!(
        inside.assert_ok()["classes"].as_array().map(Vec::len),
        Some(3)
    );
    let query = gateway.json("/v1/classify?top_k=2", &body).await;
    assert_eq!(
        query.assert_ok()["classes"].as_array().map(Vec::len),
        Some(2),
        "the query wins"
    );
    for bad in [
        "?top_k=0",
        "?top_k=11",
        "?top_k=-1",
        "?top_k=x",
        "?min_confidence=2",
        "?min_confidence=nan",
    ] {
        let route = format!("/v1/models/digits/classify{bad}");
        gateway
            .raw(&route, "image/png", seven())
            .await
            .assert_problem(400, "bad_request");
    }
    for (key, value) in [
        ("top_k", json!(0)),
        ("top_k", json!("x")),
        ("topk", json!(1)),
    ] {
        let mut body = json!({"image": encoded});
        body[key] = value;
        gateway
            .json("/v1/classify", &body)
            .await
            .assert_problem(400, "bad_request");
    }
}

#[tokio::test]
async fn every_element_type_layout_and_output_shape_is_served_on_both_backends() {
    let expected = crate::fixture::json(data("expected.json"));
    for backend in ["ort", "tract"] {
        let names: Vec<&str> = expected
            .as_object()
            .expect("models")
            .keys()
            .map(String::as_str)
            .collect();
        let store = TestStore::tiny(&names);
        for name in &names {
            let manifest = store.path().join(name).join("model.toml");
            let mut text = std::fs::read_to_string(&manifest).unwrap_or_default();
            text.push_str("\n[serving]\nbackend = \"BACKEND\"\n");
            let text = text.replace("BACKEND", backend);
            std::fs::write(&manifest, text).expect("written");
        }
        let gateway = TestGateway::start(store.path(), &[]).await;
        for name in names {
            let view = gateway.get(&format!("/v1/models/{name}")).await;
            let version = &view.assert_ok()["versions"][0];
            assert_eq!(
                (&version["state"], &version["backend"]),
                (&json!("live"), &json!(backend)),
                "{name}: {version}"
            );
            for (picture, class) in [("red.png", 0), ("green.png", 1), ("blue.png", 2)] {
                let picture = read(data("images").join(picture));
                let route = format!("/v1/models/{name}/classify");
                let answer = gateway.raw(&route, "image/png", picture).await;
                let body = answer.assert_ok();
                assert_eq!(body["classes"][0]["class"], body["class"]);
                if !name.starts_with("gray") {
                    assert_eq!(
                        body["classes"][0]["index"], class,
                        "{name} on {backend}: {body}"
                    );
                }
            }
        }
    }
}
