//! The manager's desk: what operators want, what failed, what is on its way in and out; and what the catalog is to say.
//!
//! Called by the manager under its lock. Does no work itself: it says what work there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::agenda::{Agenda, Load};
use super::catalog::{CatalogHandle, VersionState};
use super::loaded::LoadedVersion;
use super::loader::LoadError;
use super::plan::{Failed, Known, Step, back_off, plan};
use super::publisher::{Named, Publisher};
use super::standing::Standing;
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::model_store::{Candidate, FoundModel};
use crate::store::ModelWish;
use crate::telemetry::metrics::Metrics;

/// What is remembered of one version beside the catalog.
#[derive(Default)]
struct Memory {
    in_hand: Option<Load>,
    failed: Option<Failed>,
}

/// The state.
pub(super) struct Desk {
    pub(super) publisher: Publisher,
    pub(super) agenda: Agenda,
    /// What operators want, whatever the folders say.
    wishes: BTreeMap<ModelId, ModelWish>,
    /// When the last look at a model began that has come to its end.
    looked: HashMap<ModelId, Instant>,
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

/// How long it is remembered when a model was looked at that is not there.
const LOOK_IS_OF_INTEREST: Duration = Duration::from_mins(10);

impl Desk {
    pub(super) fn new(
        handle: CatalogHandle,
        loading_time: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            publisher: Publisher::new(handle, metrics),
            agenda: Agenda::default(),
            wishes: BTreeMap::new(),
            looked: HashMap::new(),
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
        let catalog = self.publisher.catalog();
        for id in catalog.models.keys() {
            self.agenda.due_in(id, Duration::ZERO);
        }
        // Of what is gone for long nobody waits for a look.
        self.looked
            .retain(|id, at| catalog.models.contains_key(id) || at.elapsed() < LOOK_IS_OF_INTEREST);
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
                let (state, digest) = (VersionState::Failed, Some(*digest));
                self.publisher
                    .mark(model, *number, state, digest, Some(reason));
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
        if self.unread.is_empty() && !self.publisher.catalog().scanned {
            self.publisher.change(|catalog| catalog.scanned = true);
        }
    }

    /// Takes in what operators want from now on; what they wanted already is no news. Aliases and rollouts are in force at once,
    /// versions come and go with the next look.
    pub(super) fn want(&mut self, wishes: BTreeMap<ModelId, ModelWish>) {
        if wishes == self.wishes {
            return;
        }
        let before = std::mem::replace(&mut self.wishes, wishes);
        self.publisher.name(|id| named(self.wishes.get(id)));
        let nothing = ModelWish::default();
        let models: BTreeSet<ModelId> = before.keys().chain(self.wishes.keys()).cloned().collect();
        for id in models {
            let of = |wishes: &BTreeMap<ModelId, ModelWish>| {
                wishes.get(&id).unwrap_or(&nothing).unloaded.clone()
            };
            let (before, now) = (of(&before), of(&self.wishes));
            if before == now {
                continue;
            }
            // What is being loaded must not come after all.
            for number in now.difference(&before) {
                let memory = self.memory.get_mut(&id);
                let memory = memory.and_then(|versions| versions.get_mut(number));
                if let Some(load) = memory.and_then(|memory| memory.in_hand.take()) {
                    load.forget();
                }
            }
            self.agenda.due_in(&id, Duration::ZERO);
        }
    }

    /// Compares what the disk holds with what serves, and does what follows. The look began at `begun`.
    pub(super) fn found(&mut self, id: &ModelId, begun: Instant, found: Option<FoundModel>) {
        self.agenda.looked(id);
        if let Some(found) = &found {
            self.publisher.describe(found, &named(self.wishes.get(id)));
        }
        let known = self.known(id);
        let gone = found.is_none();
        let versions = found.map(|found| found.versions).unwrap_or_default();
        let unloaded = self.wishes.get(id).map(|wish| &wish.unloaded);
        let none = BTreeSet::new();
        let plan = plan(versions, unloaded.unwrap_or(&none), &known, Instant::now());
        if let Some(after) = plan.again_in {
            self.agenda.due_in(id, after);
        }
        for (number, step) in plan.steps {
            self.take(id, number, step);
        }
        if gone && self.publisher.remove_model(id) {
            self.memory.remove(id);
        }
        self.unread.remove(id);
        self.note_scanned();
        self.looked.insert(id.clone(), begun);
        self.publisher.beat();
    }

