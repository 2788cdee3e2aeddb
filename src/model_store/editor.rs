//! Changes of the folder of models from inside: uploads, new models, texts, deletions. Each is seen whole or not at all.
//!
//! Called by the operators' use cases. What it does and what somebody does by hand in the folder is the same to the
//! watcher. The disk is used off the async runtime.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::change::ChangeError;
use super::disk::{exists, off_runtime, rename_new, sync, sync_after, write};
use super::folder::FolderStore;
use super::manifest::{self, Description};
use super::observed::is_absence;
use super::remote::{Published, RemoteStatus, RemoteStore};
use super::slot::{self, Slot};
use super::taken_out::TakenOut;
use super::upload::{Staged, Upload};
use super::{Content, FileId, ModelStore as _, name};
use crate::domain::ids::{ModelId, VersionNumber};

/// Uploads at the same time.
const AT_ONCE: usize = 8;

/// Changes a folder of models, and the bucket that it is brought from where there is one.
#[derive(Clone)]
pub struct StoreEditor {
    store: FolderStore,
    remote: Option<RemoteStore>,
    turns: Arc<Semaphore>,
}

/// Where a version would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is nothing yet.
    Free,
    /// The very same version is there.
    Same,
}

impl StoreEditor {
    /// Changes the folder that `store` reads.
    #[must_use]
    pub fn new(store: FolderStore) -> Self {
        Self {
            store,
            remote: None,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Changes the bucket first.
    #[must_use]
    pub fn of_bucket(self, remote: RemoteStore) -> Self {
        Self {
            remote: Some(remote),
            ..self
        }
    }

    /// Takes in what others did to a model in the bucket, as far as that is soon done.
    pub async fn refresh(&self, model: &ModelId) {
        if let Some(remote) = &self.remote {
            remote.refresh(model).await;
        }
    }

    /// How the bucket is, where there is one.
    #[must_use]
    pub fn bucket(&self) -> Option<RemoteStatus> {
        self.remote.as_ref().map(RemoteStore::status)
    }

    /// Removes what uploads of processes that are no more have left. Blocks.
    pub fn sweep(&self) {
        match slot::sweep(self.store.root()) {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "what killed uploads had left is removed"),
            Err(error) => tracing::warn!(%error, "what killed uploads have left cannot be seen"),
        }
    }

    /// Begins the upload of a version.
    ///
    /// # Errors
    /// When there is no such model, too many uploads are under way, or the system refuses.
    pub async fn upload(
        &self,
        model: &ModelId,
        number: VersionNumber,
    ) -> Result<Upload, ChangeError> {
        let busy = |_| ChangeError::Busy(AT_ONCE);
        let turn = Arc::clone(&self.turns).try_acquire_owned().map_err(busy)?;
        self.refresh(model).await;
        let (editor, id) = (self.clone(), model.clone());
        let slot = off_runtime(move || {
            editor.model_dir(&id)?;
            editor.slot()
        });
        let (slot, store) = (slot.await?, self.store.clone());
        Ok(Upload::new(slot, store, model.clone(), number, turn))
    }

    /// Whether a version could be put in place, by what the folder holds now.
    ///
    /// # Errors
    /// [`ChangeError::VersionExists`] where another one is there.
    pub async fn compare(&self, staged: &Arc<Staged>) -> Result<Place, ChangeError> {
        self.refresh(&staged.model).await;
        self.compare_here(staged).await
    }

    async fn compare_here(&self, staged: &Arc<Staged>) -> Result<Place, ChangeError> {
        let (editor, staged) = (self.clone(), Arc::clone(staged));
        off_runtime(move || editor.compare_now(&staged)).await
    }

    /// Puts a version in place, by one rename of its folder.
    ///
    /// # Errors
    /// As [`Self::compare`], when the model's own files are not those any more that it was checked with, or when the
    /// system refuses; nothing is changed then.
    pub async fn place(&self, staged: &Arc<Staged>) -> Result<Place, ChangeError> {
        let (editor, put) = (self.clone(), Arc::clone(staged));
        let place = off_runtime(move || editor.place_now(&put));
        let Some(remote) = &self.remote else {
            return place.await;
        };
        let (id, number) = (&staged.model, staged.number);
        let _turn = remote.turn(id).await?;
        if self.compare_here(staged).await? == Place::Same {
            return Ok(Place::Same);
        }
        match (remote.publish(staged).await?, place.await) {
            (Published::New(files), Ok(place)) => {
                remote.placed(id, number, files);
                Ok(place)
            }
            (Published::New(_), Err(error)) => {
                remote.withdraw(id, number).await;
                Err(error)
            }
            // Somebody else has put it there, and it was not brought yet.
            (Published::Same(files), placed) => {
                placed?;
                remote.placed(id, number, files);
                Ok(Place::Same)
            }
        }
    }

    /// Makes a model that has no version.
    ///
    /// # Errors
    /// [`ChangeError::ModelExists`], or when the system refuses.
    pub async fn create(&self, model: &ModelId, texts: Description) -> Result<(), ChangeError> {
        self.refresh(model).await;
        let text = texts.edit("").map_err(ChangeError::Manifest)?;
        let mut turn = None;
        if let Some(remote) = &self.remote {
            turn = Some(remote.turn(model).await?);
            remote.create(model, &text).await?;
        }
        let (editor, model) = (self.clone(), model.clone());
        let created = off_runtime(move || editor.create_now(&model, &text)).await;
        drop(turn);
        created
    }

    /// Edits a model's texts in its manifest.
    ///
    /// # Errors
    /// When there is no such model, its manifest is broken, or the system refuses; nothing is changed then.
    pub async fn describe(&self, model: &ModelId, texts: Description) -> Result<(), ChangeError> {
        self.refresh(model).await;
        let mut turn = None;
        if let Some(remote) = &self.remote {
            turn = Some(remote.turn(model).await?);
        }
        let (editor, id) = (self.clone(), model.clone());
        let Some(after) = off_runtime(move || editor.described(&id, &texts)).await? else {
            return Ok(());
        };
        if let Some(remote) = &self.remote {
            remote.describe(model, &after).await?;
        }
        let (editor, id) = (self.clone(), model.clone());
        let described = off_runtime(move || editor.describe_now(&id, &after)).await;
        drop(turn);
        described
    }

    /// Takes a version, or with `None` the whole model, out of sight by one rename; it is still there.
    ///
    /// # Errors
    /// When there is none, or the system refuses; nothing is changed then.
    pub async fn take_out(
        &self,
        model: &ModelId,
        number: Option<VersionNumber>,
    ) -> Result<TakenOut, ChangeError> {
        let (editor, id) = (self.clone(), model.clone());
        let take_out = off_runtime(move || editor.take_out_now(&id, number));
        let Some(remote) = &self.remote else {
            return take_out.await;
        };
        self.refresh(model).await;
        let turn = remote.turn(model).await?;
        let marked = remote.mark(model, number).await?;
        let taken = match take_out.await {
            // It was never brought, and is there all the same.
            Err(ChangeError::NoModel(_) | ChangeError::NoVersion(..)) if marked.is_some() => {
                TakenOut::default()
            }
            Err(error) => {
                if let Some(marked) = marked {
                    remote.unmark(marked).await;
                }
                return Err(error);
            }
            Ok(taken) => taken,
        };
        Ok(match marked {
            Some(marked) => taken.marked_in(remote.clone(), marked, turn),
            None => taken,
        })
    }

    fn slot(&self) -> Result<Slot, ChangeError> {
        Slot::take(self.store.root()).map_err(|error| ChangeError::of(&error))
    }

    /// The model's folder, which is one, and lies in the store.
    fn model_dir(&self, model: &ModelId) -> Result<PathBuf, ChangeError> {
        let root = self.store.root();
        let real_root = fs::canonicalize(root).map_err(|error| ChangeError::of(&error))?;
        let dir = root.join(model.as_str());
        match fs::canonicalize(&dir) {
            Ok(real) if !real.starts_with(&real_root) => Err(ChangeError::Outside(model.clone())),
            Ok(real) if real.is_dir() => Ok(dir),
            Err(error) if !is_absence(&error) => Err(ChangeError::of(&error)),
            _ => Err(ChangeError::NoModel(model.clone())),
        }
    }

    fn compare_now(&self, staged: &Staged) -> Result<Place, ChangeError> {
        let (model, number) = (&staged.model, staged.number);
        let dir = self.model_dir(model)?.join(number.to_string());
        match fs::symlink_metadata(dir) {
            Ok(_) => {}
            Err(error) if is_absence(&error) => return Ok(Place::Free),
            Err(error) => return Err(ChangeError::of(&error)),
        }
        let store = self.store.at(self.store.root().to_path_buf()).only(number);
        let found = store.find(model, &mut |_| ());
        let found = found.map_err(|error| ChangeError::Unavailable {
            reason: error.reason,
        })?;
        let versions = found.into_iter().flat_map(|found| found.versions);
        let content = versions
            .filter(|version| version.number == number)
            .map(|version| version.content)
            .next();
        let how = match content {
            Some(Content::Candidate(there)) => {
                if staged.fingerprint() == Some(there.fingerprint) {
                    return Ok(Place::Same);
                }
                if staged.digest() == Some(there.digest) {
                    "has another manifest, other labels or other external data".to_owned()
                } else {
                    format!("is another one ({})", there.digest)
                }
            }
            Some(Content::Broken { reason, .. }) => format!("is broken ({reason})"),
            _ => "has no whole model file".to_owned(),
        };
        Err(ChangeError::VersionExists {
            model: model.clone(),
            number,
            how,
        })
    }

    fn place_now(&self, staged: &Staged) -> Result<Place, ChangeError> {
        if self.compare_now(staged)? == Place::Same {
            return Ok(Place::Same);
        }
        let model_dir = self.model_dir(&staged.model)?;
        if !staged.is_up_to_date(&model_dir) {
            return Err(ChangeError::Changed);
        }
        let dir = model_dir.join(staged.number.to_string());
        let folders = staged.folders();
        let synced = folders.iter().try_for_each(|folder| sync(folder));
        match synced.and_then(|()| rename_new(&staged.dir(), &dir)) {
            Ok(()) => {}
            // Another upload was faster.
            Err(error) if exists(&error) => {
                return match self.compare_now(staged)? {
                    Place::Same => Ok(Place::Same),
                    Place::Free => Err(ChangeError::Changed),
                };
            }
            Err(error) => return Err(ChangeError::of(&error)),
        }
        self.store.know(&staged.model, staged.files_in(&dir));
        sync_after(&model_dir);
        Ok(Place::Free)
    }

    fn create_now(&self, model: &ModelId, text: &str) -> Result<(), ChangeError> {
        let slot = self.slot()?;
        let made = || {
            let dir = slot.dir().join(model.as_str());
            fs::create_dir(&dir)?;
            write(&dir.join(name::MANIFEST), text, None)?;
            sync(&dir)?;
            rename_new(&dir, &self.store.root().join(model.as_str()))
        };
        let outcome = made().map_err(|error| {
            if exists(&error) {
                ChangeError::ModelExists(model.clone())
            } else {
                ChangeError::of(&error)
            }
        });
        slot.remove();
        sync_after(self.store.root());
        outcome
    }

    /// The model's manifest with these texts; `None` where it says so already.
    fn described(
        &self,
        model: &ModelId,
        texts: &Description,
    ) -> Result<Option<String>, ChangeError> {
        let dir = self.model_dir(model)?;
        let before = manifest::read(&dir).map_err(ChangeError::Manifest)?;
        let before = before.unwrap_or_default();
        let after = texts.edit(&before).map_err(ChangeError::Manifest)?;
        Ok((before != after).then_some(after))
    }

    fn describe_now(&self, model: &ModelId, after: &str) -> Result<(), ChangeError> {
        let dir = self.model_dir(model)?;
        let path = dir.join(name::MANIFEST);
        // A link stays a link, and leads to a file of the store.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let root = fs::canonicalize(self.store.root()).map_err(|error| ChangeError::of(&error))?;
        if path.is_symlink() || !(path.starts_with(&root) || path.starts_with(self.store.root())) {
            return Err(ChangeError::Outside(model.clone()));
        }
        let slot = self.slot()?;
        let beside = slot.dir().join(name::MANIFEST);
        let replaced = write(&beside, after, Some(&path)).and_then(|()| fs::rename(&beside, &path));
        slot.remove();
        replaced.map_err(|error| ChangeError::of(&error))?;
        // It is whole: nobody need wait for it to stand still.
        if let Ok(found) = fs::metadata(&path) {
            let written = (dir.join(name::MANIFEST), FileId::of(&found), None);
            self.store.know(model, std::iter::once(written));
        }
        sync_after(path.parent().unwrap_or(&dir));
        Ok(())
    }

    fn take_out_now(
        &self,
        model: &ModelId,
        number: Option<VersionNumber>,
    ) -> Result<TakenOut, ChangeError> {
        let (from, missing) = match number {
            Some(number) => (
                self.model_dir(model)?.join(number.to_string()),
                ChangeError::NoVersion(model.clone(), number),
            ),
            // A link to a folder goes, and the folder stays.
            None => (
                self.store.root().join(model.as_str()),
                ChangeError::NoModel(model.clone()),
            ),
        };
        let slot = self.slot()?;
        let at = slot.dir().join("taken out");
        match fs::rename(&from, &at) {
            Ok(()) => {
                sync_after(from.parent().unwrap_or(&from));
                Ok(TakenOut::of(slot, at, from))
            }
            Err(error) => {
                slot.remove();
                Err(if is_absence(&error) {
                    missing
                } else {
                    ChangeError::of(&error)
                })
            }
        }
    }
}
