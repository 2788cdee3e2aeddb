//! The worker of a replica: takes what is due, a few at a time, and has it carried out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use crate::store::StoreError;

/// How often jobs are looked for although nobody here has kept one: others may have, or a lease has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The longest pause between two looks while the store is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long jobs may take to be given back once the gateway ends.
const TO_GIVE_BACK: Duration = Duration::from_secs(1);

/// How often ended jobs are looked through for those that are old.
const PRUNE_EVERY: Duration = Duration::from_mins(1);

impl Jobs {
    /// Carries out what is due. After `leaving` nothing more is taken; after `last`, what is still under way is given back.
    pub async fn work(self: Arc<Self>, leaving: CancellationToken, last: CancellationToken) {
        let mut running = JoinSet::new();
        let mut away = None;
        loop {
            // Not cut off when the gateway leaves: a job may be taken and its answer on the way.
            let looked = self.start_due(&mut running, &leaving, &last).await;
            if leaving.is_cancelled() {
                break;
            }
            let pause = pause_after(looked, &mut away);
            tokio::select! {
                () = leaving.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = running.join_next() => say(ended),
            }
        }
        self.leave(running, &last).await;
    }

    /// Takes jobs while there are any and places are free, until `leaving`.
    async fn start_due(
        self: &Arc<Self>,
        running: &mut JoinSet<()>,
        leaving: &CancellationToken,
        last: &CancellationToken,
    ) -> Result<(), StoreError> {
        while running.len() < self.places() && !leaving.is_cancelled() {
            let (lease, taken) = (self.lease(), Instant::now());
            let Some(job) = self.parts.store.take_job(lease).await? else {
                break;
            };
            let (jobs, last) = (Arc::clone(self), last.clone());
            running.spawn(async move { jobs.carry_out(job, lease.id, taken, last).await });
        }
        Ok(())
    }

    /// Jobs that are worked on at the same time.
    fn places(&self) -> usize {
        match self.settings.concurrency {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            places => places,
        }
    }

    /// Lets jobs go on until `last`, and waits until they are ended or given back.
    async fn leave(&self, mut running: JoinSet<()>, last: &CancellationToken) {
        let going_on = async {
            while let Some(ended) = running.join_next().await {
                say(ended);
            }
        };
        tokio::select! {
            () = going_on => return,
            () = last.cancelled() => {}
        }
        let rest = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(TO_GIVE_BACK, rest).await.is_err() {
            tracing::warn!(
                "jobs under way were not given back: others take them when their leases end"
            );
        }
    }

    /// Deletes what ended long ago, piece by piece, until `stop`.
    pub async fn prune(self: Arc<Self>, stop: CancellationToken) {
        let retention = TimeDelta::from_std(self.settings.retention.get()).unwrap_or_default();
        loop {
            let (ended, named) = (self.parts.clock.now() - retention, self.names_forgotten());
            loop {
                match self.parts.store.prune_jobs(ended, named).await {
                    Ok(0) => break,
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => {
                        tracing::debug!(%error, "old jobs were not deleted");
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

/// A job that broke off keeps its lease until that ends; then it is taken again.
fn say(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a job broke off");
    }
}

/// How long to wait after a look; whether the store answers is said in the log when that changes.
fn pause_after(looked: Result<(), StoreError>, away: &mut Option<Duration>) -> Duration {
    match (looked, *away) {
        (Ok(()), before) => {
            if before.is_some() {
                tracing::info!("jobs are carried out again");
            }
            *away = None;
            LOOK_EVERY
        }
        (Err(error), None) => {
            tracing::warn!(%error, "jobs wait for the store");
            *away = Some(LOOK_EVERY);
            LOOK_EVERY
        }
        (Err(_), Some(pause)) => {
            let pause = (pause * 2).min(LONGEST_PAUSE);
            *away = Some(pause);
            pause
        }
    }
}
