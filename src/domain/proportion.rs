//! How good a share of right answers is, and whether two differ by more than chance. Pure; called by the report.
//!
//! Answers are taken for independent of each other.

/// The standard normal distribution's 97.5 % quantile: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// What is called significant: p-values below it.
const SIGNIFICANT: f64 = 0.05;

/// Labels of an arm below which nothing is said of a difference.
const LEAST_LABELS: u64 = 30;

/// The least expected count of a cell for which the z-test holds (W. Cochran, Biometrics 10, 1954).
const LEAST_EXPECTED: f64 = 5.0;

/// Hits among trials; at least one trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proportion {
    hits: u64,
    of: u64,
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// How much better one proportion is than another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The one less the other, -1 to 1.
    pub value: f64,
    /// Where it lies.
    pub interval: Interval,
    /// How likely at least this difference is where there is none.
    pub p_value: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The one is better.
    Better,
    /// It is worse.
    Worse,
    /// It may be chance.
    NoDifference,
    /// Too little is known to say.
    NotEnoughData,
}

impl Verdict {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no_difference",
            Self::NotEnoughData => "not_enough_data",
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
impl Proportion {
    /// So many hits among so many trials; `None` without a trial, or with more hits than trials.
    #[must_use]
    pub fn new(hits: u64, of: u64) -> Option<Self> {
        (of > 0 && hits <= of).then_some(Self { hits, of })
    }

    /// The trials.
    #[must_use]
    pub fn of(self) -> u64 {
        self.of
    }

    /// The share of hits, 0 to 1.
    #[must_use]
    pub fn value(self) -> f64 {
        self.hits as f64 / self.of as f64
    }

    /// Where the true share lies: E. B. Wilson's score interval (JASA 22, 1927), which holds for small numbers and near 0 and
    /// 1 too.
    #[must_use]
    pub fn interval(self) -> Interval {
        let (n, share) = (self.of as f64, self.value());
        let whole = 1.0 + Z * Z / n;
        let centre = share + Z * Z / (2.0 * n);
        let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        // At the ends the formula gives 0 and 1 but for rounding.
        Interval {
            low: if self.hits == 0 {
                0.0
            } else {
                (centre - half) / whole
            },
            high: if self.hits == self.of {
                1.0
            } else {
                (centre + half) / whole
            },
        }
    }

    /// How likely a difference like that from another is where there is none, two-sided: by the pooled two-proportion z-test, or
    /// where that does not hold, as few are expected of one kind, by R. A. Fisher's exact test (Statistical Methods for Research
    /// Workers, 1934): the probability of all tables with the same sums that are no likelier than this one.
    fn chance_of(self, other: Self) -> f64 {
        let (n, m) = (self.of as f64, other.of as f64);
        let hits = self.hits + other.hits;
        let pooled = hits as f64 / (n + m);
        if n.min(m) * pooled.min(1.0 - pooled) >= LEAST_EXPECTED {
            let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
            let distance = (self.value() - other.value()).abs() / deviation;
            return erfc(distance / std::f64::consts::SQRT_2);
        }
        let likelihood = |own: u64| ln_choose(self.of, own) + ln_choose(other.of, hits - own);
        let all = ln_choose(self.of + other.of, hits);
        // Up to what logarithms lose.
        let this = likelihood(self.hits) + 1e-7;
        let tables = hits.saturating_sub(other.of)..=hits.min(self.of);
        let no_likelier = tables.map(likelihood).filter(|&one| one <= this);
        no_likelier
            .map(|one| (one - all).exp())
            .sum::<f64>()
            .min(1.0)
    }

