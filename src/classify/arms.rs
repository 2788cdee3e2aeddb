//! What a canary's arm did with a picture, as it is judged by it.
//!
//! Called by the use case in `mod.rs`. Knows no picture and no engine: only how it came out, and who waited.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Caller, Classification, ClassifyError};
use crate::domain::rollout::CanaryPlace;
use crate::predictions::{ArmOutcome, Tally};

/// How long a caller waits who leaves and whose picture counts as one that its arm has failed.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Counts a picture as failed by its arm where the caller left after a long wait: a version that hangs would leave no trace.
pub(super) struct Watch {
    tally: Arc<Tally>,
    place: CanaryPlace,
    since: Instant,
    /// When the caller stops waiting, where it has said so.
    deadline: Option<Instant>,
    has_ended: bool,
}

impl Watch {
    pub(super) fn new(tally: &Arc<Tally>, place: CanaryPlace, deadline: Option<Instant>) -> Self {
        Self {
            tally: Arc::clone(tally),
            place,
            since: Instant::now(),
            deadline,
            has_ended: false,
        }
    }

    /// It came to its end, whatever that was.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let is_over = self.deadline.is_some_and(|end| Instant::now() >= end);
        let has_left = !self.has_ended && !is_over;
        if has_left && self.since.elapsed() >= LONG_ENOUGH {
            self.tally.did(self.place, ArmOutcome::Failed);
        }
    }
}

/// What became of a picture, as its arm is judged by it; `None` where that is not the arm's doing.
pub(super) fn arm_outcome(
    outcome: &Result<Classification, ClassifyError>,
    caller: &Caller,
) -> Option<ArmOutcome> {
    match outcome {
        // The time was over that the caller had set itself.
        Err(ClassifyError::DeadlineExceeded)
            if caller.deadline.is_some_and(|end| Instant::now() >= end) =>
        {
            None
        }
        Ok(answer) => {
            let timings = answer.timings;
            let took = timings.queue + timings.prepare + timings.run;
            Some(ArmOutcome::Answered(answer.cache.has_run().then_some(took)))
        }
        Err(
            ClassifyError::Engine(_)
            | ClassifyError::NoScores
            | ClassifyError::DeadlineExceeded
            | ClassifyError::Overloaded { .. },
        ) => Some(ArmOutcome::Failed),
        Err(_) => None,
    }
}
