//! A listener fit for the open internet: our own accept loop over hyper that drives a poem endpoint.
//! Here live the configuration, the socket and the accept loop; `connection` runs what was accepted.
//! Called by the composition root, once for each plane. Must not know routes (but `/health`), keys or models.

mod accept;
mod body;
mod connection;
mod driver;
mod gate;
mod problem;
mod service;
mod socket;
mod watch;

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::FutureExt;
use poem::{EndpointExt, IntoEndpoint};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::accept::{Admission, Backoff};
pub use self::{
    accept::raise_open_file_limit,
    body::BodyTimeout,
    service::{RequestId, RouteName},
};
use crate::telemetry::metrics::{ConnectionOutcome, PlaneSeries};

/// Connections that the kernel holds for us until we accept them.
const BACKLOG: u32 = 1024;

/// What one listener allows. [`Default`] gives the values named below.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Connections served at the same time. [4096]
    pub max_connections: usize,
    /// Connections over `max_connections` that are still taken, but answer `/health…` only. [64]
    ///
    /// Anything else on them is answered 503 `overloaded`. What comes beyond is closed at once.
    pub reserved_connections: usize,
    /// From the first byte of a request to the end of its head; also the TLS handshake, and the wait for the
    /// first byte of a new connection. [10 s]
    pub header_timeout: Duration,
    /// The longest wait for the next byte of a body. [15 s]
    pub body_idle_timeout: Duration,
    /// Time that may be spent waiting for a body, however slowly it comes. [15 s]
    pub body_grace: Duration,
    /// Bytes a second of a body that buy waiting time beyond `body_grace`; 0 is read as 1. [1024]
    pub body_min_rate: u64,
    /// A kept connection on which nothing is asked is closed after this time. [75 s]
    pub idle_timeout: Duration,
    /// A client that takes no byte of its answer for so long is cut off. [30 s]
    pub write_timeout: Duration,
    /// Bytes of an unread body that are still taken and thrown away, so that the client sees the answer. [1 MiB]
    pub linger_bytes: u64,
    /// The longest pause in these bytes; five times as long for all of them. [2 s]
    pub linger_timeout: Duration,
    /// Certificate and key; plain HTTP without. [none]
    pub tls: Option<TlsConfig>,
    /// Where connections and requests are counted.
    pub series: Arc<PlaneSeries>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            reserved_connections: 64,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(15),
            body_grace: Duration::from_secs(15),
            body_min_rate: 1024,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            linger_bytes: 1024 * 1024,
            linger_timeout: Duration::from_secs(2),
            tls: None,
            series: Arc::default(),
        }
    }
}

/// Where the certificate chain and its private key lie, both as PEM.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address is not `host:port`, or the host is unknown.
    #[error("cannot resolve the address {addr}: {source}")]
    Address {
        /// As it was given.
        addr: String,
        /// From the resolver.
        source: io::Error,
    },
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {addr}")]
    Bind {
        /// As it was resolved.
        addr: SocketAddr,
        /// From the kernel.
        source: io::Error,
    },
    /// A PEM file is missing, unreadable or not what it should be.
    #[error("cannot read {path}: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// From the PEM reader.
        reason: String,
    },
    /// Certificate and key do not fit each other or are not supported.
    #[error("certificate or key refused: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// What a listener did in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeSummary {
    /// Connections taken, the reserved ones included.
    pub accepted: u64,
    /// Connections taken on the room kept for health checks.
    pub reserved: u64,
    /// Connections closed at once, because the reserved room was full too.
    pub refused: u64,
    /// Connections dropped while they were alive, because `abort` was cancelled.
    pub aborted: u64,
}

