//! How far a distribution has moved: the population stability index. Pure; called by the report.
//!
//! PSI is the sum over bins of (now - before) ln(now / before), both as shares. Its usual thresholds, 0.1 and 0.25: N. Siddiqi,
//! Credit Risk Scorecards, 2006. They were found with many thousand counts; of few, chance alone makes more. So what 19 of 20
//! windows would stay below if nothing had moved is told too, and no drift is claimed below it: B. Yurdakul, J. Naranjo,
//! "Statistical properties of the population stability index", Journal of Risk Model Validation 14, 2020.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Counts of a window below which nothing is said.
const LEAST_COUNTS: u64 = 100;

/// What an empty bin counts as: its share would have no logarithm.
const EMPTY: f64 = 0.5;

/// Classes that have a bin of their own; the others share one.
const CLASSES: usize = 20;

/// The standard normal distribution's 95 % quantile.
const Z: f64 = 1.644_853_626_951_472;

/// How far a distribution has moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// The index and what chance makes of it; `None` where there is too little to say.
    pub psi: Option<Psi>,
    /// What follows.
    pub verdict: Verdict,
}

/// A population stability index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Psi {
    /// The index, 0 or more.
    pub value: f64,
    /// What it stays below in 19 of 20 windows where nothing has moved.
    pub noise: f64,
}

/// What an index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Below 0.1, or no more than chance makes.
    Stable,
    /// Below 0.25.
    Moderate,
    /// 0.25 or more.
    Significant,
    /// Fewer than 100 counts in one of the windows.
    NotEnoughData,
}

impl Verdict {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moderate => "moderate",
            Self::Significant => "significant",
            Self::NotEnoughData => "not_enough_data",
        }
    }
}

impl Drift {
    /// Of counts by bin, now and before.
    #[must_use]
    pub fn of_bins(bins: &[(u64, u64)]) -> Self {
        let now: u64 = bins.iter().map(|(now, _)| now).sum();
        let before: u64 = bins.iter().map(|(_, before)| before).sum();
        if now.min(before) < LEAST_COUNTS {
            return Self {
                psi: None,
                verdict: Verdict::NotEnoughData,
            };
        }
        let psi = Psi::of(bins, float(now), float(before));
        Self {
            psi: Some(psi),
            verdict: match psi.value {
                value if value < 0.1 || value <= psi.noise => Verdict::Stable,
                value if value < 0.25 => Verdict::Moderate,
                _ => Verdict::Significant,
            },
        }
    }

    /// Of counts by class. The classes that are the most frequent in both windows together have a bin each, and all others one:
    /// a thousand classes of a few counts each would be drift by chance alone.
    #[must_use]
    pub fn of_classes(now: &BTreeMap<&str, u64>, before: &BTreeMap<&str, u64>) -> Self {
        let mut bins: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (class, count) in now {
            bins.entry(class).or_default().0 += count;
        }
        for (class, count) in before {
            bins.entry(class).or_default().1 += count;
        }
        let mut bins: Vec<(u64, u64)> = bins.into_values().collect();
        bins.sort_by_key(|(now, before)| Reverse(now + before));
        let others = bins.split_off(bins.len().min(CLASSES));
        let sum = |sum: (u64, u64), bin: (u64, u64)| (sum.0 + bin.0, sum.1 + bin.1);
        bins.push(others.into_iter().fold((0, 0), sum));
        Self::of_bins(&bins)
    }
}

impl Psi {
    fn of(bins: &[(u64, u64)], now: f64, before: f64) -> Self {
        // A bin that is empty in both windows is none.
        let bins = bins.iter().filter(|bin| **bin != (0, 0));
        let part = |(n, m): &(u64, u64)| {
            let (n, m) = (float(*n).max(EMPTY) / now, float(*m).max(EMPTY) / before);
            (n - m) * (n / m).ln()
        };
        let parts: Vec<f64> = bins.map(part).collect();
        let freedom = parts.len().saturating_sub(1);
        Self {
            value: parts.iter().sum(),
            noise: chi_square_95(freedom) * (1.0 / now + 1.0 / before),
        }
    }
}

