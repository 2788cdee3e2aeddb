//! The only writer of the catalog: hears of changes and wishes, looks at what the store offers, loads it beside what serves,
//! publishes, and ends what was replaced once its last request is done.
//!
//! One thread decides; the work (reading, hashing, trying, opening, ending) is done on a few threads of their own, so that
//! a slow or endless model delays no other.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::agenda::{Load, Task};
use super::catalog::{CatalogHandle, VersionState};
use super::checking::Checking;
use super::desk::Desk;
use super::event::ModelEvents;
use super::loaded::LoadedVersion;
use super::loader::{LoadError, Loader};
use crate::backend::memory;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{ModelStore, StoreError, Watcher};
use crate::store::ModelWish;
use crate::telemetry::trace::{self, Upkeep};

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

/// How changes are noticed.
#[derive(Clone, Copy, Debug)]
pub struct NoticeConfig {
    /// Whether the store's events are listened to.
    pub events: bool,
    /// How often everything is looked at, whatever the events say.
    pub scan_every: Duration,
}

/// Loads and publishes models.
pub struct ModelManager {
    store: Arc<dyn ModelStore>,
    pub(super) loader: Loader,
    pub(super) checking: Checking,
    notice: NoticeConfig,
    handle: CatalogHandle,
    desk: Mutex<Desk>,
    /// Somebody wants the deciding thread to look up.
    called: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    watcher: Mutex<Option<Watcher>>,
}

/// How long a stopping manager waits for what is just being done.
const STOPPING_TIME: Duration = Duration::from_secs(2);

/// How often everything is looked at where events cannot be heard.
const SCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(2);

impl ModelManager {
    /// A manager over `store`; nothing is read before [`Self::start`].
    #[must_use]
    pub fn new(store: Arc<dyn ModelStore>, loader: Loader, notice: NoticeConfig) -> Arc<Self> {
        let handle = CatalogHandle::default();
        let desk = Desk::new(
            handle.clone(),
            loader.longest(),
            Arc::clone(loader.metrics()),
        );
        Arc::new(Self {
            store,
            loader,
            checking: Checking::default(),
            notice,
            desk: Mutex::new(desk),
            handle,
            called: Condvar::new(),
            thread: Mutex::default(),
            watcher: Mutex::default(),
        })
    }

    /// Where requests read the catalog.
    #[must_use]
    pub fn catalog(&self) -> CatalogHandle {
        self.handle.clone()
    }

    /// Everything that happens to versions from now on.
    #[must_use]
    pub fn events(&self) -> ModelEvents {
        self.desk().publisher.announcer.listen()
    }

    /// Says what operators want of all models from now on: movable names, which are in force when this returns, and
    /// versions that are to stay out of service. The same again changes nothing. To be called before [`Self::start`]
    /// too, so that nothing serves for a moment that should not. Returns at once.
    pub fn want(&self, wishes: BTreeMap<ModelId, ModelWish>) {
        self.desk().want(wishes);
        self.called.notify_all();
    }

    /// Lists the store and begins: its models are taken in on threads of their own, small ones first, and so is
    /// every change from now on.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub fn start(self: &Arc<Self>) -> Result<(), ManagerError> {
        // Before the first look, so that no change falls between the two.
        let scan_every = if self.notice.events && !self.watch() {
            self.notice.scan_every.min(SCAN_WITHOUT_EVENTS)
        } else {
            self.notice.scan_every
        };
        if self.store.is_known() {
            let ids = self.store.ids()?;
            if ids.is_empty() {
                tracing::warn!("the model store holds no model");
            }
            self.desk().list(ids);
        }
        let manager = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("models".to_owned())
            .spawn(move || manager.decide(scan_every))
            .map_err(ManagerError::Thread)?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    fn watch(self: &Arc<Self>) -> bool {
        let manager: Weak<Self> = Arc::downgrade(self);
        let changed = Box::new(move |id: Option<&ModelId>| {
            if let Some(manager) = manager.upgrade() {
                manager.nudge(id);
            }
        });
        match self.store.watch(changed) {
            Ok(watcher) => {
                *lock(&self.watcher) = Some(watcher);
                true
            }
            Err(error) => {
                tracing::warn!(reason = %error, "changes are found by scanning alone");
                false
            }
        }
    }