    fn known(&self, id: &ModelId) -> BTreeMap<VersionNumber, Known> {
        let mut known: BTreeMap<VersionNumber, Known> = BTreeMap::new();
        let catalog = self.publisher.catalog();
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

    /// What failed of this version need not wait any longer.
    pub(super) fn retry(&mut self, id: &ModelId, number: VersionNumber) {
        let memory = self.memory.get_mut(id);
        let memory = memory.and_then(|versions| versions.get_mut(&number));
        if let Some(failed) = memory.and_then(|memory| memory.failed.as_mut()) {
            failed.retry_at = Instant::now();
        }
    }

    /// Where a version stands, once a look that began after `since` has come to its end and nothing is under way;
    /// a version of the content `wanted` that serves needs no look.
    pub(super) fn standing(
        &self,
        id: &ModelId,
        number: VersionNumber,
        since: Instant,
        wanted: Option<Digest>,
    ) -> Standing {
        if self.stopping {
            return Standing::Stopping;
        }
        let catalog = self.publisher.catalog();
        let entry = catalog.models.get(id).and_then(|m| m.versions.get(&number));
        let loaded = entry.and_then(|entry| entry.loaded.as_ref());
        if loaded.is_some_and(|loaded| Some(loaded.fingerprint) == wanted) {
            return Standing::Live;
        }
        if self.looked.get(id).is_none_or(|at| *at <= since) {
            return Standing::OnItsWay;
        }
        let Some(entry) = entry else {
            return Standing::Gone;
        };
        if wanted.is_none() && loaded.is_some() {
            return Standing::Live;
        }
        let pending = entry.pending.as_ref();
        let shown = pending.map(|pending| (pending.state, pending.reason.as_ref()));
        let (state, reason) = shown.unwrap_or((entry.state, entry.reason.as_ref()));
        let memory = self
            .memory
            .get(id)
            .and_then(|versions| versions.get(&number));
        let in_hand = memory.filter(|memory| memory.in_hand.is_some());
        // What hangs has failed although it is in hand, and what is tried again has failed before.
        if in_hand.is_some_and(|memory| state != VersionState::Failed || memory.failed.is_some()) {
            return Standing::OnItsWay;
        }
        let reason = reason.cloned().unwrap_or_default();
        match state {
            VersionState::Live => Standing::Live,
            VersionState::Failed => Standing::Failed(reason),
            VersionState::Unloaded => Standing::Unloaded(reason),
            VersionState::Draining => Standing::Gone,
            VersionState::Waiting | VersionState::Loading | VersionState::Testing => {
                Standing::OnItsWay
            }
        }
    }

    /// Whether a look at the model that began after `since` has come to its end.
    pub(super) fn has_looked(&self, id: &ModelId, since: Instant) -> bool {
        self.stopping || self.looked.get(id).is_some_and(|at| *at > since)
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
                self.publisher.clear_pending(id, number);
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
                    let state = VersionState::Waiting;
                    self.publisher.mark(id, number, state, digest, reason);
                }
                self.memory(id, number).in_hand = Some(load);
            }
            Step::Mark {
                state,
                digest,
                reason,
            } => {
                self.drop_in_hand(id, number);
                self.publisher.mark(id, number, state, digest, reason);
            }
            Step::Retire(then) => {
                self.drop_in_hand(id, number);
                let memory = self.memory.entry(id.clone()).or_default();
                memory.remove(&number);
                let old = self.publisher.take_out(id, number, then);
                self.retired.extend(old);
            }
            Step::Forget => {
                self.drop_in_hand(id, number);
                if let Some(model) = self.memory.get_mut(id) {
                    model.remove(&number);
                }
                self.publisher.remove(id, number, |_| true);
            }
        }
    }

    /// Progress of a load that is still wanted.
    pub(super) fn progress(&mut self, load: &Load, state: VersionState, reason: Option<&str>) {
        let Candidate { model, number, .. } = &*load.candidate;
        // While a failed one is tried again it stays failed, so that nothing flickers.
        if self.is_current(load) && self.memory(model, *number).failed.is_none() {
            let digest = Some(load.candidate.digest);
            let reason = reason.map(str::to_owned);
            self.publisher.mark(model, *number, state, digest, reason);
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
                self.retired.extend(self.publisher.put_live(loaded));
                // A choice of versions may have waited for this one.
                self.agenda.nudge(&model);
            }
            Err(error) if error.changed => self.agenda.nudge(&model),
            Err(error) => self.failed(load, error),
        }
        None
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
        let (state, reason) = (VersionState::Failed, Some(error.reason));
        self.publisher.mark(id, number, state, digest, reason);
    }

    /// A retired version has ended: nothing of it is left to see.
    pub(super) fn ended(&mut self, id: &ModelId, number: VersionNumber) {
        let still_retired = self
            .retired
            .iter()
            .any(|old| old.model == *id && old.number == number);
        let forgotten = self.publisher.remove(id, number, |entry| {
            entry.state == VersionState::Draining && !still_retired
        });
        if forgotten {
            self.agenda.nudge(id);
        }
    }

    /// Wants nothing any more; gives the threads that are still at work.
    pub(super) fn stop(&mut self) -> Vec<JoinHandle<()>> {
        self.stopping = true;
        self.publisher.beat();
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
        let catalog = self.publisher.catalog();
        let live = catalog
            .models
            .values()
            .flat_map(|model| model.live().cloned());
        live.chain(std::mem::take(&mut self.retired)).collect()
    }
}

/// The aliases and the rollout that are wanted of a model.
fn named(wish: Option<&ModelWish>) -> Named {
    let Some(wish) = wish else {
        return Named::default();
    };
    // The store holds what was checked before; anything else no caller could name.
    let named = |(alias, version): (&String, &VersionNumber)| Some((alias.parse().ok()?, *version));
    Named {
        aliases: wish.aliases.iter().filter_map(named).collect(),
        rollout: wish.rollout.clone(),
    }
}
