//! What is measured next: all settings, larger batches while they may pay, then the best of them again.
//!
//! Called by `tune`. Pure: hears figures, knows no clock and no model.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Figures, ServingKeys};

/// So often are those measured that may be chosen.
pub const ROUNDS: usize = 3;

/// Before anything is dropped, every way to share the cores is measured so often: one measurement alone may have met
/// somebody else at work.
const FIRST_ROUNDS: usize = 2;

/// Who is behind the best by no more than this, then, is measured again.
const MAY_STILL_WIN: f64 = 0.25;

/// A batch that gives so much less than the next smaller one is the last of its kind.
const CLEARLY_WORSE: f64 = 0.10;

/// So many are measured again for each goal, at most.
const FINALISTS: usize = 4;

/// Batches are tried with so many ways to share the cores.
const BATCHED: usize = 2;

/// Why settings take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No key is set: what the gateway does by itself.
    Default,
    /// What the manifest says now.
    Written,
    /// One of the combinations for this machine.
    Tried,
}

/// Settings that take part, and what was measured with them.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The settings.
    pub keys: ServingKeys,
    /// Why they take part.
    pub origin: Origin,
    /// One measurement a round.
    pub runs: Vec<Figures>,
    /// Why it could not be measured.
    pub failure: Option<String>,
}

impl Contender {
    pub(super) fn new(keys: ServingKeys, origin: Origin) -> Self {
        Self {
            keys,
            origin,
            runs: Vec::new(),
            failure: None,
        }
    }

    /// Each figure in its best round: whoever else is on the machine makes it worse, never better. `None` where
    /// nothing was measured.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        let rates = self.runs.iter().map(|run| run.throughput);
        Some(Figures {
            throughput: rates.max_by(f64::total_cmp)?,
            p50: self.runs.iter().map(|run| run.p50).min()?,
            p99: self.runs.iter().map(|run| run.p99).min()?,
            memory: self.runs.iter().filter_map(|run| run.memory).max(),
        })
    }

    /// Whether it was measured in every round.
    #[must_use]
    pub fn is_measured_to_the_end(&self) -> bool {
        self.failure.is_none() && self.runs.len() >= ROUNDS
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Every way to share the cores.
    Pairs,
    /// Batches, upwards.
    Batches,
    /// The best of them, in the rounds that are left.
    Finals,
}

/// Who takes part and whose turn it is.
pub(super) struct Contest {
    contenders: Vec<Contender>,
    turns: VecDeque<ServingKeys>,
    batches: &'static [usize],
    stage: Stage,
    done: usize,
}

impl Contest {
    /// The default, what is `written`, and all `pairs`, each with one picture a run; `batches` rise.
    pub(super) fn new(
        written: ServingKeys,
        pairs: &[ServingKeys],
        batches: &'static [usize],
    ) -> Self {
        let mut contest = Self {
            contenders: Vec::new(),
            turns: VecDeque::new(),
            batches,
            stage: Stage::Pairs,
            done: 0,
        };
        contest.join(ServingKeys::default(), Origin::Default);
        contest.join(written, Origin::Written);
        for &pair in pairs {
            contest.join(pair, Origin::Tried);
        }
        let once = contest.turns.clone();
        for round in 1..FIRST_ROUNDS {
            contest.take_turns(round, once.iter().copied());
        }
        contest
    }

    fn join(&mut self, keys: ServingKeys, origin: Origin) {
        if self.find(keys).is_none() {
            self.contenders.push(Contender::new(keys, origin));
            self.turns.push_back(keys);
        }
    }

    fn find(&self, keys: ServingKeys) -> Option<&Contender> {
        self.contenders.iter().find(|one| one.keys == keys)
    }

    /// What to measure now; `None` when all is known.
    pub(super) fn next(&mut self) -> Option<ServingKeys> {
        while self.turns.is_empty() {
            self.stage = match self.stage {
                Stage::Pairs => {
                    self.begin_batches();
                    Stage::Batches
                }
                Stage::Batches => {
                    self.begin_finals();
                    Stage::Finals
                }
                Stage::Finals => return None,
            };
        }
        self.turns.pop_front()
    }

    /// Notes what came of the measurement that [`Self::next`] asked for.
    pub(super) fn record(&mut self, keys: ServingKeys, outcome: Result<Figures, String>) {
        self.done += 1;
        let Some(contender) = self.contenders.iter_mut().find(|one| one.keys == keys) else {
            return;
        };
        match outcome {
            Ok(figures) => {
                contender.runs.push(figures);
                if self.stage == Stage::Batches {
                    self.climb(keys);
                }
            }
            Err(reason) => {
                contender.failure = Some(reason);
                self.turns.retain(|turn| *turn != keys);
            }
        }
    }

