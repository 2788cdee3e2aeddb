//! A canary: a candidate that gets more and more of a baseline's traffic, and what is decided about it from what it did.
//!
//! All of it is pure: who calls counts, asks, and puts the decision in force.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::evidence::real;
use super::figures::{ArmFigures, Figures};
use super::guard::Guards;
use super::{Arm, ArmName, StickyBy};
use crate::domain::ids::{Alias, VersionNumber};

/// A candidate beside its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// The salt: another one shuffles anew who gets which arm.
    pub experiment: Uuid,
    /// This canary, from its beginning on: what its arms did is counted under it.
    pub run: Uuid,
    /// The version that served before, and serves whoever does not get the candidate.
    pub baseline: VersionNumber,
    /// The version that is tried.
    pub candidate: VersionNumber,
    /// The candidate's shares of the traffic in percent, rising; at least one.
    pub steps: Vec<f64>,
    /// Answers of the candidate, over all replicas, after which a step is over if the guards hold.
    pub step_requests: u64,
    /// What has to hold.
    pub guards: Guards,
    /// The part of the candidate's requests that also runs on the baseline, from 0 to 1.
    pub agreement_sample: f64,
    /// What stays with its arm.
    pub sticky_by: StickyBy,
    /// Aliases that name the candidate once it is promoted.
    pub promote_aliases: Vec<Alias>,
    /// When it began.
    pub begun_at: DateTime<Utc>,
    /// How far it has come.
    pub stage: Stage,
}

/// How far a canary has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Whether it moves.
    pub state: CanaryState,
    /// The step that it is at, or ended at, from 0.
    pub step: usize,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why it is so; nothing at the beginning.
    pub reason: Option<String>,
}

/// Whether a canary moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// It moves on by itself, or rolls back.
    Running,
    /// It does not move on, but still rolls back.
    Paused,
    /// The candidate has all the traffic.
    Promoted,
    /// The baseline has all the traffic.
    RolledBack,
}

impl CanaryState {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// What follows from what a canary's arms did.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing yet; what for.
    Wait(Vec<String>),
    /// The step is over; the text says why.
    MoveOn(String),
    /// A guard is broken; the text says which, and by what.
    RollBack(String),
}

/// What an operator may want of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All traffic to the candidate.
    Promote,
    /// All traffic to the baseline.
    RollBack,
    /// No moving on.
    Pause,
    /// Moving on again.
    Resume,
}

/// How unlikely it is, where requests are assigned each by itself, that none of those that came was the candidate's.
const UNLIKELY: f64 = 1e-6;

