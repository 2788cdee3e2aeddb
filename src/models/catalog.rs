//! The catalog: one immutable snapshot of all that is servable, swapped whole. The only door to arc-swap.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::loaded::LoadedVersion;
use crate::domain::ids::{Alias, Digest, ModelId, VersionNumber};
use crate::domain::rollout::Rollout;
use crate::telemetry::metrics::ModelSeries;

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Its files are not whole yet, or its turn to load has not come; the reason says which.
    Waiting,
    /// Its graph is being opened.
    Loading,
    /// Its graph is open and is being tried.
    Testing,
    /// It answers.
    Live,
    /// It cannot be served; the reason says why.
    Failed,
    /// It takes no more requests and finishes those it has.
    Draining,
    /// On disk, but not selected, or taken out of service by an operator, as the reason says.
    Unloaded,
}

impl VersionState {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Loading => "loading",
            Self::Testing => "testing",
            Self::Live => "live",
            Self::Failed => "failed",
            Self::Draining => "draining",
            Self::Unloaded => "unloaded",
        }
    }

    /// Whether nothing more will happen to it by itself.
    #[must_use]
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Waiting | Self::Loading | Self::Testing)
    }
}

/// One version in the catalog.
#[derive(Clone)]
pub struct VersionEntry {
    /// Where it stands.
    pub state: VersionState,
    /// SHA-256 of its model file, once it was read.
    pub digest: Option<Digest>,
    /// Why it failed, or what it waits for.
    pub reason: Option<String>,
    /// What executes it; there exactly when it is live.
    pub loaded: Option<Arc<LoadedVersion>>,
    /// A replacement that does not serve: where it stands. Only beside a live version.
    pub pending: Option<Pending>,
}

/// A replacement of a live version under the same number that is on its way, or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Where it stands.
    pub state: VersionState,
    /// Why it failed, or what it waits for.
    pub reason: Option<String>,
}

impl VersionEntry {
    /// An entry without anything that executes.
    pub(super) fn idle(
        state: VersionState,
        digest: Option<Digest>,
        reason: Option<String>,
    ) -> Self {
        Self {
            state,
            digest,
            reason,
            loaded: None,
            pending: None,
        }
    }

    /// An entry that answers.
    pub(super) fn live(loaded: LoadedVersion) -> Self {
        Self {
            state: VersionState::Live,
            digest: Some(loaded.digest),
            reason: None,
            loaded: Some(Arc::new(loaded)),
            pending: None,
        }
    }
}

/// One model in the catalog.
#[derive(Clone)]
pub struct ModelEntry {
    /// Its id.
    pub id: ModelId,
    /// Its name for people.
    pub title: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// How its traffic is shared.
    pub rollout: Rollout,
    /// Movable names of versions, whether these are there or not.
    pub aliases: BTreeMap<Alias, VersionNumber>,
    /// Its versions.
    pub versions: BTreeMap<VersionNumber, VersionEntry>,
    /// Where it is counted what becomes of its pictures and loads.
    pub series: Arc<ModelSeries>,
}

impl ModelEntry {
    /// The version that a caller names by its number or by an alias; `None` where no version has the number and there
    /// is no such alias.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<VersionNumber> {
        match name.parse::<VersionNumber>() {
            Ok(number) => self.versions.contains_key(&number).then_some(number),
            Err(_) => self.aliases.get(name).copied(),
        }
    }

    /// The aliases of one version, in order.
    pub fn aliases_of(&self, number: VersionNumber) -> impl Iterator<Item = &Alias> {
        let of_it = move |&(_, named): &(&Alias, &VersionNumber)| *named == number;
        self.aliases.iter().filter(of_it).map(|(alias, _)| alias)
    }

    /// Its live versions, in rising order.
    pub fn live(&self) -> impl Iterator<Item = &Arc<LoadedVersion>> + Clone {
        self.versions
            .values()
            .filter_map(|entry| entry.loaded.as_ref())
    }
}

/// All that is servable at one moment.
#[derive(Clone, Default)]
pub struct Catalog {
    /// The models by id.
    pub models: BTreeMap<ModelId, Arc<ModelEntry>>,
    /// Whether the model store has been read at all.
    pub scanned: bool,
    /// Whether every version found at the start has come to its end: live, failed or not selected. Once true it stays.
    pub settled: bool,
}

impl Catalog {
    /// Notes whether all that was found at the start has come to its end.
    pub(super) fn note_settled(&mut self) {
        let mut versions = self
            .models
            .values()
            .flat_map(|model| model.versions.values());
        self.settled |= self.scanned && versions.all(|version| version.state.is_settled());
    }

    /// Whether the model has a live version.
    #[must_use]
    pub fn is_live(&self, id: &ModelId) -> bool {
        self.models
            .get(id)
            .is_some_and(|model| model.live().next().is_some())
    }
}

/// Where the current catalog is read; cheap to clone.
#[derive(Clone, Default)]
pub struct CatalogHandle(Arc<ArcSwap<Catalog>>);

impl CatalogHandle {
    /// The catalog as it is now; whoever keeps the `Arc` keeps what it names alive.
    #[must_use]
    pub fn load(&self) -> Arc<Catalog> {
        self.0.load_full()
    }

    /// Puts a new catalog in force. Only the `ModelManager` does.
    pub(super) fn publish(&self, catalog: Catalog) {
        self.0.store(Arc::new(catalog));
    }
}
