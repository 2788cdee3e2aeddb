//! Bodies that lie about their size, or have none: refused at once, never buffered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fixture::gateway::{API_KEY, TestGateway};
use crate::fixture::store::TestStore;
use crate::fixture::{read, root};

fn connect(gateway: &TestGateway) -> TcpStream {
    let address = gateway.base.trim_start_matches("http://");
    let stream = TcpStream::connect(address).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    stream
}

fn head(extra: &str) -> String {
    format!(
        "POST /v1/models/digits/classify HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n\
         Content-Type: image/png\r\n{extra}\r\n\r\n"
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

/// This process's resident memory in bytes; the gateway runs in it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("proc");
    status
        .split(' ')
        .nth(1)
        .expect("pages")
        .parse::<u64>()
        .expect("a number")
        * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_that_is_announced_is_refused_before_a_byte_of_it() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let started = Instant::now();
    let mut stream = connect(&gateway);
    stream
        .write_all(head("Content-Length: 1073741824").as_bytes())
        .expect("sent");
    let text = answer(stream);
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.contains("payload_too_large"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(5), "at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_without_a_length_is_refused_where_the_limit_is() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let before = resident();
    let mut stream = connect(&gateway);
    stream
        .write_all(head("Transfer-Encoding: chunked").as_bytes())
        .expect("sent");
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0_u64;
    for _ in 0..1024 {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
        if stream.write_all(&chunk).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 64, "the gateway took {sent} MiB before it closed");
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more");
    let text = answer(stream);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 413"),
        "{text}"
    );
    // And the same with a client that listens: just over the limit, it sees the answer.
    let mut stream = connect(&gateway);
    stream
        .write_all(head("Transfer-Encoding: chunked").as_bytes())
        .expect("sent");
    for _ in 0..11 {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
        let _ = stream.write_all(&chunk);
    }
    let text = answer(stream);
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.contains("payload_too_large"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_a_timeout_and_one_that_breaks_off_costs_nothing() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &["server.body_timeout=300ms"]).await;
    let seven = read(root().join("model-store/digits/samples/7_a.png"));
    let mut stream = connect(&gateway);
    stream
        .write_all(head(&format!("Content-Length: {}", seven.len())).as_bytes())
        .expect("sent");
    stream.write_all(&seven[..20]).expect("sent");
    let text = answer(stream);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("request_timeout"), "{text}");
    let mut stream = connect(&gateway);
    stream
        .write_all(head(&format!("Content-Length: {}", seven.len())).as_bytes())
        .expect("sent");
    stream.write_all(&seven[..20]).expect("sent");
    drop(stream);
    let whole = gateway.raw("/v1/classify", "image/png", seven).await;
    assert_eq!(whole.assert_ok()["class"], "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_flight_share_one_budget() {
    let store = TestStore::digits();
    let settings = [
        "limits.max_image_bytes=1000000",
        "limits.max_inflight_bytes=1500000",
    ];
    let gateway = TestGateway::start(store.path(), &settings).await;
    // One client holds most of the budget and does not finish.
    let mut slow = connect(&gateway);
    slow.write_all(head("Content-Length: 900000").as_bytes())
        .expect("sent");
    slow.write_all(&vec![0; 800_000]).expect("sent");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let other = gateway
        .raw("/v1/classify", "image/png", vec![0; 900_000])
        .await;
    other.assert_problem(503, "overloaded");
    assert!(!other.header("retry-after").is_empty());
    drop(slow);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let again = gateway
            .raw("/v1/classify", "image/png", vec![0; 900_000])
            .await;
        if again.status.as_u16() == 415 {
            break;
        }
        assert!(Instant::now() < deadline, "what the client held came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
