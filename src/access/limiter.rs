//! How often: token buckets by GCRA, each one atomic. The one door to governor.
//!
//! governor's limiters own a quota and measure their state from the moment they were made. Here a limiter is made for one
//! question and asks a state that outlives it: whoever's limits change keeps what it owes. Called by `meter` and `attempts`.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

const SECOND: f64 = 1e9;

/// The longest time that an empty bucket takes to fill: far beyond any use, and sums of a few of them fit an integer.
const LONGEST: u64 = u64::MAX >> 4;

/// Nanoseconds since 1970; 0 before.
pub(super) fn nanos(at: DateTime<Utc>) -> u64 {
    let nanos = at.timestamp_nanos_opt().unwrap_or_default();
    u64::try_from(nanos).unwrap_or_default()
}

/// How fast a bucket fills, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Nanoseconds from one token to the next; at least 1.
    period: u64,
    burst: NonZeroU32,
}

impl Rate {
    /// So many tokens a second in the long run, and `burst` of them at once after a pause. A rate that is none (not more
    /// than 0) counts as the slowest there is.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from a float stays within the type, and the rest is clamped"
    )]
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let period = if per_second > 0.0 {
            (SECOND / per_second).round() as u64
        } else {
            u64::MAX
        };
        let slowest = LONGEST / u64::from(burst.get());
        Self {
            period: period.clamp(1, slowest),
            burst,
        }
    }

    /// Tokens of a full bucket.
    pub(super) fn burst(self) -> u32 {
        self.burst.get()
    }

    /// From empty to full, in nanoseconds.
    fn window(self) -> u64 {
        self.period.saturating_mul(u64::from(self.burst.get()))
    }

    /// From empty to full.
    pub(super) fn fills_in(self) -> Duration {
        Duration::from_nanos(self.window())
    }

    /// From one token to the next.
    pub(super) fn period(self) -> Duration {
        Duration::from_nanos(self.period)
    }

    fn quota(self) -> Option<Quota> {
        Quota::with_period(self.period()).map(|quota| quota.allow_burst(self.burst))
    }
}

/// Why a bucket did not give what was asked for. It has given nothing then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// There will be enough after this time, if nobody takes any until then.
    For(Duration),
    /// It never holds as much.
    Ever,
}

/// What a bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Whole tokens.
    pub(super) tokens: u32,
    /// When it will be full, if nobody takes any until then.
    pub(super) full_in: Duration,
}

/// A bucket: the moment when it will be full, in nanoseconds since 1970. One that was never used is full.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `tokens` at the moment `now`, all or none.
    pub(super) fn take(&self, rate: Rate, tokens: u32, now: u64) -> Result<(), Shortage> {
        let Some(tokens) = NonZeroU32::new(tokens) else {
            return Ok(());
        };
        let quota = rate.quota().filter(|_| tokens <= rate.burst);
        let Some(quota) = quota else {
            return Err(Shortage::Ever);
        };
        let question = Question {
            bucket: self,
            rate,
            now,
        };
        let limiter = RateLimiter::<_, _, _, NoOpMiddleware<Nanos>>::new(quota, question, Still);
        match limiter.check_n(tokens) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(Shortage::For(not_until.wait_time_from(Still.now()))),
            Err(_) => Err(Shortage::Ever),
        }
    }

    /// What it holds at the moment `now`.
    pub(super) fn level(&self, rate: Rate, now: u64) -> Level {
        let debt = debt(self.0.load(Ordering::Acquire), rate, now);
        let tokens = rate.window().saturating_sub(debt) / rate.period;
        Level {
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            full_in: Duration::from_nanos(debt),
        }
    }
}

/// The time until a bucket is full: never more than an empty one takes. So a raised limit does not make anybody wait for
/// what was owed at the old rate, and a clock that was set back makes nobody wait for it to come round again.
fn debt(full_at: u64, rate: Rate, now: u64) -> u64 {
    full_at.saturating_sub(now).min(rate.window())
}

/// When a bucket will be full that owes `debt` now.
fn after(debt: u64, now: u64) -> u64 {
    now.saturating_add(debt)
}

/// What a limiter is asked at one moment. To the limiter that moment is the beginning of time, and the state is told as
/// seen from there.
struct Question<'b> {
    bucket: &'b Bucket,
    rate: Rate,
    now: u64,
}

impl StateStore for Question<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let state = &self.bucket.0;
        let mut full_at = state.load(Ordering::Acquire);
        loop {
            let owed = debt(full_at, self.rate, self.now);
            // A debt that was cut is written down also when nothing is given: from now on it is paid off.
            let (decision, next) = match decide(Some(Nanos::new(owed))) {
                Ok((answer, owed)) => (Ok(answer), after(owed.as_u64(), self.now)),
                Err(refusal) => (Err(refusal), full_at.min(after(owed, self.now))),
            };
            if next == full_at {
                return decision;
            }
            match state.compare_exchange_weak(full_at, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return decision,
                Err(other) => full_at = other,
            }
        }
    }
}