/// A bound socket that does not accept yet.
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
    config: Arc<ListenerConfig>,
    tls: Option<TlsAcceptor>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds `addr` (`host:port`; port 0 takes a free one) and loads the certificate.
    ///
    /// # Errors
    /// [`ListenerError`], when the address cannot be resolved or bound, or the TLS files cannot be used.
    pub async fn bind(addr: &str, config: ListenerConfig) -> Result<Self, ListenerError> {
        let tls = config.tls.as_ref().map(socket::acceptor).transpose()?;
        let unresolved = |source| ListenerError::Address {
            addr: addr.to_owned(),
            source,
        };
        let resolved = tokio::net::lookup_host(addr).await.map_err(unresolved)?;
        let mut result = Err(unresolved(io::ErrorKind::NotFound.into()));
        for addr in resolved {
            result = open(addr).map_err(|source| ListenerError::Bind { addr, source });
            if result.is_ok() {
                break;
            }
        }
        let (socket, local_addr) = result?;
        Ok(Self {
            socket,
            local_addr,
            config: Arc::new(config),
            tls,
        })
    }

    /// The address that is bound, with the true port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts connections and answers their requests with `endpoint`, until it is told to end.
    ///
    /// `stop` closes the socket and the idle connections; running requests are finished. `abort` drops what
    /// is left, handlers included. Returns when no connection is left.
    ///
    /// A handler's future is dropped when its client leaves. A client that closes its sending side while it waits
    /// for an answer counts as gone: TCP does not tell the two apart.
    pub async fn serve<E>(
        self,
        endpoint: E,
        stop: CancellationToken,
        abort: CancellationToken,
    ) -> ServeSummary
    where
        E: IntoEndpoint,
        E::Endpoint: 'static,
    {
        let server = Arc::new(Server {
            endpoint: endpoint.into_endpoint().map_to_response().boxed(),
            admission: Admission::new(
                self.config.max_connections,
                self.config.reserved_connections,
            ),
            config: self.config,
            tls: self.tls,
            local_addr: self.local_addr,
            stop,
            abort,
            tasks: TaskTracker::new(),
        });
        tracing::info!(addr = %server.local_addr, tls = server.tls.is_some(), "listening");
        accept_until_stopped(&server, self.socket).await;
        server.tasks.close();
        if !server.tasks.is_empty() {
            tracing::info!(addr = %server.local_addr, "waiting for connections to end");
        }
        server.tasks.wait().await;
        let summary = ServeSummary::of(&server.config.series);
        tracing::info!(addr = %server.local_addr, ?summary, "listener ended");
        summary
    }
}

/// What all connections of one listener share.
struct Server {
    endpoint: poem::endpoint::BoxEndpoint<'static, poem::Response>,
    config: Arc<ListenerConfig>,
    tls: Option<TlsAcceptor>,
    local_addr: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
    admission: Admission,
}

impl ServeSummary {
    fn of(series: &PlaneSeries) -> Self {
        Self {
            accepted: series.count(ConnectionOutcome::Accepted),
            reserved: series.count(ConnectionOutcome::Reserved),
            refused: series.count(ConnectionOutcome::Refused),
            aborted: series.count(ConnectionOutcome::Aborted),
        }
    }
}

fn open(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let local_addr = listener.local_addr()?;
    Ok((listener, local_addr))
}

/// Takes the socket by value: its end closes the port.
async fn accept_until_stopped(server: &Arc<Server>, socket: TcpListener) {
    let mut backoff = Backoff::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.cancelled() => break,
            () = server.abort.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.accepted();
                admit(server, stream, peer);
            }
            Err(error) => {
                if let Some(pause) = backoff.failed(&error) {
                    // Whoever asked us to stop must not wait for the pause.
                    let _ = server
                        .stop
                        .run_until_cancelled(tokio::time::sleep(pause))
                        .await;
                }
            }
        }
    }
    // Clients whose connection the kernel had already made for us deserve an answer, not a reset.
    while let Some(Ok((stream, peer))) = socket.accept().now_or_never() {
        admit(server, stream, peer);
    }
}

/// Starts a task for the connection, or closes it: left in the backlog it would hang, with health checks behind it,
/// until somebody's timeout; a closed connection tells client and load balancer at once.
fn admit(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr) {
    let Some(place) = server.admission.enter() else {
        let refused = ConnectionOutcome::Refused;
        server.config.series.connected(refused);
        tracing::debug!(%peer, "connection refused, all places taken");
        return;
    };
    let series = &server.config.series;
    series.connected(ConnectionOutcome::Accepted);
    if place.is_reserved() {
        series.connected(ConnectionOutcome::Reserved);
    }
    server
        .tasks
        .spawn(connection::run(Arc::clone(server), stream, peer, place));
}
