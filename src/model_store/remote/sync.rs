//! Looks at the bucket now and then, and has each model taken in as it is there, in a task of its own. A model that takes long
//! holds up no other: looks pass it over while it is in hand, and there is another look at its end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bring::blocking;
use super::intake::{AtWork, Memory};
use super::listing::{self, ModelListing};
use super::{Inner, Missing, RemoteError, RemoteStore, State};
use crate::domain::ids::ModelId;
use crate::model_store::ModelStore as _;

/// How long the start waits for the bucket.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How long somebody who is about to change a model waits for what others did to it.
const REFRESH: Duration = Duration::from_secs(10);

/// What a look has seen.
struct Seen {
    /// Among all looks, when it began and when the bucket had said all: what was seen in between by another may be newer.
    began: u64,
    ended: u64,
    found: BTreeMap<ModelId, ModelListing>,
    /// What the folder has, noted or not.
    here: Vec<ModelId>,
    /// How many changes from inside there had been before the bucket was asked.
    changes: HashMap<ModelId, u64>,
}

/// A model that is being taken in.
struct InHand {
    store: RemoteStore,
    id: ModelId,
    /// How it went; `None` where it was stopped.
    outcome: Option<Result<(), RemoteError>>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let Self { store, id, outcome } = self;
        if outcome.is_none() && std::thread::panicking() {
            let panicked = format!("taking in model {id} panicked");
            *outcome = Some(Err(RemoteError::Content(panicked)));
        }
        store.0.state().in_hand.remove(id);
        if let Some(outcome) = outcome.take() {
            store.0.note(Some(id), outcome);
        }
        store.0.let_go(id);
    }
}

impl RemoteStore {
    /// The first look at what the bucket has, before anything serves; brings nothing yet. Where something was brought before, the
    /// bucket is not needed.
    ///
    /// # Errors
    /// When nothing was ever brought and the bucket says that nothing ever will be. A bucket that is away may come back.
    pub async fn begin(&self) -> Result<(), RemoteError> {
        let seen = timeout(FIRST_LOOK, self.0.bucket.list("")).await;
        let away = || RemoteError::Away(format!("no answer within {} s", FIRST_LOOK.as_secs()));
        match seen.unwrap_or_else(|_| Err(away())) {
            Ok(objects) => {
                let found = listing::models(objects);
                self.0.announce(&found, &HashMap::new()).await
            }
            Err(error)
                if self.0.records.ids().is_empty() && !matches!(error, RemoteError::Away(_)) =>
            {
                Err(error)
            }
            Err(error) => {
                self.0.note(None, Err(error));
                Ok(())
            }
        }
    }

    /// Looks at the bucket now and then, and at once when it is nudged, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut in_hand = JoinSet::new();
        let looking = async {
            loop {
                match self.0.see().await {
                    Ok(seen) => self.take_in(seen, &mut in_hand),
                    Err(error) => self.0.note(None, Err(error)),
                }
                tokio::select! {
                    () = sleep(self.0.every) => {}
                    () = self.0.nudge.notified() => {}
                }
                // How each went is noted by itself.
                while in_hand.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = looking => {}
            () = stop.cancelled() => {}
        }
    }

    /// Takes each model in hand that nobody has.
    fn take_in(&self, mut seen: Seen, tasks: &mut JoinSet<()>) {
        let inner = &self.0;
        let found = seen.found.keys().cloned();
        let known = inner.records.ids().into_iter().chain(seen.here);
        let ids: BTreeSet<ModelId> = found.chain(known).collect();
        let mut free = Vec::new();
        for id in ids {
            let as_of = seen.changes.get(&id).copied().unwrap_or_default();
            let Ok(mut memory) = inner.memory(&id).try_lock_owned() else {
                inner.pass_over(id);
                continue;
            };
            if is_under_way(as_of) {
                inner.pass_over(id);
                continue;
            }
            if memory.look > seen.began {
                continue;
            }
            (memory.look, memory.as_of) = (seen.ended, as_of);
            let listing = seen.found.remove(&id);
            inner.state().in_hand.insert(id.clone());
            let in_hand = InHand {
                store: self.clone(),
                id,
                outcome: None,
            };
            free.push(take_in_model(in_hand, listing, memory));
        }
        inner.note(None, Ok(()));
        // When all are in hand: the first may be done at once, and is not all there is to do.
        for model in free {
            tasks.spawn(model);
        }
    }

    /// Takes in what others did to a model, as far as that is soon done.
    pub async fn refresh(&self, id: &ModelId) {
        let look = async {
            let mut memory = self.0.memory(id).lock_owned().await;
            memory.as_of = self.0.changes(id);
            if is_under_way(memory.as_of) {
                return Ok(());
            }
            let found = listing::model(self.0.bucket.list(id.as_str()).await?);
            memory.look = self.0.next_look();
            let found = (found != ModelListing::default()).then_some(&found);
            let mut at_work = AtWork::beside_others();
            self.0.model(id, found, &mut memory, &mut at_work).await
        };
        match timeout(REFRESH, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a model is taken as it was last seen"),
            Err(_) => tracing::debug!("the bucket is slow: a model is taken as it was last seen"),
        }
        self.0.let_go(id);
    }
}

