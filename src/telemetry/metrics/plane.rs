//! What is counted of a plane's listener: connections, and requests by route.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::histogram::{Counter, HTTP_SECONDS, Histogram};
use super::page::Page;

/// What a listener did with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// Taken.
    Accepted,
    /// Taken on the room kept for health checks.
    Reserved,
    /// Closed at once.
    Refused,
    /// Dropped while it was alive.
    Aborted,
}

type HttpKey = (&'static str, Arc<str>, u16);

/// What is counted of a plane.
#[derive(Debug)]
pub struct PlaneSeries {
    plane: &'static str,
    active: AtomicI64,
    connections: AtomicI64,
    outcomes: [Counter; 4],
    durations: RwLock<HashMap<HttpKey, Arc<Histogram>>>,
}

/// One more, until it is dropped.
pub struct Held(Arc<PlaneSeries>, fn(&PlaneSeries) -> &AtomicI64);

impl Drop for Held {
    fn drop(&mut self) {
        let Self(series, of) = self;
        of(series).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for PlaneSeries {
    fn default() -> Self {
        Self::of("data")
    }
}

impl PlaneSeries {
    pub(super) fn of(plane: &'static str) -> Self {
        Self {
            plane,
            active: AtomicI64::new(0),
            connections: AtomicI64::new(0),
            outcomes: Default::default(),
            durations: RwLock::default(),
        }
    }

    fn hold(self: &Arc<Self>, of: fn(&Self) -> &AtomicI64) -> Held {
        of(self).fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self), of)
    }

    /// A request is under way until the answer is dropped.
    pub fn request(self: &Arc<Self>) -> Held {
        self.hold(|series| &series.active)
    }

    /// A connection is open until the answer is dropped.
    pub fn connection(self: &Arc<Self>) -> Held {
        self.hold(|series| &series.connections)
    }

    /// What became of a connection.
    pub fn connected(&self, outcome: ConnectionOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.one();
        }
    }

    /// How many connections came to this.
    #[must_use]
    pub fn count(&self, outcome: ConnectionOutcome) -> u64 {
        let count = self.outcomes.get(outcome as usize);
        count.map_or(0, Counter::get)
    }

    /// A request was answered with `status`. `route` is one of the plane's, or `unmatched`.
    pub fn answered(&self, method: &'static str, route: &Arc<str>, status: u16, took: Duration) {
        let key = (method, Arc::clone(route), status);
        let known = self.durations.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(durations) = known.get(&key) {
            durations.took(took);
            return;
        }
        drop(known);
        let mut known = self
            .durations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let durations = known
            .entry(key)
            .or_insert_with(|| Arc::new(Histogram::new(HTTP_SECONDS)));
        durations.took(took);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "requests and connections are few"
    )]
    pub(super) fn tell(&self, page: &mut Page) {
        let plane = ("plane", self.plane);
        let known = self.durations.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        for ((method, route, status), durations) in known.iter() {
            let labels = [
                plane,
                ("http_request_method", method),
                ("http_route", route),
                ("http_response_status_code", &status.to_string()),
            ];
            page.histogram(
                "http_server_request_duration_seconds",
                "From a request's head to its answer; 499 where the client left before.",
                &labels,
                durations,
            );
        }
        let active = self.active.load(Ordering::Relaxed);
        let connections = self.connections.load(Ordering::Relaxed);
        page.gauge(
            "http_server_active_requests",
            "Requests under way.",
            &[plane],
            active as f64,
        );
        page.gauge(
            "lensgate_connections",
            "Open connections.",
            &[plane],
            connections as f64,
        );
        let names = ["accepted", "reserved", "refused", "aborted"];
        for (outcome, count) in names.into_iter().zip(&self.outcomes) {
            page.counter(
                "lensgate_connections_total",
                "Connections by what became of them.",
                &[plane, ("outcome", outcome)],
                count.get(),
            );
        }
    }
}
