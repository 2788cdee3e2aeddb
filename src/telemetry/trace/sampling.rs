//! Which traces are kept. It is decided twice: at a trace's beginning by the caller's own decision, else by chance; and at its
//! end, where what went wrong or took long is kept whatever was decided.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::context::TraceContext;

/// The rules, which may change while the process runs.
#[derive(Debug)]
pub(super) struct Sampling {
    /// Traces whose id's last 63 bits are below it are kept: whoever samples by the same rule keeps the same ones.
    below: AtomicU64,
    /// What takes so many nanoseconds is slow.
    slow: AtomicU64,
}

impl Sampling {
    pub(super) fn new(ratio: f64, slow: Duration) -> Self {
        let sampling = Self {
            below: AtomicU64::new(0),
            slow: AtomicU64::new(0),
        };
        sampling.set(ratio, slow);
        sampling
    }

    pub(super) fn set(&self, ratio: f64, slow: Duration) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "0 to 2^63; a part of 2^-10 more or less is none"
        )]
        let below = (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
        let slow = u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX);
        self.below.store(below, Ordering::Relaxed);
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// Whether a trace is to be kept, as far as is known at its beginning.
    pub(super) fn at_first(&self, parent: Option<&TraceContext>, trace: u128) -> bool {
        if let Some(parent) = parent {
            return parent.sampled;
        }
        let id = trace & u128::from(u64::MAX >> 1);
        id < u128::from(self.below.load(Ordering::Relaxed))
    }

    /// Whether it is kept now that it has ended.
    pub(super) fn at_last(&self, sampled: bool, failed: bool, took: Duration) -> bool {
        sampled || failed || took.as_nanos() >= u128::from(self.slow.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::new_trace_id;
    use super::*;

    #[test]
    fn a_caller_decides_else_chance_does() {
        let slow = Duration::from_secs(1);
        let parent = |sampled| TraceContext {
            trace: 1,
            span: 1,
            sampled,
        };
        let (all, none) = (Sampling::new(1.0, slow), Sampling::new(0.0, slow));
        for _ in 0..100 {
            let id = new_trace_id();
            assert!(all.at_first(None, id) && !none.at_first(None, id));
            assert!(none.at_first(Some(&parent(true)), id));
            assert!(!all.at_first(Some(&parent(false)), id));
        }
        let tenth = Sampling::new(0.1, slow);
        let kept = (0..20_000).filter(|_| tenth.at_first(None, new_trace_id()));
        // Seven standard deviations.
        assert!((1700..2300).contains(&kept.count()));
    }

    #[test]
    fn what_fails_or_is_slow_is_kept() {
        let sampling = Sampling::new(0.0, Duration::from_secs(1));
        let at_last = |sampled, failed, millis| {
            sampling.at_last(sampled, failed, Duration::from_millis(millis))
        };
        assert!(!at_last(false, false, 999));
        assert!(at_last(true, false, 1) && at_last(false, true, 1) && at_last(false, false, 1000));
        sampling.set(0.0, Duration::from_secs(2));
        assert!(!at_last(false, false, 1000));
    }
}
