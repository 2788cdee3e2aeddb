//! One connection from accept to close: handshake, telling HTTP/1 from HTTP/2, hyper, and the last word on the socket.
//! Called by the accept loop, one task each. Must not know endpoints.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{StatusCode, uri::Scheme};
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    ConnectionOutcome, Server,
    accept::Place,
    driver::{End, STOP_GRACE, drive},
    gate::Gate,
    problem::{Problem, SLOW_HEAD},
    service::Service,
    socket::{Socket, Stream},
    watch::{Phase, Watch},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A whole request head; also the bound of an HTTP/2 header list.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// hyper's read and write buffers of an HTTP/1 connection; larger than a head, so that bodies come in larger pieces.
const BUFFER: usize = 64 * 1024;
const MAX_STREAMS: u32 = 128;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The first bytes of a connection.
enum Opening {
    Http1,
    Http2,
    /// The first request began, and did not go on.
    Slow,
    /// Not a byte, or no longer wanted.
    Nothing,
}

/// Serves one connection; ends early when the listener is aborted.
pub(super) async fn run(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let _open = server.config.series.connection();
    let whole = serve(&server, stream, peer, place.is_reserved());
    if server.abort.run_until_cancelled(whole).await.is_none() {
        let aborted = ConnectionOutcome::Aborted;
        server.config.series.connected(aborted);
    }
}

async fn serve(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr, reserved: bool) {
    if let Err(error) = stream.set_nodelay(true) {
        // The client has gone again already.
        tracing::debug!(%peer, %error, "connection lost before its first byte");
        return;
    }
    let local = stream.local_addr().unwrap_or(server.local_addr);
    let socket = Socket::new(stream);
    let mut prefix = Vec::new();
    let opened = tokio::select! {
        biased;
        opened = open(server, socket.clone(), reserved, &mut prefix) => opened,
        () = stopped(server) => return,
    };
    let (stream, opening) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%peer, %error, "connection failed before its first request");
            return;
        }
    };
    let http1 = match opening {
        Opening::Nothing => return,
        Opening::Slow => return last_word(server, stream, Some(SLOW_HEAD), true, peer).await,
        Opening::Http1 => true,
        Opening::Http2 => false,
    };
    let scheme = if server.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let watch = Watch::new(Instant::now());
    let gate = Gate::new(
        stream,
        prefix.into(),
        Arc::clone(&watch),
        http1,
        server.config.write_timeout,
    );
    let service = Service {
        server: Arc::clone(server),
        watch: Arc::clone(&watch),
        local,
        remote: peer,
        scheme,
        reserved,
        http1,
    };
    let end = if http1 {
        speak_http1(server, &watch, gate, service, &socket).await
    } else {
        speak_http2(server, &watch, gate, service, &socket).await
    };
    tracing::debug!(%peer, ?end, "connection ended");
    close(server, &watch, &end, http1, peer).await;
}

