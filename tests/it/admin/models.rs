//! Models on the wire: made, described, listed, deleted; and the folder, which is the other door to the same store.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::gateway::{Answer, TestGateway};
use crate::fixture::store::{TestStore, tree};
use crate::fixture::{data, read};

async fn patch(gateway: &TestGateway, path: &str, etag: Option<&str>, body: Value) -> Answer {
    let request = gateway.admin_request(Method::PATCH, path).json(&body);
    let request = match etag {
        Some(etag) => request.header("if-match", etag),
        None => request,
    };
    gateway.send(request).await
}

#[tokio::test]
async fn a_model_is_made_once() {
    let store = TestStore::empty();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let new =
        json!({"id": "colours", "title": " Colours ", "description": "Tells red\nfrom green"});
    let made = gateway
        .admin(Method::POST, "/models", Some(new.clone()))
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("location"), "/admin/v1/models/colours");
    let view = &made.body;
    assert_eq!(
        (&view["id"], &view["title"]),
        (&json!("colours"), &json!("Colours"))
    );
    assert_eq!(
        (&view["versions"], &view["rollout"]),
        (&json!([]), &json!({"mode": "latest"}))
    );
    // It is in the folder, and on the data plane.
    let names: Vec<_> = tree(store.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["colours", "colours/model.toml"]);
    gateway.get("/v1/models/colours").await.assert_ok();
    let again = gateway.admin(Method::POST, "/models", Some(new)).await;
    again.assert_problem(409, "conflict");
}

#[tokio::test]
async fn a_model_is_read_and_described() {
    let store = TestStore::empty();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let new = json!({"id": "colours", "title": "Colours", "description": "D"});
    let made = gateway.admin(Method::POST, "/models", Some(new)).await;
    let read_it = async || gateway.admin(Method::GET, "/models/colours", None).await;
    let first = read_it().await;
    assert_eq!(
        (first.assert_ok(), first.header("etag")),
        (&made.body, made.header("etag"))
    );
    let path = "/models/colours";
    store.write(
        "colours/model.toml",
        "# by hand\ntitle = \"Colours\" # what people say\n\n[input]\nsize = [8, 8]\n",
    );
    let etag = loop {
        let now = read_it().await;
        if now.body["description"].is_null() {
            break now.header("etag").to_owned();
        }
    };
    assert_ne!(etag, first.header("etag"), "another state has another tag");
    let stale = patch(
        &gateway,
        path,
        Some(first.header("etag")),
        json!({"title": "Lost"}),
    )
    .await;
    stale.assert_problem(412, "precondition_failed");
    let changed = patch(&gateway, path, Some(&etag), json!({"title": "Farben"})).await;
    assert_eq!(changed.assert_ok()["title"], "Farben");
    assert_eq!(read_it().await.header("etag"), changed.header("etag"));
    let text = String::from_utf8(read(store.path().join("colours/model.toml"))).expect("text");
    assert_eq!(
        text,
        "# by hand\ntitle = \"Farben\" # what people say\n\n[input]\nsize = [8, 8]\n"
    );
    let changed = patch(
        &gateway,
        path,
        None,
        json!({"title": null, "description": "D"}),
    )
    .await;
    let view = changed.assert_ok();
    assert_eq!(
        (&view["title"], &view["description"]),
        (&Value::Null, &json!("D"))
    );
    patch(&gateway, path, None, json!({})).await.assert_ok();
    let audit = gateway
        .admin(Method::GET, "/audit?action=model.change", None)
        .await;
    let items = &audit.assert_ok()["items"];
    assert_eq!(
        items.as_array().expect("items").len(),
        2,
        "what changes nothing leaves no entry"
    );
    assert_eq!(items[1]["before"]["title"], "Colours");
    assert_eq!(items[1]["after"]["title"], "Farben");
}

