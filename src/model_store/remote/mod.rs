//! A model store in a bucket: what it offers is brought into a folder of this machine, and read there as any folder is.
//!
//! The folder is what serves: a bucket that is away, or refuses, changes nothing. Replicas agree by the bucket alone: a version
//! is there when its `version.json` is. Changes from inside go to the bucket first, then into the folder. Called by the editor
//! and by whoever would call a folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex as Turn, Notify, Semaphore};

use super::folder::FolderStore;
use super::watcher::{Changed, WatchError, Watcher};
use super::{Content, FoundModel, FoundVersion, ModelStore, Part, StoreError};
use crate::config::{Environment, ModelStoreConfig};
use crate::domain::clock::Clock;
use crate::domain::ids::{ModelId, VersionNumber};
use bucket::Bucket;
use intake::Memory;
use record::{Record, Records};

mod bring;
mod bucket;
mod intake;
mod listing;
mod publish;
mod record;
mod sync;

use publish::Unsaid;
pub(super) use publish::{InTurn, Marked, Published};

/// Why a bucket did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The settings name one that can never be used.
    #[error("`model_store.url` cannot be used: {0}")]
    Unusable(String),
    /// It does not answer, or not now.
    #[error("the bucket of models cannot be reached: {0}")]
    Away(String),
    /// It answers that we may not: wrong or expired credentials, no permission, a clock that is off.
    #[error("the bucket of models refuses the gateway: {0}")]
    Refused(String),
    /// It says that it, or what was asked for, is not there.
    #[error("the bucket of models is not there: {0}")]
    Missing(String),
    /// There is such an object already.
    #[error("it is in the bucket already")]
    Exists,
    /// An object is not the one any more that was seen.
    #[error("it changed in the bucket meanwhile")]
    Changed,
    /// What lies there cannot be used.
    #[error("{0}")]
    Content(String),
    /// This machine's disk.
    #[error("the cache of models cannot be written: {0}")]
    Disk(String),
}

/// How the bucket is, as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteStatus {
    /// When all of it was seen last and nothing had to be taken in any more.
    pub synced_at: Option<DateTime<Utc>>,
    /// Since when something of it cannot be had; `None` where all can.
    pub away_since: Option<DateTime<Utc>>,
    /// Why not, for people.
    pub trouble: Option<String>,
    /// Bytes of its models on this machine.
    pub cached_bytes: u64,
    /// Looks since the start that saw all, and what failed of looks and models.
    pub looks: [u64; 2],
}

/// Why a version that the bucket has is not in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    Waiting(String),
    Broken(String),
    NotSelected,
}

/// How soon it is worth another look at a version that is on its way.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Models that are looked at at the same time.
const AT_WORK: usize = 16;

/// Versions that are brought at the same time: small ones, and as many large ones.
const BROUGHT_AT_ONCE: usize = 4;

/// What the looks have found.
#[derive(Default)]
struct State {
    status: RemoteStatus,
    missing: BTreeMap<ModelId, BTreeMap<VersionNumber, Missing>>,
    /// Versions that the manifests do not select.
    spare: BTreeMap<ModelId, BTreeSet<VersionNumber>>,
    /// Counts the changes from inside, so that a look that ran beside one is none.
    changes: HashMap<ModelId, u64>,
    /// It is known what the bucket has, or had.
    is_known: bool,
    /// The last look found nothing.
    was_empty: bool,
    /// What is wrong with the bucket, `None`, or with models of it.
    troubles: BTreeMap<Option<ModelId>, String>,
    /// Models that looks are taking in.
    in_hand: BTreeSet<ModelId>,
    /// Models that a look has passed over, as somebody had them in hand.
    passed_over: BTreeSet<ModelId>,
}

struct Inner {
    bucket: Bucket,
    folder: FolderStore,
    records: Records,
    max_bytes: u64,
    quiet: Duration,
    every: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    told: Mutex<Option<Arc<Mutex<Changed>>>>,
    /// What looks remember of each model; held while it is taken in.
    memories: Mutex<HashMap<ModelId, Arc<Turn<Memory>>>>,
    /// Looks since the start.
    looks: AtomicU64,
    /// For models that are looked at at the same time.
    at_work: Semaphore,
    /// For versions that are brought at the same time: small ones, and large ones.
    bringing: [Semaphore; 2],
    /// Of each model: held while its folder is changed, by a look or from inside.
    turns: Mutex<HashMap<ModelId, Arc<Turn<()>>>>,
    /// Bytes of versions that are being brought.
    coming: AtomicU64,
    /// It is worth a look at once.
    nudge: Notify,
    /// What could not be said to the bucket when it should have been.
    unsaid: Mutex<Vec<Unsaid>>,
    /// Keeps other processes out of the folder.
    _lock: File,
}

/// A store of models in a bucket.
#[derive(Clone)]
pub struct RemoteStore(Arc<Inner>);

