//! Counts and distributions that any thread adds to without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How values are spread: how many are at most each of the bounds.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, rising.
    bounds: &'static [f64],
    /// Values between two bounds; the last place is for those above all.
    counts: Box<[AtomicU64]>,
    /// In billionths: a sum of whole numbers needs no loop.
    sum: AtomicU64,
}

/// Times of requests and their steps, in seconds.
pub(super) const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Times of HTTP requests, in seconds: those that the semantic conventions advise, and shorter ones for kept answers.
pub(super) const HTTP_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

/// Times of loads, in seconds.
pub(super) const LOAD_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Parts of a whole.
pub(super) const RATIOS: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// Pictures of a run.
pub(super) const PICTURES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

const BILLION: f64 = 1e9;

impl Histogram {
    /// Nothing yet.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds a value, 0 or more.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion ends at the bounds of what fits"
    )]
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum
            .fetch_add((value * BILLION) as u64, Ordering::Relaxed);
    }

    /// Adds a time.
    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// What was added so far.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum that is off by less than a billionth part is exact enough"
    )]
    pub fn snapshot(&self) -> Spread {
        let counts = self.counts.iter();
        Spread {
            bounds: self.bounds,
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed) as f64 / BILLION,
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Upper bounds, rising.
    pub bounds: &'static [f64],
    /// Values between two bounds, one more than there are bounds.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: f64,
}

impl Spread {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_below_the_first_bound_that_it_does_not_pass() {
        let spread = Histogram::new(&[0.1, 1.0]);
        for value in [0.0, 0.1, 0.100_001, 1.0, 5.5] {
            spread.observe(value);
        }
        spread.took(Duration::from_millis(300));
        let seen = spread.snapshot();
        assert_eq!(seen.counts, [2, 3, 1]);
        assert_eq!(seen.count(), 6);
        assert!((seen.sum - 7.000_001).abs() < 1e-6, "{}", seen.sum);
    }

    #[test]
    fn what_cannot_be_added_changes_no_sum() {
        let spread = Histogram::new(RATIOS);
        spread.observe(f64::NAN);
        spread.observe(-1.0);
        assert_eq!(spread.snapshot().sum.to_bits(), 0.0_f64.to_bits());
        assert_eq!(spread.snapshot().count(), 2);
    }
}