    /// Measurements that are done.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Measurements that are still to come, this one included, as far as it can be told: batches may be fewer.
    pub(super) fn expected(&self) -> usize {
        let batches = match self.stage {
            Stage::Pairs => self.batches.len() * BATCHED,
            Stage::Batches | Stage::Finals => 0,
        };
        let finals = match self.stage {
            Stage::Pairs | Stage::Batches => FINALISTS * (ROUNDS - 1),
            Stage::Finals => 0,
        };
        1 + self.turns.len() + batches + finals
    }

    pub(super) fn into_contenders(self) -> Vec<Contender> {
        self.contenders
    }

    /// Those that ran, the best first.
    fn ranked(&self, score: fn(&Figures) -> f64) -> Vec<(&Contender, f64)> {
        let scored = |one| Contender::figures(one).map(|figures| (one, score(&figures)));
        let sound = self.contenders.iter().filter(|one| one.failure.is_none());
        let mut ranked: Vec<(&Contender, f64)> = sound.filter_map(scored).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }

    fn begin_batches(&mut self) {
        let Some(&first) = self.batches.first() else {
            return;
        };
        let by_rate = self.ranked(|figures| figures.throughput).into_iter();
        let pairs = by_rate.map(|(one, _)| one.keys);
        let best: Vec<ServingKeys> = pairs
            .filter(|keys| keys.max_batch_size == Some(1))
            .take(BATCHED)
            .collect();
        for keys in best {
            self.join(with_batch(keys, first), Origin::Tried);
        }
    }

    /// The next larger batch joins unless this one was clearly worse than the next smaller.
    fn climb(&mut self, keys: ServingKeys) {
        let place = |batch| self.batches.iter().position(|one| Some(*one) == batch);
        let Some(at) = place(keys.max_batch_size) else {
            return;
        };
        let smaller = at.checked_sub(1).and_then(|below| self.batches.get(below));
        let rate = |batch| {
            let contender = self.find(with_batch(keys, batch))?;
            Some(contender.figures()?.throughput)
        };
        let pays = match (rate(*smaller.unwrap_or(&1)), self.find(keys)) {
            (Some(smaller), Some(this)) => this
                .figures()
                .is_some_and(|figures| figures.throughput >= smaller * (1.0 - CLEARLY_WORSE)),
            _ => true,
        };
        if let Some(&next) = self.batches.get(at + 1).filter(|_| pays) {
            self.join(with_batch(keys, next), Origin::Tried);
        }
    }

    /// Those that may still win go round by round, so that a noisy moment harms all alike.
    fn begin_finals(&mut self) {
        let mut finalists: Vec<ServingKeys> = Vec::new();
        let scores: [fn(&Figures) -> f64; 2] =
            [|figures| figures.throughput, |figures| speed(figures.p50)];
        for score in scores {
            let ranked = self.ranked(score);
            let best = ranked.first().map_or(0.0, |(_, score)| *score);
            let close = ranked
                .iter()
                .filter(|(_, score)| *score >= best * (1.0 - MAY_STILL_WIN));
            finalists.extend(close.take(FINALISTS).map(|(one, _)| one.keys));
        }
        let plays = |one: &Contender| {
            let counts = one.origin != Origin::Tried || finalists.contains(&one.keys);
            counts && one.failure.is_none()
        };
        for round in 1..ROUNDS {
            let behind = |one: &&Contender| plays(one) && one.runs.len() <= round;
            let keys: Vec<ServingKeys> = self
                .contenders
                .iter()
                .filter(behind)
                .map(|one| one.keys)
                .collect();
            self.take_turns(round, keys.into_iter());
        }
    }

    /// Back and forth: what drifts with time, as the machine's warmth does, evens out.
    fn take_turns(&mut self, round: usize, keys: impl DoubleEndedIterator<Item = ServingKeys>) {
        if round % 2 == 1 {
            self.turns.extend(keys.rev());
        } else {
            self.turns.extend(keys);
        }
    }
}

fn with_batch(keys: ServingKeys, batch: usize) -> ServingKeys {
    ServingKeys {
        max_batch_size: Some(batch),
        ..keys
    }
}

