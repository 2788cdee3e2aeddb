//! The archive of pictures, over a folder and over a bucket of a real S3 server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lensgate::config::{ArchiveConfig, Environment};
use lensgate::domain::clock::{Clock, ManualClock};
use lensgate::domain::ids::Digest;
use lensgate::domain::tenant::TenantId;
use lensgate::predictions::{Archive, ArchiveError, ArchiveStatus};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::database::TestDatabase;

mod bucket;
mod deletions;
mod folder;

const A: TenantId = TenantId(Uuid::from_u128(0xa));
const B: TenantId = TenantId(Uuid::from_u128(0xb));

/// What a picture counts beside its bytes.
const EACH: u64 = 512;

/// An archive, a clock that stands still, and the database in which deletions are marked.
struct Kept {
    archive: Arc<Archive>,
    clock: Arc<ManualClock>,
    database: Arc<TestDatabase>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

fn picture(number: u32) -> Bytes {
    Bytes::from(format!("picture {number}"))
}

fn digest(picture: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(picture).into())
}

/// Now, as the file system and the bucket's server tell it.
fn now() -> DateTime<Utc> {
    lensgate::domain::clock::SystemClock.now()
}

impl Kept {
    fn open(config: &ArchiveConfig, environment: &Environment) -> Self {
        Self::open_over(config, environment, &Arc::new(TestDatabase::sqlite()))
    }

    fn open_over(
        config: &ArchiveConfig,
        environment: &Environment,
        database: &Arc<TestDatabase>,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(now()));
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let archive = Archive::open(config, environment, time).expect("an archive");
        Self {
            archive: Arc::new(archive.expect("a place is named")),
            clock,
            database: Arc::clone(database),
            running: None,
        }
    }

    async fn running(config: &ArchiveConfig, environment: &Environment) -> Self {
        let mut kept = Self::open(config, environment);
        kept.run().await;
        kept
    }

    async fn run(&mut self) {
        let stop = CancellationToken::new();
        let archive = Arc::clone(&self.archive);
        let (store, until) = (self.database.store().await, stop.clone());
        let task = tokio::spawn(async move { archive.run(store, until).await });
        self.running = Some((stop, task));
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().expect("it runs");
        stop.cancel();
        task.await.expect("it ends well");
    }

    fn offer(&self, tenant: TenantId, number: u32) {
        self.offer_asked(tenant, number, self.clock.now());
    }

    fn offer_asked(&self, tenant: TenantId, number: u32, asked: DateTime<Utc>) {
        let bytes = picture(number);
        self.archive.offer(tenant, digest(&bytes), bytes, asked);
    }

    /// Deletes all of a tenant; what is offered from now on is asked for later.
    async fn forget(&self, tenant: TenantId) -> Result<u64, ArchiveError> {
        let until = self.clock.now();
        self.clock.advance(TimeDelta::milliseconds(1));
        self.archive.forget(tenant, until).await
    }

    async fn find(&self, tenant: TenantId, number: u32) -> Option<Bytes> {
        let digest = digest(&picture(number));
        let found = self.archive.fetch(tenant, digest).await;
        found.expect("the place answers")
    }

    /// Waits until it is so.
    #[track_caller]
    fn until<'a>(
        &'a self,
        wanted: impl Fn(&ArchiveStatus) -> bool + 'a,
    ) -> impl Future<Output = ArchiveStatus> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let since = Instant::now();
            loop {
                let status = self.archive.status();
                if wanted(&status) {
                    return status;
                }
                assert!(
                    since.elapsed() < Duration::from_mins(1),
                    "{caller}: it stays {status:?}"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[track_caller]
    fn until_stored(&self, count: u64) -> impl Future<Output = ArchiveStatus> + '_ {
        self.until(move |status| status.stored == count && status.waiting == 0)
    }
}
