//! One connection that is kept: sends a request, takes its answer, tells whether it may be used again.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::gateway::API_KEY;

/// A connection without a request on it.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    kept: bool,
}

/// An answer as far as the benches care.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Seconds.
    pub(crate) retry_after: Option<u32>,
    pub(crate) body: String,
}

impl Answer {
    /// How it is counted: 200, or its status and code; a 503 that does not say when to come back is another thing.
    pub(crate) fn name(&self) -> String {
        if self.status == 200 {
            return "200".to_owned();
        }
        let json = serde_json::from_str::<serde_json::Value>(&self.body);
        let json = json.unwrap_or_default();
        let code = json["code"].as_str().unwrap_or("no problem document");
        match self.retry_after {
            None if self.status == 503 => format!("503 {code}, no Retry-After"),
            _ => format!("{} {code}", self.status),
        }
    }
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: Vec::with_capacity(4096),
            kept: true,
        })
    }

    /// Whether another request may follow.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// An exchange that must be answered with 200; gives the body.
    pub(crate) async fn ok(&mut self, request: &[u8]) -> String {
        let answer = self.exchange(request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// Reads while it still writes: an answer may come before the request's body is through.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let (mut reading, mut writing) = self.stream.split();
        let (sent, answer) = futures_util::future::join(
            writing.write_all(request),
            answer(&mut reading, &mut self.read),
        )
        .await;
        let (answer, kept) = answer?;
        self.kept = kept && sent.is_ok();
        Ok(answer)
    }
}

/// Reads one answer, which must say its length; and whether the connection is kept.
async fn answer(
    stream: &mut tokio::net::tcp::ReadHalf<'_>,
    read: &mut Vec<u8>,
) -> io::Result<(Answer, bool)> {
    read.clear();
    loop {
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&read[..end]);
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let length = field("content-length: ").and_then(|length| length.parse::<usize>().ok());
        let whole = end + 4 + length.expect("a length");
        if read.len() < whole {
            continue;
        }
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let answer = Answer {
            status: status.expect("a status"),
            retry_after: field("retry-after: ").and_then(|seconds| seconds.parse().ok()),
            body: String::from_utf8_lossy(&read[end + 4..whole]).into_owned(),
        };
        return Ok((answer, field("connection: close").is_none()));
    }
}

/// The request that classifies `picture`.
pub(crate) fn classify(model: &str, picture: &[u8]) -> Arc<[u8]> {
    post(&format!("/v1/models/{model}/classify"), picture)
}

/// The request that sends `picture` to `route`, with the first key.
pub(crate) fn post(route: &str, picture: &[u8]) -> Arc<[u8]> {
    post_as(API_KEY, route, picture)
}

/// The request that sends `picture` to `route`, with this key.
pub(crate) fn post_as(key: &str, route: &str, picture: &[u8]) -> Arc<[u8]> {
    post_with(key, route, "", picture)
}

/// The same with lines of its own in the head, each with its end.
pub(crate) fn post_with(key: &str, route: &str, lines: &str, picture: &[u8]) -> Arc<[u8]> {
    let head = format!(
        "POST {route} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\n{lines}\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        picture.len()
    );
    [head.as_bytes(), picture].concat().into()
}
