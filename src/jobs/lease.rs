//! A job is one replica's alone while its lease runs, and the lease runs on while somebody works.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use uuid::Uuid;

use super::Jobs;
use crate::store::{JobLease, StoreError};

/// How often a lease is renewed while it runs.
const RENEWALS: u32 = 3;

/// The pause after a renewal that the store did not answer.
const AGAIN: Duration = Duration::from_millis(500);

impl Jobs {
    /// A new lease from now on.
    pub(super) fn lease(&self) -> JobLease {
        let now = self.parts.clock.now();
        JobLease {
            id: Uuid::now_v7(),
            now,
            until: now + TimeDelta::from_std(self.settings.lease.get()).unwrap_or_default(),
        }
    }

    /// Keeps a lease that was taken at `taken`; returns when it is lost: the job was deleted, or the store was away for too
    /// long, and another replica may have taken it.
    pub(super) async fn keep_lease(&self, job: Uuid, lease: Uuid, taken: Instant) {
        let length = self.settings.lease.get();
        let mut ends = taken + length;
        let mut pause = length / RENEWALS;
        loop {
            tokio::time::sleep_until((Instant::now() + pause).min(ends).into()).await;
            let began = Instant::now();
            if began >= ends {
                tracing::warn!(%job, "the store was away for too long: the job is left to others");
                return;
            }
            let until = self.lease().until;
            let renewing = self.parts.store.renew_job(job, lease, until);
            pause = match tokio::time::timeout_at(ends.into(), renewing).await {
                Ok(Ok(true)) => {
                    ends = began + length;
                    length / RENEWALS
                }
                Ok(Ok(false)) => {
                    tracing::info!(%job, "the job was deleted, or is another replica's");
                    return;
                }
                Ok(Err(StoreError::Unavailable(_))) | Err(_) => AGAIN,
                Ok(Err(error)) => {
                    tracing::error!(%job, %error, "a job's lease was not renewed");
                    AGAIN
                }
            };
        }
    }
}
