//! A place of one's own inside the store, on its file system, where things are made before they are shown and taken
//! apart after they are hidden: `.uploads/<uuid>`, which no scanner and no watcher looks at.
//!
//! A lock beside it says that its process lives. What a killed process has left is removed at the next start, on a
//! shared folder also by a neighbour; what a living one works on is not. Blocks. Called by the editor.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::observed::is_absence;

/// The folder of all places.
pub(super) const FOLDER: &str = ".uploads";

/// How often a place is tried for that neighbours tidy away in the very moment it is made: each try takes microseconds, and a
/// few in a row fail where many come and go.
const ATTEMPTS: usize = 100;

/// A folder that goes away with whoever holds this.
pub(super) struct Slot {
    kept: Option<Kept>,
    dir: PathBuf,
}

/// What is on disk.
struct Kept {
    dir: PathBuf,
    lock: PathBuf,
    /// Locked for as long as it is open.
    held: File,
}

impl Slot {
    /// A new, empty place in the store at `root`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn take(root: &Path) -> io::Result<Self> {
        let mut outcome = Ok(None);
        for _ in 0..ATTEMPTS {
            outcome = Kept::make(root);
            match &outcome {
                // The folder of all places went away between two steps.
                Err(error) if is_absence(error) && root.is_dir() => {}
                Ok(None) => {}
                _ => break,
            }
        }
        let taken = || io::Error::other("a neighbour took the place away each time");
        let kept = outcome?.ok_or_else(taken)?;
        Ok(Self {
            dir: kept.dir.clone(),
            kept: Some(kept),
        })
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves it to the next start, which removes it.
    pub(super) fn leave(mut self) {
        self.kept = None;
    }

    /// Removes it at once; what cannot be removed is left to the next start.
    pub(super) fn remove(mut self) {
        if let Some(kept) = self.kept.take() {
            kept.remove();
        }
    }
}

impl Drop for Slot {
    /// Whoever drops it may be on the async runtime, and removing gigabytes takes a while.
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            let removing = std::thread::Builder::new().name("remove upload".to_owned());
            // Without a thread the next start removes it.
            let _ = removing.spawn(move || kept.remove());
        }
    }
}

impl Kept {
    /// `None` where a neighbour removed it as soon as it was there.
    fn make(root: &Path) -> io::Result<Option<Self>> {
        let all = root.join(FOLDER);
        if let Err(error) = fs::create_dir(&all) {
            match fs::symlink_metadata(&all) {
                Ok(found) if found.is_dir() => {}
                // Through a link it would be made elsewhere.
                Ok(_) => return Err(io::Error::other(".uploads is no folder")),
                Err(gone) if is_absence(&gone) && error.kind() == io::ErrorKind::AlreadyExists => {
                    return Ok(None);
                }
                Err(_) => return Err(error),
            }
        }
        let name = Uuid::now_v7().to_string();
        let lock = all.join(format!("{name}.lock"));
        let held = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&lock)?;
        match held.try_lock() {
            Ok(()) if is_same(&held, &lock) => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                let _ = fs::remove_file(&lock);
                return Err(error);
            }
        }
        let dir = all.join(name);
        if let Err(error) = fs::create_dir(&dir) {
            let _ = fs::remove_file(&lock);
            return Err(error);
        }
        Ok(Some(Self { dir, lock, held }))
    }

    fn remove(self) {
        let Self { dir, lock, held } = self;
        if let Err(error) = remove_folder(&dir) {
            tracing::warn!(%error, "what an upload left is removed at the next start");
            return;
        }
        let _ = fs::remove_file(&lock);
        drop(held);
        if let Some(all) = lock.parent() {
            // Others may work in it.
            let _ = fs::remove_dir(all);
        }
    }
}

/// Whether the name still leads to the file that is open.
fn is_same(open: &File, name: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    let named = fs::symlink_metadata(name).map(id);
    matches!((open.metadata().map(id), named), (Ok(open), Ok(named)) if open == named)
}

