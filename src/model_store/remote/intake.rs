//! Takes one model in as the bucket has it: brings what is new into the folder whole, and takes out what is gone. Nothing is taken
//! out before what follows it is there, and nothing because the bucket does not answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::bring::blocking;
use super::bucket::Stamp;
use super::listing::{
    DELETED, MAX_SHEET, ModelListing, Offer, SHEET, Sheet, VersionListing, Wanted,
};
use super::record::Files;
use super::{Inner, Missing, RemoteError};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::manifest::{Manifest, VersionsChoice};
use crate::model_store::folder::subfolders;
use crate::model_store::manifest;

/// When a version is tried again that could not be used as it is.
const TRY_AGAIN: Duration = Duration::from_mins(5);

/// A deletion that stays undone for this long is finished by whoever sees it.
const LEFT_UNDONE: Duration = Duration::from_mins(1);

/// Bytes from which on a version is a large one.
const LARGE: u64 = 64 << 20;

pub(super) type Wants = BTreeMap<String, Wanted>;

/// What is remembered of a model from look to look.
#[derive(Default)]
pub(super) struct Memory {
    /// The look that it was taken in by last.
    pub(super) look: u64,
    /// How many changes from inside there were before the bucket was asked: what it said is stale after one more.
    pub(super) as_of: u64,
    sheets: BTreeMap<VersionNumber, (Stamp, Result<Sheet, String>)>,
    /// Copies by hand, and since when they are as they are.
    copies: BTreeMap<VersionNumber, (Wants, Instant)>,
    /// What could not be used, when, and why.
    failed: BTreeMap<VersionNumber, (Wants, Instant, String)>,
    /// Deletions that were begun, and since when they are seen.
    marks: BTreeMap<Option<VersionNumber>, (Stamp, Instant)>,
}

/// A place among the models that are looked at at the same time. Whoever brings something leaves it to others meanwhile.
pub(super) struct AtWork<'a> {
    places: Option<&'a Semaphore>,
    place: Option<SemaphorePermit<'a>>,
}

impl<'a> AtWork<'a> {
    /// Waits for a place.
    pub(super) async fn among(places: &'a Semaphore) -> Self {
        let mut at_work = Self {
            places: Some(places),
            place: None,
        };
        at_work.come_back().await;
        at_work
    }

    /// For somebody who waits for this one: it takes no place.
    pub(super) fn beside_others() -> Self {
        Self {
            places: None,
            place: None,
        }
    }

    fn leave(&mut self) {
        self.place = None;
    }

    async fn come_back(&mut self) {
        if let Some(places) = self.places {
            self.place = places.acquire().await.ok();
        }
    }
}

impl Inner {
    /// Takes in one model, `None` where the bucket has none.
    pub(super) async fn model(
        &self,
        id: &ModelId,
        listing: Option<&ModelListing>,
        memory: &mut Memory,
        at_work: &mut AtWork<'_>,
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
            let taken = self.version((id, number), version, selected, memory, at_work);
            let missing = taken.await.unwrap_or_else(|error| {
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
        at_work: &mut AtWork<'_>,
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
        at_work.leave();
        let brought = self.bring_in_turn((id, number), &wanted, memory.as_of);
        let brought = brought.await;
        at_work.come_back().await;
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

    /// Brings a version when few others are brought; large ones do not stand before small ones.
    async fn bring_in_turn(
        &self,
        at: (&ModelId, VersionNumber),
        wanted: &Wants,
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let bytes: u64 = wanted.values().map(|file| file.stamp.bytes).sum();
        let [small, large] = &self.bringing;
        let few = if bytes < LARGE { small } else { large };
        // Closed they never are.
        let _one_of_few = few.acquire().await.ok();
        let _coming = self.make_room(at, wanted).await?;
        self.bring(at, wanted, as_of).await
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
    /// The bucket has nothing of it any more.
    pub(super) fn forget(&mut self) {
        *self = Self {
            look: self.look,
            ..Self::default()
        };
    }

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
