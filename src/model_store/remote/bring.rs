//! Brings what the bucket has into the folder, and takes out of the folder what is gone: each whole, in its turn, and only where
//! what the bucket said is not stale by now.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::OwnedMutexGuard;
use tracing::{Instrument as _, Span, field};

use super::bucket::{Objects, Stamp};
use super::intake::Wants;
use super::listing::SHEET;
use super::record::{Brought, Files};
use super::sync::is_under_way;
use super::{Inner, Missing, RemoteError};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::FileId;
use crate::model_store::disk::{exchange, off_runtime};
use crate::model_store::slot::Slot;

/// Bytes of a model's own files: pictures, labels, a manifest.
const MAX_SHARED: u64 = 256 << 20;

/// How many of them are brought.
const MOST_SHARED: usize = 2000;

/// Bytes that are on their way, until this is dropped.
pub(super) struct Coming<'a> {
    all: &'a AtomicU64,
    bytes: u64,
}

impl<'a> Coming<'a> {
    fn of(all: &'a AtomicU64, bytes: u64) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self { all, bytes }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Says of a span that it came to nothing, also where nobody waits for its end any more.
struct Told<'a>(&'a Span, Option<&'static str>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.1 {
            self.0.record("otel.status_code", "ERROR");
            self.0.record("error.type", why);
        }
    }
}

impl Inner {
    /// Brings a version beside what serves, and puts it in its place when all of it is there and is what it should be.
    pub(super) async fn bring(
        &self,
        (id, number): (&ModelId, VersionNumber),
        wanted: &Wants,
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let span = tracing::info_span!(
            target: "lensgate::upkeep",
            parent: None,
            "bring version",
            otel.status_code = field::Empty,
            "error.type" = field::Empty,
            lensgate.model = id.as_str(),
            lensgate.version = number.get(),
        );
        let mut told = Told(&span, Some("not_brought"));
        let bringing = self.bring_files((id, number), wanted, as_of);
        let brought = bringing.instrument(span.clone()).await;
        if matches!(brought, Ok(()) | Err(RemoteError::Changed)) {
            told.1 = None;
        }
        brought
    }

    async fn bring_files(
        &self,
        (id, number): (&ModelId, VersionNumber),
        wanted: &Wants,
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let root = self.folder.root().to_path_buf();
        let slot = blocking(move || Slot::take(&root)).await?;
        let dir = slot.dir().join("brought");
        let mut files = Files::new();
        for (name, file) in wanted {
            let object = format!("{id}/{number}/{name}");
            let digest = self
                .bucket
                .fetch(&object, &file.stamp, &dir.join(name))
                .await?;
            if let Some(expected) = file.digest.filter(|expected| *expected != digest) {
                return Err(RemoteError::Content(format!(
                    "{name} has the SHA-256 {digest} in the bucket, and {expected} by {SHEET}"
                )));
            }
            let brought = Brought {
                stamp: file.stamp.clone(),
                sha256: digest.to_string(),
            };
            files.insert(name.clone(), brought);
        }
        let turn = self.turn_as_of(id, as_of).await?;
        let place = self.dir(id, Some(number));
        let to = place.clone();
        // A look that ends meanwhile leaves the turn to what is being done.
        let _turn = blocking(move || {
            exchange(&dir, &to)?;
            slot.remove();
            Ok(turn)
        })
        .await?;
        self.know(id, &place, &files).await?;
        self.records.change(id, |record| {
            record.versions.insert(number.get(), files);
        });
        tracing::info!(
            model = id.as_str(),
            version = number.get(),
            "version brought from the bucket"
        );
        self.tell(Some(id));
        Ok(())
    }

    /// Files that are whole need not be waited for, nor hashed again.
    pub(super) async fn know(
        &self,
        id: &ModelId,
        dir: &Path,
        files: &Files,
    ) -> Result<(), RemoteError> {
        let files: Vec<_> = files
            .iter()
            .map(|(name, file)| (dir.join(name), file.sha256.parse().ok()))
            .collect();
        let (folder, id) = (self.folder.clone(), id.clone());
        blocking(move || {
            let known = files.into_iter().filter_map(|(path, digest)| {
                let identity = FileId::of(&fs::metadata(&path).ok()?);
                Some((path, identity, digest))
            });
            folder.know(&id, known);
            Ok(())
        })
        .await
    }