/// Pictures that a lone caller gets in a second: more is better, as of every score.
pub(super) fn speed(p50: Duration) -> f64 {
    1.0 / p50.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(throughput: f64, p50_ms: u64) -> Figures {
        Figures {
            throughput,
            p50: Duration::from_millis(p50_ms),
            p99: Duration::from_millis(p50_ms * 2),
            memory: Some(1 << 20),
        }
    }

    fn pairs() -> Vec<ServingKeys> {
        [(4, 1), (2, 2), (1, 4)]
            .map(|(instances, threads)| ServingKeys::all(instances, threads, 1))
            .to_vec()
    }

    /// Plays it to the end, and gives the order of turns.
    fn play(
        contest: &mut Contest,
        machine: impl Fn(ServingKeys) -> Result<Figures, String>,
    ) -> Vec<ServingKeys> {
        let mut turns = Vec::new();
        while let Some(keys) = contest.next() {
            assert!(contest.expected() >= 1);
            assert!(turns.len() < 1000, "it never ends");
            turns.push(keys);
            contest.record(keys, machine(keys));
        }
        assert_eq!(contest.done(), turns.len());
        turns
    }

    fn count(turns: &[ServingKeys], keys: ServingKeys) -> usize {
        turns.iter().filter(|turn| **turn == keys).count()
    }

    #[test]
    fn all_have_a_turn_and_those_that_may_win_have_one_more() {
        let written = ServingKeys::all(9, 9, 9);
        let mut contest = Contest::new(written, &pairs(), &[]);
        // One way is hopeless, and so is what is written: but that is what the others are held against.
        let turns = play(&mut contest, |keys| match keys.instances {
            Some(2 | 9) => Ok(figures(10.0, 100)),
            Some(4) => Ok(figures(100.0, 10)),
            _ => Ok(figures(90.0, 5)),
        });
        assert_eq!(turns.len(), 5 * FIRST_ROUNDS + 4);
        assert_eq!(count(&turns, ServingKeys::all(2, 2, 1)), FIRST_ROUNDS);
        for keys in [
            ServingKeys::default(),
            written,
            ServingKeys::all(4, 1, 1),
            ServingKeys::all(1, 4, 1),
        ] {
            assert_eq!(count(&turns, keys), ROUNDS, "{keys:?}");
        }
        // Round by round, there and back.
        let (first, second) = (&turns[..5], &turns[5..10]);
        assert_eq!(second.iter().rev().copied().collect::<Vec<_>>(), first);
        let ended = contest.into_contenders();
        assert_eq!(
            ended.iter().filter(|c| c.is_measured_to_the_end()).count(),
            4
        );
    }

    #[test]
    fn larger_batches_are_tried_while_they_pay_and_only_with_the_best_pairs() {
        let mut contest = Contest::new(ServingKeys::default(), &pairs(), &[2, 4, 8, 16]);
        let turns = play(&mut contest, |keys| {
            let rate = match (keys.instances, keys.max_batch_size) {
                (Some(2), _) => 40.0,
                // Gains with every batch.
                (Some(1), Some(batch)) => 100.0 + f64::from(u32::try_from(batch).expect("small")),
                // Loses from the second one on.
                (Some(4), Some(4 | 8 | 16)) => 60.0,
                _ => 100.0,
            };
            Ok(figures(rate, 10))
        });
        let tried = |instances, threads, batch| {
            count(&turns, ServingKeys::all(instances, threads, batch)) > 0
        };
        assert_eq!(
            [2, 4, 8, 16].map(|batch| tried(1, 4, batch)),
            [true; 4],
            "it pays"
        );
        assert_eq!(
            [2, 4, 8, 16].map(|batch| tried(4, 1, batch)),
            [true, true, false, false],
            "it was clearly worse"
        );
        assert!(!tried(2, 2, 2), "not one of the best pairs");
    }

    #[test]
    fn what_fails_has_no_other_turn() {
        let mut contest = Contest::new(ServingKeys::default(), &pairs(), &[2]);
        let turns = play(&mut contest, |keys| {
            if keys.threads == Some(4) || keys.max_batch_size == Some(2) {
                Err("no memory".to_owned())
            } else {
                Ok(figures(50.0, 10))
            }
        });
        assert_eq!(count(&turns, ServingKeys::all(1, 4, 1)), 1);
        assert_eq!(count(&turns, ServingKeys::all(4, 1, 2)), 1);
        assert_eq!(count(&turns, ServingKeys::all(4, 1, 1)), ROUNDS);
        let failed = contest.into_contenders();
        let failed = failed.iter().filter(|one| one.failure.is_some());
        assert_eq!(failed.count(), 3);
    }

    #[test]
    fn settings_that_are_written_already_are_no_second_contender() {
        let contest = Contest::new(ServingKeys::all(4, 1, 1), &pairs(), &[]);
        let contenders = contest.into_contenders();
        let origins: Vec<Origin> = contenders.iter().map(|one| one.origin).collect();
        assert_eq!(
            origins,
            [
                Origin::Default,
                Origin::Written,
                Origin::Tried,
                Origin::Tried
            ]
        );
    }

    #[test]
    fn one_bad_round_drops_nobody() {
        let mut contest = Contest::new(ServingKeys::default(), &pairs(), &[]);
        let disturbed = ServingKeys::all(4, 1, 1);
        let met = std::cell::Cell::new(false);
        let turns = play(&mut contest, |keys| {
            let now = keys == disturbed && !met.replace(met.get() || keys == disturbed);
            Ok(figures(if now { 10.0 } else { 100.0 }, 10))
        });
        assert_eq!(count(&turns, disturbed), ROUNDS);
    }

    #[test]
    fn figures_are_those_of_the_best_round() {
        let mut one = Contender::new(ServingKeys::default(), Origin::Default);
        assert_eq!(one.figures(), None);
        one.runs = [(90.0, 7), (10.0, 90), (100.0, 8)]
            .map(|(rate, p50)| figures(rate, p50))
            .to_vec();
        assert_eq!(one.figures(), Some(figures(100.0, 7)));
    }
}