    /// How much better it is than another: the interval is R. Newcombe's hybrid of the two score intervals (method 10,
    /// Statistics in Medicine 17, 1998).
    #[must_use]
    pub fn less(self, other: Self) -> Difference {
        let value = self.value() - other.value();
        let (own, others) = (self.interval(), other.interval());
        let interval = Interval {
            low: value - (self.value() - own.low).hypot(others.high - other.value()),
            high: value + (own.high - self.value()).hypot(other.value() - others.low),
        };
        let p_value = self.chance_of(other);
        let is_enough = self.of.min(other.of) >= LEAST_LABELS;
        let is_significant = p_value < SIGNIFICANT;
        let verdict = match value {
            _ if !is_enough => Verdict::NotEnoughData,
            // Test and interval may part by a hair: nothing is claimed that one of them does not bear out.
            _ if is_significant && interval.low > 0.0 => Verdict::Better,
            _ if is_significant && interval.high < 0.0 => Verdict::Worse,
            _ => Verdict::NoDifference,
        };
        Difference {
            value,
            interval,
            p_value,
            verdict,
        }
    }
}

/// The logarithm of the number of ways to choose `some` of `all`.
fn ln_choose(all: u64, some: u64) -> f64 {
    ln_factorial(all) - ln_factorial(some) - ln_factorial(all - some)
}

/// By J. Stirling's series; exact to ten digits from 10 on, below which the product is as short.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
fn ln_factorial(n: u64) -> f64 {
    if n < 10 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let n = n as f64;
    n * n.ln() - n + (std::f64::consts::TAU * n).ln() / 2.0 + 1.0 / (12.0 * n)
        - 1.0 / (360.0 * n.powi(3))
        + 1.0 / (1260.0 * n.powi(5))
}

/// The complementary error function of a number that is not negative, to 12 digits or more: below 2 by the series of erf
/// (M. Abramowitz, I. Stegun, Handbook of Mathematical Functions, 1964, 7.1.6), above by the continued fraction (7.1.14).
fn erfc(x: f64) -> f64 {
    let scale = (-x * x).exp();
    if x < 2.0 {
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term > sum * 1e-17 {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * scale * sum;
    }
    // From far enough inside outwards: 100 levels are exact at 2, and more than enough above.
    let inner = (1..=100)
        .rev()
        .fold(x, |inner, level| x + f64::from(level) / 2.0 / inner);
    scale * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / inner
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hits: u64, of: u64) -> Proportion {
        Proportion::new(hits, of).expect("a proportion")
    }

    #[track_caller]
    fn near(interval: Interval, low: f64, high: f64) {
        let is_near = (interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5;
        assert!(is_near, "{interval:?}, not {low} to {high}");
    }

    #[test]
    fn score_intervals_are_the_published_ones() {
        // R. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
        near(of(81, 263).interval(), 0.2553, 0.3662);
        near(of(15, 148).interval(), 0.0624, 0.1605);
        near(of(0, 20).interval(), 0.0, 0.1611);
        near(of(1, 29).interval(), 0.0061, 0.1718);
        near(of(20, 20).interval(), 0.8389, 1.0);
        assert_eq!(Proportion::new(0, 0), None);
        assert_eq!(Proportion::new(2, 1), None);
    }

    #[test]
    fn intervals_of_differences_are_the_published_ones() {
        // R. Newcombe, "Interval estimation for the difference between independent proportions", 1998, table II, method 10.
        for (one, other, low, high) in [
            ((56, 70), (48, 80), 0.0524, 0.3339),
            ((9, 10), (3, 10), 0.1705, 0.8090),
            ((6, 7), (2, 7), 0.0582, 0.8062),
            ((5, 56), (0, 29), -0.0381, 0.1926),
            ((0, 10), (0, 20), -0.1611, 0.2775),
            ((0, 10), (0, 10), -0.2775, 0.2775),
            ((10, 10), (0, 20), 0.6791, 1.0),
            ((10, 10), (0, 10), 0.6075, 1.0),
        ] {
            let difference = of(one.0, one.1).less(of(other.0, other.1));
            near(difference.interval, low, high);
        }
    }

    #[test]
    fn a_difference_is_called_one_where_it_cannot_well_be_chance() {
        // 56/70 against 48/80: z = 2.6501.
        let difference = of(56, 70).less(of(48, 80));
        let p = difference.p_value;
        assert!((p - 0.008_045).abs() < 1e-5, "{p}");
        assert_eq!(difference.verdict, Verdict::Better);
        let verdict = |one: (u64, u64), other: (u64, u64)| {
            let difference = of(one.0, one.1).less(of(other.0, other.1));
            difference.verdict.as_str()
        };
        assert_eq!(verdict((48, 80), (56, 70)), "worse");
        assert_eq!(verdict((50, 100), (52, 100)), "no_difference");
        assert_eq!(verdict((29, 29), (100, 1000)), "not_enough_data");
        assert_eq!(verdict((100, 1000), (29, 29)), "not_enough_data");
        // 4.5 wrong ones are expected of each: the exact test.
        assert_eq!(verdict((100, 100), (91, 100)), "better");
        assert_eq!(verdict((100, 100), (98, 100)), "no_difference");
        assert_eq!(verdict((100, 100), (90, 100)), "better");
        assert_eq!(verdict((19, 46), (968, 970)), "worse");
        assert_eq!(verdict((1000, 1000), (1000, 1000)), "no_difference");
        assert!((of(50, 100).less(of(50, 100)).p_value - 1.0).abs() < 1e-12);
    }

    #[test]
    fn few_are_judged_by_the_exact_test() {
        // The lady tasting tea first.
        for (one, other, wanted) in [
            ((3, 4), (1, 4), 34.0 / 70.0),
            ((1, 9), (5, 6), 0.010_989_011),
            ((100, 100), (91, 100), 0.003_236_615),
            ((4, 4), (0, 4), 2.0 / 70.0),
            ((5, 5), (9, 9), 1.0),
        ] {
            let p = of(one.0, one.1).less(of(other.0, other.1)).p_value;
            assert!((p - wanted).abs() < 1e-6, "{one:?} {other:?}: {p}");
        }
        assert!((ln_choose(50, 25).exp() / 126_410_606_437_752.0 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_error_function_is_the_tables() {
        for (x, wanted) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (1.999_999, 0.004_677_755_649_2),
            (2.0, 0.004_677_734_981_047_265),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            let got = erfc(x);
            assert!((got - wanted).abs() <= wanted * 1e-9, "{x}: {got}");
        }
        assert!(erfc(40.0) >= 0.0);
    }
}
