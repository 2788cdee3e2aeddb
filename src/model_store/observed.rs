//! What was seen of each file: who it is, since when it stands still, and what its content was.
//!
//! Content decides, not time: a file that stands still is read once, and again when its identity changes. Called by
//! the folder; knows nothing of models.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::onnx::{self, GraphFacts, OnnxError};
use super::watcher::Writers;
use super::{FileId, digest};
use crate::domain::ids::Digest;

/// A file whose times are older than this was not just written, whatever the clocks of a network disk say.
const CLEARLY_OLD: Duration = Duration::from_secs(10);

/// How often a file that does not stand still, or is not whole, is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One file as it was last seen.
#[derive(Clone)]
struct Seen {
    /// `None`: there was no file.
    id: Option<FileId>,
    /// Since when it has this identity, as far as is known.
    since: Instant,
    digest: Option<Digest>,
    facts: Option<Arc<Result<GraphFacts, OnnxError>>>,
}

/// Why a file cannot be taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unsettled {
    pub(super) reason: String,
    /// When it is worth another look.
    pub(super) again_in: Duration,
}

/// The files of one model. What is not looked at in a round is forgotten after it.
#[derive(Default)]
pub(super) struct Observed {
    before: HashMap<PathBuf, Seen>,
    now: HashMap<PathBuf, Seen>,
}

/// How long a file must stand still, and who is still writing.
#[derive(Clone, Default)]
pub(super) struct Settling {
    pub(super) quiet: Duration,
    pub(super) writers: Writers,
}

impl Observed {
    /// Begins a round.
    pub(super) fn next_round(self) -> Self {
        Self {
            before: self.now,
            now: HashMap::new(),
        }
    }

    /// Takes a file of this identity as one that has stood still, and, where it is given, as one of this content.
    pub(super) fn note(&mut self, path: PathBuf, id: FileId, digest: Option<Digest>) {
        let now = Instant::now();
        let seen = Seen {
            id: Some(id),
            since: now.checked_sub(CLEARLY_OLD).unwrap_or(now),
            digest,
            facts: None,
        };
        self.now.insert(path, seen);
    }

    /// Looks at a file: its identity and since when it has it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<(FileId, Duration)> {
        let id = FileId::of(&std::fs::metadata(path)?);
        let now = Instant::now();
        if let Some(seen) = self.now.get(path).filter(|seen| seen.id == Some(id)) {
            return Ok((id, now - seen.since));
        }
        let seen = match self.before.remove(path) {
            Some(seen) if seen.id == Some(id) => seen,
            _ => Seen {
                id: Some(id),
                since: now.checked_sub(id.age_if_clear()).unwrap_or(now),
                digest: None,
                facts: None,
            },
        };
        let still = now - seen.since;
        self.now.insert(path.to_path_buf(), seen);
        Ok((id, still))
    }

    /// Whether a file may be taken as it is: it has stood still, and nobody has it open for writing. One that was
    /// never there is settled; one that went away has to stay away for as long, as an editor may be about to
    /// write it anew.
    ///
    /// # Errors
    /// Why not yet.
    pub(super) fn settle(
        &mut self,
        path: &Path,
        name: &str,
        settling: &Settling,
    ) -> Result<(), Unsettled> {
        let (seen, still) = match self.look(path) {
            Ok((id, still)) => (Some(id), still),
            Err(error) if is_absence(&error) => (None, self.look_at_nothing(path)),
            // Whoever reads it says what is wrong.
            Err(_) => return Ok(()),
        };
        if still < settling.quiet {
            return Err(Unsettled {
                reason: match seen {
                    Some(id) => format!("{name} was just written ({} bytes)", id.size),
                    None => format!("{name} was just taken away"),
                },
                again_in: settling
                    .quiet
                    .saturating_sub(still)
                    .max(Duration::from_millis(1)),
            });
        }
        if let Some(id) = seen.filter(|_| settling.writers.is_open(path)) {
            return Err(Unsettled {
                reason: format!("{name} is still being written ({} bytes so far)", id.size),
                again_in: LOOK_AGAIN,
            });
        }
        Ok(())
    }

    /// Looks at a place where no file is: how long there has been none, as far as is known.
    fn look_at_nothing(&mut self, path: &Path) -> Duration {
        let now = Instant::now();
        let nothing = |since| Seen {
            id: None,
            since,
            digest: None,
            facts: None,
        };
        let seen = match self.now.remove(path).or_else(|| self.before.remove(path)) {
            Some(seen) if seen.id.is_none() => seen,
            Some(_) => nothing(now),
            None => nothing(now.checked_sub(CLEARLY_OLD).unwrap_or(now)),
        };
        let still = now - seen.since;
        self.now.insert(path.to_path_buf(), seen);
        still
    }

    /// What the model file says of its graph; parsed once for each identity.
    pub(super) fn facts(&mut self, path: &Path) -> Arc<Result<GraphFacts, OnnxError>> {
        if let Some(facts) = self.now.get(path).and_then(|seen| seen.facts.clone()) {
            return facts;
        }
        let facts = Arc::new(onnx::read(path));
        // What the system refuses now it may grant at the next look.
        let lasting = !matches!(*facts, Err(OnnxError::Io(_)));
        if let Some(seen) = self.now.get_mut(path).filter(|_| lasting) {
            seen.facts = Some(Arc::clone(&facts));
        }
        facts
    }

    /// The digest, where the file was hashed as it is.
    pub(super) fn known_digest(&self, path: &Path) -> Option<Digest> {
        self.now.get(path).and_then(|seen| seen.digest)
    }

    /// The file's SHA-256; hashed once for each identity. `None` when it changed meanwhile.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn digest(&mut self, path: &Path) -> io::Result<Option<Digest>> {
        if let Some(digest) = self.known_digest(path) {
            return Ok(Some(digest));
        }
        let settled = self.id(path);
        let (before, _) = self.look(path)?;
        if settled.is_some_and(|settled| settled != before) {
            // What was read of it in this round was another file.
            return Ok(None);
        }
        let digest = digest::of_file(path)?;
        if FileId::of(&std::fs::metadata(path)?) != before {
            return Ok(None);
        }
        if let Some(seen) = self.now.get_mut(path) {
            seen.digest = Some(digest);
        }
        Ok(Some(digest))
    }

    /// The identity that a file had when it was looked at in this round.
    pub(super) fn id(&self, path: &Path) -> Option<FileId> {
        self.now.get(path).and_then(|seen| seen.id)
    }
}

