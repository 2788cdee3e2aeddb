//! Percentiles of where the time went: exact over what was read, which is a sample where there is much.

use std::collections::BTreeMap;

use crate::domain::ids::VersionNumber;
use crate::domain::prediction::Spent;
use crate::store::Timed;

/// Rows that are read where there are more; a percentile of them is exact enough.
const SAMPLED: u64 = 100_000;

/// Rows of a version up to which all are read: of a small arm beside a large one a sample would leave too little.
const WHOLE: u64 = 10_000;

/// Rows of a version that a sample should have: of fewer the last percentile is noise.
const ENOUGH: f64 = 2000.0;

/// Of which versions how much is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampling {
    /// Versions of which a share is read.
    pub(super) sampled: Vec<VersionNumber>,
    /// The share.
    pub(super) share: f64,
    /// Versions of which all is read.
    pub(super) whole: Vec<VersionNumber>,
}

impl Sampling {
    /// By how much there is of each version.
    pub(super) fn of(rows: impl Iterator<Item = (VersionNumber, u64)>) -> Self {
        let rows: Vec<(VersionNumber, u64)> = rows.filter(|(_, rows)| *rows > 0).collect();
        let (large, mut small): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, rows)| *rows > WHOLE);
        let many: u64 = large.iter().map(|(_, rows)| rows).sum();
        let versions =
            |rows: Vec<(VersionNumber, u64)>| rows.into_iter().map(|(version, _)| version);
        if many <= SAMPLED {
            return Self {
                sampled: Vec::new(),
                share: 1.0,
                whole: versions(large).chain(versions(small)).collect(),
            };
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "counts are far below 2 to the 53rd"
        )]
        let share = SAMPLED as f64 / many as f64;
        #[expect(
            clippy::cast_precision_loss,
            reason = "counts are far below 2 to the 53rd"
        )]
        let (large, few): (Vec<_>, Vec<_>) = large
            .into_iter()
            .partition(|(_, rows)| *rows as f64 * share >= ENOUGH);
        small.extend(few);
        Self {
            sampled: versions(large).collect(),
            share,
            whole: versions(small).collect(),
        }
    }
}

/// Where the time of a version's pictures went that were not answered from the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// Waiting.
    pub queue: Percentiles,
    /// Decoding and preprocessing.
    pub decode: Percentiles,
    /// The model.
    pub inference: Percentiles,
    /// From the request's head until the record was made.
    pub total: Percentiles,
    /// The pictures that were looked at; at least one.
    pub pictures: u64,
    /// Whether they are a sample of all.
    pub sampled: bool,
}

/// What so many in a hundred stay at or below, in milliseconds (the nearest rank).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
}

impl Times {
    /// Those of each version.
    pub(super) fn by_version(timed: Vec<Timed>, sampled: bool) -> BTreeMap<VersionNumber, Self> {
        let mut spent: BTreeMap<VersionNumber, Vec<Spent>> = BTreeMap::new();
        for one in timed {
            spent.entry(one.version).or_default().push(one.spent);
        }
        let of = |(version, spent): (_, Vec<Spent>)| (version, Self::of(&spent, sampled));
        spent.into_iter().map(of).collect()
    }

    fn of(spent: &[Spent], sampled: bool) -> Self {
        let of = |part: fn(&Spent) -> f64| Percentiles::of(spent.iter().map(part).collect());
        Self {
            queue: of(|spent| spent.queue),
            decode: of(|spent| spent.decode),
            inference: of(|spent| spent.inference),
            total: of(|spent| spent.total),
            pictures: spent.len() as u64,
            sampled,
        }
    }
}

impl Percentiles {
    /// 0 of nothing.
    fn of(mut values: Vec<f64>) -> Self {
        let mut at = |hundredths: usize| {
            let rank = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
            if rank >= values.len() {
                return 0.0;
            }
            *values.select_nth_unstable_by(rank, f64::total_cmp).1
        };
        Self {
            p50: at(50),
            p95: at(95),
            p99: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> VersionNumber {
        number.to_string().parse().expect("a version")
    }

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let of = |values: &[f64]| Percentiles::of(values.to_vec());
        let are = |p50, p95, p99| Percentiles { p50, p95, p99 };
        assert_eq!(of(&[]), are(0.0, 0.0, 0.0));
        assert_eq!(of(&[3.0]), are(3.0, 3.0, 3.0));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), are(2.0, 4.0, 4.0));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(of(&hundred), are(50.0, 95.0, 99.0));
    }

    #[test]
    fn only_of_what_is_much_a_share_is_read() {
        let of = |rows: &[u64]| Sampling::of((1..).map(version).zip(rows.iter().copied()));
        let all = of(&[50_000, 0, 50_000, 10_000]);
        assert_eq!((all.sampled.len(), all.share), (0, 1.0));
        assert_eq!(all.whole, [1, 3, 4].map(version));
        let some = of(&[900_000, 100_000, 10_000, 1]);
        assert_eq!(some.sampled, [1, 2].map(version));
        assert_eq!(some.whole, [3, 4].map(version));
        assert!((some.share - 0.1).abs() < 1e-9);
    }
}
