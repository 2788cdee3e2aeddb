//! What happens, told to whoever listens just now. Nobody waits for a slow listener: it misses events and is told so.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its id (`UUIDv7`).
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// What, e.g. `key.created`, `version.live`.
    pub kind: &'static str,
    /// To what, e.g. `keys/0199…`, `models/digits/versions/2`.
    pub subject: String,
    /// More of it.
    pub about: Value,
}

/// Where events are told and heard; cheap to clone.
#[derive(Clone, Debug)]
pub struct EventBus(broadcast::Sender<Event>);

/// Events that a listener may be behind before it misses some.
const ROOM: usize = 1024;

impl Default for EventBus {
    fn default() -> Self {
        Self(broadcast::Sender::new(ROOM))
    }
}

impl EventBus {
    /// Tells everybody who listens now.
    pub fn tell(&self, kind: &'static str, subject: &str, about: Value, at: DateTime<Utc>) {
        // Without a listener nobody misses it.
        let _ = self.0.send(Event {
            id: Uuid::now_v7(),
            at,
            kind,
            subject: subject.to_owned(),
            about,
        });
    }

    /// Everything that is told from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
