//! The worker over the outbox: takes what is due by a lease, has it sent, records what became of it.
//!
//! A lease ends by itself: what a crashed replica had is taken by another one. Whatever happens in between, a callback may
//! arrive twice, and never not at all; its id stays the same.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::CallbackError;
use super::delivery::{Deliverer, Sent, Targets};
use super::places::Places;
use super::schedule::Schedule;
use super::signature::sign;
use crate::config::CallbacksConfig;
use crate::domain::callback::{Attempt, CallbackSecret};
use crate::domain::clock::Clock;
use crate::store::{AfterAttempt, Lease, LeasedDelivery, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{self, Work};

/// How often the outbox is looked at although nobody asks for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest pause between two looks while the store is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Due deliveries that are looked at at once.
const AT_ONCE: u32 = 256;

/// What a lease has beyond the time of an attempt: to record it, also where the store takes a while.
const TO_RECORD: Duration = Duration::from_secs(30);

/// How often an attempt is recorded anew while the store is away.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

/// How long attempts may go on once the gateway stops.
const TO_END: Duration = Duration::from_secs(1);

/// How often finished deliveries are looked through for those that are old.
const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// What is to be told to tenants, and the worker that tells it.
pub struct Outbox {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    deliverer: Deliverer,
    places: Places,
    schedule: Schedule,
    /// How long an attempt takes at most.
    attempt: TimeDelta,
    /// How long a delivery is this replica's alone.
    lease: TimeDelta,
    keep_finished: TimeDelta,
    /// This replica, until it ends.
    owner: Uuid,
    metrics: Arc<Metrics>,
    wake: Notify,
}

/// What an attempt says to the worker.
enum Ended {
    /// It is tried again then, or it is done.
    Next(Option<DateTime<Utc>>),
    /// The store was away before anything was sent.
    Away(StoreError),
}

impl Outbox {
    /// The outbox in a store.
    ///
    /// # Errors
    /// When there is nothing to send with.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: &CallbacksConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CallbackError> {
        let attempt = config.connect_timeout.get() + config.timeout.get();
        Ok(Self {
            store,
            clock,
            deliverer: Deliverer::new(config)?,
            places: Places::of(config),
            schedule: Schedule::of(config),
            attempt: TimeDelta::from_std(attempt).unwrap_or_default(),
            lease: TimeDelta::from_std(attempt + TO_RECORD).unwrap_or_default(),
            keep_finished: TimeDelta::from_std(config.keep_finished.get()).unwrap_or_default(),
            owner: Uuid::now_v7(),
            metrics,
            wake: Notify::new(),
        })
    }

    /// Where callbacks may go.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.deliverer.targets()
    }

    /// Says that something was put into the outbox; otherwise it is found within a second.
    pub fn nudge(&self) {
        self.wake.notify_one();
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Sends what is due, until `stop`; then what was taken and not sent is given back.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        let mut attempts = JoinSet::new();
        let mut contact = Contact::default();
        let mut soonest = None;
        loop {
            let looked = tokio::select! {
                () = stop.cancelled() => break,
                looked = self.start_due(&mut attempts) => looked,
            };
            let pause = contact.pause_after(looked);
            let soon = soonest.take().map(|at| until(at, self.now()));
            let pause = soon.map_or(pause, |soon: Duration| soon.min(pause));
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = attempts.join_next() => match ended {
                    Ok(Ended::Next(next)) => soonest = next,
                    Ok(Ended::Away(error)) => {
                        let pause = contact.pause_after(Err(error));
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(pause) => {}
                        }
                    }
                    Err(error) => tracing::error!(%error, "an attempt to send a callback broke off"),
                },
            }
        }
        self.leave(attempts).await;
    }

    /// Takes what is due and has places, and has it sent.
    async fn start_due(self: &Arc<Self>, attempts: &mut JoinSet<Ended>) -> Result<(), StoreError> {
        while !self.places.are_full() {
            let now = self.now();
            let busy = self.places.busy();
            let due = self.store.due_deliveries(now, &busy, AT_ONCE).await?;
            let lease = Lease {
                owner: self.owner,
                now,
                until: now + self.lease,
            };
            let chosen = self.places.choose(&due);
            let leased = self.store.lease_deliveries(&chosen, lease).await?;
            let is_last = leased.is_empty() || due.len() < AT_ONCE as usize;
            for delivery in leased {
                let place = self.places.take(delivery.what.lane(), delivery.what.tenant);
                let outbox = Arc::clone(self);
                attempts.spawn(async move {
                    let ended = outbox.attempt(&delivery, lease).await;
                    drop(place);
                    ended
                });
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Sends one delivery and records what became of it.
    async fn attempt(&self, delivery: &LeasedDelivery, lease: Lease) -> Ended {
        let what = &delivery.what;
        let secrets = match self.store.callback_secrets(what.tenant).await {
            Ok(secrets) => secrets,
            Err(error) => return Ended::Away(error),
        };
        let (began, at) = (Instant::now(), self.now());
        if at + self.attempt >= lease.until {
            // The store took so long that another replica may have it before this attempt ends.
            return Ended::Next(Some(lease.until));
        }
        let headers = headers(&what.id.to_string(), at, &what.body, &secrets);
        let work = Work::named("POST").asked_by(what.traceparent.as_deref());
        let sent = trace::work(work.calling(), self.send(delivery, headers)).await;
        let now = self.now();
        let after = self.schedule.after(&sent, delivery, now, chance());
        let attempt = Attempt {
            at,
            status: sent.status,
            error: sent.error,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let counts = &self.metrics.callbacks;
        counts.attempts.took(began.elapsed());
        match after {
            AfterAttempt::Delivered => counts.delivered.one(),
            AfterAttempt::Again(_) => counts.retried.one(),
            AfterAttempt::Dead | AfterAttempt::Gone => counts.given_up.one(),
        }
        if matches!(after, AfterAttempt::Dead | AfterAttempt::Gone) {
            tracing::warn!(
                id = %what.id,
                tenant = %what.tenant,
                event = what.event.as_str(),
                reason = attempt.error,
                "a callback was given up"
            );
        }
        self.record(what.id, &attempt, after, lease.until).await;
        Ended::Next(match after {
            AfterAttempt::Again(at) => Some(at),
            _ => None,
        })
    }

    /// Sends a delivery, as a part of the trace that it tells of.
    async fn send(&self, delivery: &LeasedDelivery, mut headers: Headers) -> Sent {
        let what = &delivery.what;
        note_call(delivery);
        headers.extend(trace::traceparent().map(|parent| ("traceparent", parent)));
        let sent = self.deliverer.send(&what.url, &headers, what.body.clone());
        let sent = sent.await;
        if let Some(status) = sent.status {
            trace::note_count("http.response.status_code", u64::from(status));
        }
        if sent.error.is_some() {
            trace::failed(match sent.status {
                Some(status) => status.to_string().into(),
                None => Cow::Borrowed("no_answer"),
            });
        }
        sent
    }

    /// Records an attempt. While the store is away it is tried until the lease ends: then another attempt is made.
    async fn record(&self, id: Uuid, attempt: &Attempt, after: AfterAttempt, until: DateTime<Utc>) {
        loop {
            let recorded = self
                .store
                .record_attempt(id, self.owner, attempt, after)
                .await;
            match recorded {
                Ok(_) => return,
                Err(StoreError::Unavailable(_)) if self.now() < until => {
                    tokio::time::sleep(RECORD_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "an attempt to send a callback was not recorded: there will be another");
                    return;
                }
            }
        }
    }

    /// Lets attempts end for a moment, cuts them off, and gives back what is left.
    async fn leave(&self, mut attempts: JoinSet<Ended>) {
        let rest = async { while attempts.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TO_END, rest).await;
        attempts.shutdown().await;
        if let Err(error) = self.store.release_deliveries(self.owner).await {
            tracing::warn!(%error, "callbacks under way were not given back: others take them when their leases end");
        }
    }

    /// Deletes what was finished long ago, piece by piece, until `stop`.
    pub async fn prune(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let before = self.now() - self.keep_finished;
            loop {
                match self.store.prune_deliveries(before).await {
                    Ok(0) => break,
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => {
                        tracing::debug!(%error, "old callbacks were not deleted");
                        break;
                    }
                }
                if stop.is_cancelled() {
                    return;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PRUNE_EVERY) => {}
            }
        }
    }
}

/// What is told of a call before it is made. Of its address no more than the host: the rest may be a secret between the receiver
/// and its tenant.
fn note_call(delivery: &LeasedDelivery) {
    let what = &delivery.what;
    trace::note("http.request.method", "POST");
    trace::note("lensgate.callback.id", what.id.to_string());
    trace::note("lensgate.callback.event", what.event.as_str());
    if delivery.attempts > 0 {
        trace::note_count("http.request.resend_count", u64::from(delivery.attempts));
    }
    let url = what.url.parse::<http::Uri>().ok();
    if let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host()?))) {
        let scheme = url.scheme_str().unwrap_or("https");
        let usual = if scheme == "http" { 80 } else { 443 };
        let port = url.port_u16().unwrap_or(usual);
        trace::note("url.full", format!("{scheme}://{host}:{port}/REDACTED"));
        trace::note("server.address", host);
        trace::note_count("server.port", u64::from(port));
    }
}

