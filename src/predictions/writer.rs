//! From the spool into the database: many at once, in order, again and again until the database has them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use tokio_util::sync::CancellationToken;

use super::log::{PredictionLog, count};
use super::record;
use crate::domain::clock::Clock;
use crate::domain::prediction::Prediction;
use crate::store::{Store, StoreError};
use crate::telemetry::trace::{self, Work};

/// Predictions of one transaction: most, and least where the database is slow.
const MOST: usize = 2000;
const LEAST: usize = 50;

/// How long it is waited for more to come, so that not every prediction is a transaction.
const GATHER: Duration = Duration::from_millis(300);

/// Pauses between two tries while the database is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Takes predictions from the spool to the database.
pub struct PredictionWriter {
    log: Arc<PredictionLog>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Days that predictions are kept; `None` for ever.
    kept: Option<TimeDelta>,
}

impl PredictionWriter {
    /// A writer; there is one for a spool.
    #[must_use]
    pub fn new(
        log: Arc<PredictionLog>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        retention_days: u32,
    ) -> Self {
        Self {
            log,
            store,
            clock,
            kept: super::retention::kept(retention_days),
        }
    }

    /// Writes until `stop`, and then what is there, if the database takes it at once; the rest stays for the next start.
    pub async fn run(self, stop: CancellationToken) {
        let (mut size, mut pause) = (MOST, FIRST_PAUSE);
        loop {
            let outcome = self.write(size).await;
            if outcome == Ok(true) {
                (size, pause) = ((size * 2).min(MOST), FIRST_PAUSE);
                continue;
            }
            if stop.is_cancelled() {
                return;
            }
            let is_away = outcome.is_err();
            let wait = async {
                if is_away {
                    tokio::time::sleep(pause).await;
                } else {
                    self.more().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = wait => {}
            }
            if is_away {
                // Where it is slow, it may have the time for less.
                (size, pause) = ((size / 2).max(LEAST), (pause * 2).min(LONGEST_PAUSE));
            }
        }
    }

    async fn more(&self) {
        self.log.written().await;
        tokio::time::sleep(GATHER).await;
    }

    /// Takes the next predictions to the database; whether there were any.
    async fn write(&self, size: usize) -> Result<bool, ()> {
        let waiting = self.log.read(size).await.map_err(|error| {
            self.note(Some(&format!("the spool cannot be read: {error}")));
        })?;
        let Some(end) = waiting.end else {
            return Ok(false);
        };
        let mut predictions = waiting.predictions;
        self.note_oldest(predictions.first());
        self.leave_expired_out(&mut predictions);
        let storing = async {
            trace::note_count("lensgate.predictions", count(predictions.len()));
            let stored = self.store_all(&predictions).await;
            if stored.is_err() {
                trace::failed("store_unavailable");
            }
            stored
        };
        let stored = trace::work(Work::named("store predictions"), storing).await;
        self.note(stored.as_ref().err().map(ToString::to_string).as_deref());
        stored.map_err(|_| ())?;
        let advanced = self.log.advance(end).await;
        if let Err(error) = advanced {
            // They are handed to the database again at the next start: it has them once.
            tracing::error!(%error, "prediction spool: it is not remembered what the database has");
        }
        // What comes next is no older than the last of these.
        self.note_oldest(predictions.last());
        Ok(true)
    }

    fn note_oldest(&self, one: Option<&Prediction>) {
        if let Some(one) = one {
            let at = one.at().timestamp_millis();
            self.log.writer.oldest_ms.store(at, Ordering::Relaxed);
        }
    }

    /// What is older than is kept has no room in the database any more.
    fn leave_expired_out(&self, predictions: &mut Vec<Prediction>) {
        let Some(kept) = self.kept else { return };
        let oldest: NaiveDate = (self.clock.now() - kept).date_naive();
        let before = predictions.len();
        predictions.retain(|one| one.day() >= oldest);
        let expired = count(before - predictions.len());
        self.log
            .writer
            .expired
            .fetch_add(expired, Ordering::Relaxed);
    }

    /// Has the database take all of them. One that it takes in no form does not keep the others from it.
    async fn store_all(&self, predictions: &[Prediction]) -> Result<(), StoreError> {
        let mut left = vec![predictions];
        while let Some(some) = left.pop() {
            match (self.store.add_predictions(some).await, some) {
                (Ok(rows), _) => {
                    self.log.writer.stored.fetch_add(rows, Ordering::Relaxed);
                }
                (Err(StoreError::Invalid(_)), [one]) => self.store_plain(one).await?,
                (Err(StoreError::Invalid(_)), some) => {
                    let (first, second) = some.split_at(some.len() / 2);
                    left.extend([second, first]);
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    /// A prediction that the database does not take as it is.
    async fn store_plain(&self, one: &Prediction) -> Result<(), StoreError> {
        match self.store.add_predictions(&[plain(one.clone())]).await {
            Err(StoreError::Invalid(reason)) => {
                self.log.writer.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(request_id = %one.asked.request_id, index = one.index, reason,
                    "the database takes a prediction in no form: it is not logged");
                Ok(())
            }
            outcome => outcome.map(|rows| {
                self.log.writer.stored.fetch_add(rows, Ordering::Relaxed);
            }),
        }
    }

    /// Says once that the database does not take predictions, and once that it does again.
    fn note(&self, error: Option<&str>) {
        let away = self.log.writer.away.lock();
        let mut away = away.unwrap_or_else(PoisonError::into_inner);
        match (away.is_some(), error) {
            (false, Some(reason)) => {
                tracing::warn!(
                    reason,
                    "predictions wait in the spool until the database takes them"
                );
            }
            (true, None) => tracing::info!("the database takes predictions again"),
            _ => {}
        }
        *away = error.map(ToOwned::to_owned);
    }
}

/// The same without what a database may not take in a text: control characters, which labels may hold, and texts that are too
/// long for an index.
fn plain(one: Prediction) -> Prediction {
    let mut one = record::shortened(one);
    for text in record::texts(&mut one) {
        *text = text.replace(|c: char| c.is_control(), "\u{fffd}");
    }
    one
}
