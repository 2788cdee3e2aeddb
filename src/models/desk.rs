//! The manager's desk: what failed, what is on its way in and out; and the catalog, which is changed nowhere else.
//!
//! Called by the manager under its lock. Does no work itself: it says what work there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::agenda::{Agenda, Load};
use super::catalog::{Catalog, CatalogHandle, ModelEntry, Pending, VersionEntry, VersionState};
use super::loaded::LoadedVersion;
use super::loader::LoadError;
use super::plan::{Failed, Known, Step, back_off, plan};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::rollout::Rollout;
use crate::model_store::{Candidate, FoundModel};

/// What is remembered of one version beside the catalog.
#[derive(Default)]
struct Memory {
    in_hand: Option<Load>,
    failed: Option<Failed>,
}

/// The state; nobody else publishes.
pub(super) struct Desk {
    handle: CatalogHandle,
    pub(super) agenda: Agenda,
    /// Everything is to be looked at.
    pub(super) all_due: bool,
    /// Models of the first listing that were not looked at yet.
    unread: BTreeSet<ModelId>,
    memory: HashMap<ModelId, BTreeMap<VersionNumber, Memory>>,
    /// Versions out of the catalog that requests may still hold.
    retired: Vec<Arc<LoadedVersion>>,
    /// How long a load may take before it counts as hanging.
    loading_time: Duration,
    listed: bool,
    stopping: bool,
}

/// How often it is looked whether retired versions are still in use.
const REAP_EVERY: Duration = Duration::from_millis(25);

/// When a store that could not be read is asked again.
const READ_AGAIN: Duration = Duration::from_secs(5);

impl Desk {
    pub(super) fn new(handle: CatalogHandle, loading_time: Duration) -> Self {
        Self {
            handle,
            agenda: Agenda::default(),
            all_due: false,
            unread: BTreeSet::new(),
            memory: HashMap::new(),
            retired: Vec::new(),
            loading_time,
            listed: false,
            stopping: false,
        }
    }

    /// Takes in what the store lists: all of it is due, and so is what the catalog has and the store no longer.
    pub(super) fn list(&mut self, ids: Vec<(ModelId, u64)>) {
        let catalog = self.handle.load();
        for id in catalog.models.keys() {
            self.agenda.due_in(id, Duration::ZERO);
        }
        if !std::mem::replace(&mut self.listed, true) {
            self.unread = ids.iter().map(|(id, _)| id.clone()).collect();
        }
        self.agenda.list(ids);
        self.note_scanned();
    }

