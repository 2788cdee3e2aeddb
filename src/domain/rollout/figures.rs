//! What the arms of a canary did, counted, and what a version and its shadow agreed on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::evidence::real;
use super::{ArmName, Canary};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::tenant::TenantId;

/// Latencies by buckets, each 9 % (an eighth of a doubling) wide, the first from 0 to 0.05 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(BTreeMap<u8, u64>);

/// Where the second bucket begins, in milliseconds.
const FIRST_EDGE_MS: f64 = 0.05;

/// Buckets of a doubling.
const PER_DOUBLING: f64 = 8.0;

/// The last bucket: from 160 s on.
const LAST: u8 = 174;

impl Latencies {
    /// The bucket of a latency.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is cut to 0 and the last bucket before"
    )]
    pub fn bucket(latency: Duration) -> u8 {
        let doublings = (latency.as_secs_f64() * 1e3 / FIRST_EDGE_MS).log2();
        (doublings * PER_DOUBLING + 1.0).clamp(0.0, f64::from(LAST)) as u8
    }

    /// Where a bucket begins, in milliseconds.
    fn edge(bucket: u8) -> f64 {
        if bucket == 0 {
            return 0.0;
        }
        FIRST_EDGE_MS * (f64::from(bucket - 1) / PER_DOUBLING).exp2()
    }

    /// Counts `n` latencies of a bucket.
    pub fn add(&mut self, bucket: u8, n: u64) {
        *self.0.entry(bucket.min(LAST)).or_default() += n;
    }

    /// The buckets that hold any, with how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u8, u64)> {
        self.0.iter().map(|(&bucket, &n)| (bucket, n))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// In the order of the edges between buckets: each edge in milliseconds, and how many are below it.
    pub(super) fn below(&self) -> impl DoubleEndedIterator<Item = (f64, u64)> {
        let mut below = 0;
        let edges = (1..=LAST).map(move |bucket| {
            below += self.0.get(&(bucket - 1)).copied().unwrap_or_default();
            (Self::edge(bucket), below)
        });
        edges.collect::<Vec<_>>().into_iter()
    }

    /// The 95th percentile in milliseconds, up to a bucket's width; `None` where there are none.
    #[must_use]
    pub fn p95(&self) -> Option<f64> {
        let wanted = real(self.count()) * 0.95;
        let mut edges = self.below();
        let found = edges.find(|&(_, below)| real(below) >= wanted);
        found.filter(|_| self.count() > 0).map(|(edge, _)| edge)
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, n) in other.buckets() {
            self.add(bucket, n);
        }
    }
}

/// What an arm did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArmFigures {
    /// Pictures that it answered.
    pub answers: u64,
    /// Pictures that it did not answer for reasons that lie not in the picture.
    pub errors: u64,
    /// How long answers took that came from a run of their own.
    pub latencies: Latencies,
    /// Answers that its baseline was asked for, too.
    pub compared: u64,
    /// Of these, those with the same class.
    pub agreed: u64,
    /// Answers whose true label is known.
    pub labels: u64,
    /// Of these, those with that label.
    pub correct: u64,
}

impl ArmFigures {
    /// Adds what is counted of another.
    pub fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.latencies.merge(&other.latencies);
        self.compared += other.compared;
        self.agreed += other.agreed;
        self.labels += other.labels;
        self.correct += other.correct;
    }
}

/// Whose figures they are: a canary's run, a step of it (from 0), an arm.
pub type CanaryPlace = (Uuid, u64, ArmName);

/// What a canary's arms did at each of its steps, and what labels say of them as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// By step and arm; nothing is known here of labels.
    pub steps: BTreeMap<(u64, ArmName), ArmFigures>,
    /// Labels and correct answers since the beginning, by arm: labels come late, and to no step.
    pub labelled: ArmLabels,
}

/// How many answers of each arm have a label, and how many of these are right.
pub type ArmLabels = BTreeMap<ArmName, (u64, u64)>;

impl Figures {
    /// An arm's figures at a step.
    #[must_use]
    pub fn of(&self, step: u64, arm: ArmName) -> ArmFigures {
        self.steps.get(&(step, arm)).cloned().unwrap_or_default()
    }

    /// What is judged, of the baseline and of the candidate: what they did at the canary's step, so that both met the same hour's
    /// traffic; labels since the beginning.
    #[must_use]
    pub fn seen(&self, canary: &Canary) -> [ArmFigures; 2] {
        [ArmName::Baseline, ArmName::Candidate].map(|arm| {
            let mut figures = self.of(canary.step(), arm);
            (figures.labels, figures.correct) =
                self.labelled.get(&arm).copied().unwrap_or_default();
            figures
        })
    }
}

/// A version and the one that runs beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The model.
    pub model: ModelId,
    /// The version that answered.
    pub version: VersionNumber,
    /// The version that was asked, too.
    pub shadow: VersionNumber,
}

/// How often two versions named the same class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Pictures that both have classified.
    pub compared: u64,
    /// Of these, those with the same class.
    pub agreed: u64,
    /// Pictures of the sample on which the shadow was not run, as there was too much to do, or it failed.
    pub dropped: u64,
}

/// A picture on which two versions disagree.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// SHA-256 of the picture's file.
    pub picture: Digest,
    /// Whose picture it is.
    pub tenant: TenantId,
    /// The request that it came in.
    pub request_id: Uuid,
    /// Its place in the request.
    pub index: u32,
    /// What the version that answered named, and how sure it was.
    pub class: (String, f32),
    /// What its shadow named.
    pub shadow_class: (String, f32),
    /// When.
    pub at: DateTime<Utc>,
}

impl Disagreement {
    /// From 0 to 1: how sure both were of their different classes.
    #[must_use]
    pub fn strength(&self) -> f64 {
        f64::midpoint(f64::from(self.class.1), f64::from(self.shadow_class.1)).clamp(0.0, 1.0)
    }
}

/// What was counted in a while, to be added to what the store has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Of canaries.
    pub canaries: BTreeMap<CanaryPlace, ArmFigures>,
    /// Of versions and their shadows, by the minute.
    pub agreements: BTreeMap<(Pair, DateTime<Utc>), Agreement>,
    /// The pictures on which versions and their shadows disagree most.
    pub disagreements: BTreeMap<Pair, BTreeMap<Digest, Disagreement>>,
}

impl Counted {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.canaries.is_empty() && self.agreements.is_empty() && self.disagreements.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_between_their_edges() {
        for bucket in 1..LAST {
            let middle = f64::midpoint(Latencies::edge(bucket), Latencies::edge(bucket + 1));
            let at = Duration::from_secs_f64(middle / 1e3);
            assert_eq!(Latencies::bucket(at), bucket, "{middle} ms");
        }
        assert_eq!(Latencies::bucket(Duration::ZERO), 0);
        assert_eq!(Latencies::bucket(Duration::MAX), LAST);
    }

    #[test]
    fn the_95th_percentile_is_found_to_a_buckets_width() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.p95(), None);
        for ms in 1..=1000 {
            latencies.add(Latencies::bucket(Duration::from_millis(ms)), 1);
        }
        let p95 = latencies.p95().expect("there are some");
        assert!((950.0..950.0 * 1.0906).contains(&p95), "{p95}");
        assert_eq!(latencies.count(), 1000);
        let last = latencies.below().next_back().expect("edges");
        assert_eq!(last.1, 1000);
    }
}
