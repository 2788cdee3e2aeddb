//! Looks at the bucket, brings what is new into the folder whole, and takes out what is gone. Nothing is taken out before what
//! follows it is there, and nothing because the bucket does not answer.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bring::blocking;
use super::bucket::Stamp;
use super::listing::{
    self, DELETED, MAX_SHEET, ModelListing, Offer, SHEET, Sheet, VersionListing, Wanted,
};
use super::record::Files;
use super::{Inner, Missing, RemoteError, RemoteStore};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::manifest::{Manifest, VersionsChoice};
use crate::model_store::folder::subfolders;
use crate::model_store::{ModelStore as _, manifest};

/// Models that are brought at the same time.
const AT_ONCE: usize = 4;

/// How long the start waits for the bucket.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How long somebody who is about to change a model waits for what others did to it.
const REFRESH: Duration = Duration::from_secs(10);

/// When a version is tried again that could not be used as it is.
const TRY_AGAIN: Duration = Duration::from_mins(5);

/// A deletion that stays undone for this long is finished by whoever sees it.
const LEFT_UNDONE: Duration = Duration::from_mins(1);

pub(super) type Wants = BTreeMap<String, Wanted>;

/// What is remembered of a model from look to look.
#[derive(Default)]
pub(super) struct Memory {
    /// How many changes from inside there were before the bucket was asked: what it said is stale after one more.
    as_of: u64,
    sheets: BTreeMap<VersionNumber, (Stamp, Result<Sheet, String>)>,
    /// Copies by hand, and since when they are as they are.
    copies: BTreeMap<VersionNumber, (Wants, Instant)>,
    /// What could not be used, when, and why.
    failed: BTreeMap<VersionNumber, (Wants, Instant, String)>,
    /// Deletions that were begun, and since when they are seen.
    marks: BTreeMap<Option<VersionNumber>, (Stamp, Instant)>,
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
        loop {
            let turn = async {
                let outcome = self.0.take_in().await;
                self.0.note(outcome);
                tokio::select! {
                    () = sleep(self.0.every) => {}
                    () = self.0.nudge.notified() => {}
                }
            };
            tokio::select! {
                () = turn => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes in what others did to a model, as far as that is soon done.
    pub async fn refresh(&self, id: &ModelId) {
        let look = async {
            let mut memories = self.0.looking.lock().await;
            let memory = memories.entry(id.clone()).or_default();
            memory.as_of = self.0.changes(id);
            let found = listing::model(self.0.bucket.list(id.as_str()).await?);
            let is_there = found != ModelListing::default();
            self.0.model(id, is_there.then_some(&found), memory).await
        };
        match timeout(REFRESH, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a model is taken as it was last seen"),
            Err(_) => tracing::debug!("the bucket is slow: a model is taken as it was last seen"),
        }
    }
}

impl Inner {
    /// Says how a look went, once where it is the same as before.
    fn note(&self, outcome: Result<(), RemoteError>) {
        let now = self.clock.now();
        let cached = self.records.bytes();
        let mut state = self.state();
        let status = &mut state.status;
        status.cached_bytes = cached;
        match outcome {
            Ok(()) => {
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

    async fn take_in(&self) -> Result<(), RemoteError> {
        self.say_what_is_unsaid().await?;
        let changes = self.state().changes.clone();
        let found = listing::models(self.bucket.list("").await?);
        self.not_all_at_once(&found)?;
        self.announce(&found, &changes).await?;
        let mut memories = self.looking.lock().await;
        // Also what lies in the folder and was never noted, as after a crash.
        let folder = self.folder.clone();
        let here = blocking(move || folder.ids().map_err(std::io::Error::other)).await?;
        let here = here.into_iter().map(|(id, _)| id);
        for id in found.keys().cloned().chain(self.records.ids()).chain(here) {
            let as_of = changes.get(&id).copied().unwrap_or_default();
            memories.entry(id).or_default().as_of = as_of;
        }
        let mut looks = Vec::new();
        for (id, memory) in memories.iter_mut() {
            looks.push(self.model(id, found.get(id), memory));
        }
        let outcomes: Vec<_> = stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        memories.retain(|id, _| found.contains_key(id));
        let failed = outcomes
            .into_iter()
            .filter(Result::is_err)
            .max_by_key(|outcome| *outcome != Err(RemoteError::Changed));
        match failed {
            // Somebody was faster, most often this gateway itself: the next look sees it.
            Some(Err(RemoteError::Changed)) => Ok(()),
            failed => failed.unwrap_or(Ok(())),
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
            let turn = match self.turn_as_of(id, as_of).await {
                Err(RemoteError::Changed) => continue,
                turn => turn?,
            };
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

    /// Takes in one model, `None` where the bucket has none.
    async fn model(
        &self,
        id: &ModelId,
        listing: Option<&ModelListing>,
        memory: &mut Memory,
    ) -> Result<(), RemoteError> {
        let there = listing.filter(|listing| listing.deleted.is_none());
        let Some(there) = there else {
            self.take_out(id, None, memory.as_of).await?;
            let mark = listing.and_then(|listing| listing.deleted.as_ref());
            return self.finish_for_others(id, None, mark, memory).await;
        };
        self.shared(id, &there.shared, memory.as_of).await?;
        let choice = self.choice(id).await?;
        let is_there = |(_, version): &(&VersionNumber, &VersionListing)| version.deleted.is_none();
        let highest = there
            .versions
            .iter()
            .rfind(is_there)
            .map(|(number, _)| *number);
        let mut outcome = Ok(());
        // The newest first: it is what most ask for.
        for (&number, version) in there.versions.iter().rev() {
            let selected = choice.selects(number, highest);
            let missing = self.version((id, number), version, selected, memory).await;
            let missing = missing.unwrap_or_else(|error| {
                let why = Missing::Waiting(error.to_string());
                outcome = Err(error);
                Some(why)
            });
            self.miss(id, number, missing, !selected);
        }
        memory.marks.remove(&None);
        let gone = self.lying(id).await?.into_iter();
        for number in gone.filter(|number| !there.versions.contains_key(number)) {
            self.take_out(id, Some(number), memory.as_of).await?;
        }
        self.state()
            .missing
            .entry(id.clone())
            .or_default()
            .retain(|number, _| there.versions.contains_key(number));
        outcome
    }

    /// Says why a version is not in the folder, or that it is.
    pub(super) fn miss(
        &self,
        id: &ModelId,
        number: VersionNumber,
        why: Option<Missing>,
        spare: bool,
    ) {
        let is_news = {
            let mut state = self.state();
            let spares = state.spare.entry(id.clone()).or_default();
            if spare {
                spares.insert(number);
            } else {
                spares.remove(&number);
            }
            let missing = state.missing.entry(id.clone()).or_default();
            let before = missing.get(&number).cloned();
            match &why {
                Some(why) => missing.insert(number, why.clone()),
                None => missing.remove(&number),
            };
            before != why
        };
        if is_news {
            if let Some(Missing::Broken(reason)) = why {
                tracing::error!(
                    model = id.as_str(),
                    version = number.get(),
                    "a version of the bucket cannot be used: {reason}"
                );
            }
            self.tell(Some(id));
        }
    }

    /// Which versions the model's manifest selects; all where it is broken, which the folder says.
    async fn choice(&self, id: &ModelId) -> Result<VersionsChoice, RemoteError> {
        let dir = self.dir(id, None);
        let read = blocking(move || Ok(manifest::read(&dir))).await?;
        let parsed = read.ok().map(|text| Manifest::parse(text.as_deref(), None));
        Ok(match parsed {
            Some(Ok(manifest)) => manifest.serving.versions,
            _ => VersionsChoice::All,
        })
    }

    /// Brings a version if it is to be brought; says why it is not here, `None` where it is or is gone.
    async fn version(
        &self,
        (id, number): (&ModelId, VersionNumber),
        listing: &VersionListing,
        selected: bool,
        memory: &mut Memory,
    ) -> Result<Option<Missing>, RemoteError> {
        if listing.deleted.is_none() {
            memory.marks.remove(&Some(number));
        }
        let sheet = self.sheet((id, number), listing, memory).await?;
        let here = self.here(id, number).await?;
        let unless_here = |why| Ok(here.is_none().then_some(why));
        let wanted = match listing.offer(sheet.as_ref()) {
            Offer::Gone => {
                self.take_out(id, Some(number), memory.as_of).await?;
                let mark = listing.deleted.as_ref();
                self.finish_for_others(id, Some(number), mark, memory)
                    .await?;
                return Ok(None);
            }
            Offer::Waiting(reason) => return unless_here(Missing::Waiting(reason)),
            Offer::Broken(reason) => return unless_here(Missing::Broken(reason)),
            Offer::Copied(wanted) => {
                if !is_same(here.as_ref(), &wanted) && !memory.is_quiet(number, &wanted, self.quiet)
                {
                    let reason = "it is being copied into the bucket, and has no version.json";
                    return unless_here(Missing::Waiting(reason.to_owned()));
                }
                wanted
            }
            Offer::Whole(wanted) => wanted,
        };
        if is_same(here.as_ref(), &wanted) {
            return Ok(None);
        }
        if !selected {
            return unless_here(Missing::NotSelected);
        }
        if let Some((then, at, reason)) = memory.failed.get(&number)
            && *then == wanted
            && at.elapsed() < TRY_AGAIN
        {
            return unless_here(Missing::Broken(reason.clone()));
        }
        let brought = match self.make_room((id, number), &wanted).await {
            Ok(_coming) => self.bring((id, number), &wanted, memory.as_of).await,
            Err(error) => Err(error),
        };
        match brought {
            Ok(()) => Ok(None),
            Err(RemoteError::Content(reason) | RemoteError::Disk(reason)) => {
                let failed = (wanted, Instant::now(), reason.clone());
                memory.failed.insert(number, failed);
                unless_here(Missing::Broken(reason))
            }
            Err(RemoteError::Changed) => {
                unless_here(Missing::Waiting("it changes in the bucket".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// The versions that lie in the folder.
    async fn lying(&self, id: &ModelId) -> Result<Vec<VersionNumber>, RemoteError> {
        let dir = self.dir(id, None);
        blocking(move || match subfolders(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        })
        .await
    }

    async fn sheet(
        &self,
        (id, number): (&ModelId, VersionNumber),
        listing: &VersionListing,
        memory: &mut Memory,
    ) -> Result<Option<Result<Sheet, String>>, RemoteError> {
        let Some(stamp) = &listing.sheet else {
            return Ok(None);
        };
        if let Some((known, sheet)) = memory.sheets.get(&number)
            && known == stamp
        {
            return Ok(Some(sheet.clone()));
        }
        let name = format!("{id}/{number}/{SHEET}");
        let (stamp, sheet) = match self.bucket.read(&name, MAX_SHEET).await {
            Ok(Some((bytes, stamp))) => (stamp, Sheet::read(&bytes)),
            Ok(None) => return Err(RemoteError::Changed),
            Err(RemoteError::Content(reason)) => (stamp.clone(), Err(reason)),
            Err(error) => return Err(error),
        };
        memory.sheets.insert(number, (stamp, sheet.clone()));
        Ok(Some(sheet))
    }

    /// What was brought of a version, if it still lies in the folder.
    async fn here(
        &self,
        id: &ModelId,
        number: VersionNumber,
    ) -> Result<Option<Files>, RemoteError> {
        let Some(files) = self.record(id).versions.remove(&number.get()) else {
            return Ok(None);
        };
        let dir = self.dir(id, Some(number));
        blocking(move || Ok(lie_in(&dir, &files).then_some(files))).await
    }

    /// Finishes a deletion that whoever began it has left undone.
    async fn finish_for_others(
        &self,
        id: &ModelId,
        number: Option<VersionNumber>,
        mark: Option<&Stamp>,
        memory: &mut Memory,
    ) -> Result<(), RemoteError> {
        let Some(mark) = mark else {
            memory.marks.remove(&number);
            return Ok(());
        };
        let seen = memory.marks.entry(number);
        let (stamp, since) = seen.or_insert_with(|| (mark.clone(), Instant::now()));
        if stamp != mark {
            (*stamp, *since) = (mark.clone(), Instant::now());
        }
        if since.elapsed() < LEFT_UNDONE {
            return Ok(());
        }
        tracing::info!(
            model = id.as_str(),
            "a deletion in the bucket that was left undone is finished"
        );
        let mark = mark.clone();
        self.delete_below(&super::publish::below(id, number), &mark)
            .await
    }

    /// Deletes all objects below a name that has this mark of deletion, the mark last.
    ///
    /// # Errors
    /// [`RemoteError::Changed`] where the mark is another one by now, or none: what lies there is somebody's.
    pub(super) async fn delete_below(&self, below: &str, mark: &Stamp) -> Result<(), RemoteError> {
        let found = self.bucket.list(below).await?;
        if found.get(DELETED) != Some(mark) {
            return Err(RemoteError::Changed);
        }
        let names = found.into_keys().filter(|name| name != DELETED);
        let names: Vec<_> = names.map(|name| format!("{below}/{name}")).collect();
        self.bucket.delete(names).await?;
        self.bucket.delete(vec![format!("{below}/{DELETED}")]).await
    }
}

impl Memory {
    /// Whether a copy by hand has been as it is for long enough, by our own clock.
    fn is_quiet(&mut self, number: VersionNumber, wanted: &Wants, quiet: Duration) -> bool {
        let (then, since) = self
            .copies
            .entry(number)
            .or_insert_with(|| (wanted.clone(), Instant::now()));
        if then != wanted {
            (*then, *since) = (wanted.clone(), Instant::now());
        }
        since.elapsed() >= quiet
    }
}

/// Whether what was brought is what is wanted. With digests the tags do not count: the same again is the same.
fn is_same(here: Option<&Files>, wanted: &Wants) -> bool {
    here.is_some_and(|here| {
        here.len() == wanted.len()
            && wanted.iter().all(|(name, file)| {
                here.get(name).is_some_and(|brought| match file.digest {
                    Some(digest) => digest.to_string() == brought.sha256,
                    None => brought.stamp == file.stamp,
                })
            })
    })
}

/// Whether these files lie in a folder, by their sizes.
fn lie_in(dir: &Path, files: &Files) -> bool {
    files.iter().all(|(name, file)| {
        let found = fs::metadata(dir.join(name));
        found.is_ok_and(|found| found.is_file() && found.len() == file.stamp.bytes)
    })
}
