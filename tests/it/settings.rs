//! Settings that change while the gateway runs: by their file, by a signal, by an operator.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

fn seven() -> Vec<u8> {
    read(root().join("model-store/digits/samples/7_a.png"))
}

#[tokio::test]
async fn a_changed_file_is_in_force_without_a_restart_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lensgate.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    write("[limits]\nmax_image_bytes = 1000000\n");
    let store = TestStore::digits();
    let gateway = TestGateway::start_with_file(store.path(), &[], &file).await;
    let ask = async || {
        let path = "/v1/models/digits/classify";
        gateway
            .raw(path, "image/png", seven())
            .await
            .status
            .as_u16()
    };
    let becomes = async |wanted: u16| {
        let since = Instant::now();
        while ask().await != wanted {
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "it does not become {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(ask().await, 200);
    write("[limits]\nmax_image_bytes = 10\n");
    becomes(413).await;
    write("[limits]\nmax_image_bytes = 1000000\nmax_image_pixels = 5\n");
    becomes(422).await;
    write("[limits]\nmax_image_bytes = 0\n");
    let refused = gateway.admin(Method::POST, "/reload", None).await;
    let detail = refused.assert_problem(400, "bad_request");
    assert!(detail.contains("limits.max_image_bytes"), "{detail}");
    assert_eq!(ask().await, 422, "all stays as it was");
    write("nonsense = [");
    let refused = gateway.admin(Method::POST, "/reload", None).await;
    refused.assert_problem(400, "bad_request");
    write("default_model = \"digits\"\n[server]\nmax_connections = 7\n");
    let reloaded = gateway.admin(Method::POST, "/reload", None).await;
    let view = reloaded.assert_ok();
    // The watch may have been faster with what may change; what needs a restart does so each time.
    assert_eq!(view["needs_restart"], json!(["server.max_connections"]));
    assert_eq!(ask().await, 200);
}