/// The 95 % quantile of the chi-square distribution, within 3 %: E. B. Wilson, M. Hilferty, PNAS 17, 1931.
fn chi_square_95(freedom: usize) -> f64 {
    let Ok(freedom @ 1..) = u32::try_from(freedom) else {
        return 0.0;
    };
    let ninth = 2.0 / (9.0 * f64::from(freedom));
    f64::from(freedom) * (1.0 - ninth + Z * ninth.sqrt()).powi(3)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn psi(bins: &[(u64, u64)]) -> f64 {
        Drift::of_bins(bins).psi.expect("an index").value
    }

    #[test]
    fn the_index_is_the_formulas() {
        // By hand: (0.5 - 0.4) ln(0.5 / 0.4) + (0.5 - 0.6) ln(0.5 / 0.6).
        let value = psi(&[(500, 4000), (500, 6000)]);
        assert!((value - 0.040_546_5).abs() < 1e-6, "{value}");
        assert!(psi(&[(10, 20), (90, 180)]).abs() < 1e-12);
        // An empty bin counts as half a request, and one that is empty in both windows as nothing.
        let value = psi(&[(0, 100), (200, 100), (0, 0)]);
        let wanted = (0.0025 - 0.5_f64) * (0.0025 / 0.5_f64).ln() + 0.5 * 2.0_f64.ln();
        assert!((value - wanted).abs() < 1e-9, "{value}");
    }

    #[test]
    fn verdicts_are_the_usual_ones() {
        let verdict = |bins: &[(u64, u64)]| Drift::of_bins(bins).verdict.as_str();
        assert_eq!(verdict(&[(5000, 5000), (5000, 5000)]), "stable");
        assert_eq!(verdict(&[(5000, 4000), (5000, 6000)]), "stable");
        assert_eq!(verdict(&[(6500, 5000), (3500, 5000)]), "stable");
        assert_eq!(verdict(&[(7000, 5000), (3000, 5000)]), "moderate");
        assert_eq!(verdict(&[(8000, 5000), (2000, 5000)]), "significant");
        assert_eq!(verdict(&[(99, 5000)]), "not_enough_data");
        assert_eq!(verdict(&[(5000, 99)]), "not_enough_data");
        assert_eq!(verdict(&[]), "not_enough_data");
        assert_eq!(verdict(&[(100, 100)]), "stable");
    }

    #[test]
    fn what_chance_makes_is_no_drift() {
        // 3.841, 16.919 and 30.144 are the tables'.
        for (freedom, wanted) in [(0, 0.0), (1, 3.841), (9, 16.919), (19, 30.144)] {
            let got = chi_square_95(freedom);
            assert!((got - wanted).abs() <= wanted * 0.03, "{freedom}: {got}");
        }
        // Ten bins of about ten each: the index is 0.15, and means nothing.
        let few = [
            (13, 8),
            (7, 12),
            (12, 10),
            (8, 11),
            (10, 13),
            (9, 7),
            (14, 10),
            (7, 10),
            (10, 11),
            (10, 8),
        ];
        let few = Drift::of_bins(&few);
        let psi = few.psi.expect("an index");
        assert!(psi.value > 0.1 && psi.value < psi.noise, "{psi:?}");
        assert_eq!(few.verdict, Verdict::Stable);
        // A hundred times as many are drift.
        let many: Vec<(u64, u64)> = [(1400, 700), (600, 1300), (1000, 1000)].to_vec();
        assert_ne!(Drift::of_bins(&many).verdict, Verdict::Stable);
    }

    #[test]
    fn rare_classes_share_a_bin() {
        let names: Vec<String> = (0..1000).map(|number| format!("class {number}")).collect();
        let classes = |offset: usize| -> BTreeMap<&str, u64> {
            let chosen = names.iter().enumerate();
            let chosen = chosen.filter(|(number, _)| number % 2 == offset);
            chosen.map(|(_, name)| (name.as_str(), 1)).collect()
        };
        // 500 requests, each of another class, and none of them in the other window.
        let drift = Drift::of_classes(&classes(0), &classes(1));
        assert_eq!(drift.verdict, Verdict::Stable, "{drift:?}");
        let (now, before) = (BTreeMap::from([("7", 150)]), BTreeMap::from([("1", 150)]));
        let drift = Drift::of_classes(&now, &before);
        assert_eq!(drift.verdict, Verdict::Significant);
        let same = Drift::of_classes(&now, &now);
        assert_eq!(
            (same.psi.map(|psi| psi.value), same.verdict),
            (Some(0.0), Verdict::Stable)
        );
    }
}