/// A clock at the beginning of time.
#[derive(Clone, Copy, Debug)]
struct Still;

impl Clock for Still {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000_000_000;
    const MILLI: u64 = 1_000_000;

    fn wait(millis: u64) -> Result<(), Shortage> {
        Err(Shortage::For(Duration::from_millis(millis)))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(5.0, 10));
        for taken in 0..10 {
            assert_eq!(bucket.level(rate, START).tokens, 10 - taken);
            assert_eq!(bucket.take(rate, 1, START), Ok(()), "{taken}");
        }
        let empty = Level {
            tokens: 0,
            full_in: Duration::from_secs(2),
        };
        assert_eq!(bucket.level(rate, START), empty);
        assert_eq!(bucket.take(rate, 1, START), wait(200));
        assert_eq!(bucket.take(rate, 1, START + 199 * MILLI), wait(1));
        assert_eq!(bucket.take(rate, 1, START + 200 * MILLI), Ok(()));
        assert_eq!(bucket.take(rate, 1, START + 200 * MILLI), wait(200));
        let later = START + 3600 * 1000 * MILLI;
        assert_eq!(
            bucket.level(rate, later).tokens,
            10,
            "never more than the burst"
        );
    }

    #[test]
    fn several_are_taken_together_or_not_at_all() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1.0, 4));
        assert_eq!(bucket.take(rate, 3, START), Ok(()));
        assert_eq!(bucket.take(rate, 3, START), wait(2000));
        assert_eq!(
            bucket.level(rate, START).tokens,
            1,
            "a refusal takes nothing"
        );
        assert_eq!(bucket.take(rate, 1, START), Ok(()));
        assert_eq!(bucket.take(rate, 5, START), Err(Shortage::Ever));
        assert_eq!(bucket.take(rate, u32::MAX, START), Err(Shortage::Ever));
        assert_eq!(
            bucket.take(rate, 0, START),
            Ok(()),
            "nothing is always there"
        );
    }

    #[test]
    fn a_fractional_rate_is_kept() {
        let (bucket, rate) = (Bucket::default(), Rate::new(0.4, 1));
        assert_eq!(bucket.take(rate, 1, START), Ok(()));
        assert_eq!(bucket.take(rate, 1, START), wait(2500));
        assert_eq!(bucket.take(rate, 1, START + 2500 * MILLI), Ok(()));
    }

    #[test]
    fn a_changed_limit_finds_what_was_owed() {
        let (bucket, slow) = (Bucket::default(), Rate::new(5.0, 5));
        assert_eq!(bucket.take(slow, 5, START), Ok(()));
        // A larger burst at the same rate: the debt of a second stays a second.
        let wider = Rate::new(5.0, 20);
        assert_eq!(bucket.level(wider, START).tokens, 15);
        assert_eq!(bucket.level(wider, START).full_in, Duration::from_secs(1));
        // Twice the rate and twice the burst: the same second empties it too.
        let twice = Rate::new(10.0, 10);
        assert_eq!(bucket.take(twice, 1, START), wait(100), "no fresh burst");
        // A rate so high that a second is more than it can owe: it owes all it has, and not more.
        let fast = Rate::new(100.0, 10);
        assert_eq!(bucket.take(fast, 1, START), wait(10));
        assert_eq!(bucket.take(fast, 1, START + 10 * MILLI), Ok(()));
        // Lowered again: still nobody starts anew.
        assert!(bucket.take(slow, 5, START + 10 * MILLI).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nobody_wait_for_it() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1.0, 2));
        assert_eq!(bucket.take(rate, 2, START), Ok(()));
        let back = START - 3600 * 1000 * MILLI;
        assert_eq!(bucket.take(rate, 1, back), wait(1000));
        assert_eq!(bucket.take(rate, 1, back + 1000 * MILLI), Ok(()));
        assert_eq!(nanos(DateTime::<Utc>::MIN_UTC), 0);
        assert_eq!(Bucket::default().take(rate, 2, 0), Ok(()));
    }

    #[test]
    fn no_rate_and_no_burst_overflow() {
        for per_second in [
            0.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            1e-9,
            1e30,
        ] {
            for burst in [0, 1, 2, 1000, u32::MAX] {
                let (bucket, rate) = (Bucket::default(), Rate::new(per_second, burst));
                for now in [0, START, u64::MAX] {
                    let all = burst.max(1);
                    let _ = bucket.take(rate, all, now);
                    let _ = bucket.take(rate, 1, now);
                    let _ = bucket.take(rate, u32::MAX, now);
                    assert!(bucket.level(rate, now).tokens <= all);
                }
            }
        }
        let never = Rate::new(f64::NAN, 1);
        let bucket = Bucket::default();
        assert_eq!(bucket.take(never, 1, START), Ok(()));
        assert!(bucket.take(never, 1, START + 3600 * 1000 * MILLI).is_err());
    }

    #[test]
    fn threads_share_one_bucket_exactly() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1.0, 1000));
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| bucket.take(rate, 1, START).is_ok())
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("it ends"))
                .sum()
        });
        assert_eq!(taken, 1000);
    }
}
