//! Answers that come before a body was read, heads that cannot be parsed, and full houses.

use super::*;

const MIB: usize = 1024 * 1024;

/// Writes a request with `length` bytes of body (or as many as are taken) and, only then, reads the answer.
async fn push(client: &mut TcpStream, head: String, length: usize) -> (usize, Option<Answer>) {
    client.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < length {
        match timeout(LONG, client.write(&chunk[..chunk.len().min(length - sent)]))
            .await
            .expect("writing hangs")
        {
            Ok(written) => sent += written,
            Err(_) => break,
        }
    }
    (sent, try_answer(client, false).await)
}

#[tokio::test]
async fn a_refused_body_of_a_mebibyte_is_drained_and_the_connection_kept() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        let (sent, answer) = push(&mut client, post("/refuse", MIB), MIB).await;
        let answer = answer.expect("the client must see the refusal");
        assert_eq!((answer.status, sent), (413, MIB));
        assert_ne!(answer.header("connection"), "close");
        assert_eq!(ask(&mut client, &get("/hello")).await.body, "hello GET");
    }
}

#[tokio::test]
async fn a_refused_body_just_over_the_bound_is_still_answered_and_then_closed() {
    // More than the sockets' buffers take: with nobody reading, the client could not send it.
    let gateway = Gateway::start(ListenerConfig {
        linger_bytes: 16 * MIB as u64,
        ..Default::default()
    })
    .await;
    let length = 16 * MIB + 1000;
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        let (sent, answer) = push(&mut client, post("/refuse", length), length).await;
        let answer = answer.expect("the client must see the refusal");
        assert_eq!(sent, length);
        assert_eq!((answer.status, answer.header("connection")), (413, "close"));
        assert!(is_closed(&mut client, LONG).await);
    }
}

#[tokio::test]
async fn a_refused_body_without_a_length_is_answered_and_then_closed() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let head =
        "POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let answer = ask(&mut client, head).await;
    assert_eq!((answer.status, answer.header("connection")), (413, "close"));
    client.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut client, LONG).await);
}

#[tokio::test]
async fn an_endless_refused_body_is_cut_off() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let (sent, _) = push(&mut client, post("/refuse", 1 << 40), 64 * MIB).await;
    assert!(sent < 32 * MIB, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_reader_sees_the_refusal_of_ten_megabytes_while_it_still_writes() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let (mut reader, mut writer) = gateway.connect().await.into_split();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(post("/refuse", 10 * MIB).as_bytes()).await;
        let _ = writer.write_all(&vec![b'x'; 10 * MIB]).await;
    });
    assert_eq!(answer(&mut reader).await.status, 413);
    timeout(LONG, writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_only_the_refusal() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let head =
        "POST /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    let answer = ask(&mut client, head).await;
    assert_eq!((answer.status, answer.header("connection")), (413, "close"));
    assert!(
        is_closed(&mut client, millis(1000)).await,
        "nothing is to be waited for"
    );
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_when_the_body_is_wanted() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let head =
        "POST /length HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(ask(&mut client, head).await.status, 100);
    assert_eq!(ask(&mut client, "hello").await.body, "5");
}

#[tokio::test]
async fn a_body_that_is_being_drained_is_not_taken_for_a_slow_head() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(100),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &post("/refuse", 9)).await.status, 413);
    for part in ["one", "two", "end"] {
        client.write_all(part.as_bytes()).await.unwrap();
        sleep(millis(200)).await;
    }
    assert_eq!(ask(&mut client, &get("/hello")).await.body, "hello GET");
}

#[tokio::test]
async fn a_rest_that_never_comes_ends_the_connection() {
    let gateway = Gateway::start(ListenerConfig {
        linger_timeout: millis(150),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &post("/refuse", 1000)).await.status, 413);
    assert!(is_closed(&mut client, LONG).await);
}

#[tokio::test]
async fn a_malformed_head_is_400() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    for head in [
        "NOT HTTP AT ALL\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}",
    ] {
        let mut client = gateway.connect().await;
        let answer = ask(&mut client, head).await;
        answer.assert_problem(400, "bad_request");
        assert_eq!(answer.header("connection"), "close");
        assert!(is_closed(&mut client, LONG).await);
    }
}

#[tokio::test]
async fn a_malformed_second_head_is_400_too() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
    ask(&mut client, "GET\r\n\r\n")
        .await
        .assert_problem(400, "bad_request");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let head = format!(
        "GET /hello HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    ask(&mut client, &head)
        .await
        .assert_problem(431, "bad_request");
    let mut client = gateway.connect().await;
    let many = "X-Many: 1\r\n".repeat(200);
    ask(&mut client, &format!("GET /hello HTTP/1.1\r\n{many}\r\n"))
        .await
        .assert_problem(431, "bad_request");
}

#[tokio::test]
async fn a_full_house_answers_health_checks_only() {
    let gateway = Gateway::start(ListenerConfig {
        max_connections: 1,
        reserved_connections: 1,
        ..Default::default()
    })
    .await;
    let mut first = gateway.connect().await;
    assert_eq!(ask(&mut first, &get("/hello")).await.status, 200);

    let mut second = gateway.connect().await;
    let health = ask(&mut second, &get("/health/live")).await;
    assert_eq!((health.status, health.header("connection")), (200, "close"));
    assert!(is_closed(&mut second, LONG).await);
    drop(second);

    let mut second = connect_until(&gateway, "/healthy").await;
    let refused = answer(&mut second).await;
    refused.assert_problem(503, "overloaded");
    assert_eq!(
        (refused.header("retry-after"), refused.header("connection")),
        ("1", "close")
    );

    assert_eq!(
        ask(&mut first, &get("/hello")).await.status,
        200,
        "the first connection is none the worse"
    );
    let summary = gateway.end().await;
    assert!(summary.reserved >= 2, "{summary:?}");
}

/// The place of a connection is free only when its task has ended, a moment after the client has seen it closed.
async fn connect_until(gateway: &Gateway, path: &str) -> TcpStream {
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.write_all(get(path).as_bytes()).await.unwrap();
        let mut byte = [0];
        if matches!(client.peek(&mut byte).await, Ok(1)) {
            return client;
        }
        sleep(millis(20)).await;
    }
    panic!("no place became free");
}

#[tokio::test]
async fn beyond_the_reserved_room_connections_are_closed_at_once() {
    let gateway = Gateway::start(ListenerConfig {
        max_connections: 1,
        reserved_connections: 0,
        ..Default::default()
    })
    .await;
    let mut first = gateway.connect().await;
    assert_eq!(ask(&mut first, &get("/hello")).await.status, 200);
    assert!(is_closed(&mut gateway.connect().await, LONG).await);
    drop(first);
    let mut again = connect_until(&gateway, "/hello").await;
    assert_eq!(answer(&mut again).await.status, 200);
    assert!(gateway.end().await.refused >= 1);
}

#[tokio::test]
async fn a_refused_upload_on_a_reserved_connection_sees_its_503() {
    let gateway = Gateway::start(ListenerConfig {
        max_connections: 0,
        reserved_connections: 4,
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    let (sent, answer) = push(&mut client, post("/length", MIB), MIB).await;
    assert_eq!(sent, MIB);
    answer.expect("no answer").assert_problem(503, "overloaded");
}
