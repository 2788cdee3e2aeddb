//! Whose folder a spool lies in: several gateways may have the same working folder, and each needs a place of its own. A place
//! is a numbered folder, and belongs to the process that has its lock, which goes when the process does. It stays when it is empty:
//! another process may be about to take it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The most gateways that share a folder.
const MOST: u32 = 1000;

/// The file that is locked.
const LOCK: &str = "lock";

/// A folder that belongs to this process as long as this lives.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// The first place below `root` that is free; made where there is none.
    pub(super) fn take(root: &Path) -> io::Result<Self> {
        for number in 0..MOST {
            if let Some(slot) = Self::lock(root.join(number.to_string()))? {
                return Ok(slot);
            }
        }
        Err(io::Error::other("too many gateways share it"))
    }

    /// The other places below `root` that belong to nobody any more.
    pub(super) fn abandoned(&self, root: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(root)? {
            let folder = entry?.path();
            let name = folder.file_name().and_then(|name| name.to_str());
            let is_place = name.is_some_and(|name| name.parse::<u32>().is_ok());
            if is_place && folder.is_dir() && folder != self.folder {
                found.extend(Self::lock(folder)?);
            }
        }
        Ok(found)
    }

    fn lock(folder: PathBuf) -> io::Result<Option<Self>> {
        // Predictions are nobody else's business.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                folder,
                _lock: lock,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
