//! Methods, panics, ids, HTTP/2 and TLS.

use std::{path::Path, sync::Arc};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lensgate::api::listener::{ListenerError, TlsConfig};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::*;

#[tokio::test]
async fn head_is_served_by_the_get_route() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    client
        .write_all(b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let head = try_answer(&mut client, true).await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, "9"));
    // A body would be taken for the next answer's head.
    assert_eq!(ask(&mut client, &get("/hello")).await.body, "hello GET");
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_survives() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    ask(&mut client, &get("/panic"))
        .await
        .assert_problem(500, "internal");
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
}

#[tokio::test]
async fn every_request_has_an_id_and_an_address() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let local = client.local_addr().unwrap();
    let first = ask(
        &mut client,
        "GET /id HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n",
    )
    .await;
    let id = first.header("x-request-id").to_owned();
    assert_eq!(first.body, format!("{id} socket://{local} http"));
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7);
    assert_ne!(
        ask(&mut client, &get("/id")).await.header("x-request-id"),
        id
    );
    let missing = ask(&mut client, &get("/nowhere")).await;
    assert_eq!(
        (missing.status, missing.header("x-request-id").len()),
        (404, 36)
    );
}

#[tokio::test]
async fn a_chunked_body_without_a_length_is_read() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let request = "POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
    assert_eq!(ask(&mut client, request).await.body, "8");
    assert_eq!(ask(&mut client, &get("/hello")).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    let all = get("/nap") + &post("/length", 3) + "abc" + &get("/hello");
    assert_eq!(ask(&mut client, &all).await.body, "napped");
    assert_eq!(answer(&mut client).await.body, "3");
    assert_eq!(answer(&mut client).await.body, "hello GET");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    assert_eq!(
        ask(&mut client, "GET /hello HTTP/1.0\r\n\r\n").await.status,
        200
    );
    assert!(is_closed(&mut client, LONG).await);
}

type H2Body = http_body_util::Full<bytes::Bytes>;