    /// Sees that there is room for a version, by taking out what no manifest selects any more; never the highest of a model, which
    /// may be what serves until the new one does.
    pub(super) async fn make_room(
        &self,
        (id, number): (&ModelId, VersionNumber),
        wanted: &Wants,
    ) -> Result<Coming<'_>, RemoteError> {
        let needed: u64 = wanted.values().map(|file| file.stamp.bytes).sum();
        let limit = self.folder.max_model_bytes();
        if needed > limit {
            return Err(RemoteError::Content(format!(
                "it has {needed} bytes, and `limits.max_model_bytes` is {limit}"
            )));
        }
        // Of several that are brought at the same time, each counts for the others.
        let coming = Coming::of(&self.coming, needed);
        let fits = || {
            let coming = self.coming.load(Ordering::Relaxed);
            self.max_bytes == 0 || self.records.bytes().saturating_add(coming) <= self.max_bytes
        };
        if fits() {
            return Ok(coming);
        }
        for (id, number) in self.spares() {
            let as_of = self.changes(&id);
            if is_under_way(as_of) {
                continue;
            }
            match self.take_out(&id, Some(number), as_of).await {
                // Somebody changes it at this moment.
                Err(RemoteError::Changed) => continue,
                taken => taken?,
            }
            tracing::info!(
                model = id.as_str(),
                version = number.get(),
                "a version that is not selected made room in the cache"
            );
            self.miss(&id, number, Some(Missing::NotSelected), true);
            if fits() {
                return Ok(coming);
            }
        }
        Err(RemoteError::Content(format!(
            "version {number} of model {id} has {needed} bytes, and the cache has no room for it: {} bytes of `model_store.cache_max_bytes` = {} are used",
            self.records.bytes(),
            self.max_bytes
        )))
    }

    fn spares(&self) -> Vec<(ModelId, VersionNumber)> {
        let spare = self.state().spare.clone();
        let mut found = Vec::new();
        for (id, numbers) in spare {
            let known = self.record(&id).versions;
            let highest = known.keys().last().copied();
            for number in numbers {
                if known.contains_key(&number.get()) && highest != Some(number.get()) {
                    found.push((id.clone(), number));
                }
            }
        }
        found
    }

    /// Brings the model's own files, each whole.
    pub(super) async fn shared(
        &self,
        id: &ModelId,
        wanted: &Objects,
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let known = self.record(id).shared;
        let mut room = MAX_SHARED;
        for (name, stamp) in wanted.iter().take(MOST_SHARED) {
            let Some(left) = room.checked_sub(stamp.bytes) else {
                // Pictures for people, most often: what is missed by a version, its check names.
                tracing::debug!(
                    model = id.as_str(),
                    name,
                    "a file has no room among its model's own"
                );
                continue;
            };
            room = left;
            let file = known.get(name).filter(|file| file.stamp == *stamp);
            let path = self.dir(id, None).join(name);
            let bytes = stamp.bytes;
            let lies =
                blocking(move || Ok(fs::metadata(path).is_ok_and(|found| found.len() == bytes)));
            if file.is_none() || !lies.await? {
                self.bring_shared(id, (name, stamp), as_of).await?;
            }
        }
        for name in known.into_keys().filter(|name| !wanted.contains_key(name)) {
            let _turn = self.turn_as_of(id, as_of).await?;
            let path = self.dir(id, None).join(&name);
            blocking(move || match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .await?;
            self.records.change(id, |record| {
                record.shared.remove(&name);
            });
            self.tell(Some(id));
        }
        Ok(())
    }

    pub(super) async fn bring_shared(
        &self,
        id: &ModelId,
        (name, stamp): (&str, &Stamp),
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let root = self.folder.root().to_path_buf();
        let slot = blocking(move || Slot::take(&root)).await?;
        let beside = slot.dir().join("brought");
        let digest = self
            .bucket
            .fetch(&format!("{id}/{name}"), stamp, &beside)
            .await?;
        let _turn = self.turn_as_of(id, as_of).await?;
        let dir = self.dir(id, None);
        let path = dir.join(name);
        blocking(move || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::rename(beside, path)?;
            slot.remove();
            Ok(())
        })
        .await?;
        let brought = Brought {
            stamp: stamp.clone(),
            sha256: digest.to_string(),
        };
        let files = Files::from([(name.to_owned(), brought.clone())]);
        self.know(id, &dir, &files).await?;
        self.records.change(id, |record| {
            record.shared.insert(name.to_owned(), brought);
        });
        self.tell(Some(id));
        Ok(())
    }

    /// Waits for the turn to change a model's folder by what the bucket said.
    ///
    /// # Errors
    /// [`RemoteError::Changed`] where that is stale by now.
    pub(super) async fn turn_as_of(
        &self,
        id: &ModelId,
        as_of: u64,
    ) -> Result<OwnedMutexGuard<()>, RemoteError> {
        let is_stale = || self.changes(id) != as_of;
        // A change from inside may hold the turn for as long as an upload takes.
        if is_stale() {
            return Err(RemoteError::Changed);
        }
        let turn = self.turn_of(id).lock_owned().await;
        if is_stale() {
            return Err(RemoteError::Changed);
        }
        Ok(turn)
    }

    /// Takes a model or a version out of the folder.
    pub(super) async fn take_out(
        &self,
        id: &ModelId,
        number: Option<VersionNumber>,
        as_of: u64,
    ) -> Result<(), RemoteError> {
        let turn = self.turn_as_of(id, as_of).await?;
        let (root, from) = (self.folder.root().to_path_buf(), self.dir(id, number));
        let taken = blocking(move || {
            let slot = Slot::take(&root)?;
            let taken = fs::rename(from, slot.dir().join("taken out"));
            slot.remove();
            match taken {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((turn, false)),
                taken => taken.map(|()| (turn, true)),
            }
        });
        let (_turn, was_there) = taken.await?;
        self.forget(id, number);
        if was_there {
            self.tell(Some(id));
        }
        Ok(())
    }

    /// Nothing of it is here any more.
    pub(super) fn forget(&self, id: &ModelId, number: Option<VersionNumber>) {
        if let Some(number) = number {
            self.records.change(id, |record| {
                record.versions.remove(&number.get());
            });
            if let Some(missing) = self.state().missing.get_mut(id) {
                missing.remove(&number);
            }
        } else {
            self.records.forget(id);
            let mut state = self.state();
            state.missing.remove(id);
            state.spare.remove(id);
        }
    }
}

/// Uses the disk where that does not hold up the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, RemoteError> {
    let disk = |error: std::io::Error| RemoteError::Disk(error.to_string());
    let done = off_runtime(move || Ok(work()));
    match done.await {
        Ok(outcome) => outcome.map_err(disk),
        Err(error) => Err(RemoteError::Disk(
            error
                .cause()
                .map_or_else(|| error.to_string(), str::to_owned),
        )),
    }
}
