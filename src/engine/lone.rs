//! Which session a job runs on that has the process to itself: the one of one thread, or the one of all cores.
//!
//! Called by an instance. Knows only how long the runs took: where the machine's cores are busy with other processes, a
//! run on all of them is slower than a run on one, since each thread waits for the slowest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::average::Average;
use crate::backend::Session;

/// Of so many lone runs one goes the way that seems slower, to see whether it still is.
const PROBE_EVERY: u32 = 64;

/// A session whose runs use all the cores, and what is known of its worth.
pub(super) struct Wide {
    pub(super) session: Arc<dyn Session>,
    choice: Mutex<Choice>,
}

struct Choice {
    runs: u32,
    narrow: Average,
    wide: Average,
}

impl Wide {
    pub(super) fn new(session: Arc<dyn Session>) -> Self {
        Self {
            session,
            choice: Mutex::new(Choice {
                runs: 0,
                narrow: Average::over(8),
                wide: Average::over(8),
            }),
        }
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next lone run should use all the cores.
    pub(super) fn is_next(&self) -> bool {
        let mut choice = self.choice();
        choice.runs = choice.runs.wrapping_add(1);
        // Both ways are tried at first, then the slower one now and then.
        let is_probe = choice.narrow.get().is_none() || choice.runs.is_multiple_of(PROBE_EVERY);
        choice.wide.get().is_none() || choice.is_wide_better() != is_probe
    }

    /// Tells how long a lone run took.
    pub(super) fn record(&self, is_wide: bool, took: Duration) {
        let mut choice = self.choice();
        let is_probe = is_wide != choice.is_wide_better();
        let average = if is_wide {
            &mut choice.wide
        } else {
            &mut choice.narrow
        };
        if is_probe {
            average.add_rare(took);
        } else {
            average.add(took);
        }
    }
}

impl Choice {
    fn is_wide_better(&self) -> bool {
        match (self.wide.get(), self.narrow.get()) {
            (Some(wide), Some(narrow)) => wide < narrow,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Echo, echo};
    use super::*;

    /// Runs as if a wide run took `wide` and a narrow one `narrow`; gives how many were wide.
    fn runs(lone: &Wide, count: u32, wide: u64, narrow: u64) -> u32 {
        (0..count)
            .map(|_| {
                let is_wide = lone.is_next();
                let took = if is_wide { wide } else { narrow };
                lone.record(is_wide, Duration::from_millis(took));
                u32::from(is_wide)
            })
            .sum()
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_tried_now_and_then() {
        let session: Arc<Echo> = echo(Duration::ZERO);
        let lone = Wide::new(session);
        // The first is wide, the second narrow.
        assert_eq!((runs(&lone, 1, 6, 10), runs(&lone, 1, 6, 10)), (1, 0));
        assert_eq!(runs(&lone, PROBE_EVERY * 10, 6, 10), PROBE_EVERY * 10 - 10);
        // Somebody else takes a core: wide runs become the slower ones.
        runs(&lone, PROBE_EVERY, 24, 12);
        assert_eq!(runs(&lone, PROBE_EVERY * 10, 24, 12), 10);
        // The core is back: a few probes tell.
        runs(&lone, PROBE_EVERY * 4, 6, 10);
        assert_eq!(runs(&lone, PROBE_EVERY * 10, 6, 10), PROBE_EVERY * 10 - 10);
    }
}
