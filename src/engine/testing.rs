//! A session without a graph, for the engine's own tests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Done, EngineError, Flow, Job, Prepare, Priority};
use crate::backend::{BackendError, Session, Signature};
use crate::domain::tensor::{Tensor, TensorData};

/// The value that a batch may not hold.
pub(super) const POISON: u8 = 66;

/// Gives its input back after a while, and notes the rows of each run. A batch with [`POISON`] in it fails.
pub(super) struct Echo {
    signature: Signature,
    takes: Duration,
    runs: Mutex<Vec<usize>>,
    started: AtomicUsize,
    gate: Mutex<()>,
}

impl Echo {
    /// Runs that begin go on when the guard is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many runs have begun.
    pub(super) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// The rows of each run that ended.
    pub(super) fn runs(&self) -> Vec<usize> {
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until so many runs have begun.
    pub(super) fn wait_for_start(&self, count: usize) {
        until("a run begins", || self.started() >= count);
    }
}

impl Session for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &[]
    }

    fn run(&self, _: &str, input: &Tensor, _: &str) -> Result<Tensor, BackendError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        drop(self.hold());
        std::thread::sleep(self.takes);
        let rows = input.shape().first().copied().unwrap_or(0);
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(rows);
        match input.data() {
            TensorData::Uint8(values) if rows > 1 && values.contains(&POISON) => {
                Err(BackendError::Run {
                    backend: "test",
                    reason: "poison".to_owned(),
                })
            }
            _ => Ok(input.clone()),
        }
    }
}

/// Waits until `is_so`, which must come about.
pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < patience, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// A session whose runs take so long.
pub(super) fn echo(takes: Duration) -> Arc<Echo> {
    Arc::new(Echo {
        signature: Signature {
            inputs: vec![],
            outputs: vec![],
        },
        takes,
        runs: Mutex::default(),
        started: AtomicUsize::new(0),
        gate: Mutex::default(),
    })
}

/// Where a job's outcome arrives.
pub(super) type Reply = oneshot::Receiver<Result<Done, EngineError>>;

/// A normal job with a minute's time.
pub(super) fn job(prepare: Prepare) -> (Job, Reply) {
    let (reply, receiver) = oneshot::channel();
    let job = Job {
        prepare,
        flow: Flow(Arc::from("test")),
        priority: Priority::Normal,
        deadline: Instant::now() + Duration::from_mins(1),
        reply,
        trace: None,
    };
    (job, receiver)
}

/// Prepares one row of one value.
pub(super) fn value(value: u8) -> Prepare {
    Box::new(move || Ok(Tensor::new(vec![1, 1], TensorData::Uint8(vec![value])).map_err(Box::new)?))
}

/// What a job of [`value`] gave.
pub(super) fn answer(reply: Reply) -> Result<u8, EngineError> {
    let done = reply.blocking_recv().expect("an answer")?;
    match done.output.data() {
        TensorData::Uint8(values) => Ok(values[0]),
        other => panic!("{other:?}"),
    }
}
