//! What was taken out of the folder of models and may come back. Made by the editor, decided by the operators' use cases.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::ChangeError;
use super::disk::{off_runtime, rename_new, sync_after};
use super::remote::{InTurn, Marked, RemoteStore};
use super::slot::Slot;
use super::upload::discard;

/// Something that is out of sight and not gone. Dropped undecided, it comes back.
#[derive(Default)]
pub struct TakenOut {
    slot: Option<Slot>,
    at: PathBuf,
    from: PathBuf,
    /// What the bucket is told of it; nobody else changes it there until that is decided.
    marked: Option<(RemoteStore, Marked, InTurn)>,
}

impl TakenOut {
    /// What was at `from` and lies in a slot now.
    pub(super) fn of(slot: Slot, at: PathBuf, from: PathBuf) -> Self {
        Self {
            slot: Some(slot),
            at,
            from,
            marked: None,
        }
    }

    /// The same, marked as deleted in the bucket too.
    pub(super) fn marked_in(mut self, remote: RemoteStore, marked: Marked, turn: InTurn) -> Self {
        self.marked = Some((remote, marked, turn));
        self
    }

    /// Makes it gone for good.
    pub async fn remove(mut self) {
        if let Some(slot) = self.slot.take() {
            discard(Arc::new(slot)).await;
        }
        if let Some((remote, marked, _turn)) = self.marked.take() {
            remote.delete(marked).await;
        }
    }

    /// Puts it back where it was.
    ///
    /// # Errors
    /// When something else is there now, or the system refuses; then it lies where it is until the next start.
    pub async fn put_back(mut self) -> Result<(), ChangeError> {
        let marked = self.marked.take();
        let mut returned = Ok(());
        if let Some(slot) = self.slot.take() {
            let (at, from) = (self.at.clone(), self.from.clone());
            returned = off_runtime(move || back(slot, &at, &from)).await;
        }
        if let Some((remote, marked, _turn)) = marked {
            remote.unmark(marked).await;
        }
        returned
    }
}

impl Drop for TakenOut {
    fn drop(&mut self) {
        let marked = self.marked.take();
        if let Some(slot) = self.slot.take() {
            let (at, from) = (self.at.clone(), self.from.clone());
            let returning = std::thread::Builder::new().name("put back".to_owned());
            let returned = returning.spawn(move || {
                // Said in the log.
                let _ = back(slot, &at, &from);
            });
            if let Err(error) = returned {
                tracing::error!(%error, "what was taken out of the model store could not be put back");
            }
        }
        if let Some((remote, marked, _turn)) = marked {
            remote.unmark_later(marked);
        }
    }
}

fn back(slot: Slot, at: &Path, from: &Path) -> Result<(), ChangeError> {
    match rename_new(at, from) {
        Ok(()) => {
            slot.remove();
            sync_after(from.parent().unwrap_or(from));
            Ok(())
        }
        Err(error) => {
            tracing::error!(
                %error,
                at = %at.display(),
                "what was taken out of the model store cannot be put back; it lies there until the next start"
            );
            slot.leave();
            Err(ChangeError::of(&error))
        }
    }
}
