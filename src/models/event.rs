//! What happens to versions, as it happens: for whoever looks on. Published by the publisher; nobody is waited for.

use tokio::sync::broadcast;

use super::catalog::VersionState;
use crate::domain::ids::{Digest, ModelId, VersionNumber};

/// Something that happened to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEvent {
    /// The model.
    pub model: ModelId,
    /// The version.
    pub version: VersionNumber,
    /// What happened.
    pub what: Happening,
    /// SHA-256 of the model file that it happened to, where it is known.
    pub digest: Option<Digest>,
    /// Why, where there is a reason.
    pub reason: Option<String>,
}

/// What can happen to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Its folder was seen for the first time.
    Seen,
    /// It, or a replacement of it, is in this state now.
    Is(VersionState),
    /// Another content of the same number serves in its place.
    Replaced,
    /// It is gone.
    Gone,
}

impl Happening {
    /// The name on the wire: `seen`, a state, `replaced` or `gone`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Is(state) => state.as_str(),
            Self::Replaced => "replaced",
            Self::Gone => "gone",
        }
    }
}

/// Events that wait for a reader who is slow; those before them are lost to that reader.
const KEPT: usize = 1024;

/// Where events come out; readers that lag are told how much they missed.
pub type ModelEvents = broadcast::Receiver<ModelEvent>;

/// Where events go in.
pub(super) struct Announcer(broadcast::Sender<ModelEvent>);

impl Default for Announcer {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Announcer {
    /// Every event from now on.
    pub(super) fn listen(&self) -> ModelEvents {
        self.0.subscribe()
    }

    pub(super) fn tell(
        &self,
        (model, version): (&ModelId, VersionNumber),
        what: Happening,
        digest: Option<Digest>,
        reason: Option<&str>,
    ) {
        if self.0.receiver_count() == 0 {
            return;
        }
        // Everybody may have left meanwhile.
        let _ = self.0.send(ModelEvent {
            model: model.clone(),
            version,
            what,
            digest,
            reason: reason.map(str::to_owned),
        });
    }
}
