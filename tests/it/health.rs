//! Health: alive at once, ready when every version found has come to its end and the required models are live.

use crate::fixture::data;
use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;

#[tokio::test]
async fn a_failed_version_does_not_keep_the_gateway_from_being_ready() {
    let store = TestStore::digits().with(&data("broken/text"), "broken");
    let gateway = TestGateway::start(store.path(), &[]).await;
    for path in ["/health", "/health/live", "/health/ready"] {
        let body = gateway.get(path).await.assert_ok().clone();
        assert_eq!(
            (&body["models_live"], &body["versions_failed"]),
            (&1.into(), &1.into()),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_required_model_that_is_not_live_does() {
    let store = TestStore::digits().with(&data("broken/text"), "broken");
    let settings = ["server.required_models=digits,broken"];
    let gateway = TestGateway::start_unready(store.path(), &settings).await;
    gateway.get("/health/live").await.assert_ok();
    let answer = loop {
        let answer = gateway.get("/health/ready").await;
        assert_eq!(answer.status.as_u16(), 503, "never ready");
        if !answer.body["detail"]
            .as_str()
            .expect("a detail")
            .contains("loading")
        {
            break answer;
        }
    };
    assert!(
        answer
            .assert_problem(503, "model_unavailable")
            .contains("broken")
    );
}

#[tokio::test]
async fn head_is_answered_where_get_is() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let request = gateway.client.head(format!("{}/health", gateway.base));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.bytes().await.expect("no body").is_empty());
}
