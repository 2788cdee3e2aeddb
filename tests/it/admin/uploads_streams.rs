//! Uploads as bytes on a connection: too many, too slow, cut off, at the same time, on paths that no library sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::uploads::{graph, put};
use super::uploads_refused::{PATH, becomes, still_serves, store};
use crate::fixture::gateway::{ADMIN_TOKEN, TestGateway};
use crate::fixture::store::tree;

fn connect(gateway: &TestGateway) -> TcpStream {
    let address = gateway.admin_base.trim_start_matches("http://");
    let stream = TcpStream::connect(address).expect("connected");
    let time = Some(Duration::from_secs(20));
    stream.set_read_timeout(time).expect("set");
    stream.set_write_timeout(time).expect("set");
    stream
}

fn head(extra: &str) -> String {
    format!(
        "PUT /admin/v1{PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/octet-stream\r\n{extra}\r\n\r\n"
    )
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read) = stream.read(&mut piece) {
        text.extend_from_slice(&piece[..read]);
        if read == 0 || String::from_utf8_lossy(&text).contains("request_id") {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_path_that_no_library_sends_leads_nowhere_either() {
    let store = store();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = tree(store.path());
    for path in [
        "/admin/v1/models/%2e%2e/versions/2",
        "/admin/v1/models/../../etc/versions/2",
        "/admin/v1/models/rgb-f32/versions/%2e%2e",
        "/admin/v1/models/rgb-f32/versions/..%2f..%2f2",
        "/admin/v1/models/rgb-f32%2f..%2f..%2fx/versions/2",
        "/admin/v1//models/rgb-f32/versions/2/",
    ] {
        let mut stream = connect(&gateway);
        let head = head("Content-Length: 3").replace(&format!("/admin/v1{PATH}"), path);
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(b"abc").expect("sent");
        let text = answer(stream);
        assert!(text.starts_with("HTTP/1.1 40"), "{path}: {text}");
        assert_eq!(tree(store.path()), before, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_bytes_are_refused_before_or_as_they_come() {
    let store = store();
    let gateway = TestGateway::start(store.path(), &["limits.max_model_bytes=1000000"]).await;
    let before = tree(store.path());
    let mut stream = connect(&gateway);
    stream
        .write_all(head("Content-Length: 1000001").as_bytes())
        .expect("sent");
    let text = answer(stream);
    assert!(
        text.starts_with("HTTP/1.1 413") && text.contains("payload_too_large"),
        "{text}"
    );
    let mut stream = connect(&gateway);
    stream
        .write_all(head("Transfer-Encoding: chunked").as_bytes())
        .expect("sent");
    let piece = [b"10000\r\n".as_slice(), &vec![7; 0x10000], b"\r\n"].concat();
    for _ in 0..16 {
        // It may have been refused already.
        let _ = stream.write_all(&piece);
    }
    let text = answer(stream);
    assert!(
        text.starts_with("HTTP/1.1 413") && text.contains("payload_too_large"),
        "{text}"
    );
    becomes(&store, &before).await;
    still_serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_or_stops_leaves_nothing() {
    let store = store();
    let gateway = TestGateway::start(store.path(), &["server.body_timeout=300ms"]).await;
    let before = tree(store.path());
    let begin = || {
        let mut stream = connect(&gateway);
        stream
            .write_all(head("Content-Length: 900000").as_bytes())
            .expect("sent");
        stream.write_all(&vec![7; 300_000]).expect("sent");
        stream
    };
    let staged = async || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while tree(store.path()) == before {
            assert!(Instant::now() < deadline, "nothing is staged");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let stream = begin();
    staged().await;
    drop(stream);
    becomes(&store, &before).await;
    let stream = begin();
    staged().await;
    let text = answer(stream);
    assert!(
        text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"),
        "{text}"
    );
    becomes(&store, &before).await;
    still_serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_at_the_same_time_are_bounded() {
    let store = store();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = tree(store.path());
    let mut held: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(&gateway);
            stream
                .write_all(head("Content-Length: 900000").as_bytes())
                .expect("sent");
            stream.write_all(&[7; 1000]).expect("sent");
            stream
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(8);
    let locks = |tree: &[(String, _)]| {
        tree.iter()
            .filter(|(name, _)| name.contains(".lock"))
            .count()
    };
    while locks(&tree(store.path())) < 8 {
        assert!(Instant::now() < deadline, "they do not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = put(&gateway, &format!("{PATH}?dry_run=true"), graph()).await;
    refused.assert_problem(503, "overloaded");
    assert!(!refused.header("retry-after").is_empty());
    held.clear();
    becomes(&store, &before).await;
    assert_eq!(put(&gateway, PATH, graph()).await.status, 201);
}
