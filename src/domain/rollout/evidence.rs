//! Evidence against a limit, to be looked at after every request: neither three requests nor a thousand looks give a verdict.
//!
//! A test that is looked at again and again until it fails does fail in the end. What is here does not: it bets against the
//! limit, and what the bets have won (a test martingale) exceeds `1 / a` at any time, if the limit is held, with a probability
//! of `a` at most (Ville's inequality).
//!
//! Sources: H. Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970), for
//! mixtures of likelihood ratios; S. Howard, A. Ramdas, J. D. `McAuliffe`, J. Sekhon, "Time-uniform, nonparametric, nonasymptotic
//! confidence sequences", Ann. Stat. 49 (2021), and S. Howard, A. Ramdas, "Sequential estimation of quantiles with
//! applications to A/B testing and best-arm identification", Bernoulli 28 (2022), for the bounds that come of turning it round.

/// Shares that are bet on, from far beyond the limit to close by: each half as far as the one before the last.
const BETS: i32 = 24;

/// A limit of nothing is one of a millionth: one that none may ever exceed cannot be bet against.
const LEAST_LIMIT: f64 = 1e-6;

/// How much `hits` of `count` say that their share is more than `limit` in truth: the logarithm of what bets on that have
/// won. It is more than `ln(1 / a)` at any time, where the share is not more than the limit, with probability `a` at most.
#[must_use]
pub(super) fn above(hits: u64, count: u64, limit: f64) -> f64 {
    if limit >= 1.0 || count == 0 {
        return 0.0;
    }
    let limit = limit.max(LEAST_LIMIT);
    let (hits, misses) = (real(hits), real(count.saturating_sub(hits)));
    let won = |bet: i32| {
        let share = limit + (1.0 - limit) * 0.5_f64.powf(f64::from(bet) / 2.0);
        hits * (share / limit).ln() + misses * ((1.0 - share) / (1.0 - limit)).ln()
    };
    let most = (1..=BETS).map(won).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = (1..=BETS).map(|bet| (won(bet) - most).exp()).sum();
    most + (sum / f64::from(BETS)).ln()
}

/// A share's least value that `hits` of `count` leave possible: it is below the truth at all times with a probability of
/// `1 - chance` at least.
#[must_use]
pub(super) fn lower_bound(hits: u64, count: u64, chance: f64) -> f64 {
    let enough = (1.0 / chance).ln();
    let (mut low, mut high) = (0.0, real(hits) / real(count.max(1)));
    if above(hits, count, low) < enough {
        return 0.0;
    }
    // Thirty halvings are a billionth.
    for _ in 0..30 {
        let middle = f64::midpoint(low, high);
        if above(hits, count, middle) >= enough {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// A share's greatest value that `hits` of `count` leave possible, as [`lower_bound`].
#[must_use]
pub(super) fn upper_bound(hits: u64, count: u64, chance: f64) -> f64 {
    1.0 - lower_bound(count.saturating_sub(hits), count, chance)
}

/// A count, as what is calculated with.
#[expect(
    clippy::cast_precision_loss,
    reason = "nobody counts to 2^53, and the last bits would not matter"
)]
pub(super) fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of hits, the same in every run: the generator `SplitMix64`.
    fn hits(seed: u64, share: f64) -> impl Iterator<Item = bool> {
        (1_u64..).map(move |step| super::super::uniform(super::super::mixed(seed, step)) < share)
    }

    /// Whether the limit is found broken within `most` looks, one after each request.
    fn verdict(seed: u64, share: f64, limit: f64, chance: f64, most: u64) -> Option<u64> {
        let mut found = 0;
        for (count, hit) in (1..=most).zip(hits(seed, share)) {
            found += u64::from(hit);
            if above(found, count, limit) >= (1.0 / chance).ln() {
                return Some(count);
            }
        }
        None
    }

    #[test]
    fn a_limit_that_is_just_held_is_found_broken_no_more_often_than_said() {
        for limit in [0.01, 0.1, 0.5] {
            let alarms = (0..1000)
                .filter(|&seed| verdict(seed * 7919 + 1, limit, limit, 0.05, 2000).is_some());
            let alarms = alarms.count();
            assert!(alarms <= 50, "{limit}: {alarms} of 1000");
        }
    }

    #[test]
    fn a_limit_that_is_well_broken_is_found_broken_soon() {
        // Share, limit, and requests that are enough in all of a hundred runs.
        for (share, limit, enough) in [(0.05, 0.01, 1500), (0.9, 0.1, 30), (0.3, 0.1, 300)] {
            let slowest =
                (0..100).map(|seed| verdict(seed * 104_729 + 3, share, limit, 0.01, 5000));
            let slowest = slowest.map(|after| after.unwrap_or(u64::MAX)).max();
            assert!(
                slowest.is_some_and(|after| after <= enough),
                "{share}: {slowest:?}"
            );
        }
    }

    #[test]
    fn there_is_none_without_requests_or_where_nothing_is_too_much() {
        assert_eq!((above(0, 0, 0.1), above(9, 9, 1.0)), (0.0, 0.0));
        assert!(above(0, 100, 0.1) < 0.0 && above(0, 1, 0.0) < 0.0);
        assert!(above(1, 100, 0.0) > 4.0, "one where none may be");
    }

    #[test]
    fn bounds_hold_the_truth_and_close_in_on_it() {
        let mut width = 1.0;
        for count in [10, 100, 1000, 10_000] {
            let (low, high) = (
                lower_bound(count * 3 / 10, count, 0.025),
                upper_bound(count * 3 / 10, count, 0.025),
            );
            assert!(low < 0.3 && 0.3 < high, "{count}: {low} to {high}");
            assert!(high - low < width, "{count}");
            width = high - low;
        }
        assert!(width < 0.04, "{width}");
        assert_eq!(
            (lower_bound(0, 0, 0.05), upper_bound(0, 0, 0.05)),
            (0.0, 1.0)
        );
        assert!(lower_bound(0, 50, 0.05) <= 0.0);
    }
}
