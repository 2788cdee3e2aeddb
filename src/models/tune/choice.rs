//! Which settings are the best, and whether they are better by more than noise.
//!
//! Called by `tune` and, through its report, by the command line. Pure: knows figures alone.

use super::Figures;
use super::contest::{Contender, Origin, speed};

/// A difference up to this share is noise on any machine.
pub const LEAST_NOISE: f64 = 0.05;

/// What is to be the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Pictures a second with a crowd.
    Throughput,
    /// A lone caller's median.
    Latency,
}

impl Goal {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
        }
    }

    /// More is better.
    fn score(self, figures: &Figures) -> f64 {
        match self {
            Self::Throughput => figures.throughput,
            Self::Latency => speed(figures.p50),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Throughput => Self::Latency,
            Self::Latency => Self::Throughput,
        }
    }
}

/// Why the chosen settings are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are in force now, and no others were better by more than noise.
    Stay,
    /// What is written now is clearly worse, but the default is as good as the best.
    Default,
    /// They are better than what is in force, by more than noise.
    Better,
}

/// The best settings for a goal, and those to take.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Whose figure was the best.
    pub best: &'a Contender,
    /// Who is to be taken.
    pub chosen: &'a Contender,
    /// Why.
    pub verdict: Verdict,
    /// What is in force now, where it could be measured.
    pub in_force: Option<&'a Contender>,
    /// By which share the best is better than what is in force.
    pub gain: f64,
    /// Up to this share `gain` is noise: the best two rounds of one and the same settings differed as much.
    pub noise: f64,
}

/// One that was measured in every round.
#[derive(Clone, Copy)]
struct Measured<'a> {
    contender: &'a Contender,
    score: f64,
    other: f64,
    /// By which share the best round is better than the second best: what was seen once may be luck.
    luck: f64,
}

impl<'a> Measured<'a> {
    fn of(contender: &'a Contender, goal: Goal) -> Option<Self> {
        let figures = contender
            .figures()
            .filter(|_| contender.is_measured_to_the_end())?;
        let score = goal.score(&figures);
        let mut rounds: Vec<f64> = contender.runs.iter().map(|run| goal.score(run)).collect();
        rounds.sort_by(|a, b| b.total_cmp(a));
        let second = rounds.get(1).copied().unwrap_or(0.0);
        Some(Self {
            contender,
            score,
            other: goal.other().score(&figures),
            luck: share_over(score, second),
        })
    }

    fn gain_over(&self, other: &Self) -> f64 {
        share_over(self.score, other.score)
    }

    fn noise_beside(&self, other: &Self) -> f64 {
        LEAST_NOISE.max(self.luck).max(other.luck)
    }

    fn is_clearly_better_than(&self, other: &Self) -> bool {
        self.gain_over(other) > self.noise_beside(other)
    }
}

/// By which share `this` is more than `that`.
fn share_over(this: f64, that: f64) -> f64 {
    this / that.max(f64::MIN_POSITIVE) - 1.0
}

/// The choice for `goal`: what is in force stays unless something is better by more than noise; then the default is
/// preferred to settings that are only as good.
pub(super) fn choose(contenders: &[Contender], goal: Goal) -> Option<Choice<'_>> {
    let measured = contenders.iter().filter_map(|one| Measured::of(one, goal));
    let measured: Vec<Measured<'_>> = measured.collect();
    let best = *measured.iter().max_by(|a, b| a.score.total_cmp(&b.score))?;
    let of = |origin| measured.iter().find(|one| one.contender.origin == origin);
    let (written, default) = (of(Origin::Written), of(Origin::Default));
    let is_written = contenders.iter().any(|one| one.origin == Origin::Written);
    let in_force = if is_written { written } else { default };
    let (chosen, verdict) = match (in_force, default) {
        (Some(stays), _) if !best.is_clearly_better_than(stays) => (*stays, Verdict::Stay),
        (_, Some(default)) if !best.is_clearly_better_than(default) => (*default, Verdict::Default),
        _ => (pick(&measured, &best, in_force), Verdict::Better),
    };
    Some(Choice {
        best: best.contender,
        chosen: chosen.contender,
        verdict,
        in_force: in_force.map(|one| one.contender),
        gain: in_force.map_or(0.0, |stays| best.gain_over(stays)),
        noise: in_force.map_or(LEAST_NOISE, |stays| best.noise_beside(stays)),
    })
}