    /// Says that a model, or with `None` any of them, may have changed. Returns at once.
    pub fn nudge(&self, id: Option<&ModelId>) {
        match id {
            Some(id) => self.desk().agenda.nudge(id),
            None => self.desk().all_due = true,
        }
        self.called.notify_all();
    }

    /// Looks at everything, tries at once what failed, and listens anew: what lies behind links may have moved without a
    /// word. Returns at once.
    pub fn rescan(&self) {
        self.watch_anew();
        self.desk().retry_all();
        self.nudge(None);
    }

    fn watch_anew(&self) {
        if let Some(watcher) = &*lock(&self.watcher) {
            watcher.refresh();
        }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }

    /// The deciding thread: hands out work until it is told to stop.
    fn decide(self: &Arc<Self>, scan_every: Duration) {
        let mut scan_at = Instant::now() + scan_every;
        loop {
            let mut desk = self.desk();
            let is_scan = scan_at <= Instant::now();
            if std::mem::take(&mut desk.all_due) || is_scan {
                drop(desk);
                if is_scan {
                    self.watch_anew();
                    scan_at = Instant::now() + scan_every;
                }
                self.list();
                desk = self.desk();
            }
            if desk.is_stopping() {
                return;
            }
            let ended = desk.agenda.finished();
            desk.tick();
            while let Some(task) = desk.agenda.next() {
                if !self.begin(&mut desk, task) {
                    break;
                }
            }
            join(ended);
            let wake_at = desk.wake_at().map_or(scan_at, |at| at.min(scan_at));
            let wait = wake_at.saturating_duration_since(Instant::now());
            if !wait.is_zero() && !desk.all_due {
                drop(self.called.wait_timeout(desk, wait));
            }
        }
    }

    fn list(&self) {
        if !self.store.is_known() {
            return;
        }
        match self.store.ids() {
            Ok(ids) => self.desk().list(ids),
            Err(error) => tracing::error!(%error, "what serves goes on"),
        }
    }

