//! What the arms of canaries do and what versions and their shadows agree on, counted here and added to the store's sums each
//! second: what counts is what all replicas saw.
//!
//! Called by `classify` with what happened, and by who takes it to the store. While the store is away it is kept: a sum for each
//! arm and pair, and the strongest disagreements.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use crate::domain::ids::Digest;
use crate::domain::rollout::{CanaryPlace, Counted, Disagreement, Latencies, Pair};
use crate::store::{FigureStore, MOST_DISAGREEMENTS, StoreError};

/// Minutes whose agreements are kept while the store is away.
const MOST_MINUTES: usize = 10_000;

/// What became of a picture that a canary's arm was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmOutcome {
    /// It was answered, after so long where the answer took a run of its own.
    Answered(Option<Duration>),
    /// It was not, for reasons that do not lie in the picture.
    Failed,
}

/// What became of a picture that a shadow was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It named the same class.
    Agrees,
    /// It named another.
    Disagrees(Disagreement),
    /// It was not run, or failed.
    Nothing,
}

/// What was counted since it was last taken to the store.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counted>);

impl Tally {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a canary's arm did.
    pub fn did(&self, place: CanaryPlace, outcome: ArmOutcome) {
        let mut counted = self.counted();
        let figures = counted.canaries.entry(place).or_default();
        match outcome {
            ArmOutcome::Answered(took) => {
                figures.answers += 1;
                if let Some(took) = took {
                    figures.latencies.add(Latencies::bucket(took), 1);
                }
            }
            ArmOutcome::Failed => figures.errors += 1,
        }
    }

    /// Counts what a shadow said of a picture of `at`; `place` is whose agreement it is, where that is a canary's.
    pub fn heard(&self, pair: Pair, place: Option<CanaryPlace>, heard: Heard, at: DateTime<Utc>) {
        let minute = at.duration_trunc(TimeDelta::minutes(1)).unwrap_or(at);
        let (compared, agreed) = match heard {
            Heard::Agrees => (1, 1),
            Heard::Disagrees(_) => (1, 0),
            Heard::Nothing => (0, 0),
        };
        let mut counted = self.counted();
        let agreement = counted
            .agreements
            .entry((pair.clone(), minute))
            .or_default();
        agreement.compared += compared;
        agreement.agreed += agreed;
        agreement.dropped += 1 - compared;
        if let Some(place) = place {
            let figures = counted.canaries.entry(place).or_default();
            figures.compared += compared;
            figures.agreed += agreed;
        }
        if let Heard::Disagrees(disagreement) = heard {
            let strongest = counted.disagreements.entry(pair).or_default();
            keep(strongest, disagreement);
        }
    }

    /// Adds what was counted to what the store has. What it does not take is counted on.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn flush(&self, store: &(impl FigureStore + ?Sized)) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut *self.counted());
        if taken.is_empty() {
            return Ok(());
        }
        let added = store.add_counted(&taken).await;
        if added.is_err() {
            self.put_back(taken);
        }
        added
    }

    fn put_back(&self, taken: Counted) {
        let mut counted = self.counted();
        for (place, figures) in taken.canaries {
            counted.canaries.entry(place).or_default().merge(&figures);
        }
        for (of, one) in taken.agreements {
            let agreement = counted.agreements.entry(of).or_default();
            agreement.compared += one.compared;
            agreement.agreed += one.agreed;
            agreement.dropped += one.dropped;
        }
        while counted.agreements.len() > MOST_MINUTES {
            counted.agreements.pop_first();
        }
        for (pair, strongest) in taken.disagreements {
            let kept = counted.disagreements.entry(pair).or_default();
            for disagreement in strongest.into_values() {
                keep(kept, disagreement);
            }
        }
    }
}

