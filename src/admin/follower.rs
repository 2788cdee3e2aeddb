//! Follows the store: what other replicas change is in force here within a second, what this one changes at once; and what
//! keys have used goes back. The request path never asks the store: it is served from what was last heard of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::EventBus;
use crate::access::Access;
use crate::domain::clock::Clock;
use crate::model_store::RemoteStore;
use crate::models::ModelManager;
use crate::store::{Store, StoreError};

/// How often the store is asked whether something changed.
const ASK_EVERY: Duration = Duration::from_millis(400);

/// How many rounds of asking lie between two of telling what was used.
const TELL_EVERY: u32 = 2;

/// Days of usage that are kept.
const KEPT_DAYS: i64 = 400;

/// Follows the store.
pub struct Follower {
    store: Arc<dyn Store>,
    access: Arc<Access>,
    manager: Arc<ModelManager>,
    events: EventBus,
    clock: Arc<dyn Clock>,
    /// Where models come from, if they come from a bucket: it is worth a look whenever something changed.
    bucket: Option<RemoteStore>,
    /// The revision in force here. Held while changes are applied, so that they are in their order.
    revision: tokio::sync::Mutex<i64>,
    contact: Mutex<Contact>,
    /// One telling at a time, so that totals are not mixed up.
    telling: tokio::sync::Mutex<Option<NaiveDate>>,
}

/// How the store answers.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    /// Since when it does not answer.
    pub(super) away_since: Option<DateTime<Utc>>,
    /// The revision in force here.
    pub(super) revision: i64,
}

impl Follower {
    /// A follower that has heard of nothing yet.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        access: Arc<Access>,
        manager: Arc<ModelManager>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            access,
            manager,
            events: EventBus::default(),
            clock,
            bucket: None,
            revision: tokio::sync::Mutex::new(0),
            contact: Mutex::new(Contact {
                away_since: None,
                revision: 0,
            }),
            telling: tokio::sync::Mutex::new(None),
        }
    }

    /// Has this bucket looked at whenever something changed.
    #[must_use]
    pub fn with_bucket(self, bucket: Option<RemoteStore>) -> Self {
        Self { bucket, ..self }
    }

    /// Where events are told.
    #[must_use]
    pub fn events(&self) -> EventBus {
        self.events.clone()
    }

    pub(super) fn contact(&self) -> Contact {
        self.contact
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Brings all that the store holds into force here. When it returns, what was committed before the call is.
    ///
    /// # Errors
    /// When the store is away; what was in force stays.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let mut revision = self.revision.lock().await;
        let heard = async {
            if self.store.revision().await? == *revision && *revision != 0 {
                return Ok(None);
            }
            self.store.changes_since(*revision).await.map(Some)
        };
        let heard = heard.await;
        self.note(heard.as_ref().err());
        if let Some(changes) = heard? {
            if changes.revision < *revision {
                tracing::warn!("the database was set back: what it does not hold is forgotten");
                self.access.replace(&changes);
            } else {
                self.access.apply(&changes);
            }
            if let Some(wishes) = changes.wishes {
                self.manager.want(wishes);
            }
            *revision = changes.revision;
            if let Some(bucket) = &self.bucket {
                bucket.nudge();
            }
            let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
            contact.revision = changes.revision;
        }
        Ok(())
    }

    /// Notes whether the store answered; says so in the log when that changes.
    fn note(&self, error: Option<&StoreError>) {
        let now = self.clock.now();
        let before = {
            let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
            let before = contact.away_since;
            contact.away_since = error.map(|_| before.unwrap_or(now));
            before
        };
        match (before, error) {
            (None, Some(error)) => {
                tracing::warn!(%error, "the store is away: keys, limits and models stay as they were last heard of");
                self.events.tell("store.away", "store", json!({}), now);
            }
            (Some(since), None) => {
                let seconds = (now - since).num_seconds();
                tracing::info!(away_s = seconds, "the store is back");
                self.events
                    .tell("store.back", "store", json!({"away_s": seconds}), now);
            }
            _ => {}
        }
    }

    /// Tells the store what keys have used, and hears what they used elsewhere. What could not be told is told later.
    ///
    /// # Errors
    /// When the store is away; nothing is lost.
    pub async fn tell(&self) -> Result<(), StoreError> {
        let mut told_day = self.telling.lock().await;
        let today = self.clock.now().date_naive();
        if *told_day != Some(today) {
            // Also at the start: what was used before a restart counts on.
            let used = self.store.usage_of(today).await?;
            let totals: Vec<_> = used.into_iter().map(|(key, n)| (key, today, n)).collect();
            self.access.set_usage(&totals);
            let oldest = today - TimeDelta::days(KEPT_DAYS);
            self.store.prune_usage(oldest).await?;
            *told_day = Some(today);
        }
        let used = self.access.take_usage();
        if !used.is_empty() {
            match self.store.add_usage(&used).await {
                Ok(totals) => self.access.set_usage(&totals),
                Err(error) => {
                    self.access.put_back_usage(&used);
                    return Err(error);
                }
            }
        }
        let (keys, tokens) = self.access.take_used();
        let touched = async {
            if !keys.is_empty() {
                self.store.touch_keys(&keys).await?;
            }
            if !tokens.is_empty() {
                self.store.touch_tokens(&tokens).await?;
            }
            Ok(())
        };
        touched
            .await
            .inspect_err(|_| self.access.put_back_used(&keys, &tokens))
    }

    /// Hears and tells all there is, at the start.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn hear(&self) -> Result<(), StoreError> {
        self.catch_up().await?;
        self.tell().await
    }

    /// Follows until `stop`, and tells once more what was used.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut rounds: u32 = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            rounds = rounds.wrapping_add(1);
            if let Err(error) = self.catch_up().await {
                tracing::debug!(%error, "the store was not heard");
                continue;
            }
            if rounds.is_multiple_of(TELL_EVERY)
                && let Err(error) = self.tell().await
            {
                tracing::debug!(%error, "what was used was not told");
            }
        }
        if let Err(error) = self.tell().await {
            tracing::warn!(%error, "what keys used in the last second could not be told to the store");
        }
    }
}
