//! Bodies with a clock: the request's as the endpoint reads it, what is left of it, and the answer's as hyper reads it.
//! Made by `service`. Must not know what a body means.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{ListenerConfig, watch::InFlight};

/// The inner error of the [`io::Error`] (kind `TimedOut`) that a body gives which came too slowly; answered 408.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's body did not arrive in time")]
pub struct BodyTimeout;

impl BodyTimeout {
    /// Whether a slow body is what lies at the bottom of `error`.
    #[must_use]
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            // The `source` of an `io::Error` passes over the very error that it was made from.
            next = match error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        false
    }
}

/// How far a request's body has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more of it.
    #[default]
    Open,
    /// Read to its end.
    Finished,
    /// Cut off or malformed.
    Broken,
    /// Given up, because it came too slowly.
    TooSlow,
}

/// What became of a request's body, told to the service when the handler is done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) progress: Progress,
    /// The handler asked for it at least once, so a client that waits for `100 Continue` got it.
    pub(super) polled: bool,
    /// What the handler left unread.
    pub(super) rest: Option<Incoming>,
}

/// A [`Tally`] shared by the body and the service.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    pub(super) fn get(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body that fails when it comes too slowly.
///
/// Only time in which the handler waits for the client counts: a handler that is slow itself harms nobody.
pub(super) struct TimedBody {
    inner: Option<Incoming>,
    tally: SharedTally,
    idle: Duration,
    grace: Duration,
    min_rate: u64,
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for TimedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedBody")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl TimedBody {
    pub(super) fn new(inner: Incoming, tally: SharedTally, config: &ListenerConfig) -> Self {
        Self {
            inner: Some(inner),
            tally,
            idle: config.body_idle_timeout,
            grace: config.body_grace,
            min_rate: config.body_min_rate.max(1),
            received: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        }
    }

    /// How long the present wait may last.
    fn allowance(&self) -> Duration {
        let bought = Duration::from_millis(self.received.saturating_mul(1000) / self.min_rate);
        self.idle
            .min((self.grace + bought).saturating_sub(self.waited))
    }

    /// Ready when the client has kept us waiting for too long.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            let deadline = now + self.allowance();
            self.waiting_since = Some(now);
            match self.timer.as_mut() {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(sleep_until(deadline))),
            }
        }
        self.timer
            .as_mut()
            .map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }

    fn note(&mut self, frame: Option<&Frame<Bytes>>) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        let length = frame.and_then(Frame::data_ref).map_or(0, Bytes::len);
        self.received = self
            .received
            .saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if frame.is_none() || self.inner.as_ref().is_some_and(Body::is_end_stream) {
            self.tally.get().progress = Progress::Finished;
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.tally.get().polled = true;
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Err(error))) => {
                self.inner = None;
                self.tally.get().progress = Progress::Broken;
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Ready(frame) => {
                self.note(frame.as_ref().and_then(|frame| frame.as_ref().ok()));
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Poll::Pending => {
                if self.poll_clock(cx).is_pending() {
                    return Poll::Pending;
                }
                self.inner = None;
                self.tally.get().progress = Progress::TooSlow;
                Poll::Ready(Some(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    BodyTimeout,
                ))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.tally.get().rest = self.inner.take();
    }
}

/// Throws away what is left of a body, while the answer is already going out. The caller has bounded its length.
#[derive(Debug)]
pub(super) struct Drain {
    body: Incoming,
    pause: Duration,
    pausing: Pin<Box<Sleep>>,
    end: Instant,
}

impl Drain {
    pub(super) fn new(body: Incoming, config: &ListenerConfig) -> Self {
        let pause = config.linger_timeout;
        Self {
            body,
            pause,
            pausing: Box::pin(sleep(pause)),
            end: Instant::now() + pause * 5,
        }
    }

    /// Ready when nothing more comes, or it is not waited for any longer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if !matches!(frame, Some(Ok(_))) {
                return Poll::Ready(());
            }
            self.pausing
                .as_mut()
                .reset(self.end.min(Instant::now() + self.pause));
        }
        self.pausing.as_mut().poll(cx)
    }
}

/// An answer's body; tells the connection's record when it is through.
pub(super) struct AnswerBody {
    inner: BoxBody<Bytes, io::Error>,
    request: InFlight,
}

impl AnswerBody {
    pub(super) fn new(inner: BoxBody<Bytes, io::Error>, mut request: InFlight) -> Self {
        request.answered();
        Self { inner, request }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.request.touch();
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
