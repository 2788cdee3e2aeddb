//! Where the catalog is changed, and nowhere else: each change is published whole, told to those who wait for one, and
//! announced.
//!
//! Called by the desk, which decides. Knows what stands in the catalog, not why.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::catalog::{Catalog, CatalogHandle, ModelEntry, Pending, VersionEntry, VersionState};
use super::event::{Announcer, Happening};
use super::loaded::LoadedVersion;
use crate::domain::ids::{Alias, Digest, ModelId, VersionNumber};
use crate::domain::rollout::Rollout;
use crate::model_store::FoundModel;
use crate::telemetry::metrics::Metrics;

/// Publishes catalogs.
pub(super) struct Publisher {
    handle: CatalogHandle,
    /// Somebody may wait for what has just happened.
    pulse: watch::Sender<()>,
    pub(super) announcer: Announcer,
    metrics: Arc<Metrics>,
}

/// How a model's versions are named and chosen.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) aliases: BTreeMap<Alias, VersionNumber>,
    pub(super) rollout: Rollout,
}

impl Publisher {
    pub(super) fn new(handle: CatalogHandle, metrics: Arc<Metrics>) -> Self {
        Self {
            handle,
            metrics,
            pulse: watch::Sender::new(()),
            announcer: Announcer::default(),
        }
    }