#[tokio::test]
async fn a_model_is_deleted_with_all_that_is_its_own() {
    let store = TestStore::empty();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let new = json!({"id": "colours", "title": "Colours", "description": "D"});
    let made = gateway.admin(Method::POST, "/models", Some(new)).await;
    assert_eq!(made.status, 201);
    let path = "/models/colours";
    store.write("colours/notes/by hand.txt", "mine");
    let stale = gateway
        .admin_request(Method::DELETE, path)
        .header("if-match", "\"1\"");
    gateway
        .send(stale)
        .await
        .assert_problem(412, "precondition_failed");
    let gone = gateway.admin(Method::DELETE, path, None).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(tree(store.path()).is_empty(), "{:?}", tree(store.path()));
    for method in [Method::GET, Method::DELETE, Method::PATCH] {
        let body = (method == Method::PATCH).then(|| json!({}));
        let answer = gateway.admin(method, path, body).await;
        answer.assert_problem(404, "model_not_found");
    }
    gateway
        .get("/v1/models/colours")
        .await
        .assert_problem(404, "model_not_found");

    let audit = gateway
        .admin(Method::GET, "/audit?action=model.", None)
        .await;
    let items = &audit.assert_ok()["items"];
    let said = [
        &items[0]["action"],
        &items[1]["action"],
        &items[2]["action"],
    ];
    assert_eq!(
        said,
        [&json!("model.delete"), &json!("model.create"), &Value::Null]
    );
    assert_eq!(items[0]["target"], "models/colours");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    let store = TestStore::empty();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let (long, prose) = ("x".repeat(201), "x".repeat(4001));
    for (body, word) in [
        (json!({}), "id"),
        (json!({"id": ""}), "id"),
        (json!({"id": "A"}), "id"),
        (json!({"id": ".."}), "id"),
        (json!({"id": "../x"}), "id"),
        (json!({"id": ".uploads"}), "id"),
        (json!({"id": "a/b"}), "id"),
        (json!({"id": "a\u{0}b"}), "id"),
        (json!({"id": "a".repeat(65)}), "id"),
        (json!({"id": "b", "colour": 1}), "colour"),
        (json!({"id": "b", "title": 1}), "title"),
        (json!({"id": "b", "title": long}), "title"),
        (json!({"id": "b", "title": "a\nb"}), "title"),
        (json!({"id": "b", "description": prose}), "description"),
        (json!({"id": "b", "description": "a\u{0}"}), "description"),
    ] {
        let answer = gateway
            .admin(Method::POST, "/models", Some(body.clone()))
            .await;
        let detail = answer.assert_problem(400, "bad_request");
        assert!(detail.contains(word), "{body}: {detail}");
    }
    assert!(tree(store.path()).is_empty());
    store.write("broken/model.toml", "title = ");
    store.write("file", "no folder");
    gateway.until("broken", |view| view["id"] == "broken").await;
    let answer = patch(&gateway, "/models/broken", None, json!({"title": "T"})).await;
    let detail = answer.assert_problem(409, "conflict");
    assert!(detail.contains("model.toml"), "{detail}");
    let answer = patch(&gateway, "/models/broken", None, json!({"colour": 1})).await;
    assert!(answer.assert_problem(400, "bad_request").contains("colour"));
    for id in ["broken", "file"] {
        let answer = gateway
            .admin(Method::POST, "/models", Some(json!({"id": id})))
            .await;
        answer.assert_problem(409, "conflict");
    }
    assert_eq!(read(store.path().join("broken/model.toml")), b"title = ");
    assert!(!store.path().join(".uploads").exists());
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let store = TestStore::empty();
    for id in ["e", "a", "d", "b", "c"] {
        store.add(&data("models/rgb-f32"), id);
    }
    let gateway = TestGateway::start(store.path(), &[]).await;
    let mut ids = Vec::new();
    let mut path = "/models?limit=2".to_owned();
    loop {
        let page = gateway.admin(Method::GET, &path, None).await;
        let items = page.assert_ok()["items"].as_array().expect("items").clone();
        assert!((1..=2).contains(&items.len()));
        assert!(items.iter().all(|item| item.get("labels").is_none()));
        ids.extend(
            items
                .iter()
                .map(|item| item["id"].as_str().expect("text").to_owned()),
        );
        match page.body["next"].as_str() {
            Some(next) => path = format!("/models?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    for query in ["limit=0", "limit=1001", "after=A"] {
        let answer = gateway
            .admin(Method::GET, &format!("/models?{query}"), None)
            .await;
        answer.assert_problem(400, "bad_request");
    }
}

#[tokio::test]
async fn folder_and_calls_are_two_doors_to_one_store() {
    let store = TestStore::tiny(&["rgb-f32"]);
    let gateway = TestGateway::start(store.path(), &[]).await;
    let version = async |number: u64| {
        let path = format!("/models/rgb-f32/versions/{number}");
        gateway.admin(Method::GET, &path, None).await
    };
    let first = version(1).await;
    assert_eq!(first.assert_ok()["state"], "live");
    assert_eq!(version(1).await.header("etag"), first.header("etag"));
    // What is done in the folder, the calls show.
    store.place_version("rgb-f32", 2, &read(data("broken/nan-output/1/model.onnx")));
    gateway
        .until("rgb-f32", |view| view["versions"][1]["state"] == "failed")
        .await;
    let second = version(2).await;
    assert!(
        second.assert_ok()["reason"]
            .as_str()
            .expect("a reason")
            .contains("finite")
    );
    // What is done by a call, the folder shows.
    let gone = gateway
        .admin(Method::DELETE, "/models/rgb-f32/versions/2", None)
        .await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(!store.path().join("rgb-f32/2").exists());
    version(2).await.assert_problem(404, "version_not_found");
    std::fs::remove_dir_all(store.path().join("rgb-f32/1")).expect("removed");
    gateway
        .until("rgb-f32", |view| view["versions"] == json!([]))
        .await;
    version(1).await.assert_problem(404, "version_not_found");
    // What a call meets in the folder before the manager does is looked at.
    store.place_version("rgb-f32", 7, &read(data("models/rgb-f32/1/model.onnx")));
    let loaded = gateway
        .admin(Method::POST, "/models/rgb-f32/versions/7/load", None)
        .await;
    assert_eq!(loaded.assert_ok()["state"], "live");
    for path in ["9", "0", "x", "007", "stable", "..%2f1"] {
        for (method, tail) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::POST, "/load"),
            (Method::POST, "/unload"),
        ] {
            let path = format!("/models/rgb-f32/versions/{path}{tail}");
            let answer = gateway.admin(method, &path, None).await;
            answer.assert_problem(404, "version_not_found");
        }
    }
}

