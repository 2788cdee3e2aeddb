//! Batches, where they pay: some threads prepare pictures, others run all that are ready in one go.
//!
//! Called by the scheduler for versions whose runs take more than one picture or leave the processor. One picture that
//! cannot be prepared, has expired or was left harms no other of its batch.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::instance::{self, Graph};
use super::permits::{Gate, Permit};
use super::queue::{Queue, Waiting};
use super::stack::{stack, unstack};
use super::{Done, EngineError, Priority, RunPermits, Timings};
use crate::domain::tensor::Tensor;
use crate::telemetry::trace::{self, TraceContext};

/// A job whose tensor is made.
struct Ready {
    tensor: Tensor,
    priority: Priority,
    deadline: Instant,
    reply: oneshot::Sender<Result<Done, EngineError>>,
    /// The wait before `prepare`, and `prepare` itself.
    so_far: Timings,
    since: Instant,
    trace: Option<TraceContext>,
}

impl Ready {
    fn answer(
        self,
        outcome: Result<Tensor, EngineError>,
        started: Instant,
        (run, pictures): (Duration, usize),
        batch: Option<TraceContext>,
    ) {
        let gather = started.saturating_duration_since(self.since);
        let timings = Timings {
            queue: self.so_far.queue + gather,
            gather,
            run,
            pictures,
            batch,
            ..self.so_far
        };
        // The receiver may have gone in this very moment; then nobody is owed an answer.
        let _ = self
            .reply
            .send(outcome.map(|output| Done { output, timings }));
    }

    /// The job itself while somebody waits for it; else it is answered in place of a run.
    fn alive(self, now: Instant) -> Option<Self> {
        if self.deadline > now && !self.reply.is_closed() {
            return Some(self);
        }
        let _ = self.reply.send(Err(EngineError::DeadlineExceeded));
        None
    }
}

#[derive(Default)]
struct State {
    ready: VecDeque<Ready>,
    /// Places kept for jobs that are being prepared.
    promised: usize,
    preparers: usize,
}

impl State {
    /// What somebody waits for. Background work takes nobody's place: whoever hands it in bounds it.
    fn normal(&self) -> usize {
        let normal = |ready: &&Ready| ready.priority == Priority::Normal;
        self.ready.iter().filter(normal).count()
    }

    /// The next one, what somebody waits for first.
    fn pop(&mut self) -> Option<Ready> {
        let normal = |ready: &Ready| ready.priority == Priority::Normal;
        let place = self.ready.iter().position(normal).unwrap_or_default();
        self.ready.remove(place)
    }
}

/// What stands between the threads that prepare and those that run: a bounded line of tensors.
pub(super) struct Prepared {
    state: Mutex<State>,
    changed: Condvar,
    room: usize,
    most: usize,
    delay: Duration,
    permits: Arc<RunPermits>,
    gate_id: u64,
    /// Who holds it gathers a batch; the other instances wait behind.
    gate: Mutex<Gate>,
}

