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

/// After the two have changed places it is looked sooner, then ever more rarely: a moment's disturbance must not keep a
/// lone caller on the slower way for long.
const FIRST_PROBE: u32 = 4;

/// After a probe that was faster than the usual way.
const NEXT_LOOK: u32 = 2;

/// A session whose runs use all the cores, and what is known of its worth.
pub(super) struct Wide {
    pub(super) session: Arc<dyn Session>,
    choice: Mutex<Choice>,
}

struct Choice {
    /// Runs until the next probe.
    probe_in: u32,
    /// Runs between the last probe and the next.
    gap: u32,
    narrow: Average,
    wide: Average,
}

impl Wide {
    pub(super) fn new(session: Arc<dyn Session>) -> Self {
        Self {
            session,
            choice: Mutex::new(Choice {
                probe_in: FIRST_PROBE,
                gap: FIRST_PROBE,
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
        // Both ways are tried at first, then the slower one now and then.
        let is_probe = choice.narrow.get().is_none() || choice.is_probe_due();
        choice.wide.get().is_none() || choice.is_wide_better() != is_probe
    }

    /// Tells how long a lone run took.
    pub(super) fn record(&self, is_wide: bool, took: Duration) {
        let mut choice = self.choice();
        let before = choice.is_wide_better();
        let is_probe = is_wide != before;
        let usual = if is_wide {
            choice.narrow.get()
        } else {
            choice.wide.get()
        };
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
        if choice.is_wide_better() != before {
            (choice.probe_in, choice.gap) = (FIRST_PROBE, FIRST_PROBE);
        } else if is_probe && usual.is_some_and(|usual| took < usual) {
            // It may be the better way again: that is worth another look at once.
            (choice.probe_in, choice.gap) = (NEXT_LOOK, FIRST_PROBE);
        }
    }
}

impl Choice {
    /// Counts a run; whether it is the one that goes the way that seems slower.
    fn is_probe_due(&mut self) -> bool {
        self.probe_in = self.probe_in.saturating_sub(1);
        if self.probe_in > 0 {
            return false;
        }
        self.gap = (self.gap * 2).min(PROBE_EVERY);
        self.probe_in = self.gap;
        true
    }

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
        // Soon, then ever more rarely: after 4, 8, 16 and 32 runs, then one in 64.
        let probes = |lone: &Wide| PROBE_EVERY * 10 - runs(lone, PROBE_EVERY * 10, 6, 10);
        assert_eq!(probes(&lone), 4 + 9);
        assert_eq!(probes(&lone), 10);
        // Somebody else takes a core: wide runs become the slower ones.
        runs(&lone, PROBE_EVERY * 2, 24, 12);
        assert_eq!(runs(&lone, PROBE_EVERY * 10, 24, 12), 10);
        // The core is back: the next probes tell.
        runs(&lone, PROBE_EVERY * 4, 6, 10);
        assert_eq!(probes(&lone), 10);
    }

    #[test]
    fn a_moments_disturbance_is_over_within_a_few_runs() {
        let lone = Wide::new(echo(Duration::ZERO));
        runs(&lone, PROBE_EVERY * 10, 6, 10);
        // Eight runs while somebody else has a core for a moment.
        runs(&lone, 8, 40, 10);
        let wide = runs(&lone, 40, 6, 10);
        assert!(wide >= 20, "{wide} of 40 took the faster way again");
    }
}
