//! Guards: what has to hold for a canary to go on, and when it is certain enough that it does not.
//!
//! A guard is broken where the evidence against it is so strong that a canary which holds all its guards is rolled back with a
//! probability of 5 % at most, over all its steps and however often it is looked at (`evidence`). It holds where the figure is
//! within the limit, certain or not; where it is neither, the canary stays where it is, and more requests will tell.

use serde::{Deserialize, Serialize};

use super::Canary;
use super::evidence::{above, lower_bound, real, upper_bound};
use super::figures::{ArmFigures, Latencies};

/// The probability that a good canary is rolled back.
const FALSE_ALARM: f64 = 0.05;

/// No verdict on fewer.
const LEAST_EVIDENCE: u64 = 10;

/// Answers of each arm that took a run of their own, before their latencies are compared.
const LEAST_LATENCIES: u64 = 20;

/// What a canary's candidate has to hold. What is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    /// The most errors (5xx) of the step's requests, from 0 to 1.
    pub max_error_rate: Option<f64>,
    /// How much longer than the baseline's 95th percentile the candidate's may be; of answers that took a run of their own.
    pub max_p95_ratio: Option<f64>,
    /// How often at least it has to name the baseline's class, from 0 to 1.
    pub min_agreement: Option<f64>,
    /// How often at least it has to be right where there is feedback, from 0 to 1.
    pub min_accuracy: Option<f64>,
    /// How much less often than the baseline it may be right where there is feedback, from 0 to 1.
    pub max_accuracy_drop: Option<f64>,
}

/// What is to be said of a guard.
pub(super) struct Finding {
    /// Why it is certain that it does not hold.
    pub(super) broken: Option<String>,
    /// What there is to wait for, where it does not hold as far as is known.
    pub(super) waits: Option<String>,
}

impl Finding {
    fn held() -> Self {
        Self {
            broken: None,
            waits: None,
        }
    }
}

impl Guards {
    fn count(&self) -> u32 {
        let guards = [
            self.max_error_rate,
            self.max_p95_ratio,
            self.min_agreement,
            self.min_accuracy,
            self.max_accuracy_drop,
        ];
        guards.iter().flatten().map(|_| 1).sum()
    }

    /// Whether one looks at feedback.
    #[must_use]
    pub fn look_at_labels(&self) -> bool {
        self.min_accuracy.is_some() || self.max_accuracy_drop.is_some()
    }

    /// What there is to say of each guard, of a baseline and a candidate.
    pub(super) fn look(&self, canary: &Canary, seen: &[ArmFigures; 2]) -> Vec<Finding> {
        let tests = f64::from(self.count().max(1)) * real(canary.steps.len() as u64);
        let chance = FALSE_ALARM / tests;
        let [baseline, candidate] = seen;
        let labels = (candidate.labels, baseline.labels);
        let findings = [
            self.max_error_rate.map(|limit| {
                let count = candidate.answers + candidate.errors;
                let is = "errors of the candidate";
                too_many(is, candidate.errors, count, limit, chance)
            }),
            self.max_p95_ratio
                .map(|limit| slower(candidate, baseline, limit, chance)),
            self.min_agreement.map(|limit| {
                let other = candidate.compared - candidate.agreed.min(candidate.compared);
                let is = "answers with another class than the baseline's";
                let finding = too_many(is, other, candidate.compared, 1.0 - limit, chance);
                // It is asked for on a sample: of that, half must be there.
                let due = real(canary.step_requests) * canary.agreement_sample / 2.0;
                let (is, due) = (candidate.compared, due.max(1.0).ceil());
                let missing = (real(is) < due)
                    .then(|| format!("min_agreement: {is} of {due} answers compared"));
                Finding {
                    waits: missing.or(finding.waits),
                    ..finding
                }
            }),
            self.min_accuracy.map(|limit| {
                let wrong = candidate.labels - candidate.correct.min(candidate.labels);
                let is = "wrong answers of the candidate where there is feedback";
                let finding = too_many(is, wrong, candidate.labels, 1.0 - limit, chance);
                if_enough(labels.0, finding)
            }),
            self.max_accuracy_drop.map(|limit| {
                let finding = worse(candidate, baseline, limit, chance);
                if_enough(labels.0.min(labels.1), finding)
            }),
        ];
        findings.into_iter().flatten().collect()
    }
}

/// Feedback may never come: nothing waits for it.
fn if_enough(labels: u64, finding: Finding) -> Finding {
    Finding {
        waits: finding.waits.filter(|_| labels >= LEAST_EVIDENCE),
        ..finding
    }
}

