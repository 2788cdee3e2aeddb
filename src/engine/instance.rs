//! One thread that executes a version's jobs to completion: wait, take a permit, prepare, run, answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::queue::{Queue, Waiting};
use super::{Done, EngineError, Job, RunPermits, Timings};
use crate::backend::Session;

/// What an instance needs.
pub(super) struct Instance {
    pub(super) session: Arc<dyn Session>,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) queue: Arc<Queue>,
    pub(super) permits: Arc<RunPermits>,
}

impl Instance {
    /// Works until the queue is closed and empty.
    pub(super) fn work(&self) {
        while self.queue.wait() {
            // The permit comes before the job, so that a job stays in the queue, where it can
            // expire or be left, for as long as the cores are taken.
            let permit = self.permits.acquire();
            if let Some(waiting) = self.queue.pop() {
                self.execute(waiting);
            }
            drop(permit);
        }
    }

    fn execute(&self, Waiting { job, since }: Waiting) {
        let Job {
            prepare,
            deadline,
            reply,
            ..
        } = job;
        if reply.is_closed() {
            return;
        }
        let started = Instant::now();
        if started >= deadline {
            // The receiver may have gone in this very moment; then nobody is owed an answer.
            let _ = reply.send(Err(EngineError::DeadlineExceeded));
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let tensor = prepare().map_err(EngineError::Prepare)?;
            let prepared = Instant::now();
            let output = self.session.run(&self.input, &tensor, &self.output)?;
            let timings = Timings {
                queue: started - since,
                prepare: prepared - started,
                run: prepared.elapsed(),
            };
            Ok(Done { output, timings })
        }))
        .unwrap_or(Err(EngineError::Panicked));
        if outcome.is_ok() {
            self.queue.record(started.elapsed());
        }
        let _ = reply.send(outcome);
    }
}