/// Keeps a disagreement if it is one of the strongest; of a picture the last one.
fn keep(strongest: &mut BTreeMap<Digest, Disagreement>, one: Disagreement) {
    strongest.insert(one.picture, one);
    if strongest.len() > MOST_DISAGREEMENTS {
        let weakest = strongest
            .values()
            .min_by(|a, b| a.strength().total_cmp(&b.strength()))
            .map(|one| one.picture);
        if let Some(weakest) = weakest {
            strongest.remove(&weakest);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{ModelId, VersionNumber};
    use crate::domain::prediction::first_id_at;
    use crate::domain::rollout::{Agreement, ArmLabels, ArmName};
    use crate::domain::tenant::TenantId;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).expect("a time")
    }

    fn pair() -> Pair {
        Pair {
            model: "digits".parse().expect("a model"),
            version: "2".parse().expect("a version"),
            shadow: "1".parse().expect("a version"),
        }
    }

    fn disagreement(picture: u8, confidence: f32) -> Disagreement {
        Disagreement {
            picture: Digest::from_bytes([picture; 32]),
            tenant: TenantId(Uuid::nil()),
            request_id: first_id_at(at(0)),
            index: 0,
            class: ("7".to_owned(), confidence),
            shadow_class: ("1".to_owned(), 0.5),
            at: at(0),
        }
    }

    /// Takes what it is told, or nothing.
    #[derive(Default)]
    struct Sums {
        is_away: bool,
        told: Mutex<Vec<Counted>>,
    }

    #[async_trait]
    impl FigureStore for Sums {
        async fn add_counted(&self, counted: &Counted) -> Result<(), StoreError> {
            if self.is_away {
                return Err(StoreError::Unavailable("away".to_owned()));
            }
            self.told.lock().expect("alone").push(counted.clone());
            Ok(())
        }

        async fn canary_steps(&self, _: Uuid) -> Result<crate::store::CanarySteps, StoreError> {
            Ok(BTreeMap::new())
        }

        async fn canary_labels(
            &self,
            _: &ModelId,
            _: &[(ArmName, VersionNumber)],
            _: DateTime<Utc>,
        ) -> Result<ArmLabels, StoreError> {
            Ok(ArmLabels::new())
        }

        async fn take_lease(
            &self,
            _: &str,
            _: Uuid,
            _: DateTime<Utc>,
            _: DateTime<Utc>,
        ) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn prune_figures(
            &self,
            _: DateTime<Utc>,
            _: Option<DateTime<Utc>>,
        ) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_the_store_does_not_take_is_told_with_what_comes_later() {
        let tally = Tally::default();
        let place = (Uuid::nil(), 0, ArmName::Candidate);
        let took = Duration::from_millis(3);
        let count = || {
            tally.did(place, ArmOutcome::Answered(Some(took)));
            tally.did(place, ArmOutcome::Answered(None));
            tally.did(place, ArmOutcome::Failed);
            tally.heard(pair(), Some(place), Heard::Agrees, at(0));
            tally.heard(
                pair(),
                Some(place),
                Heard::Disagrees(disagreement(1, 0.9)),
                at(20),
            );
            tally.heard(pair(), None, Heard::Nothing, at(70));
        };
        count();
        let away = Sums {
            is_away: true,
            ..Sums::default()
        };
        assert!(tally.flush(&away).await.is_err());
        count();
        let store = Sums::default();
        tally.flush(&store).await.expect("taken");
        tally.flush(&store).await.expect("nothing to take");
        let told = store.told.into_inner().expect("alone");
        let [counted] = &told[..] else {
            panic!("{told:?}");
        };
        let figures = &counted.canaries[&place];
        assert_eq!((figures.answers, figures.errors), (4, 2));
        assert_eq!((figures.compared, figures.agreed), (4, 2));
        assert_eq!(figures.latencies.count(), 2);
        let minutes: Vec<_> = counted.agreements.values().copied().collect();
        let agreement = |compared, agreed, dropped| Agreement {
            compared,
            agreed,
            dropped,
        };
        // 1 790 000 000 is 20 s into a minute.
        assert_eq!(minutes, [agreement(4, 2, 0), agreement(0, 0, 2)]);
        assert_eq!(counted.disagreements[&pair()].len(), 1, "one picture");
    }

    #[test]
    fn of_disagreements_the_strongest_are_kept() {
        let tally = Tally::default();
        for picture in 0..=u8::MAX {
            let confidence = f32::from(picture.wrapping_mul(97)) / 255.0;
            let one = disagreement(picture, confidence);
            tally.heard(pair(), None, Heard::Disagrees(one), at(0));
        }
        let counted = tally.counted();
        let kept = &counted.disagreements[&pair()];
        assert_eq!(kept.len(), MOST_DISAGREEMENTS);
        let least = kept.values().map(|one| one.class.1).fold(1.0, f32::min);
        let expected =
            f32::from(u8::MAX) + 1.0 - f32::from(u8::try_from(MOST_DISAGREEMENTS).expect("few"));
        assert!((least - expected / 255.0).abs() < 1e-6, "{least}");
    }
}
