//! Clients that are slow with their heads, their bodies, their next request, or with reading.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn a_slow_head_is_answered_408_and_the_connection_closed() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(200),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    let began = Instant::now();
    client
        .write_all(b"GET /hello HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    let answer = answer(&mut client).await;
    assert!(began.elapsed() >= millis(190));
    answer.assert_problem(408, "request_timeout");
    assert_eq!(answer.header("connection"), "close");
    assert!(is_closed(&mut client, LONG).await);
}

#[tokio::test]
async fn dripping_header_bytes_buys_no_time() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(300),
        ..Default::default()
    })
    .await;
    let (mut reader, mut writer) = gateway.connect().await.into_split();
    let dripping = tokio::spawn(async move {
        writer.write_all(b"GET /hello HTTP/1.1\r\n").await.unwrap();
        while writer.write_all(b"X-Drip: 1\r\n").await.is_ok() {
            sleep(millis(20)).await;
        }
    });
    answer(&mut reader)
        .await
        .assert_problem(408, "request_timeout");
    dripping.abort();
}

#[tokio::test]
async fn one_byte_of_a_head_is_answered_408_too() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(150),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    client.write_all(b"P").await.unwrap();
    answer(&mut client)
        .await
        .assert_problem(408, "request_timeout");
}

#[tokio::test]
async fn the_second_head_of_a_kept_connection_has_its_own_clock() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(250),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
    sleep(millis(400)).await;
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
    client.write_all(b"GET /he").await.unwrap();
    answer(&mut client)
        .await
        .assert_problem(408, "request_timeout");
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word() {
    let gateway = Gateway::start(ListenerConfig {
        header_timeout: millis(150),
        ..Default::default()
    })
    .await;
    assert!(is_closed(&mut gateway.connect().await, LONG).await);
}

#[tokio::test]
async fn an_idle_kept_connection_is_closed_without_a_word() {
    let gateway = Gateway::start(ListenerConfig {
        idle_timeout: millis(150),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
    assert!(is_closed(&mut client, LONG).await);
}

#[tokio::test]
async fn a_running_request_is_not_idle() {
    let gateway = Gateway::start(ListenerConfig {
        idle_timeout: millis(50),
        header_timeout: millis(50),
        write_timeout: millis(50),
        ..Default::default()
    })
    .await;
    assert_eq!(
        ask(&mut gateway.connect().await, &get("/nap")).await.body,
        "napped"
    );
}

#[tokio::test]
async fn a_body_that_stops_is_408() {
    let gateway = Gateway::start(ListenerConfig {
        body_idle_timeout: millis(150),
        ..Default::default()
    })
    .await;
    for path in ["/length", "/careless"] {
        let mut client = gateway.connect().await;
        client
            .write_all(format!("{}only this", post(path, 100)).as_bytes())
            .await
            .unwrap();
        let answer = answer(&mut client).await;
        assert_eq!(answer.status, 408, "{path}");
        assert_eq!(answer.header("connection"), "close");
        assert!(is_closed(&mut client, LONG).await);
    }
}

#[tokio::test]
async fn a_chunked_body_that_stops_is_408() {
    let gateway = Gateway::start(ListenerConfig {
        body_idle_timeout: millis(150),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    let head =
        "POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    assert_eq!(ask(&mut client, head).await.status, 408);
}

#[tokio::test]
async fn a_body_below_the_minimum_rate_is_408_though_it_never_stops() {
    let gateway = Gateway::start(ListenerConfig {
        body_idle_timeout: LONG,
        body_grace: millis(300),
        body_min_rate: 10_000,
        ..Default::default()
    })
    .await;
    let (mut reader, mut writer) = gateway.connect().await.into_split();
    let dripping = tokio::spawn(async move {
        writer
            .write_all(post("/length", 100_000).as_bytes())
            .await
            .unwrap();
        while writer.write_all(b"x").await.is_ok() {
            sleep(millis(20)).await;
        }
    });
    assert_eq!(answer(&mut reader).await.status, 408);
    dripping.abort();
}

#[tokio::test]
async fn a_body_above_the_minimum_rate_may_outlast_the_grace() {
    let gateway = Gateway::start(ListenerConfig {
        body_idle_timeout: LONG,
        body_grace: millis(200),
        body_min_rate: 1000,
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    client
        .write_all(post("/length", 5000).as_bytes())
        .await
        .unwrap();
    for _ in 0..5 {
        client.write_all(&[b'x'; 1000]).await.unwrap();
        sleep(millis(100)).await;
    }
    assert_eq!(answer(&mut client).await.body, "5000");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let gateway = Gateway::start(ListenerConfig {
        write_timeout: millis(200),
        ..Default::default()
    })
    .await;
    let mut client = gateway.connect().await;
    client.write_all(get("/big").as_bytes()).await.unwrap();
    // With nobody reading, the server's task can end only because it was cut off.
    let summary = gateway.end().await;
    assert_eq!((summary.accepted, summary.aborted), (1, 0));
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received).await;
    assert!(received.len() < 64 * 1024 * 1024);
}
