//! An uploaded version is tried before it is put in place: everything that a load tries, on threads of their own, few at a
//! time.
//!
//! Part of the manager; called by the operators' use cases on the async runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, oneshot};

use super::examine::Check;
use super::loader::{LoadError, Loader};
use super::manager::ModelManager;
use crate::backend::memory;
use crate::model_store::Staged;

/// Uploads that are tried at the same time.
const AT_ONCE: usize = 2;

/// Whose turn it is.
pub(super) struct Checking {
    turns: Arc<Semaphore>,
    stopped: Arc<AtomicBool>,
}

impl Default for Checking {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            stopped: Arc::default(),
        }
    }
}

impl Checking {
    /// Ends what is being tried, and tries nothing more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.turns.close();
    }
}

impl ModelManager {
    /// Makes every check that a version must pass before it may serve, beside what serves; waits for its turn. Dropped,
    /// it ends a trial that is under way.
    ///
    /// # Errors
    /// With the reason and every check that was made, when one of them fails or the gateway is stopping.
    pub async fn check(self: &Arc<Self>, staged: &Arc<Staged>) -> Result<Vec<Check>, LoadError> {
        let first = look(staged)?;
        let stopping = || LoadError::of("the gateway is shutting down".to_owned());
        let turn = Arc::clone(&self.checking.turns).acquire_owned().await;
        let turn = turn.map_err(|_| stopping())?;
        let (tell, told) = oneshot::channel();
        let (manager, staged) = (Arc::clone(self), Arc::clone(staged));
        let trying = std::thread::Builder::new().name("check upload".to_owned());
        let trying = trying.spawn(move || {
            let stopped = &manager.checking.stopped;
            let wanted = || !tell.is_closed() && !stopped.load(Ordering::Acquire);
            let outcome = run(&manager.loader, &staged, &wanted);
            // Before it is told, so that whoever hears of it finds nothing of it left.
            drop((staged, turn));
            // Nobody may wait for it any more.
            let _ = tell.send(outcome);
        });
        trying.map_err(|error| LoadError::of(format!("the system gives no thread: {error}")))?;
        let outcome = told.await.unwrap_or_else(|_| Err(stopping()));
        match outcome {
            Ok(checks) => Ok(first.into_iter().chain(checks).collect()),
            Err(mut error) => {
                error.checks = first.into_iter().chain(error.checks).collect();
                Err(error)
            }
        }
    }
}

/// What is known of a version before a backend is asked.
fn look(staged: &Staged) -> Result<Vec<Check>, LoadError> {
    match staged.candidate() {
        Ok(candidate) => Ok(vec![
            Check {
                name: "file",
                ok: true,
                detail: format!("{} bytes, {}", staged.bytes(), candidate.digest),
            },
            Check {
                name: "manifest",
                ok: true,
                detail: "it is understood".to_owned(),
            },
        ]),
        Err((part, reason)) => {
            let check = Check::failed(part, reason.clone());
            Err(LoadError::with(reason, vec![check]))
        }
    }
}

fn run(
    loader: &Loader,
    staged: &Staged,
    wanted: &dyn Fn() -> bool,
) -> Result<Vec<Check>, LoadError> {
    let Ok(candidate) = staged.candidate() else {
        return Err(LoadError::of("it cannot be read any more".to_owned()));
    };
    if !wanted() {
        return Err(LoadError::of("nobody waits for it any more".to_owned()));
    }
    // A panic in a runtime's Rust parts is a failure like another.
    let outcome = catch_unwind(AssertUnwindSafe(|| loader.check(candidate, wanted)));
    memory::give_back();
    let outcome = outcome.unwrap_or_else(|_| Err(LoadError::of("trying it panicked".to_owned())));
    // A failure without a check that failed is one of the trial itself: the graph crashed, hung or swelled.
    outcome.map_err(|mut error| {
        if error.checks.iter().all(|check| check.ok) {
            error.checks.push(Check {
                name: "graph",
                ok: false,
                detail: error.reason.clone(),
            });
        }
        error
    })
}
