//! The only writer of the catalog: finds what the store offers, loads it beside what serves, publishes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::catalog::{Catalog, CatalogHandle, ModelEntry, VersionEntry, VersionState};
use super::loaded::LoadedVersion;
use super::loader::{LoadError, Loader};
use crate::domain::ids::ModelId;
use crate::domain::rollout::Rollout;
use crate::model_store::{Candidate, Content, FoundModel, FoundVersion, ModelStore, StoreError};

/// Why the manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The model store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no thread.
    #[error("the system gives no thread for loading models: {0}")]
    Thread(std::io::Error),
}

/// Loads and publishes models.
pub struct ModelManager {
    store: Arc<dyn ModelStore>,
    loader: Loader,
    handle: CatalogHandle,
    /// The next catalog is made under this lock, so that no two writers lose each other's change.
    writing: Mutex<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: AtomicBool,
}

/// Versions that load at the same time.
const LOADING_THREADS: usize = 2;

/// A version that is not live by then has failed; its loading thread goes on to the next.
const LOADING_TIME: Duration = Duration::from_mins(2);

/// How long a stopping manager waits for a version that is just loading.
const STOPPING_TIME: Duration = Duration::from_secs(2);

impl ModelManager {
    /// A manager over `store`; nothing is read before [`Self::start`].
    #[must_use]
    pub fn new(store: Arc<dyn ModelStore>, loader: Loader) -> Arc<Self> {
        Arc::new(Self {
            store,
            loader,
            handle: CatalogHandle::default(),
            writing: Mutex::new(()),
            threads: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Where requests read the catalog.
    #[must_use]
    pub fn catalog(&self) -> CatalogHandle {
        self.handle.clone()
    }

    /// Takes in what the store offers, on threads of its own, models with small files first, so that they do not
    /// wait for large ones: each is read and hashed, published as `waiting` or `failed`, and its versions are loaded.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub fn start(self: &Arc<Self>) -> Result<(), ManagerError> {
        let ids = self.store.ids()?;
        if ids.is_empty() {
            tracing::warn!("the model store holds no model");
            self.change(|catalog| catalog.scanned = true);
        }
        let unread = Arc::new(AtomicUsize::new(ids.len()));
        let pending = Arc::new(Mutex::new(VecDeque::from(ids)));
        for number in 0..LOADING_THREADS {
            let (manager, pending) = (Arc::clone(self), Arc::clone(&pending));
            let unread = Arc::clone(&unread);
            let work = move || {
                let next = || {
                    pending
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front()
                };
                while let Some(id) = next() {
                    if manager.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    manager.take_in(&id, &unread);
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("loader#{number}"))
                .spawn(work)
                .map_err(ManagerError::Thread)?;
            self.threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread);
        }
        Ok(())
    }

    /// Reads one model, publishes it, then loads its versions, the latest first.
    fn take_in(self: &Arc<Self>, id: &ModelId, unread: &AtomicUsize) {
        let found = self.store.find(id).unwrap_or_else(|error| {
            tracing::error!(model = id.as_str(), %error, "model not read");
            None
        });
        self.change(|catalog| {
            if let Some(model) = &found {
                catalog
                    .models
                    .insert(id.clone(), Arc::new(initial_entry(model)));
            }
            catalog.scanned |= unread.fetch_sub(1, Ordering::AcqRel) == 1;
        });
        for version in found
            .into_iter()
            .flat_map(|model| model.versions.into_iter().rev())
        {
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            if let Content::Candidate(candidate) = version.content {
                self.load(*candidate);
            }
        }
    }

    fn load(self: &Arc<Self>, candidate: Candidate) {
        let candidate = Arc::new(candidate);
        let (model, version) = (candidate.model.as_str(), candidate.number.get());
        let digest = Some(candidate.digest);
        let loading = VersionEntry {
            state: VersionState::Loading,
            digest,
            reason: None,
            loaded: None,
        };
        self.update(&candidate, loading);
        let started = Instant::now();
        let entry = match self.load_in_time(&candidate) {
            Ok(loaded) => {
                tracing::info!(
                    model,
                    version,
                    digest = %candidate.digest,
                    backend = loaded.backend,
                    providers = loaded.providers.join(","),
                    took_ms = started.elapsed().as_millis(),
                    "version live"
                );
                VersionEntry {
                    state: VersionState::Live,
                    digest,
                    reason: None,
                    loaded: Some(Arc::new(loaded)),
                }
            }
            Err(error) => {
                tracing::warn!(model, version, reason = error.reason, "version failed");
                VersionEntry {
                    state: VersionState::Failed,
                    digest,
                    reason: Some(error.reason),
                    loaded: None,
                }
            }
        };
        self.update(&candidate, entry);
    }

    /// Loads on a thread of its own. One that does not come back is left behind: a runtime cannot be stopped from
    /// outside, and the others must not wait for it for ever.
    fn load_in_time(
        self: &Arc<Self>,
        candidate: &Arc<Candidate>,
    ) -> Result<LoadedVersion, LoadError> {
        let failed = |reason: String| LoadError {
            reason,
            checks: Vec::new(),
        };
        let (manager, wanted) = (Arc::clone(self), Arc::clone(candidate));
        let (tell, outcome) = mpsc::channel();
        std::thread::Builder::new()
            .name(format!("load {}/{}", candidate.model, candidate.number))
            .spawn(move || {
                let loaded = manager.loader.load(&wanted);
                if let Err(mpsc::SendError(Ok(late))) = tell.send(loaded) {
                    late.scheduler.stop();
                }
            })
            .map_err(|error| failed(format!("the system gives no thread: {error}")))?;
        match outcome.recv_timeout(LOADING_TIME) {
            Ok(loaded) => loaded,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(format!(
                "it did not finish loading within {} s",
                LOADING_TIME.as_secs()
            ))),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(failed("loading it panicked".to_owned()))
            }
        }
    }

