//! Changes from inside, in the bucket: uploads, new models, texts, deletions. Each is made so that another replica, or this one
//! after a crash in the middle, takes it for done or for not done.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::bucket::Stamp;
use super::listing::{self, DELETED, SHEET, Sheet, SheetFile, UPLOAD};
use super::record::{Brought, Files};
use super::{Inner, RemoteError, RemoteStore};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::upload::Staged;
use crate::model_store::{ChangeError, name};

/// An upload whose gateway has been gone for this long, by the bucket's own clock, is nobody's.
const ABANDONED: i64 = 15 * 60;

/// Something that is marked as deleted in the bucket, and not gone.
#[derive(Clone, Debug)]
pub(in crate::model_store) struct Marked {
    id: ModelId,
    number: Option<VersionNumber>,
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
    pub(in crate::model_store) async fn turn(&self, id: &ModelId) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.0.turn).lock_owned().await;
        self.0.changed(id);
        turn
    }

    /// Puts a version into the bucket: other replicas have it from here on.
    ///
    /// # Errors
    /// When there is one already, or the bucket does not take it; nothing is there then.
    pub(in crate::model_store) async fn publish(
        &self,
        staged: &Staged,
    ) -> Result<Files, ChangeError> {
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
        let found = found.versions.remove(&number).unwrap_or_default();
        if found.deleted.is_some() {
            self.0.delete_below(&below).await?;
        } else if found.sheet.is_some() || (found.upload.is_none() && !found.files.is_empty()) {
            return Err(exists("lies in the bucket"));
        }
        let upload = format!("{below}/{UPLOAD}");
        if !self.claim(&below, &upload, found.upload.as_ref()).await? {
            return Err(exists("is being uploaded through another replica"));
        }
        match self.put_version(&below, staged).await {
            Ok(files) => {
                // With the sheet it is there, whether this is or not.
                if let Err(error) = bucket.delete(vec![upload]).await {
                    tracing::debug!(%error, "the mark of an upload stays in the bucket");
                }
                Ok(files)
            }
            Err(error) => {
                self.withdraw(id, number).await;
                Err(error.into())
            }
        }
    }

    /// Makes the place of a version ours, where it is nobody's.
    async fn claim(
        &self,
        below: &str,
        upload: &str,
        before: Option<&Stamp>,
    ) -> Result<bool, RemoteError> {
        let bucket = &self.0.bucket;
        let owner = Uuid::now_v7().to_string();
        if let Some(before) = before {
            let clock = format!("{below}/.clock-{owner}");
            bucket.put_new(&clock, b"").await?;
            let age = bucket.seconds_between(upload, &clock).await;
            bucket.delete(vec![clock]).await?;
            match age {
                Ok(age) if age < ABANDONED => return Ok(false),
                Ok(_) => {}
                // It has ended a moment ago.
                Err(RemoteError::Missing(_)) => return Err(RemoteError::Changed),
                Err(error) => return Err(error),
            }
            return match bucket.replace(upload, owner.as_bytes(), Some(before)).await {
                Ok(_) => Ok(true),
                Err(RemoteError::Changed) => Ok(false),
                Err(error) => Err(error),
            };
        }
        match bucket.put_new(upload, owner.as_bytes()).await {
            Ok(_) => Ok(true),
            Err(RemoteError::Exists | RemoteError::Changed) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_version(&self, below: &str, staged: &Staged) -> Result<Files, RemoteError> {
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
        let marked = Marked {
            id: id.clone(),
            number: Some(number),
        };
        let marking = self.0.bucket.put_new(&mark_of(&marked), b"").await;
        let withdrawn = match marking {
            Ok(_) | Err(RemoteError::Exists) => self.0.delete_below(&below(id, Some(number))).await,
            Err(error) => Err(error),
        };
        if let Err(error) = withdrawn {
            tracing::warn!(%error, "a version that is not to serve stays in the bucket for now");
        }
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
        if found.contains_key(DELETED) {
            self.0.delete_below(id.as_str()).await?;
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
        let marked = Marked {
            id: id.clone(),
            number,
        };
        self.0.bucket.put_new(&mark_of(&marked), b"").await?;
        Ok(Some(marked))
    }

    /// Takes the mark away.
    pub(in crate::model_store) async fn unmark(&self, marked: Marked) {
        if let Err(error) = self.0.bucket.delete(vec![mark_of(&marked)]).await {
            tracing::warn!(%error, "a deletion that is taken back is said to the bucket later");
            self.unmark_later(marked);
        }
    }

    /// The same where nobody can wait for it: the next look begins with it.
    pub(in crate::model_store) fn unmark_later(&self, marked: Marked) {
        super::lock(&self.0.undecided).push(marked);
        self.nudge();
    }

    /// Deletes what is marked. What fails is done by whoever looks in a minute.
    pub(in crate::model_store) async fn delete(&self, marked: Marked) {
        self.0.forget(&marked.id, marked.number);
        let deleted = self.0.delete_below(&below(&marked.id, marked.number)).await;
        if let Err(error) = deleted {
            tracing::warn!(%error, "what is deleted is removed from the bucket later");
        }
    }
}

impl Inner {
    /// Tells the bucket what could not be told.
    pub(super) async fn say_what_is_left(&self) -> Result<(), RemoteError> {
        let left = std::mem::take(&mut *super::lock(&self.undecided));
        for (at, marked) in left.iter().enumerate() {
            if let Err(error) = self.bucket.delete(vec![mark_of(marked)]).await {
                let rest = left.iter().skip(at).cloned();
                super::lock(&self.undecided).extend(rest);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn mark_of(marked: &Marked) -> String {
    format!("{}/{DELETED}", below(&marked.id, marked.number))
}