    /// The catalog in force.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.handle.load()
    }

    /// Hears of everything that happens from now on.
    pub(super) fn pulse(&self) -> watch::Receiver<()> {
        self.pulse.subscribe()
    }

    /// Something happened that somebody may wait for, whether it changed the catalog or not.
    pub(super) fn beat(&self) {
        self.pulse.send_replace(());
    }

    /// Publishes the catalog as `change` makes it out of the one in force.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Catalog) -> R) -> R {
        let mut catalog = Catalog::clone(&self.handle.load());
        let outcome = change(&mut catalog);
        catalog.note_settled();
        self.handle.publish(catalog);
        self.beat();
        outcome
    }

    /// Publishes the catalog with one model's versions edited; `None` where there is no such model.
    fn edit_versions<R>(
        &self,
        id: &ModelId,
        edit: impl FnOnce(&mut BTreeMap<VersionNumber, VersionEntry>) -> R,
    ) -> Option<R> {
        self.change(|catalog| {
            let model = catalog.models.get_mut(id)?;
            Some(edit(&mut Arc::make_mut(model).versions))
        })
    }

    /// Title, description and the place in the catalog.
    pub(super) fn describe(&self, found: &FoundModel, named: &Named) {
        let current = self.catalog();
        let entry = current.models.get(&found.id);
        let (title, description) = match (&found.manifest, entry) {
            (Some(manifest), _) => (manifest.title.clone(), manifest.description.clone()),
            (None, Some(entry)) => (entry.title.clone(), entry.description.clone()),
            (None, None) => (None, None),
        };
        if entry.is_some_and(|entry| entry.title == title && entry.description == description) {
            return;
        }
        self.change(|catalog| {
            let entry = catalog.models.entry(found.id.clone()).or_insert_with(|| {
                Arc::new(ModelEntry {
                    id: found.id.clone(),
                    title: None,
                    description: None,
                    rollout: named.rollout.clone(),
                    aliases: named.aliases.clone(),
                    versions: BTreeMap::new(),
                    series: self.metrics.model(found.id.as_str()),
                })
            });
            let entry = Arc::make_mut(entry);
            (entry.title, entry.description) = (title, description);
        });
    }

    /// Puts the aliases and rollouts of all models in force together; publishes nothing where none is another.
    pub(super) fn name(&self, named: impl Fn(&ModelId) -> Named) {
        let current = self.catalog();
        let models = current.models.values();
        let moved: Vec<_> = models
            .map(|model| (model, named(&model.id)))
            .filter(|(model, now)| model.aliases != now.aliases || model.rollout != now.rollout)
            .collect();
        if moved.is_empty() {
            return;
        }
        self.change(|catalog| {
            for (model, now) in moved {
                if let Some(model) = catalog.models.get_mut(&model.id) {
                    let model = Arc::make_mut(model);
                    (model.aliases, model.rollout) = (now.aliases, now.rollout);
                }
            }
        });
    }

    /// Where a version stands; where an older one of the same number serves, where its replacement does.
    pub(super) fn mark(
        &self,
        id: &ModelId,
        number: VersionNumber,
        state: VersionState,
        digest: Option<Digest>,
        reason: Option<String>,
    ) {
        let catalog = self.catalog();
        let Some(model) = catalog.models.get(id) else {
            return;
        };
        let before = model.versions.get(&number);
        let live = before.is_some_and(|entry| entry.loaded.is_some());
        let shown = before.map(|entry| match (&entry.pending, live) {
            (Some(pending), true) => (pending.state, pending.reason.as_deref()),
            _ => (entry.state, entry.reason.as_deref()),
        });
        let digest = digest.or_else(|| before.and_then(|entry| entry.digest));
        if shown == Some((state, reason.as_deref()))
            && before.is_some_and(|entry| live || entry.digest == digest)
        {
            return;
        }
        if before.is_none() {
            tracing::info!(model = id.as_str(), version = number.get(), "version seen");
            self.announcer
                .tell((id, number), Happening::Seen, digest, None);
        }
        if shown.is_some_and(|(before, _)| before == state) && state != VersionState::Failed {
            // A copy that grows says so ten times a second.
            tracing::debug!(
                model = id.as_str(),
                version = number.get(),
                reason,
                "{}",
                state.as_str()
            );
        } else {
            log_step(id, number, state, reason.as_deref());
            let what = Happening::Is(state);
            self.announcer
                .tell((id, number), what, digest, reason.as_deref());
        }
        self.edit_versions(id, |versions| {
            if live {
                if let Some(entry) = versions.get_mut(&number) {
                    entry.pending = Some(Pending { state, reason });
                }
            } else {
                versions.insert(number, VersionEntry::idle(state, digest, reason));
            }
        });
    }

    /// No replacement is on its way any more. Publishes nothing where none was.
    pub(super) fn clear_pending(&self, id: &ModelId, number: VersionNumber) {
        let catalog = self.catalog();
        let entry = catalog.models.get(id).and_then(|m| m.versions.get(&number));
        if entry.is_some_and(|entry| entry.pending.is_some()) {
            self.edit_versions(id, |versions| {
                if let Some(entry) = versions.get_mut(&number) {
                    entry.pending = None;
                }
            });
        }
    }

    /// A version answers from now on; gives the one that did until now.
    pub(super) fn put_live(&self, loaded: LoadedVersion) -> Option<Arc<LoadedVersion>> {
        let (id, number, digest) = (loaded.model.clone(), loaded.number, loaded.digest);
        let replaced = self.edit_versions(&id, |versions| {
            versions
                .insert(number, VersionEntry::live(loaded))
                .and_then(|before| before.loaded)
        });
        let replaced = replaced.flatten();
        if let Some(old) = &replaced {
            tracing::info!(
                model = id.as_str(),
                version = number.get(),
                digest = %old.digest,
                "version replaced; the old one ends with its last request"
            );
            let old = Some(old.digest);
            self.announcer
                .tell((&id, number), Happening::Replaced, old, None);
        }
        let live = Happening::Is(VersionState::Live);
        self.announcer.tell((&id, number), live, Some(digest), None);
        replaced
    }

    /// A version takes no more requests, and stands as `then` says, or drains; gives what executed it.
    pub(super) fn take_out(
        &self,
        id: &ModelId,
        number: VersionNumber,
        then: Option<(VersionState, Option<String>)>,
    ) -> Option<Arc<LoadedVersion>> {
        tracing::info!(
            model = id.as_str(),
            version = number.get(),
            "version taken out of service; it ends with its last request"
        );
        let (state, reason) = then.unwrap_or((VersionState::Draining, None));
        let shown = reason.clone();
        let old = self.edit_versions(id, |versions| {
            let entry = versions.get_mut(&number)?;
            entry.pending = None;
            (entry.state, entry.reason) = (state, reason);
            entry.loaded.take()
        });
        let old = old.flatten();
        let digest = old.as_ref().map(|old| old.digest);
        let what = Happening::Is(state);
        self.announcer
            .tell((id, number), what, digest, shown.as_deref());
        old
    }

    /// Nothing of a version is left to see, if it is one that `goes`; says whether.
    pub(super) fn remove(
        &self,
        id: &ModelId,
        number: VersionNumber,
        goes: impl FnOnce(&VersionEntry) -> bool,
    ) -> bool {
        let catalog = self.catalog();
        let entry = catalog.models.get(id).and_then(|m| m.versions.get(&number));
        let Some(entry) = entry.filter(|entry| goes(entry)) else {
            return false;
        };
        tracing::info!(model = id.as_str(), version = number.get(), "version gone");
        self.announcer
            .tell((id, number), Happening::Gone, entry.digest, None);
        self.edit_versions(id, |versions| {
            versions.remove(&number);
        });
        true
    }

    /// A model without versions, whose folder is gone, is gone; says whether it is.
    pub(super) fn remove_model(&self, id: &ModelId) -> bool {
        let catalog = self.catalog();
        match catalog.models.get(id) {
            Some(model) if model.versions.is_empty() => {
                self.change(|catalog| catalog.models.remove(id));
                true
            }
            model => model.is_none(),
        }
    }
}

fn log_step(id: &ModelId, number: VersionNumber, state: VersionState, reason: Option<&str>) {
    let (model, version, reason) = (id.as_str(), number.get(), reason.unwrap_or_default());
    if state == VersionState::Failed {
        tracing::warn!(model, version, reason, "version failed");
    } else {
        tracing::info!(model, version, reason, "version {}", state.as_str());
    }
}