    /// Publishes a catalog in which one version's entry is another.
    fn update(&self, candidate: &Candidate, entry: VersionEntry) {
        self.change(|catalog| {
            if let Some(model) = catalog.models.get_mut(&candidate.model)
                && let Some(old) = Arc::make_mut(model).versions.get_mut(&candidate.number)
            {
                *old = entry;
            }
        });
    }

    /// Publishes the catalog as `change` makes it out of the one in force.
    fn change(&self, change: impl FnOnce(&mut Catalog)) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut catalog = Catalog::clone(&self.handle.load());
        change(&mut catalog);
        self.handle.publish(catalog);
    }

    /// Ends loading and execution: waits a little for what loads, finishes what waits in the queues, joins its threads.
    /// Blocks: never call it on the async runtime.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let deadline = Instant::now() + STOPPING_TIME;
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                tracing::warn!("a model is still loading and is left behind");
            } else if thread.join().is_err() {
                tracing::error!("a loading thread panicked");
            }
        }
        for model in self.handle.load().models.values() {
            for loaded in model.live() {
                loaded.scheduler.stop();
            }
        }
    }
}

fn initial_entry(model: &FoundModel) -> ModelEntry {
    let versions = model
        .versions
        .iter()
        .map(|FoundVersion { number, content }| {
            let (state, digest, reason) = match content {
                Content::Candidate(candidate) => {
                    (VersionState::Waiting, Some(candidate.digest), None)
                }
                Content::Broken { digest, reason } => {
                    tracing::warn!(
                        model = model.id.as_str(),
                        version = number.get(),
                        reason,
                        "version failed"
                    );
                    (VersionState::Failed, *digest, Some(reason.clone()))
                }
                Content::NotSelected => (VersionState::Unloaded, None, None),
            };
            (
                *number,
                VersionEntry {
                    state,
                    digest,
                    reason,
                    loaded: None,
                },
            )
        })
        .collect();
    ModelEntry {
        id: model.id.clone(),
        title: model.manifest.title.clone(),
        description: model.manifest.description.clone(),
        rollout: Rollout::Latest,
        versions,
    }
}
