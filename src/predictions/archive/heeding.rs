//! Deletions that operators asked for, on whatever replica: each heeds them for the pictures that it has in hand, and for what
//! one that was killed left undone.
//!
//! The store knows until when what a tenant asked for is deleted. That reaches what waits here, what is being put, what was put
//! since (a picture may have waited for long), and whatever else is older. What was asked for later stays.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Archive, ArchiveError};
use crate::domain::tenant::TenantId;
use crate::store::Store;

/// How often it is looked for deletions.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long the last look may take, when all else has ended.
const LAST_LOOK: Duration = Duration::from_millis(300);

impl Archive {
    /// Deletes what these tenants asked for until these times, as far as that was not done here yet. Gives how many pictures are
    /// gone. May be called again and again.
    ///
    /// # Errors
    /// When its place cannot be reached: what is left goes with the next call.
    pub async fn heed(&self, purges: Vec<(TenantId, DateTime<Utc>)>) -> Result<u64, ArchiveError> {
        // Nothing more is put of any of them while the place is asked about the first.
        let (due, mut gone) = {
            let mut waiting = self.waiting();
            let due = purges.into_iter().filter_map(|(tenant, until)| {
                let until = waiting.purge(tenant, until)?;
                Some((tenant, until))
            });
            let due: Vec<_> = due.collect();
            let dropped = due.iter();
            let dropped = dropped.map(|&(tenant, until)| waiting.forget(tenant, until));
            let dropped: u64 = dropped.sum();
            (due, dropped)
        };
        let mut failed = None;
        for (tenant, until) in due {
            self.none_is_under_way(tenant).await;
            let known = self.waiting().known(tenant, until);
            match self.place.purge(tenant, until, known).await {
                Ok(deleted) => {
                    gone += deleted;
                    self.waiting().purged(tenant, until);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    /// Heeds the deletions that the store knows of, until `stop`, and once more then.
    pub(super) async fn heed_all(&self, store: &dyn Store, stop: &CancellationToken) {
        let mut fails = false;
        loop {
            let turn = async {
                self.look(store, &mut fails).await;
                sleep(LOOK_EVERY).await;
            };
            tokio::select! {
                () = turn => {}
                () = stop.cancelled() => break,
            }
        }
        // The next process does not know what this one has put, nor when that was asked for.
        let last = timeout(LAST_LOOK, self.look(store, &mut fails)).await;
        if last.is_err() {
            tracing::warn!("the end did not wait for the deletions of pictures");
        }
    }

    /// Says once that pictures were not deleted, and again after they were.
    async fn look(&self, store: &dyn Store, fails: &mut bool) {
        let purges = match store.purges().await {
            Ok(purges) => purges,
            // It is said elsewhere that it is away.
            Err(error) => return tracing::debug!(%error, "it is not known what is deleted"),
        };
        let heeded = self.heed(purges).await;
        match &heeded {
            Ok(0) => {}
            Ok(gone) => tracing::info!(gone, "pictures that a tenant had deleted are gone"),
            Err(error) if !*fails => tracing::warn!(
                cause = error.cause(),
                "pictures that a tenant had deleted are not all gone: {error}"
            ),
            Err(_) => {}
        }
        *fails = heeded.is_err();
    }
}
