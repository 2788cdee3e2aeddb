//! Labels that came before their predictions: joined when these are in the store, deleted when they never can be.
//!
//! Every replica looks; the statements do nothing a second time, so it does not matter which one finds something.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::feedback::{self, CHECKED_AT_ONCE, MAY_BE_UNDER_WAY, checked};
use super::subjects::Subjects;
use crate::domain::clock::Clock;
use crate::domain::feedback::{Feedback, Subject};
use crate::domain::prediction::time_of;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Labels that are looked at in one go.
const PIECE: u32 = 500;

/// How often it is looked; how soon again where there are more, and where the store was away.
const EVERY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(3);

/// How much longer a label waits than its prediction may be under way. So long must looks have succeeded, too: after an outage the
/// spools of all replicas have to arrive first.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);

/// Whether what answered has a label; `None` where that is not known any more.
type IsLabel = Box<dyn Fn(&Subject, &str) -> Option<bool> + Send + Sync>;

/// Joins labels with predictions that came after them.
pub struct FeedbackJoiner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    is_label: IsLabel,
    /// The label that was looked at last; `None` where the oldest is next. All have their turn, however many cannot be joined yet.
    after: Option<Feedback>,
    /// Since when every look has succeeded.
    well_since: Option<DateTime<Utc>>,
    metrics: Arc<Metrics>,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Labels that were joined.
    pub joined: u64,
    /// Labels that were deleted, as they can never be joined.
    pub deleted: u64,
    /// Whether there are more to look at.
    pub more: bool,
}

impl FeedbackJoiner {
    /// `is_label` says whether what answered has a label, `None` where that is not known any more: it is joined then.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        is_label: impl Fn(&Subject, &str) -> Option<bool> + Send + Sync + 'static,
    ) -> Self {
        Self {
            store,
            clock,
            is_label: Box::new(is_label),
            after: None,
            well_since: None,
            metrics: Arc::default(),
        }
    }

    /// The same; joined labels are counted into `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Looks again and again until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_away = false;
        loop {
            let looked = tokio::select! {
                // What is cut off here is rolled back, and done by the next who looks.
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            if let Err(error) = &looked
                && !is_away
            {
                tracing::warn!(%error, "labels that came before their predictions were not looked after");
            }
            is_away = looked.is_err();
            let pause = match looked {
                Ok(looked) if looked.more => SOON,
                Ok(_) => EVERY,
                Err(_) => AGAIN,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at the next piece of what is not joined, from the oldest on.
    ///
    /// # Errors
    /// When the store is away: what was not joined has its turn again.
    pub async fn look(&mut self) -> Result<Looked, StoreError> {
        let looked = self.look_at_some().await;
        if looked.is_err() {
            self.well_since = None;
        }
        looked
    }

    async fn look_at_some(&mut self) -> Result<Looked, StoreError> {
        let now = self.clock.now();
        let since = *self.well_since.get_or_insert(now);
        let after = self.after.as_ref();
        let labels = self.store.unjoined_feedback(after, PIECE).await?;
        let full = usize::try_from(PIECE).is_ok_and(|piece| labels.len() >= piece);
        // Where one of them cannot be read, the others have their turn all the same.
        self.after = labels.last().filter(|_| full).cloned();
        let mut subjects = Subjects::of(&labels);
        subjects.look_into(&*self.store).await?;
        let mut settled = Vec::new();
        for (place, label) in labels.into_iter().enumerate() {
            if place % CHECKED_AT_ONCE == CHECKED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let judged = match subjects.of_label(&label) {
                Some(one) => checked(one, &label, &self.is_label).ok(),
                // Pictures of one request may come one after the other.
                None if now - since < PATIENCE || !is_over(&label, now) => continue,
                None => None,
            };
            settled.push(Feedback { judged, ..label });
        }
        let (joined, deleted) = self.store.settle_feedback(&settled).await?;
        // Where another replica joined some of them at the same moment, the first are counted: which ones it were is not told.
        let judged = settled.iter().filter(|label| label.judged.is_some());
        for label in judged.take(usize::try_from(joined).unwrap_or(usize::MAX)) {
            feedback::count(&self.metrics, label);
        }
        if joined + deleted > 0 {
            tracing::debug!(joined, deleted, "labels that came before their predictions");
        }
        Ok(Looked {
            joined,
            deleted,
            more: self.after.is_some(),
        })
    }
}

/// Whether a label's prediction is not to be expected any more.
fn is_over(label: &Feedback, now: DateTime<Utc>) -> bool {
    time_of(label.request_id) + MAY_BE_UNDER_WAY + PATIENCE < now
}
