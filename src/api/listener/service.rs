//! One request: from hyper's head and body to the poem endpoint, and its answer back, whatever the endpoint does.
//! Called by hyper, for each request of a connection. Must not know routes, but for `/health`.

use std::{
    any::Any,
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock, OnceLock},
    time::Instant,
};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request, uri::Scheme};
use hyper::body::{Body as _, Incoming};
use poem::{
    Addr, Body, Endpoint, RequestParts, Response,
    web::{LocalAddr, RemoteAddr},
};
use uuid::Uuid;

use crate::telemetry::metrics::{Held, PlaneSeries};
use crate::telemetry::trace;

use super::{
    Server,
    body::{AnswerBody, Drain, Progress, SharedTally, TimedBody},
    problem::{INTERNAL, OVERLOADED, SLOW_BODY, X_REQUEST_ID},
    watch::{InFlight, Watch},
};

/// The gateway's own id of a request (`UUIDv7`), an extension of every request that reaches an endpoint.
///
/// `X-Request-Id` carries it on every answer that has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub Uuid);

/// Where the endpoint notes which of its routes a request is of; an extension of every request that reaches an endpoint.
#[derive(Clone, Debug, Default)]
pub struct RouteName(Arc<OnceLock<Arc<str>>>);

impl RouteName {
    /// Notes a request's route, once. Does nothing where no listener has asked.
    pub fn note(request: &poem::Request, template: &Arc<str>) {
        if let Some(Self(name)) = request.extensions().get() {
            name.get_or_init(|| Arc::clone(template));
        }
    }
}

/// A request that is counted when it is answered, or when its client leaves before.
struct Counted {
    series: Arc<PlaneSeries>,
    _under_way: Held,
    method: &'static str,
    route: RouteName,
    since: Instant,
    status: u16,
}

/// What servers log for a client that left: no answer has this status.
const CLIENT_LEFT: u16 = 499;

impl Counted {
    fn begin(series: &Arc<PlaneSeries>, method: &Method) -> Self {
        Self {
            series: Arc::clone(series),
            _under_way: series.request(),
            method: trace::method_name(method),
            route: RouteName::default(),
            since: Instant::now(),
            status: CLIENT_LEFT,
        }
    }

    fn route(&self) -> RouteName {
        self.route.clone()
    }

    fn end(mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        static UNMATCHED: LazyLock<Arc<str>> = LazyLock::new(|| "unmatched".into());
        let route = self.route.0.get().unwrap_or(&UNMATCHED);
        self.series
            .answered(self.method, route, self.status, self.since.elapsed());
    }
}

/// What the requests of one connection have in common.
pub(super) struct Service {
    pub(super) server: Arc<Server>,
    pub(super) watch: Arc<Watch>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) scheme: Scheme,
    pub(super) reserved: bool,
    pub(super) http1: bool,
}

