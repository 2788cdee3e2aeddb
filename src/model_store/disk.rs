//! What the disk is asked for so that others see whole things only: renames in one step, files that are written to their end. Used by
//! whoever changes the folder of models; none of it runs on the async runtime's threads.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::change::ChangeError;
use super::observed::is_absence;

/// Runs work that uses the disk where it does not hold up the runtime.
pub(super) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, ChangeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(ChangeError::Unavailable {
            reason: error.to_string(),
        })
    })
}

/// Renames where nothing is, in one step.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(to) {
            Err(error) if is_absence(&error) => fs::rename(from, to),
            _ => Err(Errno::EXIST.into()),
        },
        outcome => outcome.map_err(io::Error::from),
    }
}

/// Puts a folder where another may be, in one step where the file system can; the other is where this one was then.
pub(super) fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    match rename_new(from, to) {
        Err(error) if exists(&error) => {}
        outcome => return outcome,
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            let beside = from.with_extension("before");
            fs::rename(to, &beside)?;
            fs::rename(from, to)
        }
        outcome => outcome.map_err(io::Error::from),
    }
}

pub(super) fn exists(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Writes a file whole and to the disk, with the permissions of `like` where that is there.
pub(super) fn write(path: &Path, text: &str, like: Option<&Path>) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    if let Some(found) = like.and_then(|like| fs::metadata(like).ok()) {
        file.set_permissions(found.permissions())?;
    }
    file.sync_all()
}

/// Brings a folder's names to the disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The same after a rename, which is done whether the disk knows it yet or not.
pub(super) fn sync_after(folder: &Path) {
    if let Err(error) = sync(folder) {
        tracing::warn!(%error, "a change of the model store may not survive a loss of power");
    }
}
