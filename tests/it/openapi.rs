//! The OpenAPI document: every route of the contract, and no change unseen.

use crate::fixture::gateway::TestGateway;
use crate::fixture::root;
use crate::fixture::store::TestStore;

#[tokio::test]
async fn the_admin_planes_document_is_the_one_in_the_repository() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let request = gateway
        .bare
        .get(format!("{}/openapi.json", gateway.admin_base));
    let served = gateway.send(request).await.assert_ok().clone();
    let committed = crate::fixture::json(root().join("docs/openapi-admin.json"));
    assert!(
        served == committed,
        "it changed: run `lensgate openapi admin > docs/openapi-admin.json`"
    );
    for (path, methods) in [
        ("/tenants", &["get", "post"][..]),
        ("/tenants/{id}", &["get", "patch", "delete"]),
        ("/keys", &["get", "post"]),
        ("/keys/{id}", &["get", "patch", "delete"]),
        ("/keys/{id}/rotate", &["post"]),
        ("/tokens", &["get", "post"]),
        ("/tokens/{id}", &["delete"]),
        ("/models", &["get", "post"]),
        ("/models/{model}", &["get", "patch", "delete"]),
        (
            "/models/{model}/versions/{version}",
            &["get", "put", "delete"],
        ),
        ("/models/{model}/versions/{version}/load", &["post"]),
        ("/models/{model}/versions/{version}/unload", &["post"]),
        ("/models/{model}/aliases", &["get"]),
        ("/models/{model}/aliases/{alias}", &["put", "delete"]),
        ("/status", &["get"]),
        ("/reload", &["post"]),
        ("/audit", &["get"]),
        ("/events", &["get"]),
    ] {
        for method in methods {
            let operation = &served["paths"][format!("/admin/v1{path}")][method];
            assert!(operation.is_object(), "{method} {path} is not described");
            assert!(operation["security"].is_array(), "{method} {path} is open");
        }
    }
}

#[tokio::test]
async fn the_document_is_the_one_in_the_repository() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let served = gateway.get("/openapi.json").await.assert_ok().clone();
    let committed = crate::fixture::json(root().join("docs/openapi-data.json"));
    assert!(
        served == committed,
        "it changed: run `lensgate openapi data > docs/openapi-data.json`"
    );
    for (path, method) in [
        ("/v1/models/{model}/classify", "post"),
        ("/v1/models/{model}/versions/{version}/classify", "post"),
        ("/v1/classify", "post"),
        ("/v1/models/{model}/batch-classify", "post"),
        ("/v1/batch-classify", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model}", "get"),
        ("/health", "get"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
    ] {
        let operation = &served["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let problem = &operation["responses"]["422"]["content"]["application/problem+json"];
        assert!(
            problem.is_object(),
            "{method} {path} does not describe its failures"
        );
    }
    let forms = &served["paths"]["/v1/classify"]["post"]["requestBody"]["content"];
    for form in [
        "multipart/form-data",
        "application/json",
        "image/*",
        "application/octet-stream",
    ] {
        assert!(forms[form].is_object(), "{form}");
    }
    for path in [
        "/v1/models/{model}/classify",
        "/v1/models/{model}/versions/{version}/classify",
        "/v1/classify",
        "/v1/models/{model}/batch-classify",
        "/v1/batch-classify",
    ] {
        let operation = &served["paths"][path]["post"];
        let taken = operation["parameters"].as_array().expect("parameters");
        for header in ["X-Request-Timeout-Ms", "Cache-Control"] {
            let described = taken
                .iter()
                .any(|taken| taken["name"] == header && taken["in"] == "header");
            assert!(described, "{path} does not describe {header}");
        }
        for header in ["Cache-Status", "Server-Timing"] {
            let given = &operation["responses"]["200"]["headers"][header];
            assert!(given.is_object(), "{path} does not describe {header}");
        }
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let answer = gateway.get("/docs").await;
    let page = answer.assert_ok().as_str().expect("a page").to_owned();
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(page.contains("swagger") && page.contains("/v1/classify"));
    for outside in ["<script src=", "<link ", "@import url(http"] {
        assert!(!page.contains(outside), "the page loads {outside}");
    }
}