async fn h2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> http2::SendRequest<H2Body> {
    let (sender, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(conn);
    sender
}

fn h2_request(method: &str, path: &str, body: Vec<u8>) -> http::Request<H2Body> {
    let uri = format!("http://x{path}");
    http::Request::builder()
        .method(method)
        .uri(uri)
        .body(H2Body::new(body.into()))
        .unwrap()
}

async fn h2_ask(
    sender: &mut http2::SendRequest<H2Body>,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> (http::response::Parts, String) {
    use http_body_util::BodyExt;
    let response = timeout(LONG, sender.send_request(h2_request(method, path, body)))
        .await
        .unwrap()
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = timeout(LONG, body.collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    (parts, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http_2_with_prior_knowledge() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut sender = h2(gateway.connect().await).await;
    let (parts, body) = h2_ask(&mut sender, "GET", "/hello", vec![]).await;
    assert_eq!(
        (parts.version, parts.status.as_u16(), body.as_str()),
        (http::Version::HTTP_2, 200, "hello GET")
    );
    let (parts, body) = h2_ask(&mut sender, "HEAD", "/hello", vec![]).await;
    assert_eq!(
        (parts.headers["content-length"].as_bytes(), body.as_str()),
        (&b"9"[..], "")
    );
    assert_eq!(
        h2_ask(&mut sender, "POST", "/length", vec![0; 100_000])
            .await
            .1,
        "100000"
    );
    assert_eq!(
        h2_ask(&mut sender, "POST", "/refuse", vec![0; 3_000_000])
            .await
            .0
            .status
            .as_u16(),
        413
    );
    assert_eq!(
        h2_ask(&mut sender, "GET", "/panic", vec![])
            .await
            .0
            .status
            .as_u16(),
        500
    );
    let summary = gateway.end().await;
    assert_eq!((summary.accepted, summary.aborted), (1, 0));
}

#[tokio::test]
async fn a_reset_of_an_http_2_stream_drops_its_handler_and_no_other() {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let mut sender = h2(gateway.connect().await).await;
    let doomed = tokio::spawn(sender.send_request(h2_request("GET", "/sleep", vec![])));
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    doomed.abort();
    assert_eq!(gateway.next_sleep(millis(500)).await, Some("dropped"));
    assert_eq!(
        h2_ask(&mut sender, "GET", "/hello", vec![]).await.1,
        "hello GET"
    );
}

#[tokio::test]
async fn the_end_of_an_http_2_connection_drops_its_handlers() {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let (client, mut near) = tokio::io::duplex(4096);
    let mut far = gateway.connect().await;
    let wire =
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    let mut sender = h2(client).await;
    let asking = tokio::spawn(sender.send_request(h2_request("GET", "/sleep", vec![])));
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    wire.abort();
    assert_eq!(gateway.next_sleep(millis(500)).await, Some("dropped"));
    drop(asking);
}

#[tokio::test]
async fn an_http_2_client_that_does_not_read_is_cut_off() {
    let gateway = Gateway::start(ListenerConfig {
        write_timeout: millis(200),
        ..Default::default()
    })
    .await;
    let mut sender = h2(gateway.connect().await).await;
    let answer = sender
        .send_request(h2_request("GET", "/stream", vec![]))
        .await
        .unwrap();
    let summary = gateway.end().await;
    assert_eq!(
        (answer.status().as_u16(), summary.accepted, summary.aborted),
        (200, 1, 0)
    );
}

#[tokio::test]
async fn abort_drops_the_handlers_of_http_2() {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let mut sender = h2(gateway.connect().await).await;
    let asking = tokio::spawn(sender.send_request(h2_request("GET", "/sleep", vec![])));
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    gateway.abort.cancel();
    assert_eq!(gateway.next_sleep(millis(500)).await, Some("dropped"));
    assert_eq!(gateway.end().await.aborted, 1);
    drop(asking);
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed() {
    let gateway = Gateway::start(ListenerConfig {
        idle_timeout: millis(150),
        ..Default::default()
    })
    .await;
    let (mut sender, conn) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(gateway.connect().await))
            .await
            .unwrap();
    let conn = tokio::spawn(conn);
    assert_eq!(h2_ask(&mut sender, "GET", "/nap", vec![]).await.1, "napped");
    assert!(
        timeout(LONG, conn)
            .await
            .expect("it stays open")
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn a_full_house_over_http_2() {
    let gateway = Gateway::start(ListenerConfig {
        max_connections: 0,
        reserved_connections: 1,
        ..Default::default()
    })
    .await;
    let mut sender = h2(gateway.connect().await).await;
    assert_eq!(
        h2_ask(&mut sender, "GET", "/hello", vec![])
            .await
            .0
            .status
            .as_u16(),
        503
    );
}

fn tls_files() -> TlsConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    TlsConfig {
        cert: folder.join("localhost.pem"),
        key: folder.join("localhost.key"),
    }
}

async fn tls_client(gateway: &Gateway, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(tls_files().cert).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, gateway.connect().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn tls_with_http_1_and_http_2_by_alpn() {
    let gateway = Gateway::start(ListenerConfig {
        tls: Some(tls_files()),
        ..Default::default()
    })
    .await;
    let mut client = tls_client(&gateway, b"http/1.1").await;
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(ask(&mut client, &get("/id")).await.body.ends_with(" https"));
    assert_eq!(
        ask(&mut client, &(post("/length", 5) + "hello")).await.body,
        "5"
    );
    ask(&mut client, "nonsense\r\n\r\n")
        .await
        .assert_problem(400, "bad_request");

    let client = tls_client(&gateway, b"h2").await;
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        h2_ask(&mut h2(client).await, "GET", "/hello", vec![])
            .await
            .1,
        "hello GET"
    );
}

#[tokio::test]
async fn a_client_that_leaves_over_tls_drops_the_handler() {
    let mut gateway = Gateway::start(ListenerConfig {
        tls: Some(tls_files()),
        ..Default::default()
    })
    .await;
    let mut client = tls_client(&gateway, b"http/1.1").await;
    client.write_all(get("/sleep").as_bytes()).await.unwrap();
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    drop(client);
    assert_eq!(gateway.next_sleep(millis(500)).await, Some("dropped"));
}

#[tokio::test]
async fn a_slow_handshake_is_cut_off() {
    let config = ListenerConfig {
        tls: Some(tls_files()),
        header_timeout: millis(150),
        ..Default::default()
    };
    let gateway = Gateway::start(config).await;
    let mut client = gateway.connect().await;
    client.write_all(&[0x16, 3, 1]).await.unwrap();
    assert!(is_closed(&mut client, LONG).await);
}

#[tokio::test]
async fn unusable_certificates_and_addresses_are_told() {
    let files = tls_files();
    for tls in [
        TlsConfig {
            cert: "missing.pem".into(),
            ..files.clone()
        },
        TlsConfig {
            cert: files.key.clone(),
            ..files.clone()
        },
        TlsConfig {
            key: files.cert.clone(),
            ..files.clone()
        },
    ] {
        let config = ListenerConfig {
            tls: Some(tls),
            ..Default::default()
        };
        assert!(matches!(
            Listener::bind("127.0.0.1:0", config).await,
            Err(ListenerError::Pem { .. })
        ));
    }
    let bind = |addr: String| async move { Listener::bind(&addr, ListenerConfig::default()).await };
    assert!(matches!(
        bind("nonsense".to_owned()).await,
        Err(ListenerError::Address { .. })
    ));
    let taken = bind("127.0.0.1:0".to_owned()).await.unwrap();
    assert!(matches!(
        bind(taken.local_addr().to_string()).await,
        Err(ListenerError::Bind { .. })
    ));
}