impl Service {
    /// Must note the request before the future is first polled: until then the connection counts as reading a head.
    pub(super) fn call(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<http::Response<AnswerBody>, Infallible>> + Send + use<> {
        let in_flight = self.watch.begin();
        let service = Arc::clone(self);
        async move { Ok(service.answer(request, in_flight).await) }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        in_flight: InFlight,
    ) -> http::Response<AnswerBody> {
        let counted = Counted::begin(&self.server.config.series, request.method());
        let id = Uuid::now_v7();
        let head_only = request.method() == Method::HEAD;
        let expects = expects_continue(request.headers());
        let (parts, incoming) = request.into_parts();
        let traced = self.trace(&parts, id);
        let tally = SharedTally::default();
        let body = if incoming.is_end_stream() {
            tally.get().progress = Progress::Finished;
            Body::empty()
        } else {
            let timed = TimedBody::new(incoming, tally.clone(), &self.server.config);
            Body::from(http_body_util::combinators::BoxBody::new(timed))
        };
        let mut response = if self.reserved && !is_health(parts.uri.path()) {
            drop(body);
            OVERLOADED.response(id)
        } else {
            traced.run(self.run(parts, body, id, counted.route())).await
        };
        let failed = response.status().is_client_error() || response.status().is_server_error();
        if tally.get().progress == Progress::TooSlow
            && failed
            && response.status() != StatusCode::REQUEST_TIMEOUT
        {
            // Whatever the endpoint took the error for: this is what it was.
            response = SLOW_BODY.response(id);
        }
        if !response.headers().contains_key(X_REQUEST_ID)
            && let Ok(value) = HeaderValue::try_from(id.to_string())
        {
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        if !self.http1 {
            self.take_rest(&tally).await;
        }
        self.settle(&mut response, &tally, expects);
        counted.end(response.status());
        traced.end(response.status().as_u16());
        let mut response = http::Response::from(response);
        if head_only {
            strip_body(&mut response);
        }
        response.map(|body| AnswerBody::new(body, in_flight))
    }

    /// The trace of a request whose head this is.
    fn trace(&self, parts: &request::Parts, id: Uuid) -> trace::Request {
        trace::Request::begin(&trace::Head {
            id,
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            version: parts.version,
            scheme: &self.scheme,
            remote: self.remote,
        })
    }

    /// Asks the endpoint, and survives it.
    async fn run(
        &self,
        mut parts: request::Parts,
        body: Body,
        id: Uuid,
        route: RouteName,
    ) -> Response {
        if parts.method == Method::HEAD {
            parts.method = Method::GET;
        }
        parts.extensions.insert(RequestId(id));
        parts.extensions.insert(route);
        let local = LocalAddr(Addr::SocketAddr(self.local));
        let remote = RemoteAddr(Addr::SocketAddr(self.remote));
        let parts = RequestParts::from((parts, local, remote, self.scheme.clone()));
        let request = poem::Request::from_parts(parts, body);
        match AssertUnwindSafe(self.server.endpoint.get_response(request))
            .catch_unwind()
            .await
        {
            Ok(response) => response,
            Err(payload) => {
                tracing::error!(request_id = %id, panic = panic_message(&*payload), "handler panicked");
                INTERNAL.response(id)
            }
        }
    }

    /// HTTP/2: takes a bounded rest of an unread body before the answer goes out. Some clients drop an answer that
    /// comes with the reset of a stream on which they are still sending.
    async fn take_rest(&self, tally: &SharedTally) {
        let config = &self.server.config;
        let rest = {
            let mut tally = tally.get();
            let unread = tally.progress == Progress::Open;
            tally.rest.take().filter(|_| unread)
        };
        let short = |rest: &Incoming| {
            rest.size_hint()
                .exact()
                .is_some_and(|length| length <= config.linger_bytes)
        };
        if let Some(rest) = rest.filter(short) {
            let mut drain = Drain::new(rest, config);
            std::future::poll_fn(|cx| drain.poll(cx)).await;
        }
    }

    /// Decides what happens to an unread body and, with it, to the connection. A client that is cut off while it
    /// sends never sees its answer, so a bounded rest is taken from it first.
    fn settle(&self, response: &mut Response, tally: &SharedTally, expects: bool) {
        if !self.http1 {
            // The streams of HTTP/2 do not stand in each other's way: hyper resets the one.
            if self.reserved {
                self.watch.finish();
            }
            return;
        }
        let config = &self.server.config;
        let mut tally = tally.get();
        let rest = tally
            .rest
            .take()
            .filter(|_| tally.progress == Progress::Open);
        let mut linger = matches!(tally.progress, Progress::Broken | Progress::TooSlow);
        let mut close =
            self.reserved || self.server.stop.is_cancelled() || linger || says_close(response);
        if let Some(rest) = rest {
            let short = rest
                .size_hint()
                .exact()
                .is_some_and(|length| length <= config.linger_bytes);
            if expects && !tally.polled {
                // It waits for our go-ahead, and the answer says that there is none.
                close = true;
            } else if short && !close {
                self.watch.drain(Drain::new(rest, config));
            } else {
                (close, linger) = (true, true);
            }
        }
        if close {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if linger {
            self.watch.linger();
        }
    }
}

fn is_health(path: &str) -> bool {
    path == "/health" || path.starts_with("/health/")
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn says_close(response: &Response) -> bool {
    let value = response
        .headers()
        .get(header::CONNECTION)
        .map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.eq_ignore_ascii_case(b"close"))
}

/// The answer to a HEAD: that of the GET, its length included, without the body. hyper does it for HTTP/1 only.
fn strip_body(
    response: &mut http::Response<
        http_body_util::combinators::BoxBody<bytes::Bytes, std::io::Error>,
    >,
) {
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
    *response.body_mut() = Body::empty().into();
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
