//! What the counts of a window say of each version: shares, accuracy against the baseline, agreement with shadows, drift.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::times::Times;
use crate::domain::drift::Drift;
use crate::domain::ids::VersionNumber;
use crate::domain::proportion::{Difference, Proportion, Verdict};
use crate::domain::rollout::Rollout;
use crate::store::{Compared, Labelled, Outcomes};

/// Classes of a version that are shown.
const SHOWN_CLASSES: usize = 20;

/// How a version does.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmReport {
    /// The version.
    pub version: VersionNumber,
    /// Its name in the rollout; `None` where it is no arm.
    pub arm: Option<String>,
    /// Whether the others are compared with it.
    pub is_baseline: bool,
    /// Pictures it answered, or was to answer.
    pub requests: u64,
    /// Failures of ours among them.
    pub errors: u64,
    /// Answers from the result cache.
    pub cached: u64,
    /// The mean of the confidences; `None` without an answer.
    pub mean_confidence: Option<f64>,
    /// Answers, of any class.
    pub answers: u64,
    /// The classes that were answered most, by falling count.
    pub classes: Vec<ClassCount>,
    /// Answers of all other classes.
    pub other_classes: u64,
    /// Where the time went; `None` where nothing was run.
    pub times: Option<Times>,
    /// How often shadows said the same.
    pub agreement: Vec<Agreement>,
    /// Right answers among those with a label; `None` without a label.
    pub accuracy: Option<Proportion>,
    /// How it does against the baseline; `None` for the baseline, and where there is none.
    pub difference: Option<VersusBaseline>,
    /// How far its answers have moved since the reference.
    pub drifts: Drifts,
}

/// A class and how often it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCount {
    /// The class.
    pub class: String,
    /// Answers.
    pub requests: u64,
}

/// How often a shadow said the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The shadow.
    pub with: VersionNumber,
    /// The same class among what was compared; `None` where nothing was.
    pub agreed: Option<Proportion>,
    /// Pictures of the sample that the shadow was not run on.
    pub dropped: u64,
}

/// A version's accuracy against the baseline's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VersusBaseline {
    /// The baseline.
    pub baseline: VersionNumber,
    /// The difference; `None` where one of the two has no label.
    pub difference: Option<Difference>,
}

impl VersusBaseline {
    /// What follows.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdict = self.difference.map(|difference| difference.verdict);
        verdict.unwrap_or(Verdict::NotEnoughData)
    }
}

/// How far a version's answers have moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drifts {
    /// The classes.
    pub classes: Drift,
    /// The confidences, in ten equal bins.
    pub confidence: Drift,
    /// Answers of the version in the reference window.
    pub reference_answers: u64,
}

/// What is counted of a version in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    requests: u64,
    errors: u64,
    cached: u64,
    answers: u64,
    /// Answers that were not cached.
    pub(super) fresh: u64,
    confidence_sum: f64,
    classes: BTreeMap<String, u64>,
    tenths: [u64; 10],
}

impl Tally {
    /// That of each version.
    pub(super) fn all(outcomes: Vec<Outcomes>) -> BTreeMap<VersionNumber, Self> {
        let mut all: BTreeMap<VersionNumber, Self> = BTreeMap::new();
        for outcomes in outcomes {
            all.entry(outcomes.version).or_default().add(outcomes);
        }
        all
    }

    fn add(&mut self, outcomes: Outcomes) {
        let n = outcomes.n;
        self.requests += n;
        self.errors += if outcomes.is_error { n } else { 0 };
        self.cached += if outcomes.cached { n } else { 0 };
        let Some(class) = outcomes.class else { return };
        self.answers += n;
        self.fresh += if outcomes.cached { 0 } else { n };
        self.confidence_sum += outcomes.confidence_sum;
        *self.classes.entry(class).or_default() += n;
        for (bin, n) in self.tenths.iter_mut().zip(outcomes.tenths) {
            *bin += n;
        }
    }

    fn by_class(&self) -> BTreeMap<&str, u64> {
        let classes = self.classes.iter();
        classes.map(|(class, n)| (class.as_str(), *n)).collect()
    }

    fn drifts(&self, before: &Self) -> Drifts {
        let tenths = self.tenths.iter().zip(&before.tenths);
        let tenths: Vec<(u64, u64)> = tenths.map(|(now, before)| (*now, *before)).collect();
        Drifts {
            classes: Drift::of_classes(&self.by_class(), &before.by_class()),
            confidence: Drift::of_bins(&tenths),
            reference_answers: before.answers,
        }
    }

    /// The most frequent classes, and the answers of all others.
    fn top_classes(&self) -> (Vec<ClassCount>, u64) {
        let classes = self.classes.iter();
        let mut classes: Vec<ClassCount> = classes
            .map(|(class, requests)| ClassCount {
                class: class.clone(),
                requests: *requests,
            })
            .collect();
        // Stable: equal ones stay in the order of their names.
        classes.sort_by_key(|class| Reverse(class.requests));
        let others = classes.split_off(classes.len().min(SHOWN_CLASSES));
        let others = others.iter().map(|class| class.requests).sum();
        (classes, others)
    }
}