/// Names of headers, and their values.
type Headers = Vec<(&'static str, String)>;

/// The headers of the scheme. Without a secret there is no signature.
fn headers(id: &str, at: DateTime<Utc>, body: &str, secrets: &[CallbackSecret]) -> Headers {
    let timestamp = at.timestamp();
    let valid = secrets.iter().filter(|secret| secret.is_valid(at));
    let signature = sign(
        valid.map(|secret| secret.secret.as_str()),
        id,
        timestamp,
        body,
    );
    let mut headers = vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
    ];
    headers.extend(signature.map(|signature| ("webhook-signature", signature)));
    headers
}

fn until(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (at - now).to_std().unwrap_or_default()
}

/// A number from 0 to 1; the middle where the system gives none.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// Whether the store answers; said in the log when that changes.
#[derive(Default)]
struct Contact {
    away: Option<Duration>,
}

impl Contact {
    /// How long to wait after a look.
    fn pause_after(&mut self, looked: Result<(), StoreError>) -> Duration {
        match (looked, self.away) {
            (Ok(()), before) => {
                if before.is_some() {
                    tracing::info!("callbacks are sent again");
                }
                self.away = None;
                LOOK_EVERY
            }
            (Err(error), None) => {
                tracing::warn!(%error, "callbacks wait for the store");
                self.away = Some(LOOK_EVERY);
                LOOK_EVERY
            }
            (Err(_), Some(pause)) => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                self.away = Some(pause);
                pause
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_the_store_is_away() {
        let mut contact = Contact::default();
        let away = || Err(StoreError::Unavailable("gone".to_owned()));
        let pauses: Vec<u64> = (0..6)
            .map(|_| contact.pause_after(away()).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
        assert_eq!(contact.pause_after(Ok(())), LOOK_EVERY);
        assert_eq!(contact.pause_after(away()).as_secs(), 1);
    }

    #[test]
    fn only_valid_secrets_sign() {
        let at = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
        let secret = |byte, expires_at| CallbackSecret {
            id: Uuid::nil(),
            tenant: crate::domain::tenant::TenantId(Uuid::nil()),
            secret: crate::callbacks::compose_secret([byte; 32]),
            created_at: at,
            expires_at,
        };
        let signatures = |secrets: &[CallbackSecret]| {
            let headers = headers("id", at, "{}", secrets);
            assert_eq!(headers[0], ("webhook-id", "id".to_owned()));
            assert_eq!(headers[1], ("webhook-timestamp", "1790000000".to_owned()));
            headers.get(2).map_or(0, |(name, value)| {
                assert_eq!(*name, "webhook-signature");
                value.split(' ').count()
            })
        };
        let soon = at + TimeDelta::seconds(1);
        assert_eq!(signatures(&[]), 0);
        assert_eq!(signatures(&[secret(1, Some(at))]), 0);
        assert_eq!(
            signatures(&[secret(1, Some(at)), secret(2, Some(soon)), secret(3, None)]),
            2
        );
    }
}
