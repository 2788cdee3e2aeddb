//! How the versions of a model do beside each other: asks the store for what is counted, and has it made into figures.
//!
//! Only what the database has is counted: the last moment's predictions may still be in a spool. What is made of the counts is
//! in `arms`, how the times of a sample become percentiles in `times`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Predictions, ReadError};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::rollout::Rollout;
use crate::store::{Disagreement, Timed, Window};

mod arms;
mod times;

pub use arms::{Agreement, ArmReport, ClassCount, Drifts, VersusBaseline};
pub use times::{Percentiles, Times};

use arms::{Counted, Tally};
use times::Sampling;

/// Disagreements that are shown.
const STRONGEST: u32 = 20;

/// What a report is of.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportQuery {
    /// The model.
    pub model: ModelId,
    /// How its traffic is shared now: it says which versions are arms, and which is the baseline.
    pub rollout: Rollout,
    /// When the requests came.
    pub window: Window,
    /// What their distributions are compared with.
    pub reference: Window,
}

/// How the versions of a model do.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The versions that had requests, and those that the rollout names, in their order.
    pub arms: Vec<ArmReport>,
    /// The pictures on which arms and their shadows disagree most, the strongest first; whenever that was.
    pub disagreements: Vec<Disagreement>,
}

impl Predictions {
    /// How the versions of a model do.
    ///
    /// # Errors
    /// When the store is away, or needs more than 30 s for one of its counts.
    pub async fn report(&self, query: &ReportQuery) -> Result<Report, ReadError> {
        let (store, model) = (self.store(), &query.model);
        let (outcomes, before, labelled, compared) = tokio::try_join!(
            store.outcomes(model, query.window),
            store.outcomes(model, query.reference),
            store.labelled(model, query.window),
            store.compared(model, query.window),
        )?;
        let (tallies, before) =
            elsewhere(move || (Tally::all(outcomes), Tally::all(before))).await?;
        let named = query.rollout.named().map(|(_, version)| version);
        let versions: BTreeSet<VersionNumber> = tallies.keys().copied().chain(named).collect();
        let all: Vec<VersionNumber> = versions.iter().copied().collect();
        let fresh = tallies
            .iter()
            .map(|(version, tally)| (*version, tally.fresh));
        let sampling = Sampling::of(fresh);
        let (sampled, whole, disagreements) = tokio::try_join!(
            store.latencies(model, &sampling.sampled, query.window, sampling.share),
            store.latencies(model, &sampling.whole, query.window, 1.0),
            store.disagreements(model, &all, STRONGEST),
        )?;
        let counted = Counted {
            rollout: query.rollout.clone(),
            tallies,
            before,
            labelled,
            compared,
        };
        let arms = elsewhere(move || counted.arms(&versions, &mut times(sampled, whole))).await?;
        Ok(Report {
            arms,
            disagreements,
        })
    }
}

/// The times of each version; no version is in both.
fn times(sampled: Vec<Timed>, whole: Vec<Timed>) -> BTreeMap<VersionNumber, Times> {
    let mut times = Times::by_version(sampled, true);
    times.extend(Times::by_version(whole, false));
    times
}

/// Computes beside the runtime: a hundred thousand numbers may have to be put in order.
async fn elsewhere<T: Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadError> {
    let computed = tokio::task::spawn_blocking(compute).await;
    computed.map_err(|error| ReadError::Failed(error.to_string()))
}