/// Of those that are as good as the best, and still clearly better than what is in force, the one that is best in the
/// other respect: a hair of throughput is no reason to make a lone caller wait.
fn pick<'a>(
    measured: &[Measured<'a>],
    best: &Measured<'a>,
    in_force: Option<&Measured<'a>>,
) -> Measured<'a> {
    let as_good = measured.iter().filter(|one| {
        one.score >= best.score * (1.0 - LEAST_NOISE)
            && in_force.is_none_or(|stays| one.is_clearly_better_than(stays))
    });
    as_good
        .max_by(|a, b| a.other.total_cmp(&b.other))
        .copied()
        .unwrap_or(*best)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ServingKeys;
    use super::super::contest::ROUNDS;
    use super::*;

    fn keys(instances: usize) -> ServingKeys {
        ServingKeys::all(instances, 1, 1)
    }

    /// Measured in every round, each with its rate, and always with this median.
    fn contender(origin: Origin, number: usize, rates: [f64; ROUNDS], p50_us: u64) -> Contender {
        let keys = match origin {
            Origin::Default => ServingKeys::default(),
            _ => keys(number),
        };
        let mut contender = Contender::new(keys, origin);
        contender.runs = rates
            .map(|throughput| Figures {
                throughput,
                p50: Duration::from_micros(p50_us),
                p99: Duration::from_micros(p50_us * 2),
                memory: None,
            })
            .to_vec();
        contender
    }

    fn steady(origin: Origin, number: usize, rate: f64, p50_us: u64) -> Contender {
        contender(origin, number, [rate; ROUNDS], p50_us)
    }

    fn choice(contenders: &[Contender], goal: Goal) -> (ServingKeys, Verdict) {
        let choice = choose(contenders, goal).expect("a choice");
        (choice.chosen.keys, choice.verdict)
    }

    #[test]
    fn within_noise_the_default_stays() {
        let all = [
            steady(Origin::Default, 0, 100.0, 1000),
            steady(Origin::Tried, 1, 104.9, 970),
            steady(Origin::Tried, 2, 99.0, 2000),
        ];
        for goal in [Goal::Throughput, Goal::Latency] {
            assert_eq!(
                choice(&all, goal),
                (ServingKeys::default(), Verdict::Stay),
                "{goal:?}"
            );
            assert_eq!(choose(&all, goal).expect("a choice").best.keys, keys(1));
        }
    }

    #[test]
    fn what_is_better_by_more_than_noise_is_chosen_for_its_goal_alone() {
        let all = [
            steady(Origin::Default, 0, 100.0, 1000),
            steady(Origin::Tried, 1, 110.0, 1000),
            steady(Origin::Tried, 2, 80.0, 500),
        ];
        let of = |goal| choice(&all, goal);
        assert_eq!(of(Goal::Throughput), (keys(1), Verdict::Better));
        assert_eq!(of(Goal::Latency), (keys(2), Verdict::Better));
        let gain = choose(&all, Goal::Latency).expect("a choice").gain;
        assert!((gain - 1.0).abs() < 1e-6, "{gain}");
    }

    #[test]
    fn what_was_seen_once_is_luck() {
        let quiet = steady(Origin::Default, 0, 100.0, 1000);
        let better = |rates| contender(Origin::Tried, 1, rates, 1000);
        let with = |rates| choice(&[quiet.clone(), better(rates)], Goal::Throughput).1;
        assert_eq!(with([112.0, 112.0, 112.0]), Verdict::Better);
        // Somebody else was at work in one round: the two others agree.
        assert_eq!(with([112.0, 20.0, 111.0]), Verdict::Better);
        // Better than the default in one round alone.
        assert_eq!(with([90.0, 100.0, 140.0]), Verdict::Stay);
        // The default was disturbed in two rounds of three: its best round tells, and that it was but one.
        let disturbed = contender(Origin::Default, 0, [9.0, 100.0, 7.0], 1000);
        for rates in [[90.0; ROUNDS], [112.0; ROUNDS]] {
            let all = [disturbed.clone(), better(rates)];
            assert_eq!(choice(&all, Goal::Throughput).1, Verdict::Stay);
        }
    }

    #[test]
    fn what_is_written_stays_within_noise_and_else_gives_way() {
        let default = steady(Origin::Default, 0, 100.0, 1000);
        let tried = steady(Origin::Tried, 1, 103.0, 1000);
        let written = |rate| steady(Origin::Written, 9, rate, 1000);
        let with = |rate| {
            let all = [default.clone(), written(rate), tried.clone()];
            choice(&all, Goal::Throughput)
        };
        assert_eq!(with(99.0), (keys(9), Verdict::Stay));
        // The default is as good as the best: nothing needs to be written at all.
        assert_eq!(with(50.0), (ServingKeys::default(), Verdict::Default));
        let far = [
            default,
            written(50.0),
            steady(Origin::Tried, 1, 150.0, 1000),
        ];
        assert_eq!(choice(&far, Goal::Throughput), (keys(1), Verdict::Better));
    }

    #[test]
    fn of_equals_the_one_that_is_better_in_the_other_respect() {
        let all = [
            steady(Origin::Default, 0, 100.0, 1000),
            steady(Origin::Tried, 1, 202.0, 5000),
            steady(Origin::Tried, 2, 200.0, 900),
            steady(Origin::Tried, 3, 150.0, 100),
        ];
        assert_eq!(choice(&all, Goal::Throughput), (keys(2), Verdict::Better));
    }

    #[test]
    fn what_failed_or_was_dropped_on_the_way_cannot_win() {
        let mut failed = steady(Origin::Tried, 1, 900.0, 10);
        failed.failure = Some("out of memory".to_owned());
        let mut dropped = steady(Origin::Tried, 2, 900.0, 10);
        dropped.runs.truncate(1);
        let default = steady(Origin::Default, 0, 100.0, 1000);
        let all = [default, failed.clone(), dropped];
        assert_eq!(choice(&all, Goal::Throughput).1, Verdict::Stay);
        assert!(choose(&[failed.clone()], Goal::Throughput).is_none());
        // What is in force could not be measured: the default is the next best thing to hold on to.
        let mut written = steady(Origin::Written, 9, 100.0, 1000);
        written.failure = Some("no threads".to_owned());
        let all = [steady(Origin::Default, 0, 100.0, 1000), written];
        assert_eq!(
            choice(&all, Goal::Throughput),
            (ServingKeys::default(), Verdict::Default)
        );
    }
}