impl Prepared {
    /// A line for batches of `most` pictures, prepared by `preparers` threads. A run uses `weight` cores; a batch that
    /// is not full waits for `delay` at most.
    pub(super) fn new(
        (most, delay): (usize, Duration),
        preparers: usize,
        permits: &Arc<RunPermits>,
        weight: usize,
    ) -> Arc<Self> {
        let gate = permits.gate(weight);
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            // A batch that runs, one that fills behind it, and a place in each preparer's hands.
            room: most.saturating_mul(2) + preparers,
            most,
            delay,
            permits: Arc::clone(permits),
            gate_id: gate.id(),
            gate: Mutex::new(gate),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place and keeps it.
    fn promise(&self) {
        let mut state = self
            .changed
            .wait_while(self.state(), |state| {
                state.normal() + state.promised >= self.room
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.promised += 1;
    }

    /// Uses the kept place, or gives it up.
    fn settle(&self, ready: Option<Ready>) {
        let is_normal = ready
            .as_ref()
            .is_some_and(|ready| ready.priority == Priority::Normal);
        {
            let mut state = self.state();
            state.promised -= 1;
            state.ready.extend(ready);
        }
        if is_normal {
            self.permits.promote(self.gate_id);
        }
        self.changed.notify_all();
    }

    /// The next batch with the permits to run it; `None` once nothing is prepared any more.
    fn take(&self) -> Option<(Permit, Vec<Ready>)> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if !self.fill() {
                return None;
            }
            let permit = gate.acquire(|| self.priority());
            let batch = self.gather();
            self.changed.notify_all();
            if !batch.is_empty() {
                return Some((permit, batch));
            }
        }
    }

    /// Waits until something is ready, and for the delay at most until that is a full batch.
    fn fill(&self) -> bool {
        let mut state = self
            .changed
            .wait_while(self.state(), |state| {
                state.ready.is_empty() && state.preparers > 0
            })
            .unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = state.ready.front().map(|ready| ready.since) else {
            return false;
        };
        let patience = self.delay.saturating_sub(oldest.elapsed());
        if !patience.is_zero() {
            let is_filling =
                |state: &mut State| state.ready.len() < self.most && state.preparers > 0;
            (state, _) = self
                .changed
                .wait_timeout_while(state, patience, is_filling)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        true
    }

    fn priority(&self) -> Priority {
        if self.state().normal() > 0 {
            Priority::Normal
        } else {
            Priority::Background
        }
    }

    /// All that is ready and still wanted, up to a full batch; background work where there is a place left.
    fn gather(&self) -> Vec<Ready> {
        let now = Instant::now();
        let mut state = self.state();
        let mut batch = Vec::with_capacity(self.most.min(state.ready.len()));
        while batch.len() < self.most
            && let Some(ready) = state.pop()
        {
            batch.extend(ready.alive(now));
        }
        batch
    }
}

/// One thread that prepares. It counts from when it is made: instances end when the last of them is dropped.
pub(super) struct Preparer {
    queue: Arc<Queue>,
    line: Arc<Prepared>,
}

impl Preparer {
    pub(super) fn new(queue: &Arc<Queue>, line: &Arc<Prepared>) -> Self {
        line.state().preparers += 1;
        Self {
            queue: Arc::clone(queue),
            line: Arc::clone(line),
        }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn work(&self) {
        loop {
            self.line.promise();
            let Some((permit, waiting)) = self.queue.take() else {
                self.line.settle(None);
                return;
            };
            let ready = self.prepare(waiting);
            drop(permit);
            self.line.settle(ready);
        }
    }

    fn prepare(&self, waiting: Waiting) -> Option<Ready> {
        let charge = waiting.charge();
        let Waiting { job, since, .. } = waiting;
        let started = Instant::now();
        let outcome = instance::prepare(job.prepare);
        let prepared = Instant::now();
        self.queue.settle(&charge, prepared - started);
        match outcome {
            Ok(tensor) => Some(Ready {
                tensor,
                priority: job.priority,
                deadline: job.deadline,
                reply: job.reply,
                so_far: Timings {
                    since: Some(since),
                    queue: started - since,
                    prepare: prepared - started,
                    ..Timings::default()
                },
                since: prepared,
                trace: job.trace,
            }),
            Err(error) => {
                let _ = job.reply.send(Err(error));
                None
            }
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.line.state().preparers -= 1;
        self.line.changed.notify_all();
    }
}

/// One thread that runs what is ready.
pub(super) struct BatchInstance {
    pub(super) graph: Arc<Graph>,
    pub(super) line: Arc<Prepared>,
}

impl BatchInstance {
    /// Works until nothing is prepared any more.
    pub(super) fn work(&self) {
        while let Some((permit, batch)) = self.line.take() {
            let _busy = self.graph.series.at_work();
            self.execute(batch);
            drop(permit);
        }
    }

    fn execute(&self, batch: Vec<Ready>) {
        let traced = trace::Batch::begin(batch.iter().map(|ready| ready.trace));
        let started = Instant::now();
        if let Some(rows) = self.run_together(&batch) {
            let run = (started.elapsed(), batch.len());
            self.graph.series.ran(batch.len());
            let context = traced.as_ref().map(trace::Batch::context);
            for (ready, row) in batch.into_iter().zip(rows) {
                ready.answer(Ok(row), started, run, context);
            }
            if let Some(traced) = traced {
                traced.end(&self.graph.name);
            }
            return;
        }
        for ready in batch {
            let started = Instant::now();
            if let Some(ready) = ready.alive(started) {
                let outcome = self.graph.run(&ready.tensor);
                let run = (started.elapsed(), 1);
                self.graph.series.ran(1);
                ready.answer(outcome, started, run, None);
            }
        }
    }

    /// One run for all; `None` where there is only one, or the graph refuses them together.
    fn run_together(&self, batch: &[Ready]) -> Option<Vec<Tensor>> {
        if batch.len() < 2 {
            return None;
        }
        let tensors: Vec<&Tensor> = batch.iter().map(|ready| &ready.tensor).collect();
        match self.graph.run(&stack(&tensors)?) {
            Ok(output) => unstack(output, batch.len()),
            Err(error) => {
                tracing::debug!(%error, pictures = batch.len(), "a batch failed and is run one by one");
                None
            }
        }
    }
}
