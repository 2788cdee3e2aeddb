//! Changes from inside, in the bucket: uploads, new models, texts, deletions. Each is made so that another replica, or this one
//! after a crash in the middle, takes it for done or for not done.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use uuid::Uuid;

use super::bucket::Stamp;
use super::listing::{self, DELETED, MAX_SHEET, SHEET, Sheet, SheetFile, UPLOAD, VersionListing};
use super::record::{Brought, Files};
use super::{Inner, RemoteError, RemoteStore};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::model_store::upload::Staged;
use crate::model_store::{ChangeError, name};

/// An upload that began this long ago and has not ended, by the bucket's own clock, is nobody's: its gateway is gone.
const ABANDONED: i64 = 6 * 3600;

/// How long a change waits for another one of the same model.
const TURN_TIME: Duration = Duration::from_secs(30);

/// Something that is marked as deleted in the bucket, and not gone.
#[derive(Clone, Debug)]
pub(in crate::model_store) struct Marked {
    id: ModelId,
    number: Option<VersionNumber>,
    /// The mark, where the bucket has said that it has it.
    mark: Option<Stamp>,
}

/// What came of putting a version into the bucket.
#[derive(Debug)]
pub(in crate::model_store) enum Published {
    /// It is there now.
    New(Files),
    /// The very same was there.
    Same(Files),
}

/// What could not be said to the bucket.
#[derive(Clone, Debug)]
pub(super) enum Unsaid {
    /// It is not deleted.
    Unmark(Marked),
    /// A version is not to serve.
    Withdraw(ModelId, VersionNumber),
}

/// The turn to change a model. What the bucket said before its end is stale then.
pub(in crate::model_store) struct InTurn {
    store: RemoteStore,
    id: ModelId,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for InTurn {
    fn drop(&mut self) {
        self.store.0.changed(&self.id);
        self.store.0.let_go(&self.id);
    }
}

/// The name below which all objects of a model or a version are.
pub(super) fn below(id: &ModelId, number: Option<VersionNumber>) -> String {
    number.map_or_else(|| id.to_string(), |number| format!("{id}/{number}"))
}

impl From<RemoteError> for ChangeError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Changed => Self::Changed,
            error => Self::Unavailable {
                reason: error.to_string(),
            },
        }
    }
}

impl RemoteStore {
    /// Waits for the turn to change a model; looks that run beside it come to nothing.
    ///
    /// # Errors
    /// When another change of the model takes long.
    pub(in crate::model_store) async fn turn(&self, id: &ModelId) -> Result<InTurn, ChangeError> {
        let turn = timeout(TURN_TIME, self.0.turn_of(id).lock_owned()).await;
        let turn = turn.map_err(|_| ChangeError::Unavailable {
            reason: format!("another change of model {id} is under way"),
        })?;
        self.0.changed(id);
        Ok(InTurn {
            store: self.clone(),
            id: id.clone(),
            _turn: turn,
        })
    }

    /// Puts a version into the bucket: other replicas have it from here on.
    ///
    /// # Errors
    /// When there is another one already, or the bucket does not take it; nothing is there then.
    pub(in crate::model_store) async fn publish(
        &self,
        staged: &Staged,
    ) -> Result<Published, ChangeError> {
        let (id, number) = (&staged.model, staged.number);
        let below = below(id, Some(number));
        let exists = |how: &str| ChangeError::VersionExists {
            model: id.clone(),
            number,
            how: how.to_owned(),
        };
        let bucket = &self.0.bucket;
        let mut found = listing::model(bucket.list(&below).await.map(|objects| {
            let named = |(name, stamp)| (format!("{number}/{name}"), stamp);
            objects.into_iter().map(named).collect()
        })?);
        let mut found = found.versions.remove(&number).unwrap_or_default();
        if let Some(mark) = &found.deleted {
            self.0.delete_below(&below, mark).await?;
            // With all else that lay there.
            found.upload = None;
        } else if let Some(files) = self.same(&below, &found, staged).await? {
            return Ok(Published::Same(files));
        } else if found.sheet.is_some() || (found.upload.is_none() && !found.files.is_empty()) {
            return Err(exists("lies in the bucket"));
        }
        let upload = format!("{below}/{UPLOAD}");
        let claimed = self.claim(&below, &upload, found.upload.as_ref()).await?;
        let Some(claimed) = claimed else {
            return Err(exists("is being uploaded through another replica"));
        };
        match self.put_version(&below, staged, &claimed).await {
            Ok(files) => {
                // With the sheet it is there, whether this is or not.
                if let Err(error) = bucket.delete(vec![upload]).await {
                    tracing::debug!(%error, "the mark of an upload stays in the bucket");
                }
                Ok(Published::New(files))
            }
            // It took so long that somebody else has the place by now.
            Err(RemoteError::Exists) => Err(exists("is being uploaded through another replica")),
            Err(error) => {
                self.withdraw(id, number).await;
                Err(error.into())
            }
        }
    }