/// A share, for people.
fn percent(hits: u64, count: u64) -> String {
    format!("{:.1} %", 100.0 * real(hits) / real(count.max(1)))
}

/// Whether the share of `hits` is not more than `limit`.
fn too_many(what: &str, hits: u64, count: u64, limit: f64, chance: f64) -> Finding {
    let is_certain = count >= LEAST_EVIDENCE && above(hits, count, limit) >= (1.0 / chance).ln();
    let broken = is_certain.then(|| {
        format!(
            "{what}: {hits} of {count} ({}), where {:.1} % may be; by chance with a probability of {chance:.2e} at most",
            percent(hits, count),
            100.0 * limit,
        )
    });
    // Up to what a sum loses.
    let holds = real(hits) <= limit.mul_add(real(count), 1e-9);
    let waits = || {
        let limit = 100.0 * limit;
        format!("{what}: {hits} of {count}, where {limit:.1} % may be: not certain yet")
    };
    Finding {
        broken,
        waits: (!holds).then(waits),
    }
}

/// Whether the candidate's 95th percentile is not more than `limit` times the baseline's. Each of the two has its own bound,
/// each wrong with half the probability.
fn slower(candidate: &ArmFigures, baseline: &ArmFigures, limit: f64, chance: f64) -> Finding {
    let (mine, theirs) = (&candidate.latencies, &baseline.latencies);
    let is_measured = mine.count().min(theirs.count()) >= LEAST_LATENCIES;
    let (Some(own), Some(other)) = (mine.p95(), theirs.p95()) else {
        return Finding::held();
    };
    let bounds = p95_at_least(mine, chance / 2.0).zip(p95_at_most(theirs, chance / 2.0));
    let broken = bounds.filter(|&(least, most)| is_measured && least > limit * most);
    let broken = broken.map(|(least, most)| {
        format!(
            "the candidate's 95th percentile ({own:.2} ms, {least:.2} at least) is more than {limit} times the baseline's \
             ({other:.2} ms, {most:.2} at most); by chance with a probability of {chance:.2e} at most"
        )
    });
    let waits = || {
        format!(
            "the candidate's 95th percentile is {own:.2} ms, the baseline's {other:.2}: not certain yet"
        )
    };
    Finding {
        broken,
        waits: (is_measured && own > limit * other).then(waits),
    }
}

/// What the 95th percentile is at least: the greatest edge that certainly more than 5 % are not below.
fn p95_at_least(latencies: &Latencies, chance: f64) -> Option<f64> {
    let count = latencies.count();
    let enough = (1.0 / chance).ln();
    let mut edges = latencies.below().rev();
    let edge = edges.find(|&(_, below)| above(count - below, count, 0.05) >= enough);
    edge.map(|(edge, _)| edge)
}

/// What the 95th percentile is at most: the least edge that certainly more than 95 % are below.
fn p95_at_most(latencies: &Latencies, chance: f64) -> Option<f64> {
    let count = latencies.count();
    let enough = (1.0 / chance).ln();
    let mut edges = latencies.below();
    let edge = edges.find(|&(_, below)| above(below, count, 0.95) >= enough);
    edge.map(|(edge, _)| edge)
}

/// Whether the candidate is right not more than `limit` less often than the baseline.
fn worse(candidate: &ArmFigures, baseline: &ArmFigures, limit: f64, chance: f64) -> Finding {
    let most = upper_bound(candidate.correct, candidate.labels, chance / 2.0);
    let least = lower_bound(baseline.correct, baseline.labels, chance / 2.0);
    let is_certain =
        candidate.labels.min(baseline.labels) >= LEAST_EVIDENCE && most < least - limit;
    let share = |arm: &ArmFigures| real(arm.correct) / real(arm.labels.max(1));
    let broken = is_certain.then(|| {
        format!(
            "the candidate is right for {} of {} ({}), the baseline for {} of {} ({}): more than {:.1} % less; by chance with \
             a probability of {chance:.2e} at most",
            candidate.correct,
            candidate.labels,
            percent(candidate.correct, candidate.labels),
            baseline.correct,
            baseline.labels,
            percent(baseline.correct, baseline.labels),
            100.0 * limit,
        )
    });
    let holds = share(candidate) >= share(baseline) - limit - 1e-9;
    let waits = || {
        format!(
            "the candidate is right for {}, the baseline for {}: not certain yet",
            percent(candidate.correct, candidate.labels),
            percent(baseline.correct, baseline.labels)
        )
    };
    Finding {
        broken,
        waits: (!holds).then(waits),
    }
}