    /// Begins a piece of work on a thread of its own; `false` where the system gives none now.
    fn begin(self: &Arc<Self>, desk: &mut Desk, task: Task) -> bool {
        let (name, load) = match &task {
            Task::Look(id) => (format!("look {id}"), None),
            Task::Load(load) => {
                let candidate = &load.candidate;
                let name = format!("load {}/{}", candidate.model, candidate.number);
                (name, Some(load.clone()))
            }
            Task::Retire(old) => (format!("end {}/{}", old.model, old.number), None),
        };
        let number = desk.agenda.thread_number();
        let manager = Arc::clone(self);
        // A thread that cannot be had must not cost the work: the closure shares it.
        let shared = Arc::new(Mutex::new(Some(task)));
        let work = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let task = lock(&work).take();
            if let Some(task) = task {
                manager.work(task);
            }
            manager.desk().agenda.ended(number);
            manager.called.notify_all();
        });
        match thread {
            Ok(thread) => {
                desk.agenda.started(number, thread, load);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the system gives no thread for loading models");
                if let Some(task) = lock(&shared).take() {
                    desk.agenda.put_back(task);
                }
                false
            }
        }
    }

    fn work(self: &Arc<Self>, task: Task) {
        match task {
            Task::Look(id) => self.look(&id),
            Task::Load(load) if load.is_wanted() => {
                let candidate = &load.candidate;
                let upkeep = Upkeep::of("load version", &candidate.model, candidate.number);
                upkeep.run(|| self.load(&load));
            }
            Task::Load(_) => {}
            Task::Retire(old) => {
                let (id, number) = (old.model.clone(), old.number);
                Upkeep::of("end version", &id, number).run(|| end(*old));
                self.desk().ended(&id, number);
            }
        }
    }

    fn look(&self, id: &ModelId) {
        let begun = Instant::now();
        let mut hashing = |number: VersionNumber| {
            let (state, reason) = (VersionState::Waiting, Some("hashing".to_owned()));
            self.desk().publisher.mark(id, number, state, None, reason);
        };
        let found = catch_unwind(AssertUnwindSafe(|| self.store.find(id, &mut hashing)));
        match found {
            Err(_) => self.desk().not_read(id),
            Ok(Ok(found)) => self.desk().found(id, begun, found),
            Ok(Err(error)) => {
                tracing::error!(model = id.as_str(), %error, "model not read; what serves goes on");
                self.desk().not_read(id);
            }
        }
    }

    fn load(&self, load: &Load) {
        let candidate = &*load.candidate;
        let started = Instant::now();
        let progress = |state, reason: Option<&str>| self.desk().progress(load, state, reason);
        // A panic in a runtime's Rust parts is a failure like another.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let wanted = || load.is_wanted();
            self.loader.load(candidate, &progress, &wanted)
        }));
        let outcome = outcome.unwrap_or_else(|_| Err(LoadError::of("loading it panicked".into())));
        let outcome = outcome.and_then(|loaded| {
            if candidate.is_unchanged() {
                Ok(loaded)
            } else {
                end(loaded);
                Err(LoadError::of("its files changed while it was loaded".into()).for_a_change())
            }
        });
        if let Ok(loaded) = &outcome {
            tracing::info!(
                model = candidate.model.as_str(),
                version = candidate.number.get(),
                digest = %candidate.digest,
                backend = loaded.backend,
                providers = loaded.providers.join(","),
                took_ms = started.elapsed().as_millis(),
                "version live"
            );
        }
        let series = self.loader.metrics().model(candidate.model.as_str());
        match &outcome {
            Ok(_) => series.loaded(Some(started.elapsed())),
            Err(error) if error.changed => trace::failed("version_changed"),
            Err(_) => {
                trace::failed("version_failed");
                series.loaded(None);
            }
        }
        let late = self.desk().loaded(load, outcome);
        if let Some(late) = late {
            end(late);
        }
        // Opening takes up to three times the memory of what is open then.
        memory::give_back();
    }

    /// Ends loading and execution: waits a little for what is being done, finishes what waits in the queues, joins
    /// the threads. Blocks: never call it on the async runtime.
    pub fn stop(&self) {
        drop(lock(&self.watcher).take());
        self.checking.stop();
        let mut threads = self.desk().stop();
        self.called.notify_all();
        threads.extend(lock(&self.thread).take());
        let left = join_in_time(threads);
        if left > 0 {
            tracing::warn!(
                threads = left,
                "a model is still loading and is left behind"
            );
        }
        let executing = self.desk().executing();
        for loaded in &executing {
            loaded.scheduler.close();
        }
        let ending = std::thread::Builder::new().name("ending".to_owned());
        let ending = ending.spawn(move || {
            for loaded in executing {
                loaded.scheduler.stop();
            }
        });
        if join_in_time(ending.into_iter().collect()) > 0 {
            tracing::warn!("a run does not end and is left behind");
        }
    }
}

/// Ends a version that nobody uses: its threads are joined, its memory goes back to the system.
fn end(version: LoadedVersion) {
    version.scheduler.stop();
    let (model, number, digest) = (version.model.clone(), version.number, version.digest);
    drop(version);
    memory::give_back();
    tracing::info!(model = model.as_str(), version = number.get(), %digest, "version ended");
}

/// Joins the threads that end within [`STOPPING_TIME`]; gives how many do not.
fn join_in_time(threads: Vec<JoinHandle<()>>) -> usize {
    let deadline = Instant::now() + STOPPING_TIME;
    for thread in &threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let (ended, left): (Vec<_>, Vec<_>) = threads.into_iter().partition(JoinHandle::is_finished);
    join(ended);
    left.len()
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread that loads models panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
