//! Looks at the bucket now and then, and has each model taken in as it is there. A model that takes long holds up no other: later
//! looks pass it over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex as Turn;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bring::blocking;
use super::intake::Memory;
use super::listing::{self, ModelListing};
use super::{Inner, Missing, RemoteError, RemoteStore};
use crate::domain::ids::ModelId;
use crate::model_store::ModelStore as _;

/// Models of one look that are taken in at the same time.
const AT_ONCE: usize = 16;

/// How long the start waits for the bucket.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How long somebody who is about to change a model waits for what others did to it.
const REFRESH: Duration = Duration::from_secs(10);

/// What a look has seen.
struct Seen {
    /// Of looks, which it is: what a later one has seen is not undone.
    number: u64,
    found: BTreeMap<ModelId, ModelListing>,
    /// How many changes from inside there had been before the bucket was asked.
    changes: HashMap<ModelId, u64>,
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
                self.0.note(Err(error));
                Ok(())
            }
        }
    }

    /// Looks at the bucket now and then, and at once when it is nudged, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut looks = JoinSet::new();
        let looking = async {
            loop {
                match self.0.see().await {
                    Ok(seen) => {
                        let store = self.clone();
                        looks.spawn(async move {
                            let outcome = store.0.take_in(&seen).await;
                            store.0.note(outcome);
                        });
                    }
                    Err(error) => self.0.note(Err(error)),
                }
                tokio::select! {
                    () = sleep(self.0.every) => {}
                    () = self.0.nudge.notified() => {}
                }
                while looks.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = looking => {}
            () = stop.cancelled() => {}
        }
    }

    /// Takes in what others did to a model, as far as that is soon done.
    pub async fn refresh(&self, id: &ModelId) {
        let look = async {
            let mut memory = self.0.memory(id).lock_owned().await;
            memory.look = self.0.next_look();
            memory.as_of = self.0.changes(id);
            let found = listing::model(self.0.bucket.list(id.as_str()).await?);
            let is_there = found != ModelListing::default();
            self.0
                .model(id, is_there.then_some(&found), &mut memory)
                .await
        };
        match timeout(REFRESH, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a model is taken as it was last seen"),
            Err(_) => tracing::debug!("the bucket is slow: a model is taken as it was last seen"),
        }
    }
}

impl Inner {
    /// Says how a look went, once where it is the same as before. One that could not take in all has nothing to say.
    fn note(&self, outcome: Result<bool, RemoteError>) {
        let now = self.clock.now();
        let cached = self.records.bytes();
        let mut state = self.state();
        let status = &mut state.status;
        status.cached_bytes = cached;
        match outcome {
            Ok(false) => {}
            Ok(true) => {
                status.looks[0] += 1;
                status.synced_at = Some(now);
                status.trouble = None;
                if let Some(since) = status.away_since.take() {
                    let seconds = (now - since).num_seconds();
                    tracing::info!(
                        for_s = seconds,
                        "the bucket of models is as it should be again"
                    );
                }
            }
            Err(error) => {
                status.looks[1] += 1;
                let trouble = error.to_string();
                if status.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("what serves goes on: {trouble}");
                }
                status.trouble = Some(trouble);
                status.away_since.get_or_insert(now);
            }
        }
    }

    fn next_look(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn memory(&self, id: &ModelId) -> Arc<Turn<Memory>> {
        Arc::clone(super::lock(&self.memories).entry(id.clone()).or_default())
    }

    async fn see(&self) -> Result<Seen, RemoteError> {
        self.say_what_is_unsaid().await?;
        let number = self.next_look();
        let changes = self.state().changes.clone();
        let found = listing::models(self.bucket.list("").await?);
        self.not_all_at_once(&found)?;
        self.announce(&found, &changes).await?;
        Ok(Seen {
            number,
            found,
            changes,
        })
    }

    /// Takes in what was seen; gives whether that is all, `false` where an earlier look still has a model in hand.
    async fn take_in(&self, seen: &Seen) -> Result<bool, RemoteError> {
        // Also what lies in the folder and was never noted, as after a crash.
        let folder = self.folder.clone();
        let here = blocking(move || folder.ids().map_err(std::io::Error::other)).await?;
        let here = here.into_iter().map(|(id, _)| id);
        let ids = seen.found.keys().cloned().chain(self.records.ids());
        let ids: BTreeSet<ModelId> = ids.chain(here).collect();
        let looks = ids.into_iter().map(|id| self.take_in_model(id, seen));
        let outcomes: Vec<_> = stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let all = outcomes.into_iter().collect::<Result<Vec<bool>, _>>()?;
        Ok(all.into_iter().all(|is_done| is_done))
    }

    async fn take_in_model(&self, id: ModelId, seen: &Seen) -> Result<bool, RemoteError> {
        let Ok(mut memory) = self.memory(&id).try_lock_owned() else {
            return Ok(false);
        };
        if memory.look > seen.number {
            return Ok(true);
        }
        memory.look = seen.number;
        memory.as_of = seen.changes.get(&id).copied().unwrap_or_default();
        let found = seen.found.get(&id);
        let outcome = self.model(&id, found, &mut memory).await;
        if found.is_none() {
            memory.forget();
        }
        match outcome {
            // Somebody was faster, most often this gateway itself: the next look sees it.
            Ok(()) | Err(RemoteError::Changed) => Ok(true),
            Err(error) => Err(error),
        }
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