async fn stopped(server: &Server) {
    server.stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// On a place that is kept for health checks, a silent connection may not sit for long.
const RESERVED_PATIENCE: Duration = Duration::from_secs(2);

/// Handshake and first bytes, both within one `header_timeout`.
async fn open(
    server: &Server,
    socket: Socket,
    reserved: bool,
    prefix: &mut Vec<u8>,
) -> io::Result<(Stream, Opening)> {
    let patience = server.config.header_timeout;
    let patience = if reserved {
        patience.min(RESERVED_PATIENCE)
    } else {
        patience
    };
    let deadline = Instant::now() + patience;
    let mut stream = match &server.tls {
        None => Stream::Plain(socket),
        Some(acceptor) => Stream::Tls(Box::new(
            timeout_at(deadline, acceptor.accept(socket)).await??,
        )),
    };
    let opening = match timeout_at(deadline, tell_protocol(&mut stream, prefix)).await {
        Ok(opening) => opening?,
        Err(_) if prefix.is_empty() => Opening::Nothing,
        Err(_) => Opening::Slow,
    };
    Ok((stream, opening))
}

/// Reads until the bytes are HTTP/2's preface, or differ from it.
async fn tell_protocol(stream: &mut Stream, prefix: &mut Vec<u8>) -> io::Result<Opening> {
    loop {
        let mut buf = [0; PREFACE.len()];
        let wanted = PREFACE.len().saturating_sub(prefix.len());
        let Some(space) = buf.get_mut(..wanted) else {
            return Ok(Opening::Nothing);
        };
        let length = stream.read(space).await?;
        prefix.extend_from_slice(space.get(..length).unwrap_or_default());
        if length == 0 {
            return Ok(Opening::Nothing);
        }
        if !PREFACE.starts_with(prefix) {
            return Ok(Opening::Http1);
        }
        if prefix.len() == PREFACE.len() {
            return Ok(Opening::Http2);
        }
    }
}

async fn speak_http1(
    server: &Server,
    watch: &Watch,
    gate: Gate,
    service: Service,
    socket: &Socket,
) -> End {
    let service = Arc::new(service);
    let conn = http1::Builder::new()
        .header_read_timeout(None)
        // A FIN is judged by the driver: hyper would drop a request whose client only has no more to send.
        .half_close(true)
        .max_header_size(MAX_HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(
            TokioIo::new(gate),
            service_fn(move |request| service.call(request)),
        );
    drive(conn, server, watch, socket).await
}

async fn speak_http2(
    server: &Server,
    watch: &Watch,
    gate: Gate,
    service: Service,
    socket: &Socket,
) -> End {
    let service = Arc::new(service);
    let end = CancellationToken::new();
    // The streams' tasks end with the connection, whatever ended it.
    let _guard = end.clone().drop_guard();
    let conn = http2::Builder::new(Streams {
        tasks: server.tasks.clone(),
        end,
    })
    .timer(TokioTimer::new())
    .max_concurrent_streams(MAX_STREAMS)
    .max_header_list_size(MAX_HEADER_LIST)
    .keep_alive_interval(PING_INTERVAL)
    .keep_alive_timeout(PING_TIMEOUT)
    .serve_connection(
        TokioIo::new(gate),
        service_fn(move |request| service.call(request)),
    );
    drive(conn, server, watch, socket).await
}

/// Runs the streams of one HTTP/2 connection.
#[derive(Clone)]
struct Streams {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.tasks
            .spawn(self.end.clone().run_until_cancelled_owned(stream));
    }
}

/// Takes the stream back from hyper and closes it as its end demands.
async fn close(server: &Server, watch: &Watch, end: &End, http1: bool, peer: SocketAddr) {
    let Some(stream) = watch.take_stream() else {
        return;
    };
    let refused = watch.refused().map(Problem::unparsable);
    let (problem, linger) = match end {
        End::SlowHead => (Some(SLOW_HEAD), true),
        End::Failed(error) if http1 && error.is_parse() && watch.phase() != Phase::Busy => (
            refused.or_else(|| Some(Problem::unparsable(StatusCode::BAD_REQUEST))),
            true,
        ),
        End::Closed if refused.is_some() => (refused, true),
        End::Closed | End::Idle => (None, watch.lingers()),
        // Nobody is left who could be told anything.
        End::Failed(_) | End::Left | End::Stalled => return,
    };
    last_word(server, stream, problem, linger, peer).await;
}

/// Writes what is still to be said, closes our side, and takes what the client is still sending: a socket that is
/// closed over unread bytes is reset, and a reset makes the client lose an answer that it has not read yet.
async fn last_word(
    server: &Server,
    mut stream: Stream,
    problem: Option<Problem>,
    linger: bool,
    peer: SocketAddr,
) {
    let config = &server.config;
    let farewell = async {
        if let Some(problem) = problem {
            let id = Uuid::now_v7();
            tracing::debug!(%peer, request_id = %id, code = problem.code(), "request refused before its head ended");
            stream.write_all(&problem.raw(id)).await?;
        }
        stream.shutdown().await
    };
    if !matches!(timeout(config.write_timeout, farewell).await, Ok(Ok(()))) || !linger {
        return;
    }
    let mut socket = stream.into_socket();
    let end = Instant::now() + config.linger_timeout * 5;
    let mut left = config.linger_bytes;
    let mut buf = Vec::with_capacity(16 * 1024);
    while left > 0 {
        let pause = end.min(Instant::now() + config.linger_timeout);
        match timeout_at(pause, socket.read_buf(&mut buf)).await {
            Ok(Ok(length)) if length > 0 => {
                left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
            }
            _ => return,
        }
        buf.clear();
    }
}
