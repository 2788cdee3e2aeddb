//! Days of the log: room for those that come, an end to those that are old; and what operators had deleted, deleted.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::reading::erase;
use crate::domain::clock::Clock;
use crate::store::{Store, StoreError};

/// How often it is looked, and how soon again where the database was away.
const EVERY: Duration = Duration::from_mins(10);
const AGAIN: Duration = Duration::from_secs(10);

/// How long counts are kept that say nothing of any one picture.
const FIGURES: TimeDelta = TimeDelta::days(400);

/// How long predictions are kept; `None` for ever.
pub(super) fn kept(days: u32) -> Option<TimeDelta> {
    (days > 0).then(|| TimeDelta::days(i64::from(days)))
}

/// Looks after the days of the log. Of several replicas all do; what one has done, the others find done.
pub struct Retention {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    kept: Option<TimeDelta>,
}

impl Retention {
    /// Keeps predictions for so many days; 0 for ever.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, days: u32) -> Self {
        Self {
            store,
            clock,
            kept: kept(days),
        }
    }

    /// Looks after them until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.turn().await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the days of the prediction log were not looked after");
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes room for the next days, and deletes what is to go.
    async fn turn(&self) -> Result<(), StoreError> {
        // A deletion that a crash cut short goes on here. One that fails does not keep the others from it.
        let mut outcome = Ok(());
        for (tenant, until) in self.store.purges().await? {
            outcome = outcome.and(erase(&*self.store, tenant, until).await);
        }
        let now = self.clock.now();
        let oldest = self.kept.map(|kept| (now - kept).date_naive());
        while self.store.turn_days(now.date_naive(), oldest).await? {}
        if let Some(kept) = self.kept {
            while self.store.prune_feedback(now - kept).await? > 0 {}
        }
        let pictures = self.kept.map(|kept| now - kept);
        self.store.prune_figures(now - FIGURES, pictures).await?;
        outcome
    }
}
