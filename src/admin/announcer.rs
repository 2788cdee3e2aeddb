//! What happens to versions, told to operators as every other event is, and to the tenants that want to hear of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::callbacks::News;
use crate::domain::callback::EventKind;
use crate::models::{Happening, ModelEvent, VersionState};
use crate::store::Telling;

/// The pause before tenants are told anew while the store is away.
const TELL_AGAIN: Duration = Duration::from_secs(1);

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
        let subject = subject(event);
        let digest = event.digest.map(|digest| digest.to_string());
        let about = json!({"digest": digest, "reason": event.reason});
        self.tell(kind(event.what), &subject, about);
        self.tell_of_arm(event);
    }

    /// Tells tenants what happens to versions, until `stop`: each thing once, also what happened while nobody listened, and
    /// what happens while the store is away later.
    pub async fn tell_tenants(self: Arc<Self>, stop: CancellationToken) {
        let mut happenings = self.manager.events();
        let mut news = self.news_now();
        loop {
            for one in &news {
                if !self.tell_at_last(one, &stop).await {
                    return;
                }
            }
            let happened = tokio::select! {
                () = stop.cancelled() => return,
                happened = happenings.recv() => happened,
            };
            news = match happened {
                Ok(event) => news_of(&event).into_iter().collect(),
                Err(RecvError::Lagged(_)) => self.news_now(),
                Err(RecvError::Closed) => return,
            };
        }
    }

    /// Tells it until the store has it; `false` where `stop` came before.
    async fn tell_at_last(&self, news: &News, stop: &CancellationToken) -> bool {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return false,
                told = self.outbox.tell(news) => told,
            };
            let Err(error) = told else { return true };
            tracing::debug!(%error, "tenants could not be told what happened");
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
        }
    }

    /// What there is to say of versions as they stand now. Of replacements only what happens to them is told.
    fn news_now(&self) -> Vec<News> {
        let catalog = self.manager.catalog().load();
        let versions = catalog.models.values().flat_map(|model| {
            model.versions.iter().map(|(&version, entry)| ModelEvent {
                model: model.id.clone(),
                version,
                what: Happening::Is(entry.state),
                digest: entry.digest,
                reason: entry.reason.clone(),
            })
        });
        versions.filter_map(|event| news_of(&event)).collect()
    }
}

/// What tenants are told of it; `None` for what is of no concern to them.
fn news_of(event: &ModelEvent) -> Option<News> {
    let kind = match event.what {
        Happening::Is(VersionState::Live) => EventKind::VersionLive,
        Happening::Is(VersionState::Failed) => EventKind::VersionFailed,
        _ => return None,
    };
    let digest = event.digest.map(|digest| digest.to_string());
    let mut data = json!({
        "model": event.model.as_str(),
        "version": event.version.get(),
        "digest": digest,
    });
    if let (EventKind::VersionFailed, Some(data)) = (kind, data.as_object_mut()) {
        data.insert("reason".to_owned(), json!(event.reason));
    }
    Some(News {
        telling: Telling {
            subject: subject(event),
            event: kind,
            mark: digest.unwrap_or_default(),
            // What serves now may fail again; what failed does not say of what else has served before.
            settles: kind == EventKind::VersionLive,
        },
        model: event.model.clone(),
        data,
    })
}

fn subject(event: &ModelEvent) -> String {
    format!("models/{}/versions/{}", event.model, event.version)
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