    /// When there is something to do although nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let reap = (!self.retired.is_empty()).then(|| Instant::now() + REAP_EVERY);
        self.agenda.wake_at().into_iter().chain(reap).min()
    }

    /// What time has brought about: versions that nobody uses any more, loads that take too long.
    pub(super) fn tick(&mut self) {
        for retired in std::mem::take(&mut self.retired) {
            match Arc::try_unwrap(retired) {
                Ok(unused) => self.agenda.retire(unused),
                Err(used) => self.retired.push(used),
            }
        }
        for load in self.agenda.overdue(self.loading_time) {
            // Its thread is left behind, as a runtime cannot be stopped from outside. Should it come to an end after
            // all, its outcome still counts; until then no other thread is spent on the same files.
            let Candidate {
                model,
                number,
                digest,
                ..
            } = &*load.candidate;
            let limit = self.loading_time.as_secs();
            let reason = format!("it did not finish loading within {limit} s");
            if self.is_current(&load) {
                self.mark(
                    model,
                    *number,
                    VersionState::Failed,
                    Some(*digest),
                    Some(reason),
                );
            }
        }
    }

    /// The store could not be read.
    pub(super) fn not_read(&mut self, id: &ModelId) {
        self.agenda.looked(id);
        self.agenda.due_in(id, READ_AGAIN);
        self.unread.remove(id);
        self.note_scanned();
    }

    fn note_scanned(&mut self) {
        if self.unread.is_empty() && !self.handle.load().scanned {
            self.change(|catalog| catalog.scanned = true);
        }
    }

    /// Compares what the disk holds with what serves, and does what follows.
    pub(super) fn found(&mut self, id: &ModelId, found: Option<FoundModel>) {
        self.agenda.looked(id);
        if let Some(found) = &found {
            self.describe(found);
        }
        let known = self.known(id);
        let gone = found.is_none();
        let versions = found.map(|found| found.versions).unwrap_or_default();
        let plan = plan(versions, &known, Instant::now());
        if let Some(after) = plan.again_in {
            self.agenda.due_in(id, after);
        }
        for (number, step) in plan.steps {
            self.take(id, number, step);
        }
        if gone {
            self.change(|catalog| {
                if catalog
                    .models
                    .get(id)
                    .is_some_and(|model| model.versions.is_empty())
                {
                    catalog.models.remove(id);
                }
            });
            if !self.handle.load().models.contains_key(id) {
                self.memory.remove(id);
            }
        }
        self.unread.remove(id);
        self.note_scanned();
    }

    /// Title, description and the place in the catalog.
    fn describe(&mut self, found: &FoundModel) {
        let current = self.handle.load();
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
                    rollout: Rollout::Latest,
                    versions: BTreeMap::new(),
                })
            });
            let entry = Arc::make_mut(entry);
            (entry.title, entry.description) = (title, description);
        });
    }

    fn known(&self, id: &ModelId) -> BTreeMap<VersionNumber, Known> {
        let mut known: BTreeMap<VersionNumber, Known> = BTreeMap::new();
        let catalog = self.handle.load();
        for (number, entry) in catalog.models.get(id).into_iter().flat_map(|m| &m.versions) {
            let known = known.entry(*number).or_default();
            known.live = entry.loaded.as_ref().map(|loaded| loaded.fingerprint);
            known.draining = entry.state == VersionState::Draining;
        }
        for (number, memory) in self.memory.get(id).into_iter().flatten() {
            let known = known.entry(*number).or_default();
            known.in_hand = memory
                .in_hand
                .as_ref()
                .map(|load| load.candidate.fingerprint);
            known.failed.clone_from(&memory.failed);
        }
        known
    }

    fn memory(&mut self, id: &ModelId, number: VersionNumber) -> &mut Memory {
        let model = self.memory.entry(id.clone()).or_default();
        model.entry(number).or_default()
    }

    /// What failed need not wait any longer.
    pub(super) fn retry_all(&mut self) {
        let now = Instant::now();
        let memories = self.memory.values_mut().flat_map(BTreeMap::values_mut);
        for failed in memories.filter_map(|memory| memory.failed.as_mut()) {
            failed.retry_at = now;
        }
    }

    /// Whatever is being loaded for this version is of no interest any more.
    fn drop_in_hand(&mut self, id: &ModelId, number: VersionNumber) {
        if let Some(load) = self.memory(id, number).in_hand.take() {
            load.forget();
        }
    }

    fn take(&mut self, id: &ModelId, number: VersionNumber, step: Step) {
        match step {
            Step::Leave => {}
            Step::Serve => {
                self.drop_in_hand(id, number);
                self.memory(id, number).failed = None;
                self.clear_pending(id, number);
            }
            Step::Load(candidate) => {
                self.drop_in_hand(id, number);
                // What failed is tried again in silence; other files begin anew.
                let memory = self.memory(id, number);
                memory.failed.take_if(|failed| !failed.is_of(&candidate));
                let silent = memory.failed.is_some();
                let load = self.agenda.load(candidate);
                if !silent {
                    let digest = Some(load.candidate.digest);
                    let reason = Some("its turn to load has not come".to_owned());
                    self.mark(id, number, VersionState::Waiting, digest, reason);
                }
                self.memory(id, number).in_hand = Some(load);
            }
            Step::Mark {
                state,
                digest,
                reason,
            } => {
                self.drop_in_hand(id, number);
                self.mark(id, number, state, digest, reason);
            }
            Step::Retire(then) => {
                self.drop_in_hand(id, number);
                let memory = self.memory.entry(id.clone()).or_default();
                memory.remove(&number);
                self.retire(id, number, then);
            }
            Step::Forget => {
                self.drop_in_hand(id, number);
                if let Some(model) = self.memory.get_mut(id) {
                    model.remove(&number);
                }
                tracing::info!(model = id.as_str(), version = number.get(), "version gone");
                self.edit_versions(id, |versions| {
                    versions.remove(&number);
                });
            }
        }
    }

    /// Where a version stands; where an older one of the same number serves, where its replacement does.
    pub(super) fn mark(
        &mut self,
        id: &ModelId,
        number: VersionNumber,
        state: VersionState,
        digest: Option<Digest>,
        reason: Option<String>,
    ) {
        let catalog = self.handle.load();
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

    /// Progress of a load that is still wanted.
    pub(super) fn progress(&mut self, load: &Load, state: VersionState, reason: Option<&str>) {
        let Candidate { model, number, .. } = &*load.candidate;
        // While a failed one is tried again it stays failed, so that nothing flickers.
        if self.is_current(load) && self.memory(model, *number).failed.is_none() {
            let digest = Some(load.candidate.digest);
            self.mark(model, *number, state, digest, reason.map(str::to_owned));
        }
    }

    fn is_current(&self, load: &Load) -> bool {
        let Candidate { model, number, .. } = &*load.candidate;
        let in_hand = self
            .memory
            .get(model)
            .and_then(|versions| versions.get(number)?.in_hand.as_ref());
        in_hand.is_some_and(|in_hand| in_hand.ticket == load.ticket)
    }

    /// Publishes a load's outcome. Gives back what came too late.
    pub(super) fn loaded(
        &mut self,
        load: &Load,
        outcome: Result<LoadedVersion, LoadError>,
    ) -> Option<LoadedVersion> {
        let Candidate { model, number, .. } = &*load.candidate;
        let (model, number) = (model.clone(), *number);
        if self.stopping || !self.is_current(load) {
            return outcome.ok();
        }
        self.memory(&model, number).in_hand = None;
        match outcome {
            Ok(loaded) => {
                self.memory(&model, number).failed = None;
                self.publish(&model, number, loaded);
                // A choice of versions may have waited for this one.
                self.agenda.nudge(&model);
            }
            Err(error) if error.changed => self.agenda.nudge(&model),
            Err(error) => self.failed(load, error),
        }
        None
    }

    fn publish(&mut self, id: &ModelId, number: VersionNumber, loaded: LoadedVersion) {
        let replaced = self.edit_versions(id, |versions| {
            versions
                .insert(number, VersionEntry::live(loaded))
                .and_then(|before| before.loaded)
        });
        if let Some(old) = replaced.flatten() {
            tracing::info!(
                model = id.as_str(),
                version = number.get(),
                digest = %old.digest,
                "version replaced; the old one ends with its last request"
            );
            self.retired.push(old);
        }
    }

    fn failed(&mut self, load: &Load, error: LoadError) {
        let candidate = &*load.candidate;
        let (id, number) = (&candidate.model, candidate.number);
        let memory = self.memory(id, number);
        let before = memory.failed.as_ref();
        let before = before.filter(|failed| failed.fingerprint == candidate.fingerprint);
        let times = before.map_or(0, |failed| failed.times) + 1;
        let retry_at = Instant::now() + back_off(times);
        memory.failed = Some(Failed {
            fingerprint: candidate.fingerprint,
            digest: candidate.digest,
            files: candidate.files.clone(),
            reason: error.reason.clone(),
            times,
            retry_at,
        });
        self.agenda.due_in(id, back_off(times));
        let digest = Some(candidate.digest);
        self.mark(id, number, VersionState::Failed, digest, Some(error.reason));
    }

    fn retire(
        &mut self,
        id: &ModelId,
        number: VersionNumber,
        then: Option<(VersionState, Option<String>)>,
    ) {
        tracing::info!(
            model = id.as_str(),
            version = number.get(),
            "version taken out of service; it ends with its last request"
        );
        let old = self.edit_versions(id, |versions| {
            let entry = versions.get_mut(&number)?;
            entry.pending = None;
            (entry.state, entry.reason) = then.unwrap_or((VersionState::Draining, None));
            entry.loaded.take()
        });
        self.retired.extend(old.flatten());
    }

    /// A retired version has ended: nothing of it is left to see.
    pub(super) fn ended(&mut self, id: &ModelId, number: VersionNumber) {
        let still_retired = self
            .retired
            .iter()
            .any(|old| old.model == *id && old.number == number);
        let forgotten = self.edit_versions(id, |versions| {
            let draining = versions
                .get(&number)
                .is_some_and(|entry| entry.state == VersionState::Draining);
            if draining && !still_retired {
                versions.remove(&number);
            }
            draining && !still_retired
        });
        if forgotten == Some(true) {
            self.agenda.nudge(id);
        }
    }

    /// No replacement is on its way any more. Publishes nothing where none was.
    fn clear_pending(&mut self, id: &ModelId, number: VersionNumber) {
        let catalog = self.handle.load();
        let entry = catalog.models.get(id).and_then(|m| m.versions.get(&number));
        if entry.is_some_and(|entry| entry.pending.is_some()) {
            self.edit_versions(id, |versions| {
                if let Some(entry) = versions.get_mut(&number) {
                    entry.pending = None;
                }
            });
        }
    }

    /// Publishes the catalog with one model's versions edited; `None` where there is no such model.
    fn edit_versions<R>(
        &mut self,
        id: &ModelId,
        edit: impl FnOnce(&mut BTreeMap<VersionNumber, VersionEntry>) -> R,
    ) -> Option<R> {
        self.change(|catalog| {
            let model = catalog.models.get_mut(id)?;
            Some(edit(&mut Arc::make_mut(model).versions))
        })
    }

    /// Publishes the catalog as `change` makes it out of the one in force.
    fn change<R>(&mut self, change: impl FnOnce(&mut Catalog) -> R) -> R {
        let mut catalog = Catalog::clone(&self.handle.load());
        let outcome = change(&mut catalog);
        catalog.note_settled();
        self.handle.publish(catalog);
        outcome
    }

    /// Wants nothing any more; gives the threads that are still at work.
    pub(super) fn stop(&mut self) -> Vec<JoinHandle<()>> {
        self.stopping = true;
        for versions in self.memory.values() {
            for load in versions
                .values()
                .filter_map(|memory| memory.in_hand.as_ref())
            {
                load.forget();
            }
        }
        self.agenda.stop()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Every version that executes, in the catalog or on its way out.
    pub(super) fn executing(&mut self) -> Vec<Arc<LoadedVersion>> {
        let catalog = self.handle.load();
        let live = catalog
            .models
            .values()
            .flat_map(|model| model.live().cloned());
        live.chain(std::mem::take(&mut self.retired)).collect()
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