/// Whether a change from inside is under way, by their number: each is counted at its beginning and at its end.
pub(super) fn is_under_way(changes: u64) -> bool {
    changes % 2 == 1
}

/// The memory is let go before the model is: whoever looks then finds it free.
async fn take_in_model(
    mut in_hand: InHand,
    listing: Option<ModelListing>,
    mut memory: OwnedMutexGuard<Memory>,
) {
    let inner = Arc::clone(&in_hand.store.0);
    let mut at_work = AtWork::among(&inner.at_work).await;
    let taken = inner.model(&in_hand.id, listing.as_ref(), &mut memory, &mut at_work);
    let outcome = match taken.await {
        // Somebody was faster, most often this gateway itself: the next look sees it.
        Err(RemoteError::Changed) => Ok(()),
        outcome => outcome,
    };
    if listing.is_none() {
        memory.forget();
    }
    in_hand.outcome = Some(outcome);
}

impl Inner {
    /// Says how it went with the bucket, or with one of its models; what is wrong is told once.
    fn note(&self, model: Option<&ModelId>, outcome: Result<(), RemoteError>) {
        let now = self.clock.now();
        let cached = self.records.bytes();
        let mut state = self.state();
        let State {
            status,
            troubles,
            in_hand,
            ..
        } = &mut *state;
        status.cached_bytes = cached;
        match outcome {
            Ok(()) => {
                status.looks[0] += u64::from(model.is_none());
                troubles.remove(&model.cloned());
            }
            Err(error) => {
                status.looks[1] += 1;
                troubles.insert(model.cloned(), error.to_string());
            }
        }
        let trouble = troubles.values().next().cloned();
        if let Some(trouble) = &trouble {
            if status.trouble.as_ref() != Some(trouble) {
                tracing::warn!("what serves goes on: {trouble}");
            }
            status.away_since.get_or_insert(now);
        } else {
            if let Some(since) = status.away_since.take() {
                let seconds = (now - since).num_seconds();
                tracing::info!(
                    for_s = seconds,
                    "the bucket of models is as it should be again"
                );
            }
            if in_hand.is_empty() {
                status.synced_at = Some(now);
            }
        }
        status.trouble = trouble;
    }

    fn next_look(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn memory(&self, id: &ModelId) -> Arc<Turn<Memory>> {
        Arc::clone(super::lock(&self.memories).entry(id.clone()).or_default())
    }

    /// Somebody has it in hand: it is looked at again when they let it go.
    fn pass_over(&self, id: ModelId) {
        self.state().passed_over.insert(id);
    }

    /// It is free again for those who passed it over.
    pub(super) fn let_go(&self, id: &ModelId) {
        if self.state().passed_over.remove(id) {
            self.nudge.notify_one();
        }
    }

    async fn see(&self) -> Result<Seen, RemoteError> {
        self.say_what_is_unsaid().await?;
        let began = self.next_look();
        let changes = self.state().changes.clone();
        let found = listing::models(self.bucket.list("").await?);
        let ended = self.next_look();
        self.not_all_at_once(&found)?;
        self.announce(&found, &changes).await?;
        // Also what lies in the folder and was never noted, as after a crash.
        let folder = self.folder.clone();
        let here = blocking(move || folder.ids().map_err(std::io::Error::other)).await?;
        Ok(Seen {
            began,
            ended,
            found,
            here: here.into_iter().map(|(id, _)| id).collect(),
            changes,
        })
    }

    /// A bucket from which all is gone is believed the second time: most often it is a wrong prefix, or somebody at work.
    fn not_all_at_once(&self, found: &BTreeMap<ModelId, ModelListing>) -> Result<(), RemoteError> {
        let is_empty = found.is_empty() && !self.records.ids().is_empty();
        let was_empty = std::mem::replace(&mut self.state().was_empty, is_empty);
        if is_empty && !was_empty {
            return Err(RemoteError::Content(
                "the bucket has no model any more: it is looked at once more before all are taken out".to_owned(),
            ));
        }
        Ok(())
    }

    /// Shows what there is before it is brought: models with versions that are on their way.
    async fn announce(
        &self,
        found: &BTreeMap<ModelId, ModelListing>,
        changes: &HashMap<ModelId, u64>,
    ) -> Result<(), RemoteError> {
        for (id, listing) in found {
            if listing.deleted.is_some() {
                continue;
            }
            let as_of = changes.get(id).copied().unwrap_or_default();
            // Whoever is changing it makes its folder, too.
            let Ok(turn) = self.turn_of(id).try_lock_owned() else {
                continue;
            };
            if self.changes(id) != as_of {
                continue;
            }
            let dir = self.dir(id, None);
            let made = blocking(move || fs::create_dir_all(dir).map(|()| turn));
            drop(made.await?);
            let known = self.record(id).versions;
            let mut state = self.state();
            let missing = state.missing.entry(id.clone()).or_default();
            for number in listing.versions.keys() {
                if !known.contains_key(&number.get()) {
                    let coming = Missing::Waiting("it is on its way from the bucket".to_owned());
                    missing.entry(*number).or_insert(coming);
                }
            }
        }
        if !std::mem::replace(&mut self.state().is_known, true) {
            self.tell(None);
        }
        Ok(())
    }
}
