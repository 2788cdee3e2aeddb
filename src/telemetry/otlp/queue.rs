//! Spans on their way to the collector: a bounded queue and one task that sends them in batches.
//!
//! Whoever hands spans in never waits: what does not fit is dropped and counted. While the collector is away, one batch is tried
//! again and again and the others wait; the log says once that it went, and once that it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Sender;

/// Spans that wait at most; a span takes about half a kilobyte.
const MOST_WAITING: usize = 8192;

/// Spans of one batch, about, and how long it waits to become full.
const BATCH: usize = 512;
const GATHERING: Duration = Duration::from_secs(1);

/// Pauses while the collector is away.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What became of spans, since the start.
#[derive(Debug, Default)]
pub struct Outcomes {
    exported: AtomicU64,
    dropped: AtomicU64,
    away: AtomicBool,
}

impl Outcomes {
    /// Spans that the collector took.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that did not fit into the queue, or that the collector refused.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether the collector did not answer when it was asked last.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }
}

/// The queue's end where spans come in.
#[derive(Debug)]
pub(in crate::telemetry) struct Queue {
    spans: UnboundedSender<Vec<Span>>,
    waiting: Arc<AtomicUsize>,
    outcomes: Arc<Outcomes>,
}

impl Queue {
    /// Takes the spans of one trace, all or none.
    pub(in crate::telemetry) fn offer(&self, spans: Vec<Span>) {
        let count = spans.len();
        let waiting = self.waiting.fetch_add(count, Ordering::Relaxed);
        if waiting + count > MOST_WAITING || self.spans.send(spans).is_err() {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            self.outcomes.drop_some(count);
        }
    }

    /// What became of spans.
    pub(in crate::telemetry) fn outcomes(&self) -> &Arc<Outcomes> {
        &self.outcomes
    }
}

impl Outcomes {
    fn drop_some(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// The task that sends.
#[derive(Debug)]
pub struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what waits, within this time, and ends.
    pub async fn end(self, within: Duration) {
        self.stop.cancel();
        // What is left after that is lost, as it is at a kill.
        let _ = tokio::time::timeout(within, self.task).await;
    }
}

/// A queue, and the task that sends what is in it. Must be called inside a runtime.
pub(in crate::telemetry) fn begin(sender: Sender, place: String) -> (Queue, Exporting) {
    let (spans, incoming) = unbounded_channel();
    let (waiting, outcomes) = (Arc::default(), Arc::default());
    let stop = CancellationToken::new();
    let worker = Worker {
        sender,
        place,
        incoming,
        waiting: Arc::clone(&waiting),
        outcomes: Arc::clone(&outcomes),
        stop: stop.clone(),
    };
    let task = TaskTracker::new().spawn(worker.work());
    let queue = Queue {
        spans,
        waiting,
        outcomes,
    };
    (queue, Exporting { stop, task })
}

struct Worker {
    sender: Sender,
    /// Where the collector is, for people.
    place: String,
    incoming: UnboundedReceiver<Vec<Span>>,
    waiting: Arc<AtomicUsize>,
    outcomes: Arc<Outcomes>,
    stop: CancellationToken,
}

impl Worker {
    async fn work(mut self) {
        while let Some(batch) = self.gather().await {
            let count = batch.len();
            let sent = self.send(batch).await;
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            if sent {
                let count = u64::try_from(count).unwrap_or_default();
                self.outcomes.exported.fetch_add(count, Ordering::Relaxed);
            } else {
                self.outcomes.drop_some(count);
            }
        }
    }

    /// The next batch; once it shall stop, what is left, and then `None`.
    async fn gather(&mut self) -> Option<Vec<Span>> {
        let mut batch = tokio::select! {
            () = self.stop.cancelled() => self.incoming.try_recv().ok()?,
            first = self.incoming.recv() => first?,
        };
        let full = async {
            while batch.len() < BATCH
                && let Some(more) = self.incoming.recv().await
            {
                batch.extend(more);
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = tokio::time::timeout(GATHERING, full) => {}
        }
        while batch.len() < BATCH
            && let Ok(more) = self.incoming.try_recv()
        {
            batch.extend(more);
        }
        Some(batch)
    }

    /// Sends a batch, again and again while the collector is away; whether it arrived.
    async fn send(&self, batch: Vec<Span>) -> bool {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.sender.resource()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "lensgate".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    spans: batch,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let is_last = self.stop.is_cancelled();
            let error = match self.sender.spans(request.clone()).await {
                Ok(()) => {
                    self.is_back();
                    return true;
                }
                Err(error) => error,
            };
            if !error.passes {
                // It is there, and says no.
                self.is_back();
                tracing::debug!(%error, "spans were refused by the collector");
                return false;
            }
            self.is_gone(&error.to_string());
            if is_last {
                return false;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn is_gone(&self, reason: &str) {
        if !self.outcomes.away.swap(true, Ordering::Relaxed) {
            let collector = &self.place;
            tracing::warn!(
                collector,
                reason,
                "the collector is away: traces wait, and are dropped when too many do"
            );
        }
    }

    fn is_back(&self) {
        if self.outcomes.away.swap(false, Ordering::Relaxed) {
            let (collector, dropped) = (&self.place, self.outcomes.dropped());
            tracing::info!(collector, dropped, "the collector is back");
        }
    }
}