impl RemoteStore {
    /// The bucket at `url`, whose models lie in `cache`. Asks the bucket nothing; what another bucket left in the cache is
    /// removed. Blocks.
    ///
    /// # Errors
    /// When the bucket can never be used, or the cache cannot be written or is another process's.
    pub fn open(
        (url, cache): (&str, &Path),
        config: &ModelStoreConfig,
        environment: &Environment,
        max_model_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let bucket = Bucket::open(url, config, environment)?;
        let server = config.s3_endpoint.as_deref().unwrap_or_default();
        let lock = claim(cache, &format!("{url} {server}"))?;
        let root = cache.join("models");
        let folder = FolderStore::new(root.clone(), max_model_bytes);
        let records = Records::open(cache.join("brought"));
        let known = records.bytes();
        let state = State {
            status: RemoteStatus {
                cached_bytes: known,
                ..RemoteStatus::default()
            },
            is_known: !records.ids().is_empty(),
            ..State::default()
        };
        Ok(Self(Arc::new(Inner {
            bucket,
            folder,
            records,
            max_bytes: config.cache_max_bytes,
            quiet: config.bucket_quiet.get(),
            every: config.look_every(),
            clock,
            state: Mutex::new(state),
            told: Mutex::default(),
            memories: Mutex::default(),
            looks: AtomicU64::new(0),
            at_work: Semaphore::new(AT_WORK),
            bringing: [const { Semaphore::const_new(BROUGHT_AT_ONCE) }; 2],
            turns: Mutex::default(),
            coming: AtomicU64::new(0),
            nudge: Notify::new(),
            unsaid: Mutex::default(),
            _lock: lock,
        })))
    }

    /// The folder in which its models lie on this machine.
    #[must_use]
    pub fn folder(&self) -> FolderStore {
        self.0.folder.clone()
    }

    /// How the bucket is.
    #[must_use]
    pub fn status(&self) -> RemoteStatus {
        self.0.state().status.clone()
    }

    /// Says that it is worth a look at once. Returns at once.
    pub fn nudge(&self) {
        self.0.nudge.notify_one();
    }
}

/// Makes the cache this process's, and of this bucket.
fn claim(cache: &Path, whose: &str) -> Result<File, RemoteError> {
    let disk = |error: std::io::Error| {
        RemoteError::Disk(format!(
            "{} (`model_store.cache`): {error}",
            cache.display()
        ))
    };
    fs::create_dir_all(cache).map_err(disk)?;
    let lock = File::create(cache.join("lock")).map_err(disk)?;
    if lock.try_lock().is_err() {
        return Err(RemoteError::Unusable(format!(
            "`model_store.cache` {} is used by another process: each needs one of its own",
            cache.display()
        )));
    }
    let source = cache.join("bucket");
    if fs::read_to_string(&source).is_ok_and(|known| known == whose) {
        fs::create_dir_all(cache.join("models")).map_err(disk)?;
        return Ok(lock);
    }
    for part in ["models", "brought"] {
        match fs::remove_dir_all(cache.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(disk(error)),
            _ => {}
        }
    }
    fs::create_dir_all(cache.join("models")).map_err(disk)?;
    fs::write(&source, whose).map_err(disk)?;
    Ok(lock)
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Says that a model, or with `None` any, may have changed to whoever watches.
    fn tell(&self, id: Option<&ModelId>) {
        let told = lock(&self.told).clone();
        if let Some(told) = told {
            lock(&told)(id);
        }
    }

    fn changes(&self, id: &ModelId) -> u64 {
        self.state().changes.get(id).copied().unwrap_or_default()
    }

    fn turn_of(&self, id: &ModelId) -> Arc<Turn<()>> {
        Arc::clone(lock(&self.turns).entry(id.clone()).or_default())
    }

    /// Counts the beginning or the end of a change from inside: what the bucket said before either is stale.
    fn changed(&self, id: &ModelId) {
        *self.state().changes.entry(id.clone()).or_default() += 1;
    }

    /// The folder of a model, or of one of its versions.
    fn dir(&self, id: &ModelId, number: Option<VersionNumber>) -> PathBuf {
        let dir = self.folder.root().join(id.as_str());
        number.map_or(dir.clone(), |number| dir.join(number.to_string()))
    }

    fn record(&self, id: &ModelId) -> Record {
        self.records.of(id)
    }
}

impl ModelStore for RemoteStore {
    fn is_known(&self) -> bool {
        self.0.state().is_known
    }

    fn ids(&self) -> Result<Vec<(ModelId, u64)>, StoreError> {
        self.0.folder.ids()
    }

    fn find(
        &self,
        id: &ModelId,
        hashing: &mut dyn FnMut(VersionNumber),
    ) -> Result<Option<FoundModel>, StoreError> {
        let Some(mut found) = self.0.folder.find(id, hashing)? else {
            return Ok(None);
        };
        let missing = self.0.state().missing.get(id).cloned();
        for (number, why) in missing.into_iter().flatten() {
            if found
                .versions
                .iter()
                .all(|version| version.number != number)
            {
                let content = content(why);
                found.versions.push(FoundVersion { number, content });
            }
        }
        found.versions.sort_by_key(|version| version.number);
        Ok(Some(found))
    }

    fn watch(&self, changed: Changed) -> Result<Watcher, WatchError> {
        let shared = Arc::new(Mutex::new(changed));
        *lock(&self.0.told) = Some(Arc::clone(&shared));
        self.0
            .folder
            .watch(Box::new(move |id: Option<&ModelId>| lock(&shared)(id)))
    }
}

fn content(missing: Missing) -> Content {
    match missing {
        Missing::Waiting(reason) => Content::Waiting {
            reason,
            again_in: LOOK_AGAIN,
        },
        Missing::Broken(reason) => Content::Broken {
            part: Part::File,
            digest: None,
            reason,
        },
        Missing::NotSelected => Content::NotSelected,
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