fn remove_folder(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Removes what processes have left that are no more; gives how many places there were.
///
/// # Errors
/// When the folder cannot be read. What cannot be removed is said in the log.
pub(super) fn sweep(root: &Path) -> io::Result<usize> {
    let all = root.join(FOLDER);
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut swept = 0;
    for entry in entries {
        let path = entry?.path();
        let (dir, lock) = if path
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            (path.with_extension(""), path)
        } else {
            (path.clone(), path.with_extension("lock"))
        };
        swept += usize::from(sweep_one(&dir, &lock));
    }
    // Others may work in it.
    let _ = fs::remove_dir(&all);
    Ok(swept)
}

/// Whether something was there to be removed, and is gone.
fn sweep_one(dir: &Path, lock: &Path) -> bool {
    // The lock comes before the folder and goes after it: a folder without one is nobody's.
    let held = match OpenOptions::new().write(true).open(lock) {
        Ok(held) => Some(held),
        Err(error) if is_absence(&error) => None,
        Err(_) => return false,
    };
    if held.as_ref().is_some_and(|held| held.try_lock().is_err()) {
        return false;
    }
    let was_there = fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir());
    if let Err(error) = remove_folder(dir) {
        tracing::warn!(%error, "what a killed upload has left cannot be removed");
        return false;
    }
    let _ = fs::remove_file(lock);
    was_there
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(root: &Path) -> bool {
        fs::read_dir(root).expect("a folder").next().is_none()
    }

    #[test]
    fn a_place_goes_away_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let slot = Slot::take(root.path()).expect("a place");
        let other = Slot::take(root.path()).expect("another");
        assert_ne!(slot.dir(), other.dir());
        fs::create_dir_all(slot.dir().join("digits/1")).expect("folders");
        fs::write(slot.dir().join("digits/1/model.onnx"), "x").expect("a file");
        slot.remove();
        assert!(other.dir().is_dir());
        other.remove();
        assert!(is_empty(root.path()));
    }

    #[test]
    fn a_dropped_place_is_removed_beside() {
        let root = tempfile::tempdir().expect("a folder");
        drop(Slot::take(root.path()).expect("a place"));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !is_empty(root.path()) {
            assert!(std::time::Instant::now() < deadline, "it is not removed");
        }
    }

    #[test]
    fn what_the_dead_have_left_is_swept_and_the_living_are_spared() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(sweep(root.path()).expect("swept"), 0);
        let living = Slot::take(root.path()).expect("a place");
        let all = root.path().join(FOLDER);
        // As after a kill: lock and folder are there, and nobody holds the lock; also each of the two alone.
        for name in ["killed", "unlocked"] {
            fs::create_dir_all(all.join(name).join("digits/1")).expect("folders");
            fs::write(all.join(name).join("digits/1/model.onnx"), "half").expect("a file");
        }
        fs::write(all.join("killed.lock"), "").expect("a file");
        fs::write(all.join("early.lock"), "").expect("a file");
        assert_eq!(sweep(root.path()).expect("swept"), 2);
        let left: Vec<_> = fs::read_dir(&all)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(living.dir().is_dir());
        living.remove();
        assert!(is_empty(root.path()));
    }

    #[test]
    fn places_are_not_made_through_a_link() {
        let (root, outside) = (tempfile::tempdir(), tempfile::tempdir());
        let (root, outside) = (root.expect("a folder"), outside.expect("a folder"));
        std::os::unix::fs::symlink(outside.path(), root.path().join(FOLDER)).expect("a link");
        assert!(Slot::take(root.path()).is_err());
        assert!(is_empty(outside.path()));
    }

    #[test]
    fn many_take_and_sweep_at_the_same_time() {
        let root = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let slot = Slot::take(root.path()).expect("a place");
                        let file = slot.dir().join("file");
                        fs::write(&file, "x").expect("it is there");
                        assert!(file.exists());
                        slot.remove();
                        sweep(root.path()).expect("swept");
                    }
                });
            }
        });
        assert!(is_empty(root.path()));
    }
}
