//! The archive of pictures: kept beside the log, once for each tenant and digest, never on the request path.
//!
//! Classify hands pictures over with [`Archive::offer`], which neither waits nor fails; [`Archive::run`] puts them where the
//! settings say. While that place is away, pictures wait up to a bound, and what comes over it is counted and shouted. What
//! operators have deleted, on whatever replica, is heeded there too.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::{ArchiveConfig, Environment};
use crate::domain::clock::Clock;
use crate::domain::ids::Digest;
use crate::domain::tenant::TenantId;
use crate::store::Store;
use place::Place;
use waiting::{Fate, Picture, Taken, Waiting};

mod heeding;
mod lately;
mod place;
mod waiting;

/// Why the archive did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The settings name a place that cannot be used.
    #[error("`archive.images` cannot be used: {0}")]
    Unusable(String),
    /// Its place does not answer, or not now; the cause is logged, not shown.
    #[error("the archive of pictures cannot be reached")]
    Away(String),
    /// Its place answers that we may not: wrong credentials, no permission, no such bucket; the cause is logged, not shown.
    #[error("the archive of pictures refuses the gateway")]
    Refused(String),
}

impl ArchiveError {
    /// What is logged and never shown.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::Unusable(cause) | Self::Away(cause) | Self::Refused(cause) => cause,
        }
    }
}

/// How the archive is. All numbers are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// Pictures that were put in their place.
    pub stored: u64,
    /// Pictures that were not kept because too many waited.
    pub dropped_full: u64,
    /// Pictures that were not kept because they have too many bytes.
    pub dropped_too_large: u64,
    /// Pictures that were not kept because their place refused them, or they still waited at the end.
    pub dropped_failed: u64,
    /// Pictures that wait now.
    pub waiting: usize,
    /// Their bytes, and some more for each, as the bound has it.
    pub waiting_bytes: u64,
    /// Since when the place takes nothing; `None` where it does.
    pub away_since: Option<DateTime<Utc>>,
    /// Why it takes nothing, for people.
    pub trouble: Option<String>,
}

/// Pictures that are put at the same time.
const AT_ONCE: usize = 8;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a stopping gateway goes on to put what waits.
const TO_FLUSH: Duration = Duration::from_millis(1500);

/// How often it is shouted that pictures are not kept.
const SHOUT_EVERY: Duration = Duration::from_mins(1);

/// How often it is looked for pictures that are too old.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// The archive of pictures.
pub struct Archive {
    place: Place,
    waiting: Mutex<Waiting>,
    /// There is a picture to put.
    more: Notify,
    /// A picture is no longer under way.
    done: Notify,
    sample: f64,
    retention: Duration,
    clock: Arc<dyn Clock>,
}

/// How fast pictures are put: all at once, or one by one with pauses while the place takes none.
#[derive(Default)]
struct Pace {
    failures: u32,
    paused_until: Option<Instant>,
}

impl Pace {
    fn at_once(&self) -> usize {
        match (self.paused_until, self.failures) {
            (Some(_), _) => 0,
            (None, 0) => AT_ONCE,
            (None, _) => 1,
        }
    }

    /// What was under way together with a failure is no further one.
    fn failed(&mut self) {
        if self.paused_until.is_none() {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            self.paused_until = Some(Instant::now() + pause.min(LONGEST_PAUSE));
        }
    }
}

