//! The listener over real loopback sockets: a gateway of a few toy routes, raw clients, short timeouts.
//! The modules below hold the tests by theme; here is what they share.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helper fails the test"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime"
)]

mod left;
mod lifecycle;
mod protocol;
mod refusal;
mod slow;

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use lensgate::api::listener::{BodyTimeout, Listener, ListenerConfig, RequestId, ServeSummary};
use poem::{Request, Response, http::StatusCode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Far beyond anything that a test waits for: reached only when the listener is broken.
const LONG: Duration = Duration::from_secs(10);

/// A running listener.
struct Gateway {
    addr: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    serving: JoinHandle<ServeSummary>,
    /// One message for each `/sleep` that was dropped before its end, "begun" when it began.
    sleeps: mpsc::UnboundedReceiver<&'static str>,
}

impl Gateway {
    async fn start(config: ListenerConfig) -> Self {
        let listener = Listener::bind("127.0.0.1:0", config).await.unwrap();
        let addr = listener.local_addr();
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (tell, sleeps) = mpsc::unbounded_channel();
        let endpoint = poem::endpoint::make(move |request| route(request, tell.clone()));
        let serving = tokio::spawn(listener.serve(endpoint, stop.clone(), abort.clone()));
        Self {
            addr,
            stop,
            abort,
            serving,
            sleeps,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn next_sleep(&mut self, within: Duration) -> Option<&'static str> {
        timeout(within, self.sleeps.recv()).await.ok().flatten()
    }

    /// Stops it and waits for its end.
    async fn end(self) -> ServeSummary {
        self.stop.cancel();
        timeout(LONG, self.serving)
            .await
            .expect("the listener does not end")
            .unwrap()
    }
}

struct SleepGuard(mpsc::UnboundedSender<&'static str>);

impl Drop for SleepGuard {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

async fn route(mut request: Request, tell: mpsc::UnboundedSender<&'static str>) -> Response {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/hello" | "/health" | "/health/live" => format!("hello {}", request.method()).into(),
        "/id" => {
            let RequestId(id) = *request.extensions().get::<RequestId>().unwrap();
            format!("{id} {} {}", request.remote_addr(), request.scheme()).into()
        }
        "/length" => match request.take_body().into_bytes().await {
            Ok(body) => body.len().to_string().into(),
            Err(error) if BodyTimeout::caused(&error) => StatusCode::REQUEST_TIMEOUT.into(),
            Err(_) => StatusCode::BAD_REQUEST.into(),
        },
        // Maps every error of the body to 400, as a framework's own extractor does.
        "/careless" => match request.take_body().into_bytes().await {
            Ok(body) => body.len().to_string().into(),
            Err(_) => StatusCode::BAD_REQUEST.into(),
        },
        "/refuse" => Response::builder()
            .status(StatusCode::PAYLOAD_TOO_LARGE)
            .body("too large"),
        "/sleep" | "/sleep-after-body" => {
            if path == "/sleep-after-body" {
                request.take_body().into_bytes().await.unwrap();
            }
            let guard = SleepGuard(tell.clone());
            let _ = tell.send("begun");
            sleep(LONG).await;
            std::mem::forget(guard);
            "slept".into()
        }
        "/nap" => {
            sleep(Duration::from_millis(300)).await;
            "napped".into()
        }
        "/panic" => panic!("a handler's panic, made by a test"),
        "/big" => vec![b'x'; 64 * 1024 * 1024].into(),
        "/stream" => {
            let chunks = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024 * 1024]));
            poem::Body::from_bytes_stream(futures_util::stream::iter(chunks)).into()
        }
        _ => StatusCode::NOT_FOUND.into(),
    }
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that it is a problem document like all others.
    fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["type"], format!("urn:lensgate:problem:{code}"));
        assert_eq!(document["code"], code);
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string() && document["detail"].is_string());
        assert_eq!(document["request_id"], self.header("x-request-id"));
        assert_eq!(
            uuid::Uuid::parse_str(self.header("x-request-id"))
                .unwrap()
                .get_version_num(),
            7
        );
    }
}

/// Reads one answer; nothing when the connection ends before its head does.
async fn try_answer(stream: &mut (impl AsyncRead + Unpin), head_only: bool) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            timeout(LONG, stream.read_u8())
                .await
                .expect("no answer in time")
                .ok()?,
        );
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; if head_only { 0 } else { length }];
    timeout(LONG, stream.read_exact(&mut body))
        .await
        .expect("no body in time")
        .ok()?;
    Some(Answer {
        status,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    try_answer(stream, false)
        .await
        .expect("the connection ended without an answer")
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

/// Whether the server closes the connection (with or without a reset) within the time, having sent nothing more.
async fn is_closed(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> bool {
    let mut byte = [0];
    matches!(
        timeout(within, stream.read(&mut byte)).await,
        Ok(Ok(0) | Err(_))
    )
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
