//! One thread that executes a version's jobs to completion: take a job with a permit, prepare, run, answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lone::Wide;
use super::permits::Permit;
use super::queue::{Queue, Waiting};
use super::{Done, EngineError, Job, Priority, Timings};
use crate::backend::{BackendError, Session};
use crate::domain::tensor::Tensor;
use crate::telemetry::metrics::VersionSeries;

/// A graph and the ends of it that are used; runs never panic.
pub(super) struct Graph {
    pub(super) session: Arc<dyn Session>,
    pub(super) input: String,
    pub(super) output: String,
    /// Where its runs are counted.
    pub(super) series: Arc<VersionSeries>,
    /// The version's, for people.
    pub(super) name: String,
}

/// What an instance needs.
pub(super) struct Instance {
    pub(super) graph: Arc<Graph>,
    pub(super) wide: Option<Arc<Wide>>,
    pub(super) queue: Arc<Queue>,
}

impl Graph {
    /// One run on the version's usual session.
    pub(super) fn run(&self, tensor: &Tensor) -> Result<Tensor, EngineError> {
        self.run_on(&*self.session, tensor)
    }

    fn run_on(&self, session: &dyn Session, tensor: &Tensor) -> Result<Tensor, EngineError> {
        let run = || session.run(&self.input, tensor, &self.output);
        let outcome: Result<Tensor, BackendError> =
            catch_unwind(AssertUnwindSafe(run)).map_err(|_| EngineError::Panicked)?;
        Ok(outcome?)
    }
}

/// Runs `prepare`, which is a caller's and may panic.
pub(super) fn prepare(prepare: super::Prepare) -> Result<Tensor, EngineError> {
    catch_unwind(AssertUnwindSafe(prepare))
        .map_err(|_| EngineError::Panicked)?
        .map_err(EngineError::Prepare)
}

impl Instance {
    /// Works until the queue is closed and empty.
    pub(super) fn work(&self) {
        while let Some((mut permit, waiting)) = self.queue.take() {
            let _busy = self.graph.series.at_work();
            self.execute(waiting, &mut permit);
        }
    }

    fn execute(&self, waiting: Waiting, permit: &mut Permit) {
        let charge = waiting.charge();
        let Waiting { job, since, .. } = waiting;
        let Job {
            prepare: make,
            priority,
            deadline,
            reply,
            ..
        } = job;
        let started = Instant::now();
        let outcome = prepare(make).and_then(|tensor| {
            let prepared = Instant::now();
            if prepared >= deadline || reply.is_closed() {
                return Err(EngineError::DeadlineExceeded);
            }
            let output = self.run(&tensor, priority, permit)?;
            self.graph.series.ran(1);
            let timings = Timings {
                since: Some(since),
                queue: started - since,
                gather: Duration::ZERO,
                prepare: prepared - started,
                run: prepared.elapsed(),
                pictures: 1,
                batch: None,
            };
            Ok(Done { output, timings })
        });
        self.queue.settle(&charge, started.elapsed());
        // The receiver may have gone in this very moment; then nobody is owed an answer.
        let _ = reply.send(outcome);
    }

    /// On all the cores if this job has the process to itself, else on one; also where nobody waits for it, as somebody may come.
    fn run(
        &self,
        tensor: &Tensor,
        priority: Priority,
        permit: &mut Permit,
    ) -> Result<Tensor, EngineError> {
        let lone = self.wide.as_ref().filter(|_| priority == Priority::Normal);
        let Some(wide) = lone.filter(|_| self.queue.normal() == 0 && permit.is_alone()) else {
            return self.graph.run(tensor);
        };
        let is_wide = wide.is_next();
        if is_wide && !permit.widen() {
            // Somebody came in this very moment.
            return self.graph.run(tensor);
        }
        let started = Instant::now();
        let output = if is_wide {
            self.graph.run_on(&*wide.session, tensor)
        } else {
            self.graph.run(tensor)
        }?;
        wide.record(is_wide, started.elapsed());
        Ok(output)
    }
}
