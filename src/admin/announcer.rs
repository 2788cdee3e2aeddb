//! What happens to versions, told to operators as every other event is.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::models::{Happening, ModelEvent, VersionState};

impl Admin {
    /// Tells operators what happens to versions, until `stop`.
    pub async fn announce_versions(self: Arc<Self>, stop: CancellationToken) {
        let mut happenings = self.manager.events();
        loop {
            let happened = tokio::select! {
                () = stop.cancelled() => return,
                happened = happenings.recv() => happened,
            };
            match happened {
                Ok(event) => self.announce(&event),
                Err(RecvError::Lagged(count)) => {
                    self.tell("events.missed", "models", json!({"count": count}));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn announce(&self, event: &ModelEvent) {
        let subject = format!("models/{}/versions/{}", event.model, event.version);
        let digest = event.digest.map(|digest| digest.to_string());
        let about = json!({"digest": digest, "reason": event.reason});
        self.tell(kind(event.what), &subject, about);
    }
}

fn kind(what: Happening) -> &'static str {
    match what {
        Happening::Seen => "version.seen",
        Happening::Is(VersionState::Waiting) => "version.waiting",
        Happening::Is(VersionState::Loading) => "version.loading",
        Happening::Is(VersionState::Testing) => "version.testing",
        Happening::Is(VersionState::Live) => "version.live",
        Happening::Is(VersionState::Failed) => "version.failed",
        Happening::Is(VersionState::Draining) => "version.draining",
        Happening::Is(VersionState::Unloaded) => "version.unloaded",
        Happening::Replaced => "version.replaced",
        Happening::Gone => "version.gone",
    }
}