/// All that was counted.
pub(super) struct Counted {
    pub(super) rollout: Rollout,
    pub(super) tallies: BTreeMap<VersionNumber, Tally>,
    pub(super) before: BTreeMap<VersionNumber, Tally>,
    pub(super) labelled: Vec<Labelled>,
    pub(super) compared: Vec<Compared>,
}

impl Counted {
    /// The report of each of these versions; their times are taken.
    pub(super) fn arms(
        &self,
        versions: &BTreeSet<VersionNumber>,
        times: &mut BTreeMap<VersionNumber, Times>,
    ) -> Vec<ArmReport> {
        let accuracies = self.accuracies(|_| true);
        // Compared is what the rollout has assigned: who names a version may have chosen it for the pictures.
        let assigned = self.accuracies(|one| match arm_name(&self.rollout, one.version) {
            Some(arm) => one.arm.as_ref() == Some(&arm),
            None => true,
        });
        let baseline = self.baseline();
        let arm = |version: &VersionNumber| {
            let accuracy = accuracies.get(version).copied();
            let against = baseline.filter(|baseline| baseline != version);
            let difference = against.map(|baseline| VersusBaseline {
                baseline,
                difference: assigned
                    .get(version)
                    .copied()
                    .zip(assigned.get(&baseline).copied())
                    .map(|(own, others)| own.less(others)),
            });
            ArmReport {
                is_baseline: baseline == Some(*version),
                times: times.remove(version),
                accuracy,
                difference,
                ..self.arm(*version)
            }
        };
        versions.iter().map(arm).collect()
    }

    /// What is said of a version without looking at others.
    fn arm(&self, version: VersionNumber) -> ArmReport {
        let none = Tally::default();
        let tally = self.tallies.get(&version).unwrap_or(&none);
        let (classes, other_classes) = tally.top_classes();
        let compared = self.compared.iter().filter(|one| one.version == version);
        ArmReport {
            version,
            arm: arm_name(&self.rollout, version),
            is_baseline: false,
            requests: tally.requests,
            errors: tally.errors,
            cached: tally.cached,
            mean_confidence: mean(tally.confidence_sum, tally.answers),
            answers: tally.answers,
            classes,
            other_classes,
            times: None,
            agreement: compared.map(Agreement::of).collect(),
            accuracy: None,
            difference: None,
            drifts: tally.drifts(self.before.get(&version).unwrap_or(&none)),
        }
    }

    /// The version that the others are compared with: the rollout's, else the lowest that has requests.
    fn baseline(&self) -> Option<VersionNumber> {
        // A canary's stays the baseline of what was promoted.
        let canary = self.rollout.canary().map(|canary| canary.baseline);
        let named = canary.or_else(|| self.rollout.mainstay());
        named.or_else(|| self.tallies.keys().next().copied())
    }

    /// Right answers among those with a label that count.
    fn accuracies(
        &self,
        counts: impl Fn(&Labelled) -> bool,
    ) -> BTreeMap<VersionNumber, Proportion> {
        let mut sums: BTreeMap<VersionNumber, (u64, u64)> = BTreeMap::new();
        for labelled in self.labelled.iter().filter(|one| counts(one)) {
            let sum = sums.entry(labelled.version).or_default();
            *sum = (sum.0 + labelled.correct, sum.1 + labelled.labels);
        }
        let accuracies = sums.into_iter();
        let accuracies = accuracies
            .filter_map(|(version, (correct, of))| Some((version, Proportion::new(correct, of)?)));
        accuracies.collect()
    }
}

impl Agreement {
    fn of(compared: &Compared) -> Self {
        Self {
            with: compared.shadow,
            agreed: Proportion::new(compared.agreed, compared.compared),
            dropped: compared.dropped,
        }
    }
}