/// Whether the file or a folder on its way is not there.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl FileId {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Time since the last change by the file's own times, zero unless that is clearly past.
    fn age_if_clear(&self) -> Duration {
        let latest = self.modified.0.max(self.changed.0);
        let latest = u64::try_from(latest).unwrap_or(0);
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(latest);
        SystemTime::now()
            .duration_since(written)
            .ok()
            .filter(|age| *age >= CLEARLY_OLD)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settling() -> Settling {
        Settling {
            quiet: Duration::from_millis(50),
            writers: Writers::default(),
        }
    }

    #[test]
    fn what_was_just_written_is_not_taken_and_then_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, "abc").expect("written");
        let mut observed = Observed::default();
        let unsettled = observed
            .settle(&path, "model.onnx", &settling())
            .expect_err("too early");
        assert!(unsettled.again_in <= Duration::from_millis(50));
        std::thread::sleep(Duration::from_millis(60));
        let mut observed = observed.next_round();
        assert_eq!(observed.settle(&path, "model.onnx", &settling()), Ok(()));
        // It grew: the wait begins anew.
        std::fs::write(&path, "abcdef").expect("written");
        let mut observed = observed.next_round();
        assert!(observed.settle(&path, "model.onnx", &settling()).is_err());
    }

    #[test]
    fn what_went_away_has_to_stay_away() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("labels.txt");
        let mut observed = Observed::default();
        assert_eq!(observed.settle(&path, "labels", &settling()), Ok(()));
        std::fs::write(&path, "a").expect("written");
        let mut observed = observed.next_round();
        assert!(observed.settle(&path, "labels", &settling()).is_err());
        std::fs::remove_file(&path).expect("removed");
        let mut observed = observed.next_round();
        assert!(observed.settle(&path, "labels", &settling()).is_err());
        std::thread::sleep(Duration::from_millis(60));
        let mut observed = observed.next_round();
        assert_eq!(observed.settle(&path, "labels", &settling()), Ok(()));
    }

    #[test]
    fn a_file_is_hashed_once_for_each_identity() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, "abc").expect("written");
        let mut observed = Observed::default();
        let first = observed.digest(&path).expect("read").expect("still");
        let mut observed = observed.next_round();
        observed.look(&path).expect("there");
        assert_eq!(observed.known_digest(&path), Some(first));
        // The same length in the same place: the identity tells.
        std::thread::sleep(Duration::from_millis(10));
        std::fs::write(&path, "abd").expect("written");
        let mut observed = observed.next_round();
        observed.look(&path).expect("there");
        assert_eq!(observed.known_digest(&path), None);
        assert_ne!(observed.digest(&path).expect("read"), Some(first));
    }
}
