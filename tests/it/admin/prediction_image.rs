//! A picture of a prediction, out of the archive; and gone with all else that its tenant has asked for.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::{TestStore, tree};
use crate::fixture::{read, root};

fn sample(name: &str) -> Vec<u8> {
    read(root().join("model-store/digits/samples").join(name))
}

/// Waits until so many pictures are archived.
async fn archived(gateway: &TestGateway, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = gateway.admin(Method::GET, "/status", None).await.body;
        if status["archive"]["stored"] == count {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Classifies a picture; gives the request's id.
async fn classify(gateway: &TestGateway, picture: &[u8]) -> String {
    let path = "/v1/models/digits/classify";
    let answer = gateway.raw(path, "image/png", picture.to_vec()).await;
    let id = &answer.assert_ok()["request_id"];
    id.as_str().expect("an id").to_owned()
}

async fn first_tenant(gateway: &TestGateway) -> String {
    let tenants = gateway.admin(Method::GET, "/tenants?limit=1", None).await;
    let id = &tenants.assert_ok()["items"][0]["id"];
    id.as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_picture_is_given_to_operators_and_goes_with_its_tenants_predictions() {
    let (store, folder) = (TestStore::digits(), tempfile::tempdir().expect("a folder"));
    let images = format!("archive.images={}", folder.path().display());
    let gateway = TestGateway::start(store.path(), &[&images]).await;
    let seven = sample("7_a.png");
    let kept = classify(&gateway, &seven).await;
    // The same again, and one that is refused, are no further pictures.
    classify(&gateway, &seven).await;
    let path = "/v1/models/digits/classify";
    let refused = gateway.raw(path, "image/png", b"no picture".to_vec()).await;
    refused.assert_problem(415, "unsupported_media_type");
    let missing = refused.body["request_id"].as_str().expect("an id");
    classify(&gateway, &sample("8_a.png")).await;
    archived(&gateway, 2).await;
    let tenant = first_tenant(&gateway).await;

    let path = format!("/predictions/{kept}/image");
    let request = gateway.admin_request(Method::GET, &path);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    for (name, value) in [
        ("content-type", "image/png"),
        (
            "content-disposition",
            &format!("attachment; filename=\"{kept}-0.png\""),
        ),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.headers()[name], value);
    }
    assert_eq!(answer.bytes().await.expect("a body"), seven);

    let (_, viewer) = gateway.token("viewer").await;
    let url = format!("{}/admin/v1{path}", gateway.admin_base);
    let refused = gateway
        .send(gateway.bare.get(url).bearer_auth(viewer))
        .await;
    refused.assert_problem(403, "forbidden");
    let unknown = uuid::Uuid::now_v7();
    for (path, code) in [
        (
            format!("/predictions/{kept}/image?index=1"),
            "prediction_not_found",
        ),
        (
            format!("/predictions/{unknown}/image"),
            "prediction_not_found",
        ),
        (
            "/predictions/nonsense/image".to_owned(),
            "prediction_not_found",
        ),
        (format!("/predictions/{missing}/image"), "not_found"),
    ] {
        let answer = gateway.admin(Method::GET, &path, None).await;
        answer.assert_problem(404, code);
    }
    let status = gateway.admin(Method::GET, "/status", None).await;
    assert_eq!(status.assert_ok()["archive"]["status"], "ok");

    let deleted = format!("/predictions?tenant={tenant}");
    let deleted = gateway.admin(Method::DELETE, &deleted, None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{deleted:?}");
    let files = tree(folder.path());
    assert!(
        files.iter().all(|(_, content)| content.is_none()),
        "a picture is left"
    );
}

#[tokio::test]
async fn without_an_archive_there_is_no_picture_and_one_that_is_away_says_so() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let id = classify(&gateway, &sample("7_a.png")).await;
    let path = format!("/predictions/{id}/image");
    let answer = gateway.admin(Method::GET, &path, None).await;
    answer.assert_problem(404, "not_found");
    let status = gateway.admin(Method::GET, "/status", None).await;
    assert_eq!(status.assert_ok()["archive"], Value::Null);

    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("archive");
    let images = format!("archive.images={}", place.display());
    let gateway = TestGateway::start(store.path(), &[&images]).await;
    let id = classify(&gateway, &sample("8_a.png")).await;
    let path = format!("/predictions/{id}/image");
    let tenant = first_tenant(&gateway).await;
    std::fs::remove_dir_all(&place).expect("gone");
    std::fs::write(&place, "no folder").expect("a file");
    for (method, path) in [
        (Method::GET, path),
        (Method::DELETE, format!("/predictions?tenant={tenant}")),
    ] {
        let answer = gateway.admin(method, &path, None).await;
        let detail = answer.assert_problem(503, "store_unavailable");
        assert!(detail.contains("archive"), "{detail}");
        assert!(!answer.header("retry-after").is_empty());
    }
}