    /// The version as it lies in the bucket, where it is whole and has the same files.
    async fn same(
        &self,
        below: &str,
        found: &VersionListing,
        staged: &Staged,
    ) -> Result<Option<Files>, RemoteError> {
        if found.sheet.is_none() {
            return Ok(None);
        }
        let name = format!("{below}/{SHEET}");
        let sheet = self.0.bucket.read(&name, MAX_SHEET).await?;
        let Some(sheet) = sheet.and_then(|(bytes, _)| Sheet::read(&bytes).ok()) else {
            return Ok(None);
        };
        let mut files = Files::new();
        for (name, _, digest) in staged.parts() {
            let named = sheet.files.get(name);
            let Some(stamp) = found.files.get(name).filter(|stamp| {
                let is_same = |named: Digest| named == digest;
                named.is_some_and(|file| {
                    file.bytes == stamp.bytes && file.sha256.parse().is_ok_and(is_same)
                })
            }) else {
                return Ok(None);
            };
            let brought = Brought {
                stamp: stamp.clone(),
                sha256: digest.to_string(),
            };
            files.insert(name.to_owned(), brought);
        }
        Ok((files.len() == sheet.files.len()).then_some(files))
    }

    /// Makes the place of a version ours, where it is nobody's; gives our mark.
    async fn claim(
        &self,
        below: &str,
        upload: &str,
        before: Option<&Stamp>,
    ) -> Result<Option<Stamp>, RemoteError> {
        let bucket = &self.0.bucket;
        let owner = Uuid::now_v7().to_string();
        if let Some(before) = before {
            let clock = format!("{below}/.clock-{owner}");
            bucket.put_new(&clock, b"").await?;
            let age = bucket.seconds_between(upload, &clock).await;
            bucket.delete(vec![clock]).await?;
            match age {
                Ok(age) if age < ABANDONED => return Ok(None),
                Ok(_) => {}
                // It has ended a moment ago.
                Err(RemoteError::Missing(_)) => return Err(RemoteError::Changed),
                Err(error) => return Err(error),
            }
            return match bucket.replace(upload, owner.as_bytes(), Some(before)).await {
                Ok(stamp) => Ok(Some(stamp)),
                Err(RemoteError::Changed) => Ok(None),
                Err(error) => Err(error),
            };
        }
        match bucket.put_new(upload, owner.as_bytes()).await {
            Ok(stamp) => Ok(Some(stamp)),
            Err(RemoteError::Exists | RemoteError::Changed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put_version(
        &self,
        below: &str,
        staged: &Staged,
        claimed: &Stamp,
    ) -> Result<Files, RemoteError> {
        let (mut files, mut sheet) = (Files::new(), BTreeMap::new());
        for (name, path, digest) in staged.parts() {
            let stamp = self
                .0
                .bucket
                .upload(&format!("{below}/{name}"), &path)
                .await?;
            let sha256 = digest.to_string();
            let file = SheetFile {
                sha256: sha256.clone(),
                bytes: stamp.bytes,
            };
            sheet.insert(name.to_owned(), file);
            files.insert(name.to_owned(), Brought { stamp, sha256 });
        }
        if self.0.bucket.list(below).await?.get(UPLOAD) != Some(claimed) {
            return Err(RemoteError::Exists);
        }
        let sheet = serde_json::to_vec_pretty(&Sheet { files: sheet });
        let sheet = sheet.map_err(|error| RemoteError::Content(error.to_string()))?;
        self.0
            .bucket
            .put_new(&format!("{below}/{SHEET}"), &sheet)
            .await?;
        Ok(files)
    }

    /// Takes back a version that was put there a moment ago and is not to serve.
    pub(in crate::model_store) async fn withdraw(&self, id: &ModelId, number: VersionNumber) {
        if let Err(error) = self.0.withdraw(id, number).await {
            tracing::warn!(%error, "a version that is not to serve is taken out of the bucket later");
            self.say_later(Unsaid::Withdraw(id.clone(), number));
        }
    }

    /// What nobody can wait for: the next look begins with it.
    fn say_later(&self, what: Unsaid) {
        super::lock(&self.0.unsaid).push(what);
        self.nudge();
    }

    /// Notes that a version which was published lies in the folder.
    pub(in crate::model_store) fn placed(&self, id: &ModelId, number: VersionNumber, files: Files) {
        self.0.records.change(id, |record| {
            record.versions.insert(number.get(), files);
        });
    }

    /// Makes a model in the bucket.
    ///
    /// # Errors
    /// When there is one, or the bucket does not take it.
    pub(in crate::model_store) async fn create(
        &self,
        id: &ModelId,
        text: &str,
    ) -> Result<(), ChangeError> {
        let found = self.0.bucket.list(id.as_str()).await?;
        if let Some(mark) = found.get(DELETED) {
            self.0.delete_below(id.as_str(), mark).await?;
        } else if !found.is_empty() {
            return Err(ChangeError::ModelExists(id.clone()));
        }
        match self.put_manifest(id, text, None).await {
            Err(RemoteError::Exists | RemoteError::Changed) => {
                Err(ChangeError::ModelExists(id.clone()))
            }
            put => Ok(put?),
        }
    }

    /// Puts a model's manifest in the place of the one that lies in the folder.
    ///
    /// # Errors
    /// [`ChangeError::Changed`] where somebody else was faster, or when the bucket does not take it.
    pub(in crate::model_store) async fn describe(
        &self,
        id: &ModelId,
        text: &str,
    ) -> Result<(), ChangeError> {
        let before = self.0.record(id).shared.remove(name::MANIFEST);
        let before = before.map(|file| file.stamp);
        match self.put_manifest(id, text, before.as_ref()).await {
            Err(RemoteError::Exists) => Err(ChangeError::Changed),
            put => Ok(put?),
        }
    }

    async fn put_manifest(
        &self,
        id: &ModelId,
        text: &str,
        before: Option<&Stamp>,
    ) -> Result<(), RemoteError> {
        let object = format!("{id}/{}", name::MANIFEST);
        let stamp = self
            .0
            .bucket
            .replace(&object, text.as_bytes(), before)
            .await?;
        let brought = Brought {
            stamp,
            sha256: String::new(),
        };
        self.0.records.change(id, |record| {
            record.shared.insert(name::MANIFEST.to_owned(), brought);
        });
        Ok(())
    }

    /// Marks a model or a version as deleted: for every replica it is gone with its next look. `None` where the bucket has none.
    ///
    /// # Errors
    /// When the bucket does not take the mark; nothing is deleted then.
    pub(in crate::model_store) async fn mark(
        &self,
        id: &ModelId,
        number: Option<VersionNumber>,
    ) -> Result<Option<Marked>, ChangeError> {
        let found = self.0.bucket.list(&below(id, number)).await?;
        if found.is_empty() || found.contains_key(DELETED) {
            return Ok(None);
        }
        let mut marked = Marked {
            id: id.clone(),
            number,
            mark: None,
        };
        match self.0.mark(&below(id, number)).await {
            Ok(mark) => {
                marked.mark = Some(mark);
                Ok(Some(marked))
            }
            // Somebody else deletes it, and was faster.
            Err(RemoteError::Exists) => Ok(None),
            Err(error) => {
                // It may be there all the same.
                self.say_later(Unsaid::Unmark(marked));
                Err(error.into())
            }
        }
    }

    /// Takes the mark away.
    pub(in crate::model_store) async fn unmark(&self, marked: Marked) {
        if let Err(error) = self.0.bucket.delete(vec![mark_of(&marked)]).await {
            tracing::warn!(%error, "a deletion that is taken back is said to the bucket later");
            self.unmark_later(marked);
        }
    }

    /// The same where nobody can wait for it.
    pub(in crate::model_store) fn unmark_later(&self, marked: Marked) {
        self.say_later(Unsaid::Unmark(marked));
    }

    /// Deletes what is marked. What fails is done by whoever looks in a minute.
    pub(in crate::model_store) async fn delete(&self, marked: Marked) {
        self.0.forget(&marked.id, marked.number);
        let Some(mark) = &marked.mark else {
            return;
        };
        let below = below(&marked.id, marked.number);
        if let Err(error) = self.0.delete_below(&below, mark).await {
            tracing::warn!(%error, "what is deleted is removed from the bucket later");
        }
    }
}

impl Inner {
    /// Tells the bucket what could not be told when it should have been.
    pub(super) async fn say_what_is_unsaid(&self) -> Result<(), RemoteError> {
        loop {
            let next = super::lock(&self.unsaid).first().cloned();
            match next {
                None => return Ok(()),
                Some(Unsaid::Unmark(marked)) => {
                    self.bucket.delete(vec![mark_of(&marked)]).await?;
                }
                Some(Unsaid::Withdraw(id, number)) => self.withdraw(&id, number).await?,
            }
            super::lock(&self.unsaid).remove(0);
        }
    }

    /// Puts a mark of deletion there that is like no other.
    async fn mark(&self, below: &str) -> Result<Stamp, RemoteError> {
        let mark = Uuid::now_v7().to_string();
        let name = format!("{below}/{DELETED}");
        self.bucket.put_new(&name, mark.as_bytes()).await
    }

    async fn withdraw(&self, id: &ModelId, number: VersionNumber) -> Result<(), RemoteError> {
        let below = below(id, Some(number));
        let mark = match self.mark(&below).await {
            Err(RemoteError::Exists) => {
                let found = self.bucket.list(&below).await?;
                found.get(DELETED).cloned().ok_or(RemoteError::Changed)?
            }
            mark => mark?,
        };
        self.delete_below(&below, &mark).await
    }
}

fn mark_of(marked: &Marked) -> String {
    format!("{}/{DELETED}", below(&marked.id, marked.number))
}
