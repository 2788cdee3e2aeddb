//! Runs hyper's side of a connection, watches over it, and says how it came to its end.
//! Called by `connection`. Must not know what requests are about.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::{
    ListenerConfig, Server,
    body::AnswerBody,
    gate::Gate,
    socket::Socket,
    watch::{Phase, Watch},
};

/// From `stop` to the closing of idle connections: requests that have reached the kernel by then are still read.
pub(super) const STOP_GRACE: Duration = Duration::from_millis(50);
/// From a client's FIN to the end of its running request: one that only said that it has no more to send still gets an
/// answer that is nearly there, and one whose body broke off is told so; one that has gone does not hold a core.
const FIN_GRACE: Duration = Duration::from_millis(250);
/// From the goodbye (HTTP/2 GOAWAY) on an idle connection to its end, unless an answer is still going out.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// In good order.
    Closed,
    /// hyper gave up: a broken connection, or a request that it could not parse.
    Failed(hyper::Error),
    /// The client closed or reset the connection while its request was running.
    Left,
    /// A request's head did not come in time.
    SlowHead,
    /// Nothing was asked for too long.
    Idle,
    /// An HTTP/2 client takes none of its answers.
    Stalled,
}

/// What the two kinds of hyper's connections have in common.
pub(super) trait Connection: Future<Output = hyper::Result<()>> {
    const HTTP1: bool;
    fn retire(self: Pin<&mut Self>);
}

impl<S> Connection for http1::Connection<TokioIo<Gate>, S>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const HTTP1: bool = true;

    fn retire(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, X> Connection for http2::Connection<TokioIo<Gate>, S, X>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    X: hyper::rt::bounds::Http2ServerConnExec<S::Future, AnswerBody>,
{
    const HTTP1: bool = false;

    fn retire(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What the clock says about a connection.
enum Verdict {
    /// Nothing to do before then.
    Wait(Option<Instant>),
    /// Take no new request.
    Retire,
    End(End),
}

/// Runs a connection to its end. The caller drops what is left of it, running handlers included.
///
/// The connection is never polled again once it has ended: poem's own server does that, and so brings a handler back
/// to life whose client has closed the connection.
pub(super) async fn drive<C: Connection>(
    conn: C,
    server: &Server,
    watch: &Watch,
    socket: &Socket,
) -> End {
    let mut conn = pin!(conn);
    let mut left = pin!(socket.left());
    let mut stop = pin!(server.stop.cancelled());
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut gone: Option<Instant> = None;
    let mut stopping: Option<Instant> = None;
    let mut retired: Option<Instant> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = conn.as_mut().poll(cx) {
                return Poll::Ready(result.map_or_else(End::Failed, |()| End::Closed));
            }
            if C::HTTP1 {
                if watch.poll_drain(cx).is_ready() {
                    // hyper has to look again: the connection may be free for its next request now.
                    continue;
                }
                let busy = watch.phase() == Phase::Busy;
                if busy && gone.is_none() && left.as_mut().poll(cx).is_ready() {
                    gone = Some(Instant::now() + FIN_GRACE);
                }
            }
            if stopping.is_none() && stop.as_mut().poll(cx).is_ready() {
                stopping = Some(Instant::now() + STOP_GRACE);
            }
            let verdict = if C::HTTP1 {
                http1(&server.config, watch, gone)
            } else {
                http2(&server.config, watch, retired)
            };
            let deadline = match merge(verdict, stopping.filter(|_| retired.is_none())) {
                Verdict::End(end) => return Poll::Ready(end),
                Verdict::Retire => {
                    retired = Some(Instant::now());
                    conn.as_mut().retire();
                    continue;
                }
                Verdict::Wait(None) => return Poll::Pending,
                Verdict::Wait(Some(deadline)) => deadline,
            };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

fn due(at: Instant, then: Verdict) -> Verdict {
    if at <= Instant::now() {
        then
    } else {
        Verdict::Wait(Some(at))
    }
}

fn http1(config: &ListenerConfig, watch: &Watch, gone: Option<Instant>) -> Verdict {
    match watch.phase() {
        Phase::Head(since) => due(since + config.header_timeout, Verdict::End(End::SlowHead)),
        Phase::Idle(since) => due(since + config.idle_timeout, Verdict::End(End::Idle)),
        Phase::Busy => gone.map_or(Verdict::Wait(None), |at| due(at, Verdict::End(End::Left))),
    }
}

/// The requests of HTTP/2 run in tasks of their own and do not wake this one when they end, hence the looking again.
fn http2(config: &ListenerConfig, watch: &Watch, retired: Option<Instant>) -> Verdict {
    if watch.finishes() && retired.is_none() {
        return Verdict::Retire;
    }
    let load = watch.load();
    match (load.running, retired) {
        (0, Some(since)) => {
            // Answers may still lie in hyper's buffers. Pings are written too, hence the bound.
            let quiet = since.max(load.progress).max(load.wrote) + GOODBYE;
            due(
                quiet.min(since.max(load.progress) + config.write_timeout.max(GOODBYE)),
                Verdict::End(End::Idle),
            )
        }
        (0, None) => due(load.progress + config.idle_timeout, Verdict::Retire),
        _ if load.unanswered == 0 => due(
            load.progress + config.write_timeout,
            Verdict::End(End::Stalled),
        ),
        _ => Verdict::Wait(Some(
            Instant::now() + config.write_timeout.min(config.idle_timeout),
        )),
    }
}

/// The earlier of what the clock says and the end of the grace after `stop`.
fn merge(verdict: Verdict, stopping: Option<Instant>) -> Verdict {
    match (verdict, stopping) {
        (Verdict::Wait(_), Some(at)) if at <= Instant::now() => Verdict::Retire,
        (Verdict::Wait(Some(deadline)), Some(at)) => Verdict::Wait(Some(deadline.min(at))),
        (Verdict::Wait(None), Some(at)) => Verdict::Wait(Some(at)),
        (verdict, _) => verdict,
    }
}
