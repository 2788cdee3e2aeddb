//! What the manager has to do, when, and what is being done: looks that are due, work that waits for a thread, threads.
//!
//! Called by the desk. Knows no catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::loaded::LoadedVersion;
use crate::domain::ids::ModelId;
use crate::model_store::Candidate;

/// A piece of work for a thread.
pub(super) enum Task {
    /// Read a model's folder and compare.
    Look(ModelId),
    /// Try a candidate and open it.
    Load(Load),
    /// End a version that nobody uses any more.
    Retire(Box<LoadedVersion>),
}

/// A load that is wanted until something newer is.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) candidate: Arc<Candidate>,
    pub(super) ticket: u64,
    wanted: Arc<AtomicBool>,
}

impl Load {
    /// Nobody wants the outcome any more.
    pub(super) fn forget(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Whether the outcome is still of interest.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }
}

/// Work in progress.
struct Running {
    since: Instant,
    thread: JoinHandle<()>,
    load: Option<Load>,
}

/// The agenda.
#[derive(Default)]
pub(super) struct Agenda {
    /// Models that are to be looked at, and when.
    due: BTreeMap<ModelId, Instant>,
    /// Models whose folder is being read.
    looking: BTreeSet<ModelId>,
    /// Bytes of a model's graphs, as last listed: small ones go first.
    bytes: HashMap<ModelId, u64>,
    /// Work that waits for a thread, the smallest first.
    waiting: BTreeMap<(u64, u64), Task>,
    running: HashMap<u64, Running>,
    ended: Vec<JoinHandle<()>>,
    last_number: u64,
}

/// Looks at the same model that follow each other faster than this are one.
const COALESCE: Duration = Duration::from_millis(20);

/// Work that takes longer than this is slow, and others need not wait for it.
const SLOW: Duration = Duration::from_secs(2);

/// Pieces of work at the same time, the slow not counted.
const AT_ONCE: usize = 2;

/// Pieces of work at the same time, the slow counted.
const AT_MOST: usize = 8;

/// How often it is looked who has become slow.
const WATCH_EVERY: Duration = Duration::from_millis(200);

impl Agenda {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The models that the store lists, with the bytes of their graphs.
    pub(super) fn list(&mut self, ids: Vec<(ModelId, u64)>) {
        self.bytes = ids.into_iter().collect();
        let listed: Vec<ModelId> = self.bytes.keys().cloned().collect();
        for id in listed {
            self.due_in(&id, Duration::ZERO);
        }
    }

    /// Something about this model may have changed.
    pub(super) fn nudge(&mut self, id: &ModelId) {
        self.due_in(id, COALESCE);
    }

    /// The model is to be looked at, by then at the latest.
    pub(super) fn due_in(&mut self, id: &ModelId, after: Duration) {
        let at = Instant::now() + after;
        self.due
            .entry(id.clone())
            .and_modify(|due| *due = at.min(*due))
            .or_insert(at);
    }

    /// The model has been looked at.
    pub(super) fn looked(&mut self, id: &ModelId) {
        self.looking.remove(id);
    }

    /// A new load.
    pub(super) fn load(&mut self, candidate: Box<Candidate>) -> Load {
        let load = Load {
            candidate: Arc::from(candidate),
            ticket: self.number(),
            wanted: Arc::new(AtomicBool::new(true)),
        };
        let place = (load.candidate.bytes(), load.ticket);
        self.waiting.insert(place, Task::Load(load.clone()));
        load
    }

    /// A version that nobody uses any more is to be ended.
    pub(super) fn retire(&mut self, unused: LoadedVersion) {
        self.put_back(Task::Retire(Box::new(unused)));
    }

    /// Puts a piece of work first.
    pub(super) fn put_back(&mut self, task: Task) {
        let place = (0, self.number());
        self.waiting.insert(place, task);
    }

    /// When there is something to do although nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let due = self
            .due
            .iter()
            .filter(|(id, _)| !self.looking.contains(*id))
            .map(|(_, at)| *at);
        // Somebody may become slow, or a thread may be had again.
        let is_work = !self.running.is_empty() || !self.waiting.is_empty();
        let watch = is_work.then(|| Instant::now() + WATCH_EVERY);
        due.chain(watch).min()
    }

    /// The next piece of work, if another thread may run now.
    pub(super) fn next(&mut self) -> Option<Task> {
        self.gather();
        let fresh = self.running.values().filter(|r| r.since.elapsed() < SLOW);
        if fresh.count() >= AT_ONCE || self.running.len() >= AT_MOST {
            return None;
        }
        self.waiting.pop_first().map(|(_, task)| task)
    }

    /// Moves the looks that are due to the waiting work.
    fn gather(&mut self) {
        let now = Instant::now();
        let ready: Vec<ModelId> = self
            .due
            .iter()
            .filter(|(id, at)| **at <= now && !self.looking.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ready {
            self.due.remove(&id);
            self.looking.insert(id.clone());
            let bytes = self.bytes.get(&id).copied().unwrap_or_default();
            let place = (bytes, self.number());
            self.waiting.insert(place, Task::Look(id));
        }
    }

    /// A number for a thread.
    pub(super) fn thread_number(&mut self) -> u64 {
        self.number()
    }

    /// A thread works on `load`, or on something else.
    pub(super) fn started(&mut self, number: u64, thread: JoinHandle<()>, load: Option<Load>) {
        let running = Running {
            since: Instant::now(),
            thread,
            load,
        };
        self.running.insert(number, running);
    }

    /// A thread has done its work; it ends in this very moment.
    pub(super) fn ended(&mut self, number: u64) {
        let running = self.running.remove(&number);
        self.ended.extend(running.map(|running| running.thread));
    }

    /// The threads that have ended since the last call; to be joined.
    pub(super) fn finished(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.ended)
    }

    /// Loads that run for longer than `limit`; their threads are no longer counted.
    pub(super) fn overdue(&mut self, limit: Duration) -> Vec<Load> {
        self.running
            .extract_if(|_, running| running.load.is_some() && running.since.elapsed() > limit)
            .filter_map(|(_, running)| running.load)
            .collect()
    }

    /// Begins nothing more; gives the threads that are still at work.
    pub(super) fn stop(&mut self) -> Vec<JoinHandle<()>> {
        self.due.clear();
        self.waiting.clear();
        let running = self.running.drain().map(|(_, running)| running.thread);
        running.chain(std::mem::take(&mut self.ended)).collect()
    }
}