#[tokio::test]
async fn a_version_that_is_out_of_service_stays_so_across_a_restart() {
    let store = TestStore::digits();
    let database = crate::fixture::database::TestDatabase::sqlite();
    let setting = format!("store.url={}", database.url);
    let mut gateway = TestGateway::start(store.path(), &[&setting]).await;
    let path = "/models/digits/versions/2";
    for _ in 0..2 {
        let answer = gateway
            .admin(Method::POST, &format!("{path}/unload"), None)
            .await;
        assert_eq!(answer.assert_ok()["state"], "unloaded");
    }
    let states = async |gateway: &TestGateway| {
        let view = gateway.get("/v1/models/digits").await;
        let versions = view.assert_ok()["versions"]
            .as_array()
            .expect("versions")
            .clone();
        versions
            .iter()
            .map(|version| version["state"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(states(&gateway).await, ["live", "unloaded"]);
    gateway.join();
    let gateway = TestGateway::start(store.path(), &[&setting]).await;
    assert_eq!(states(&gateway).await, ["live", "unloaded"]);
    for _ in 0..2 {
        let answer = gateway
            .admin(Method::POST, &format!("{path}/load"), None)
            .await;
        assert_eq!(
            answer.assert_ok()["state"],
            "live",
            "it answers when the call does"
        );
    }
    // Once each in the audit: what was so already was not done.
    let audit = gateway
        .admin(Method::GET, "/audit?action=version.", None)
        .await;
    let items = audit.assert_ok()["items"]
        .as_array()
        .expect("items")
        .clone();
    let said: Vec<_> = items
        .iter()
        .map(|item| item["action"].as_str().expect("text"))
        .collect();
    assert_eq!(said, ["version.load", "version.unload"]);
    // What its manifest does not select cannot be loaded; what is broken says why.
    let manifest = String::from_utf8(read(store.path().join("digits/model.toml"))).expect("text");
    store.write(
        "digits/model.toml",
        format!("{manifest}\n[serving]\nversions = [1]\n"),
    );
    gateway
        .until("digits", |view| view["versions"][1]["state"] == "unloaded")
        .await;
    let answer = gateway
        .admin(Method::POST, &format!("{path}/load"), None)
        .await;
    let detail = answer.assert_problem(409, "conflict");
    assert!(detail.contains("serving.versions"), "{detail}");
    store.write("digits/model.toml", manifest);
    store.place("digits/2/model.onnx", "nonsense");
    gateway
        .until("digits", |view| {
            view["versions"][1]["pending"]["state"] == "failed"
                || view["versions"][1]["state"] == "failed"
        })
        .await;
    gateway
        .admin(Method::POST, &format!("{path}/unload"), None)
        .await
        .assert_ok();
    let answer = gateway
        .admin(Method::POST, &format!("{path}/load"), None)
        .await;
    let detail = answer.assert_problem(422, "model_rejected");
    assert!(detail.contains("ONNX"), "{detail}");
    assert_eq!(answer.body["checks"][0]["name"], "load");
}