impl Archive {
    /// Opens the archive that the settings name, or none where they name none. Makes a folder that is missing; blocks for it.
    /// A bucket is not asked anything yet: it may be away.
    ///
    /// # Errors
    /// When the place can never be used: the folder cannot be made, or an address is none.
    pub fn open(
        config: &ArchiveConfig,
        environment: &Environment,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, ArchiveError> {
        let Some(place) = Place::open(config, environment)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            place,
            waiting: Mutex::new(Waiting::new(
                config.max_image_bytes,
                config.max_waiting_bytes,
            )),
            more: Notify::new(),
            done: Notify::new(),
            sample: config.sample,
            retention: config.retention.get(),
            clock,
        }))
    }

    /// Hands a picture over that was asked for at this time. Never waits and never fails: a picture that cannot be kept is
    /// counted.
    pub fn offer(&self, tenant: TenantId, digest: Digest, bytes: Bytes, asked: DateTime<Utc>) {
        if !is_picked(&digest, self.sample) {
            return;
        }
        let today = self.clock.now().date_naive();
        let taken = self.waiting().offer((tenant, digest), asked, bytes, today);
        match taken {
            Taken::Waits => self.more.notify_one(),
            Taken::Known | Taken::TooLarge | Taken::Purged => {}
            Taken::Full => self.shout(),
        }
    }

    /// A picture's bytes, where it is kept or waits to be.
    ///
    /// # Errors
    /// When its place cannot be reached.
    pub async fn fetch(
        &self,
        tenant: TenantId,
        digest: Digest,
    ) -> Result<Option<Bytes>, ArchiveError> {
        let waiting = self.waiting().find(&(tenant, digest));
        match waiting {
            Some(bytes) => Ok(Some(bytes)),
            None => self.place.get(&(tenant, digest)).await,
        }
    }

    /// Deletes all pictures of a tenant, those that wait here included; what is asked for after `until` and offered from now
    /// on is kept again. Gives how many were deleted. May be called again and on every replica; what another one has in hand
    /// goes there, as [`Self::run`] heeds what is deleted.
    ///
    /// # Errors
    /// When its place cannot be reached: some pictures may be left.
    pub async fn forget(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, ArchiveError> {
        self.waiting().purge(tenant, until);
        let dropped = self.waiting().forget(tenant, DateTime::<Utc>::MAX_UTC);
        self.none_is_under_way(tenant).await;
        let deleted = self.place.forget(tenant).await?;
        self.waiting().purged(tenant, until);
        Ok(dropped + deleted)
    }

    /// Waits until nothing is under way that its tenant has had deleted.
    async fn none_is_under_way(&self, tenant: TenantId) {
        loop {
            let done = self.done.notified();
            let mut done = pin!(done);
            done.as_mut().enable();
            if !self.waiting().is_forgetting(tenant) {
                return;
            }
            done.await;
        }
    }

    /// Deletes pictures that were put before this time. Gives how many.
    ///
    /// # Errors
    /// When its place cannot be reached: the rest goes the next time.
    pub async fn sweep(&self, before: DateTime<Utc>) -> Result<u64, ArchiveError> {
        self.place.sweep(before).await
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        self.waiting().status()
    }

    /// Puts what is offered, sweeps what is too old and heeds the deletions that `store` knows of, until `stop`; then what
    /// still waits has a moment to be put.
    pub async fn run(&self, store: Arc<dyn Store>, stop: CancellationToken) {
        let put = CancellationToken::new();
        let puts = async {
            self.put_all(&stop).await;
            put.cancel();
        };
        // Deletions are heeded for as long as pictures are put.
        tokio::join!(puts, self.sweep_all(&stop), self.heed_all(&*store, &put));
    }

    async fn put_all(&self, stop: &CancellationToken) {
        let mut puts = FuturesUnordered::new();
        let mut pace = Pace::default();
        let mut stopping = false;
        let flushed = async {
            stop.cancelled().await;
            sleep(TO_FLUSH).await;
        };
        let mut flushed = pin!(flushed);
        loop {
            while puts.len() < pace.at_once() {
                let Some(picture) = self.waiting().next() else {
                    break;
                };
                puts.push(self.put(picture));
            }
            if stopping && puts.is_empty() {
                break;
            }
            let pause_ends = pace.paused_until.unwrap_or_else(Instant::now);
            tokio::select! {
                Some((picture, outcome)) = puts.next(), if !puts.is_empty() => {
                    self.settle(&mut pace, picture, outcome);
                }
                () = sleep_until(pause_ends), if pace.paused_until.is_some() && !stopping => {
                    pace.paused_until = None;
                }
                () = self.more.notified(), if puts.len() < pace.at_once() => {}
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    pace.paused_until = None;
                }
                () = &mut flushed => break,
            }
        }
        drop(puts);
        let left = self.waiting().give_up();
        // Nothing is under way any more, and nobody else would say so.
        self.done.notify_waiters();
        if left > 0 {
            tracing::error!(
                left,
                "the archive did not take all pictures in time: they are not kept"
            );
        }
    }

    async fn put(&self, picture: Picture) -> (Picture, Result<(), ArchiveError>) {
        let outcome = self.place.put(&picture.key, picture.bytes.clone()).await;
        (picture, outcome)
    }

    fn settle(&self, pace: &mut Pace, picture: Picture, outcome: Result<(), ArchiveError>) {
        let now = self.clock.now();
        match outcome {
            Ok(()) => {
                *pace = Pace::default();
                if let Some(since) = self.waiting().stored(&picture, now.date_naive()) {
                    tracing::info!(%since, "the archive takes pictures again");
                }
            }
            Err(error) => {
                pace.failed();
                let fate = self.waiting().failed(picture, &error, now);
                if fate == Fate::Dropped {
                    tracing::warn!(cause = error.cause(), "a picture is not kept: {error}");
                }
                self.shout();
            }
        }
        self.done.notify_waiters();
    }

    /// Says that pictures are not kept, now and then.
    fn shout(&self) {
        let Some(status) = self.waiting().due_to_shout(SHOUT_EVERY) else {
            return;
        };
        tracing::error!(
            trouble = status.trouble,
            away_since = status.away_since.map(|since| since.to_rfc3339()),
            waiting = status.waiting,
            waiting_bytes = status.waiting_bytes,
            dropped_full = status.dropped_full,
            dropped_failed = status.dropped_failed,
            "the archive does not take all pictures"
        );
    }

    async fn sweep_all(&self, stop: &CancellationToken) {
        let Some(retention) = chrono::TimeDelta::from_std(self.retention)
            .ok()
            .filter(|retention| !retention.is_zero())
        else {
            return;
        };
        loop {
            let before = self.clock.now().checked_sub_signed(retention);
            let sweep = async {
                match before {
                    Some(before) => self.sweep(before).await,
                    None => Ok(0),
                }
            };
            tokio::select! {
                swept = sweep => match swept {
                    Ok(0) => {}
                    Ok(deleted) => tracing::info!(deleted, "pictures that were too old are deleted"),
                    Err(error) => tracing::warn!(
                        cause = error.cause(),
                        "pictures that are too old were not all deleted: {error}"
                    ),
                },
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = sleep(SWEEP_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a picture is among the share that is kept: its digest says, so that every replica says the same.
fn is_picked(digest: &Digest, share: f64) -> bool {
    // The last bytes: the first ones name folders, which are to fill evenly.
    let [.., a, b, c, d] = *digest.as_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) < share * (f64::from(u32::MAX) + 1.0)
}