/// A version's name in a rollout.
fn arm_name(rollout: &Rollout, version: VersionNumber) -> Option<String> {
    rollout.arm_of(version).map(|arm| arm.to_string())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
fn mean(sum: f64, of: u64) -> Option<f64> {
    (of > 0).then(|| sum / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rollout::{Arm, Rule, Split, StickyBy};

    fn version(number: u64) -> VersionNumber {
        number.to_string().parse().expect("a version")
    }

    fn outcomes(number: u64, class: Option<&str>, n: u64) -> Outcomes {
        Outcomes {
            version: version(number),
            class: class.map(str::to_owned),
            cached: false,
            is_error: class.is_none(),
            n,
            tenths: [0, 0, 0, 0, 0, 0, 0, 0, 0, class.map_or(0, |_| n)],
            confidence_sum: class.map_or(0.0, |_| 0.9 * f64::from(u32::try_from(n).expect("few"))),
        }
    }

    fn labelled(number: u64, arm: Option<&str>, correct: u64, labels: u64) -> Labelled {
        Labelled {
            version: version(number),
            arm: arm.map(str::to_owned),
            labels,
            correct,
        }
    }

    fn counted(rollout: Rollout, now: Vec<Outcomes>) -> Counted {
        Counted {
            rollout,
            tallies: Tally::all(now),
            before: BTreeMap::new(),
            labelled: Vec::new(),
            compared: Vec::new(),
        }
    }

    fn split(versions: &[u64]) -> Rollout {
        let arms = versions.iter().map(|number| Arm {
            version: version(*number),
            weight: 1.0,
        });
        Rollout::of(Rule::Split(Split {
            experiment: uuid::Uuid::nil(),
            arms: arms.collect(),
            sticky_by: StickyBy::Key,
        }))
    }

    fn arms(counted: &Counted, versions: &[u64]) -> Vec<ArmReport> {
        let versions = versions.iter().copied().map(version).collect();
        counted.arms(&versions, &mut BTreeMap::new())
    }

    #[test]
    fn a_version_is_summed_over_all_its_outcomes() {
        let mut cached = outcomes(1, Some("7"), 30);
        cached.cached = true;
        let now = vec![
            outcomes(1, Some("7"), 60),
            outcomes(1, Some("1"), 10),
            outcomes(1, None, 5),
            cached,
        ];
        let counted = counted(Rollout::default(), now);
        assert_eq!(counted.tallies[&version(1)].fresh, 70);
        let one = arms(&counted, &[1]).remove(0);
        assert_eq!(
            (one.requests, one.errors, one.cached, one.answers),
            (105, 5, 30, 100)
        );
        assert!((one.mean_confidence.expect("answers") - 0.9).abs() < 1e-9);
        let classes: Vec<(&str, u64)> = one
            .classes
            .iter()
            .map(|c| (c.class.as_str(), c.requests))
            .collect();
        assert_eq!(
            (classes, one.other_classes),
            (vec![("7", 90), ("1", 10)], 0)
        );
        assert_eq!(
            (one.arm, one.is_baseline, one.difference),
            (None, true, None)
        );
        assert_eq!(one.drifts.reference_answers, 0);
        let names: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
        let many = names
            .iter()
            .map(|name| outcomes(1, Some(name), 2))
            .collect();
        let many = arms(&super::tests::counted(Rollout::default(), many), &[1]).remove(0);
        assert_eq!((many.classes.len(), many.other_classes), (20, 10));
        assert_eq!(many.classes[19].class, "19");
    }

    #[test]
    fn arms_are_compared_with_the_baseline() {
        let now = vec![outcomes(1, Some("7"), 10), outcomes(2, Some("7"), 10)];
        let mut counted = counted(split(&[2, 3]), now);
        counted.labelled = vec![
            labelled(1, None, 10, 20),
            labelled(2, Some("2"), 40, 50),
            labelled(2, None, 50, 50),
            labelled(9, None, 1, 1),
        ];
        let arms = arms(&counted, &[1, 2, 3]);
        let names: Vec<Option<&str>> = arms.iter().map(|arm| arm.arm.as_deref()).collect();
        assert_eq!(names, [None, Some("2"), Some("3")]);
        assert_eq!(
            [0, 1, 2].map(|at| arms[at].is_baseline),
            [false, true, false]
        );
        assert_eq!(arms[1].accuracy, Proportion::new(90, 100));
        let against = arms[0].difference.expect("a difference");
        assert_eq!(
            (against.baseline, against.verdict()),
            (version(2), Verdict::NotEnoughData)
        );
        // Against what the rollout has assigned to the arm: 40 of 50.
        let value = against.difference.expect("labels").value;
        assert!((value + 0.3).abs() < 1e-9, "{value}");
        assert_eq!(arms[1].difference, None);
        // An arm of which nothing is known yet.
        let (three, zeros) = (&arms[2], (0, 0, None, None));
        assert_eq!(
            (
                three.requests,
                three.errors,
                three.accuracy,
                three.mean_confidence
            ),
            zeros
        );
        let against = three.difference.expect("a difference");
        assert_eq!(
            (against.difference, against.verdict()),
            (None, Verdict::NotEnoughData)
        );
    }

    #[test]
    fn agreement_is_with_the_own_shadows() {
        let mut counted = counted(split(&[1]), vec![outcomes(1, Some("7"), 10)]);
        let compared = |own: u64, shadow: u64, compared: u64, agreed: u64| Compared {
            version: version(own),
            shadow: version(shadow),
            compared,
            agreed,
            dropped: 3,
        };
        counted.compared = vec![
            compared(1, 2, 100, 90),
            compared(1, 3, 0, 0),
            compared(2, 1, 5, 5),
        ];
        let one = arms(&counted, &[1]).remove(0);
        let with: Vec<_> = one
            .agreement
            .iter()
            .map(|one| (one.with, one.agreed, one.dropped))
            .collect();
        assert_eq!(
            with,
            [
                (version(2), Proportion::new(90, 100), 3),
                (version(3), None, 3)
            ]
        );
    }
}
