//! How one loaded version executes: a bounded, fair queue, threads that pull from it, run permits for the whole process.
//!
//! Called by `models` (open, close) and `classify` (submit). Knows no picture: a job brings its own `prepare`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::backend::BackendError;
use crate::domain::tensor::Tensor;
use crate::telemetry::trace::TraceContext;

mod average;
mod batch;
mod fair;
mod instance;
mod lone;
mod permits;
mod queue;
mod scheduler;
mod stack;
#[cfg(test)]
mod testing;

pub use permits::RunPermits;
pub use scheduler::{BatchConfig, Scheduler, SchedulerConfig};

/// What turns a request into a tensor; runs on an instance's thread, never on the async runtime.
pub type Prepare = Box<dyn FnOnce() -> Result<Tensor, PrepareError> + Send>;

/// The caller's own error out of its `prepare`, handed back untouched.
pub type PrepareError = Box<dyn std::error::Error + Send + Sync>;

/// Whom the work is for: jobs of one flow keep their order, flows share the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow(pub Arc<str>);

/// Which jobs go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer.
    Normal,
    /// Runs only when nothing else waits: shadow and golden runs.
    Background,
}

/// One picture to run.
pub struct Job {
    /// Makes the tensor, shape `[1, …]`.
    pub prepare: Prepare,
    /// Whom the work is for.
    pub flow: Flow,
    /// Which jobs go first.
    pub priority: Priority,
    /// After this moment the job is dropped before it costs a run.
    pub deadline: Instant,
    /// Where the outcome goes. A caller that drops the receiver cancels the job.
    pub reply: oneshot::Sender<Result<Done, EngineError>>,
    /// The span it is done for: a run of several pictures is linked to theirs.
    pub trace: Option<TraceContext>,
}

/// What a job gave.
#[derive(Debug)]
pub struct Done {
    /// The graph's output for this picture alone, shape `[1, C]`, `[C]` or `[1, C, 1, 1]`.
    pub output: Tensor,
    /// Where the time went.
    pub timings: Timings,
}

/// Where a job's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// When it was submitted; nothing where no job was.
    pub since: Option<Instant>,
    /// From submit to the start of `prepare`; in batches also from its end to the start of the run.
    pub queue: Duration,
    /// The part of `queue` after `prepare`, in batches.
    pub gather: Duration,
    /// `prepare`: decode and preprocess.
    pub prepare: Duration,
    /// The session's run; that of the whole batch where the picture ran in one.
    pub run: Duration,
    /// Pictures in that run.
    pub pictures: usize,
    /// The span of that run, where it has one of its own.
    pub batch: Option<TraceContext>,
}

/// Why a job has no output.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// More work waits than is allowed; nothing was done. It comes at once, or through the reply of a job that had
    /// to make room for one of a flow with less in the queue.
    #[error("{waiting} requests wait already")]
    Overloaded {
        /// Jobs in the queue.
        waiting: usize,
        /// When the queue should have drained.
        retry_after: Duration,
    },
    /// The deadline passed before the job was done.
    #[error("the request's time was over before its turn came")]
    DeadlineExceeded,
    /// The version is being retired and takes no more work.
    #[error("the version is being unloaded")]
    Stopped,
    /// `prepare` failed.
    #[error("the input could not be prepared: {0}")]
    Prepare(PrepareError),
    /// The session failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// `prepare` or the session panicked; the instance goes on.
    #[error("the run panicked")]
    Panicked,
}
