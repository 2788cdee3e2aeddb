//! What one connection is doing right now: the record that its byte gate, its requests and its driver share.
//! Written by `gate`, `service` and `body`, read by `driver` and `connection`. Decides no timeout itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::StatusCode;
use tokio::time::Instant;

use super::{body::Drain, socket::Stream};

/// Where an HTTP/1 connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests, since then.
    Idle(Instant),
    /// The first byte of a request's head came then, its end has not.
    Head(Instant),
    /// A request is running, or its answer is on the way.
    Busy,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Requests from their head's arrival until their answer's body is handed to hyper.
    running: usize,
    /// Those of `running` whose handler has not answered yet.
    unanswered: usize,
    /// When a request last began, was answered, gave a part of its answer, or ended.
    progress: Instant,
    /// When bytes last went out.
    wrote: Instant,
    drain: Option<Drain>,
    linger: bool,
    finish: bool,
    refused: Option<StatusCode>,
    stream: Option<Stream>,
}

/// The record of one connection.
#[derive(Debug)]
pub(super) struct Watch(Mutex<State>);

/// How many requests an HTTP/2 connection carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) unanswered: usize,
    pub(super) progress: Instant,
    pub(super) wrote: Instant,
}

impl Watch {
    /// For a connection whose first byte came at `first_byte`.
    pub(super) fn new(first_byte: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            phase: Phase::Head(first_byte),
            running: 0,
            unanswered: 0,
            progress: first_byte,
            wrote: first_byte,
            drain: None,
            linger: false,
            finish: false,
            refused: None,
            stream: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The record is a handful of plain values: whole after a panic as before it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self) -> Phase {
        self.state().phase
    }

    pub(super) fn load(&self) -> Load {
        let state = self.state();
        Load {
            running: state.running,
            unanswered: state.unanswered,
            progress: state.progress,
            wrote: state.wrote,
        }
    }

    /// Bytes came in.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Idle(_)) {
            state.phase = Phase::Head(Instant::now());
        }
    }

    /// Bytes went out.
    pub(super) fn wrote(&self) {
        self.state().wrote = Instant::now();
    }

    /// hyper has nothing left to write: only now is a finished request behind us.
    pub(super) fn flushed(&self) {
        let mut state = self.state();
        if state.phase == Phase::Busy && state.running == 0 && state.drain.is_none() {
            state.phase = Phase::Idle(Instant::now());
        }
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let mut state = self.state();
        state.phase = Phase::Busy;
        state.running += 1;
        state.unanswered += 1;
        state.progress = Instant::now();
        InFlight {
            watch: Arc::clone(self),
            answered: false,
        }
    }

    /// The rest of an unread body is to be thrown away while the answer goes out.
    pub(super) fn drain(&self, drain: Drain) {
        self.state().drain = Some(drain);
    }

    /// Works on what [`Watch::drain`] left; ready when that came to its end just now.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut drain) = self.state().drain.take() else {
            return Poll::Pending;
        };
        let polled = drain.poll(cx);
        if polled.is_pending() {
            self.state().drain = Some(drain);
        }
        polled
    }

    /// The socket is to be drained after the last answer, because the client is still sending.
    pub(super) fn linger(&self) {
        self.state().linger = true;
    }

    pub(super) fn lingers(&self) -> bool {
        self.state().linger
    }

    /// No further request is wanted on this connection.
    pub(super) fn finish(&self) {
        self.state().finish = true;
    }

    pub(super) fn finishes(&self) -> bool {
        self.state().finish
    }

    /// hyper wanted to answer an unparsable head with this status.
    pub(super) fn refuse(&self, status: StatusCode) {
        self.state().refused.get_or_insert(status);
    }

    pub(super) fn refused(&self) -> Option<StatusCode> {
        self.state().refused
    }

    /// hyper has let go of the stream.
    pub(super) fn give_back(&self, stream: Stream) {
        self.state().stream = Some(stream);
    }

    pub(super) fn take_stream(&self) -> Option<Stream> {
        self.state().stream.take()
    }
}

/// One request on its way; its drop is the end of it.
#[derive(Debug)]
pub(super) struct InFlight {
    watch: Arc<Watch>,
    answered: bool,
}

impl InFlight {
    /// The handler has answered; the body may still be on its way.
    pub(super) fn answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            let mut state = self.watch.state();
            state.unanswered = state.unanswered.saturating_sub(1);
            state.progress = Instant::now();
        }
    }

    /// A part of the answer went out.
    pub(super) fn touch(&self) {
        self.watch.state().progress = Instant::now();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.answered();
        let mut state = self.watch.state();
        state.running = state.running.saturating_sub(1);
        state.progress = Instant::now();
    }
}
