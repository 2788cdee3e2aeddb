//! How the answers of the last minutes are spread over classes: a gauge, as which classes are told changes with the traffic.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts halve so often: what was an hour ago is a four-thousandth of what is now.
const HALF_LIFE: Duration = Duration::from_mins(5);

/// Classes that are told by name.
const TOLD: usize = 10;

/// Answers by their first class.
#[derive(Debug)]
pub struct ClassMix {
    counts: Box<[AtomicU32]>,
    halved_at: Mutex<Instant>,
}

impl ClassMix {
    /// No answer yet, of so many classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            counts: (0..classes).map(|_| AtomicU32::new(0)).collect(),
            halved_at: Mutex::new(Instant::now()),
        }
    }

    /// An answer with this first class.
    pub fn one(&self, class: usize) {
        if let Some(count) = self.counts.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The most frequent classes with their parts of all answers, and the part of the others; nothing without answers.
    #[must_use]
    pub fn shares(&self) -> (Vec<(usize, f64)>, Option<f64>) {
        self.shares_at(Instant::now())
    }

    fn shares_at(&self, now: Instant) -> (Vec<(usize, f64)>, Option<f64>) {
        self.halve(now);
        let counts = self.counts.iter().enumerate();
        let counts = counts.map(|(class, count)| (class, count.load(Ordering::Relaxed)));
        let mut seen: Vec<(usize, u32)> = counts.filter(|(_, count)| *count > 0).collect();
        let all: f64 = seen.iter().map(|(_, count)| f64::from(*count)).sum();
        if seen.is_empty() {
            return (Vec::new(), None);
        }
        seen.sort_by_key(|&(class, count)| (std::cmp::Reverse(count), class));
        let others = seen.split_off(seen.len().min(TOLD));
        let others = others.iter();
        let others = others.fold(0.0, |sum, (_, count)| sum + f64::from(*count));
        let told = seen.into_iter();
        let told = told.map(|(class, count)| (class, f64::from(count) / all));
        (told.collect(), Some(others / all))
    }

    /// What was added while this goes on may be lost: it is a share, and not a sum.
    fn halve(&self, now: Instant) {
        let at = self.halved_at.lock();
        let mut at = at.unwrap_or_else(PoisonError::into_inner);
        let mut times = 0;
        while now.saturating_duration_since(*at) >= HALF_LIFE && times < u32::BITS {
            *at += HALF_LIFE;
            times += 1;
        }
        if times == u32::BITS {
            *at = now;
        }
        if times > 0 {
            for count in &self.counts {
                let halved = count.load(Ordering::Relaxed).checked_shr(times);
                count.store(halved.unwrap_or(0), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_are_told_and_the_rest_is_one() {
        let mix = ClassMix::new(13);
        assert_eq!(mix.shares(), (vec![], None));
        for class in 0..12 {
            for _ in 0..=class {
                mix.one(class);
            }
        }
        mix.one(99);
        let (told, others) = mix.shares();
        assert_eq!(told.len(), TOLD);
        assert_eq!(told.first(), Some(&(11, 12.0 / 78.0)));
        let others = others.expect("answers");
        assert!((others - 3.0 / 78.0).abs() < 1e-9, "{others}");
        let all: f64 = told.iter().map(|(_, share)| share).sum();
        assert!((all + others - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_old_counts_less_and_then_not() {
        let mix = ClassMix::new(2);
        let now = Instant::now();
        for _ in 0..8 {
            mix.one(0);
        }
        let _ = mix.shares_at(now + HALF_LIFE * 2 + Duration::from_secs(1));
        mix.one(1);
        mix.one(1);
        let (told, _) = mix.shares_at(now + HALF_LIFE * 2 + Duration::from_secs(2));
        assert_eq!(told, [(0, 0.5), (1, 0.5)]);
        assert_eq!(mix.shares_at(now + HALF_LIFE * 1000), (vec![], None));
    }
}
