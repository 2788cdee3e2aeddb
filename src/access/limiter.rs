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

    /// How long a bucket stays closed at most.
    fn longest_closed(self) -> u64 {
        LONG_CLOSED.max(self.window().saturating_mul(4))
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

/// How long a bucket stays closed at most for what was taken from it elsewhere, or four times as long as it takes to fill where that
/// is longer.
const LONG_CLOSED: u64 = 60_000_000_000;

/// A bucket. One that was never used is full.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// The moment when it will be full, in nanoseconds since 1970.
    full_at: AtomicU64,
    /// Until then it gives nothing and does not fill: more was taken elsewhere than it can owe.
    closed_until: AtomicU64,
}

impl Bucket {
    /// Takes `tokens` at the moment `now`, all or none.
    pub(super) fn take(&self, rate: Rate, tokens: u32, now: u64) -> Result<(), Shortage> {
        let Some(tokens) = NonZeroU32::new(tokens) else {
            return Ok(());
        };
        let closed = self.closed(rate, now);
        if closed > 0 && tokens <= rate.burst {
            let first = rate.period.saturating_mul(u64::from(tokens.get()));
            return Err(Shortage::For(Duration::from_nanos(
                closed.saturating_add(first),
            )));
        }
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

    /// Counts what was taken elsewhere, on other replicas, evenly since the moment `since`, as if it had been taken here then.
    /// What is more than the bucket can owe keeps it closed until it is paid: so all replicas together give no more in the long
    /// run than one would, and each learns late what the others gave.
    pub(super) fn charge(&self, rate: Rate, tokens: u64, since: u64, now: u64) {
        let added = rate.period.saturating_mul(tokens);
        let most = rate.window().saturating_add(rate.longest_closed());
        let closed = self.closed(rate, now);
        let charged = |full_at: u64| {
            let owed = debt(full_at.saturating_sub(closed), rate, now).saturating_add(closed);
            let before = if owed > 0 { after(owed, now) } else { full_at };
            before
                .max(since)
                .saturating_add(added)
                .min(after(most, now))
        };
        let full_at = self.full_at.load(Ordering::Acquire);
        let until = charged(full_at).saturating_sub(rate.window());
        // First closed: nobody is to cut the debt that is written down then.
        self.closed_until.store(until, Ordering::Release);
        let _ = self
            .full_at
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |full_at| {
                Some(charged(full_at))
            });
    }

    /// For how long it is closed yet. A clock that was set back closes nothing.
    fn closed(&self, rate: Rate, now: u64) -> u64 {
        let closed = self
            .closed_until
            .load(Ordering::Acquire)
            .saturating_sub(now);
        if closed > rate.longest_closed() {
            0
        } else {
            closed
        }
    }

    /// What it holds at the moment `now`.
    pub(super) fn level(&self, rate: Rate, now: u64) -> Level {
        let closed = self.closed(rate, now);
        let full_at = self.full_at.load(Ordering::Acquire);
        if closed > 0 {
            return Level {
                tokens: 0,
                full_in: Duration::from_nanos(closed.saturating_add(rate.window())),
            };
        }
        let debt = debt(full_at, rate, now);
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
        let state = &self.bucket.full_at;
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
    fn what_others_took_is_owed_here_and_paid_off() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10.0, 5));
        // Long ago, evenly: it is paid off.
        bucket.charge(rate, 1000, START - 200_000 * MILLI, START);
        assert_eq!(bucket.level(rate, START).tokens, 5);
        // As many as flowed in meanwhile, and three more.
        bucket.charge(rate, 13, START - 1000 * MILLI, START);
        assert_eq!(bucket.level(rate, START).tokens, 2);
        assert_eq!(bucket.take(rate, 2, START), Ok(()));
        assert_eq!(bucket.take(rate, 1, START), wait(100));
        // More than it can owe: closed until that is paid, and empty then.
        bucket.charge(rate, 20, START, START);
        assert_eq!(bucket.level(rate, START).tokens, 0);
        assert_eq!(bucket.take(rate, 1, START), wait(2100));
        assert_eq!(bucket.take(rate, 1, START + 2000 * MILLI), wait(100));
        assert_eq!(bucket.take(rate, 6, START), Err(Shortage::Ever));
        // And more on top of it while it is closed.
        bucket.charge(rate, 10, START + 1000 * MILLI, START + 1000 * MILLI);
        assert_eq!(bucket.take(rate, 1, START + 1000 * MILLI), wait(2100));
        assert_eq!(bucket.take(rate, 1, START + 3100 * MILLI), Ok(()));
        assert_eq!(bucket.take(rate, 1, START + 3100 * MILLI), wait(100));
    }

    #[test]
    fn nobody_is_kept_out_for_long_by_what_others_took() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1.0, 2));
        bucket.charge(rate, u64::MAX, START, START);
        assert_eq!(bucket.take(rate, 1, START), wait(61_000));
        assert_eq!(bucket.take(rate, 1, START + 61_000 * MILLI), Ok(()));
        bucket.charge(rate, 50, START + 61_000 * MILLI, START + 61_000 * MILLI);
        // The clock was set back: it is empty, and no longer closed.
        let back = START - 3_600_000 * MILLI;
        assert_eq!(bucket.take(rate, 1, back), wait(1000));
    }

    #[test]
    fn a_slow_rate_is_shared_too() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1.0 / 600.0, 1));
        assert_eq!(bucket.take(rate, 1, START), Ok(()));
        // Two others gave one each before they heard of it.
        bucket.charge(rate, 2, START, START);
        assert_eq!(bucket.take(rate, 1, START + 1_799_000 * MILLI), wait(1000));
        assert_eq!(bucket.take(rate, 1, START + 1_800_000 * MILLI), Ok(()));
    }

    /// Three replicas are asked as often as they like, and tell each other every 0.8 s what they gave.
    #[test]
    fn replicas_that_tell_each_other_late_give_no_more_in_the_long_run_than_one() {
        let rate = Rate::new(20.0, 20);
        let replicas: [Bucket; 3] = Default::default();
        let (mut given, mut told) = ([0_u64; 3], START);
        let (mut total, mut most_over) = (0_u64, 0_f64);
        let seconds = 120;
        for step in 0..seconds * 1000 {
            let now = START + step * MILLI;
            for (bucket, given) in replicas.iter().zip(&mut given) {
                if bucket.take(rate, 1, now).is_ok() {
                    *given += 1;
                    total += 1;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let over = total as f64 - (20.0 + step as f64 * 0.02);
            most_over = most_over.max(over);
            if step % 800 == 799 {
                let all: u64 = given.iter().sum();
                for (bucket, own) in replicas.iter().zip(given) {
                    bucket.charge(rate, all - own, told, now);
                }
                (given, told) = ([0; 3], now);
            }
        }
        // What one gives in an exchange at most, twice: (N - 1) * (burst + rate * 0.8 s).
        assert!(most_over <= 2.0 * (20.0 + 20.0 * 0.8) + 1.0, "{most_over}");
        let ideal = 20 + 20 * seconds;
        assert!(total <= ideal + 72, "{total} of {ideal}");
        assert!(total >= ideal * 9 / 10, "{total} of {ideal}");
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
