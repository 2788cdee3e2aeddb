//! Waiting for what the manager does: until a version serves, or will not; until a model was looked at.
//!
//! Part of the manager; called by the operators' use cases on the async runtime. Nothing is polled: whatever happens at
//! the desk is a reason to look up.

use std::time::{Duration, Instant};

use super::desk::Desk;
use super::manager::ModelManager;
use crate::domain::ids::{Digest, ModelId, VersionNumber};

/// Where a version stands for somebody who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Live,
    /// It cannot be served; in words an operator can act on.
    Failed(String),
    /// It is not to be served; the reason may be empty.
    Unloaded(String),
    /// It is not there, or on its way out.
    Gone,
    /// It is not known yet, or something is being done about it.
    OnItsWay,
    /// The gateway is shutting down.
    Stopping,
}

impl ModelManager {
    /// Looks at a model at once, tries again what failed of the version, and waits until that has come to an end, `limit`
    /// at most: [`Standing::OnItsWay`] is given when it has not. A version of the fingerprint `wanted` that serves is
    /// waited for no longer.
    pub async fn settle(
        &self,
        id: &ModelId,
        number: VersionNumber,
        wanted: Option<Digest>,
        limit: Duration,
    ) -> Standing {
        let since = Instant::now();
        self.desk().retry(id, number);
        self.nudge(Some(id));
        let stands = |desk: &Desk| match desk.standing(id, number, since, wanted) {
            Standing::OnItsWay => None,
            standing => Some(standing),
        };
        let settled = self.until(limit, stands).await;
        settled.unwrap_or(Standing::OnItsWay)
    }

    /// Looks at a model at once, and waits until that is done, `limit` at most; what is found to be loaded is not waited
    /// for. Whether it was looked at.
    pub async fn look_at(&self, id: &ModelId, limit: Duration) -> bool {
        let since = Instant::now();
        self.nudge(Some(id));
        let looked = |desk: &Desk| desk.has_looked(id, since).then_some(());
        self.until(limit, looked).await.is_some()
    }

    /// Looks at a model at once, and waits until its version, or with `None` the model, is not in the catalog any more,
    /// `limit` at most: requests that still run may take longer. Whether it is gone.
    pub async fn until_gone(
        &self,
        id: &ModelId,
        number: Option<VersionNumber>,
        limit: Duration,
    ) -> bool {
        self.nudge(Some(id));
        let gone = |desk: &Desk| {
            let catalog = desk.publisher.catalog();
            let model = catalog.models.get(id);
            let there = match number {
                Some(number) => model.is_some_and(|model| model.versions.contains_key(&number)),
                None => model.is_some(),
            };
            (!there || desk.is_stopping()).then_some(())
        };
        self.until(limit, gone).await.is_some()
    }

    /// Waits until `wanted` gives something, `limit` at most.
    async fn until<T>(&self, limit: Duration, wanted: impl Fn(&Desk) -> Option<T>) -> Option<T> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut pulse = self.desk().publisher.pulse();
        loop {
            if let Some(found) = wanted(&self.desk()) {
                return Some(found);
            }
            match tokio::time::timeout_at(deadline, pulse.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }
}
