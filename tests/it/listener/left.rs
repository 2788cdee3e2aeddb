//! Clients that leave while their request runs: the handler's future must be dropped.

use super::*;

/// Generous for a busy machine; the handler itself would sleep several times as long.
const PROMPT: Duration = Duration::from_millis(1500);

async fn leaves(request: String, body: usize, reset: bool) {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(request.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; body]).await.unwrap();
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    assert_eq!(
        gateway.next_sleep(millis(100)).await,
        None,
        "dropped before the client left"
    );
    if reset {
        client.set_zero_linger().unwrap();
    }
    drop(client);
    assert_eq!(gateway.next_sleep(PROMPT).await, Some("dropped"));
    assert_eq!(gateway.end().await.aborted, 0);
}

#[tokio::test]
async fn a_fin_drops_the_handler() {
    leaves(get("/sleep"), 0, false).await;
}

#[tokio::test]
async fn a_reset_drops_the_handler() {
    leaves(get("/sleep"), 0, true).await;
}

#[tokio::test]
async fn a_fin_behind_a_body_that_was_read_drops_the_handler() {
    leaves(post("/sleep-after-body", 100_000), 100_000, false).await;
}

#[tokio::test]
async fn a_reset_behind_a_body_that_was_read_drops_the_handler() {
    leaves(post("/sleep-after-body", 100_000), 100_000, true).await;
}

#[tokio::test]
async fn a_fin_behind_a_body_that_nobody_reads_drops_the_handler() {
    leaves(post("/sleep", 100_000), 100_000, false).await;
}

#[tokio::test]
async fn a_fin_in_the_middle_of_a_body_drops_the_handler() {
    leaves(post("/sleep", 200_000), 100_000, false).await;
}

#[tokio::test]
async fn a_fin_behind_a_pipelined_request_drops_the_handler() {
    leaves(get("/sleep") + &get("/hello"), 0, false).await;
}

#[tokio::test]
async fn a_client_that_stays_gets_its_answer() {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &get("/nap")).await.body, "napped");
    assert_eq!(ask(&mut client, &get("/nap")).await.body, "napped");
    assert_eq!(gateway.next_sleep(millis(1)).await, None);
}

#[tokio::test]
async fn a_client_that_only_has_no_more_to_send_gets_its_answer() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.write_all(get("/hello").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
}