impl Canary {
    /// Whether anything is still to be decided.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage.state, CanaryState::Running | CanaryState::Paused)
    }

    /// The step that it is at, as it is counted.
    #[must_use]
    pub fn step(&self) -> u64 {
        u64::try_from(self.stage.step).unwrap_or(u64::MAX)
    }

    /// The candidate's share of the traffic now, in percent.
    #[must_use]
    pub fn share(&self) -> f64 {
        match self.stage.state {
            CanaryState::Running | CanaryState::Paused => {
                self.steps.get(self.stage.step).copied().unwrap_or_default()
            }
            CanaryState::Promoted => 100.0,
            CanaryState::RolledBack => 0.0,
        }
    }

    /// Its arms with their shares as they are now, the baseline first.
    #[must_use]
    pub fn arms(&self) -> [Arm; 2] {
        let share = self.share();
        let arm = |version, weight| Arm { version, weight };
        [
            arm(self.baseline, 100.0 - share),
            arm(self.candidate, share),
        ]
    }

    /// Its arms' names and versions, the baseline first.
    #[must_use]
    pub fn versions(&self) -> [(ArmName, VersionNumber); 2] {
        [
            (ArmName::Baseline, self.baseline),
            (ArmName::Candidate, self.candidate),
        ]
    }

    /// What an arm's version is called.
    pub(super) fn name_of(&self, version: VersionNumber) -> ArmName {
        if version == self.candidate {
            ArmName::Candidate
        } else {
            ArmName::Baseline
        }
    }

    /// What follows from what was counted of this run until now.
    #[must_use]
    pub fn judge(&self, figures: &Figures) -> Verdict {
        if !self.is_open() {
            return Verdict::Wait(Vec::new());
        }
        let seen = figures.seen(self);
        let [baseline, candidate] = &seen;
        let findings = self.guards.look(self, &seen);
        if let Some(broken) = findings.iter().find_map(|finding| finding.broken.as_ref()) {
            return Verdict::RollBack(broken.clone());
        }
        let mut waits = Vec::new();
        let is_paused = self.stage.state == CanaryState::Paused;
        if is_paused {
            waits.push("an operator: it is paused".to_owned());
        }
        if self.has_nobody(baseline, candidate) {
            let (requests, by) = (baseline.answers, &self.sticky_by);
            let nobody =
                format!("none of {requests} requests was on the candidate's side, by {by}");
            // The last step is nobody's to pass over: nothing would be known of the candidate.
            if !is_paused && self.stage.step + 1 < self.steps.len() {
                return Verdict::MoveOn(format!("{nobody}: the step is passed over"));
            }
            waits.push(nobody);
        }
        let answers = candidate.answers;
        if answers < self.step_requests {
            let wanted = self.step_requests;
            waits.push(format!("{answers} of {wanted} answers of the candidate"));
        }
        waits.extend(findings.into_iter().filter_map(|finding| finding.waits));
        if waits.is_empty() {
            Verdict::MoveOn(format!(
                "{answers} answers of the candidate, and the guards hold"
            ))
        } else {
            Verdict::Wait(waits)
        }
    }

    /// Whether a step has nobody on the candidate's side, as far as can be told by so many who were not: with few keys (or
    /// pictures, or users) that stay with their arm there may be none, and none will come.
    fn has_nobody(&self, baseline: &ArmFigures, candidate: &ArmFigures) -> bool {
        let others = 1.0 - self.share() / 100.0;
        candidate.answers + candidate.errors == 0
            && others > 0.0
            && real(baseline.answers) * others.ln() < UNLIKELY.ln()
    }

    /// The same, a step further; promoted after the last one.
    #[must_use]
    pub fn moved_on(&self, reason: &str, now: DateTime<Utc>) -> Self {
        let reason = Some(reason.to_owned());
        if self.stage.step + 1 >= self.steps.len() {
            return self.at(CanaryState::Promoted, reason, now);
        }
        let mut next = self.at(CanaryState::Running, reason, now);
        next.stage.step += 1;
        next
    }

    /// The same, taken back.
    #[must_use]
    pub fn rolled_back(&self, reason: &str, now: DateTime<Utc>) -> Self {
        self.at(CanaryState::RolledBack, Some(reason.to_owned()), now)
    }

    /// The same as an operator wants it.
    ///
    /// # Errors
    /// The state that it is in, where the order does not fit it.
    pub fn ordered(
        &self,
        order: Order,
        reason: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Self, CanaryState> {
        let state = match (order, self.stage.state) {
            (Order::Promote, CanaryState::Promoted)
            | (Order::RollBack, CanaryState::RolledBack) => return Err(self.stage.state),
            (Order::Promote, _) => CanaryState::Promoted,
            (Order::RollBack, _) => CanaryState::RolledBack,
            (Order::Pause, CanaryState::Running) => CanaryState::Paused,
            (Order::Resume, CanaryState::Paused) => CanaryState::Running,
            (Order::Pause | Order::Resume, state) => return Err(state),
        };
        let reason = reason.unwrap_or("by an operator").to_owned();
        Ok(self.at(state, Some(reason), now))
    }

    /// The versions that its aliases have to name from now on, where that is another than `before`.
    #[must_use]
    pub fn moved_aliases(&self, before: &Self) -> Vec<(Alias, VersionNumber)> {
        let version = match (self.stage.state, before.stage.state) {
            (CanaryState::Promoted, _) => self.candidate,
            (CanaryState::RolledBack, CanaryState::Promoted) => self.baseline,
            _ => return Vec::new(),
        };
        let aliases = self.promote_aliases.iter();
        aliases.map(|alias| (alias.clone(), version)).collect()
    }

    fn at(&self, state: CanaryState, reason: Option<String>, now: DateTime<Utc>) -> Self {
        Self {
            stage: Stage {
                state,
                step: self.stage.step,
                since: now,
                reason,
            },
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Latencies, Rollout, Rule};
    use super::*;
    use crate::domain::rollout::Fresh;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).expect("a time")
    }

    fn canary(guards: &serde_json::Value) -> Canary {
        let wanted = serde_json::json!({
            "mode": "canary", "baseline": 1, "candidate": 2, "steps": [10, 50, 100],
            "step_requests": 200, "guards": guards, "promote_aliases": ["stable"],
        });
        let fresh = Fresh {
            id: Uuid::nil(),
            now: now(),
        };
        let rollout = Rollout::wanted(&wanted, &Rollout::default(), fresh).expect("a canary");
        match rollout.rule {
            Rule::Canary(canary) => *canary,
            other => panic!("{other:?}"),
        }
    }

    /// The figures of the first step, where the baseline did `baseline` and the candidate `candidate`.
    fn figures(baseline: ArmFigures, candidate: ArmFigures) -> Figures {
        let labelled = [
            (ArmName::Baseline, (baseline.labels, baseline.correct)),
            (ArmName::Candidate, (candidate.labels, candidate.correct)),
        ];
        Figures {
            steps: [
                ((0, ArmName::Baseline), baseline),
                ((0, ArmName::Candidate), candidate),
            ]
            .into(),
            labelled: labelled.into(),
        }
    }

    fn answers(answers: u64) -> ArmFigures {
        ArmFigures {
            answers,
            ..ArmFigures::default()
        }
    }

    /// So many latencies, evenly between 1 and 2 times `ms`.
    fn latencies(count: u64, ms: u64) -> Latencies {
        let mut latencies = Latencies::default();
        for one in 0..count {
            let at = std::time::Duration::from_micros(ms * 1000 + one * ms * 1000 / count);
            latencies.add(Latencies::bucket(at), 1);
        }
        latencies
    }

    #[derive(Debug)]
    enum Expected {
        Wait,
        MoveOn,
    }

    const WAIT: Expected = Expected::Wait;
    const MOVE_ON: Expected = Expected::MoveOn;

    impl PartialEq<Expected> for Verdict {
        fn eq(&self, expected: &Expected) -> bool {
            match expected {
                Expected::Wait => matches!(self, Self::Wait(_)),
                Expected::MoveOn => matches!(self, Self::MoveOn(_)),
            }
        }
    }

    fn is_rolled_back(verdict: &Verdict, by: &str) -> bool {
        matches!(verdict, Verdict::RollBack(reason) if reason.contains(by))
    }

    #[test]
    fn a_step_ends_after_its_requests_and_the_last_one_promotes() {
        let canary = canary(&serde_json::json!({}));
        let judged = |canary: &Canary, count| canary.judge(&figures(answers(9), answers(count)));
        assert_eq!(judged(&canary, 199), WAIT);
        assert_eq!(judged(&canary, 200), MOVE_ON);
        let second = canary.moved_on("", now());
        assert_eq!((second.stage.step, second.share()), (1, 50.0));
        assert_eq!(judged(&second, 500), WAIT, "another step's count");
        let promoted = second.moved_on("", now()).moved_on("", now());
        assert_eq!(promoted.stage.state, CanaryState::Promoted);
        assert_eq!((promoted.share(), promoted.stage.step), (100.0, 2));
        assert_eq!(judged(&promoted, 500), WAIT);
        let moved = |before: &Canary, after: &Canary| {
            let moved = after.moved_aliases(before);
            moved.first().map(|(_, version)| version.get())
        };
        assert_eq!(moved(&canary, &second), None);
        assert_eq!(moved(&second, &promoted), Some(2));
        let back = promoted.rolled_back("no", now());
        assert_eq!(moved(&promoted, &back), Some(1));
        assert_eq!(moved(&second, &second.rolled_back("no", now())), None);
    }

    #[test]
    fn a_step_with_nobody_on_the_candidates_side_is_passed_over_but_for_the_last() {
        let mut canary = canary(&serde_json::json!({}));
        // At 10 %, nobody of 131 by chance would be one in a million.
        let judged = |canary: &Canary, others| {
            let mut figures = figures(answers(others), answers(0));
            let step = canary.step();
            let moved = std::mem::take(&mut figures.steps).into_iter();
            figures.steps = moved.map(|((_, arm), did)| ((step, arm), did)).collect();
            canary.judge(&figures)
        };
        assert_eq!(judged(&canary, 131), WAIT);
        let skipped = judged(&canary, 132);
        assert!(
            matches!(&skipped, Verdict::MoveOn(why) if why.contains("by key")),
            "{skipped:?}"
        );
        let paused = canary.ordered(Order::Pause, None, now()).expect("paused");
        assert_eq!(judged(&paused, 1000), WAIT);
        canary.steps = vec![10.0];
        let waits = judged(&canary, 1000);
        assert!(
            matches!(&waits, Verdict::Wait(why) if why[0].contains("none of 1000")),
            "{waits:?}"
        );
    }

    #[test]
    fn errors_roll_back_once_they_are_evidence() {
        let canary = canary(&serde_json::json!({"max_error_rate": 0.01}));
        let judged = |errors, answers| {
            let candidate = ArmFigures {
                answers,
                errors,
                ..ArmFigures::default()
            };
            canary.judge(&figures(ArmFigures::default(), candidate))
        };
        assert_eq!(judged(3, 0), WAIT, "three requests are no evidence");
        assert!(is_rolled_back(
            &judged(10, 0),
            "errors of the candidate: 10 of 10"
        ));
        assert_eq!(judged(1, 9), WAIT);
        assert_eq!(judged(2, 200), MOVE_ON);
        // Neither held nor certainly broken: more will tell.
        assert_eq!(judged(4, 200), WAIT);
        assert!(is_rolled_back(&judged(30, 500), "errors"));
    }

    #[test]
    fn agreement_has_to_be_measured_before_it_holds() {
        let canary = canary(&serde_json::json!({"min_agreement": 0.9}));
        let judged = |compared, agreed| {
            let candidate = ArmFigures {
                compared,
                agreed,
                ..answers(300)
            };
            canary.judge(&figures(ArmFigures::default(), candidate))
        };
        assert_eq!(judged(0, 0), WAIT);
        assert_eq!(judged(9, 9), WAIT);
        assert_eq!(judged(10, 10), MOVE_ON, "half of a tenth of 200");
        assert_eq!(judged(10, 8), WAIT);
        assert_eq!(judged(9, 0), WAIT, "fewer than ten");
        assert!(is_rolled_back(
            &judged(10, 1),
            "another class than the baseline's: 9 of 10"
        ));
        assert!(is_rolled_back(&judged(400, 300), "another class"));
    }

    #[test]
    fn latencies_are_compared_where_there_are_enough() {
        let canary = canary(&serde_json::json!({"max_p95_ratio": 1.5}));
        let judged = |count, (baseline, candidate): (u64, u64)| {
            let arm = |ms| ArmFigures {
                latencies: latencies(count, ms),
                ..answers(300)
            };
            canary.judge(&figures(arm(baseline), arm(candidate)))
        };
        assert_eq!(judged(1000, (10, 10)), MOVE_ON);
        assert!(is_rolled_back(&judged(1000, (10, 30)), "95th percentile"));
        assert_eq!(judged(1000, (30, 10)), MOVE_ON);
        assert_eq!(judged(19, (10, 100)), MOVE_ON, "not measured");
        assert_eq!(judged(40, (10, 100)), WAIT, "measured, not certain");
    }

    #[test]
    fn accuracy_counts_where_there_is_enough_feedback() {
        let arm = |(labels, correct)| ArmFigures {
            labels,
            correct,
            ..answers(300)
        };
        let judged = |guards: &serde_json::Value, baseline, candidate| {
            canary(guards).judge(&figures(arm(baseline), arm(candidate)))
        };
        let least = serde_json::json!({"min_accuracy": 0.9});
        assert_eq!(judged(&least, (0, 0), (0, 0)), MOVE_ON, "no feedback");
        assert_eq!(judged(&least, (0, 0), (9, 5)), MOVE_ON, "hardly any");
        assert_eq!(judged(&least, (0, 0), (20, 17)), WAIT);
        assert!(is_rolled_back(
            &judged(&least, (0, 0), (50, 10)),
            "wrong answers"
        ));
        let drop = serde_json::json!({"max_accuracy_drop": 0.02});
        assert_eq!(judged(&drop, (500, 450), (500, 460)), MOVE_ON);
        assert_eq!(judged(&drop, (100, 90), (100, 85)), WAIT);
        assert!(is_rolled_back(
            &judged(&drop, (500, 450), (500, 300)),
            "right for 300 of 500"
        ));
    }

    #[test]
    fn an_operator_has_the_last_word() {
        let canary = canary(&serde_json::json!({}));
        let paused = canary.ordered(Order::Pause, None, now()).expect("paused");
        let judged = paused.judge(&figures(answers(1), answers(900)));
        assert_eq!(judged, WAIT, "it does not move on");
        assert_eq!(paused.share().to_bits(), 10_f64.to_bits());
        assert_eq!(
            paused.ordered(Order::Pause, None, now()),
            Err(CanaryState::Paused)
        );
        let again = paused
            .ordered(Order::Resume, Some("go"), now())
            .expect("running");
        assert_eq!(again.stage.reason.as_deref(), Some("go"));
        let back = again.ordered(Order::RollBack, None, now()).expect("back");
        assert_eq!(
            back.ordered(Order::Resume, None, now()),
            Err(CanaryState::RolledBack)
        );
        let promoted = back.ordered(Order::Promote, None, now()).expect("promoted");
        assert_eq!(promoted.share().to_bits(), 100_f64.to_bits());
    }
}
