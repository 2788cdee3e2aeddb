//! The file system's events: which model changed, and which files are open for writing. The only door to notify.
//!
//! Called by the folder. An event is a reason to look, never a fact: what is there is read from the disk.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::slot;
use crate::domain::ids::ModelId;

/// Told that a model changed, or with `None` that any may have.
pub type Changed = Box<dyn Fn(Option<&ModelId>) + Send>;

/// Watches a folder until it is dropped.
pub struct Watcher {
    stop: Sender<Message>,
}

/// Why a folder is not watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model store cannot be watched: {0}")]
pub struct WatchError(String);

enum Message {
    Event(notify::Result<Event>),
    Refresh,
    Stop,
}

/// How often it is looked whether the folder itself is still the one that is watched; also how soon a watch that could
/// not be had is tried again.
const LOOK_AFTER_ROOT: Duration = Duration::from_secs(1);

/// A folder that appeared may hold more than the events tell, as its watch begins after it exists: everything is
/// watched anew this long after the last such change.
const STRUCTURE_SETTLES: Duration = Duration::from_millis(500);

/// A writer that has not written for this long is taken to have finished, whether it closed the file or not.
const WRITER_IS_DONE: Duration = Duration::from_secs(10);

impl Watcher {
    /// Watches `root` and all below it, links followed.
    ///
    /// # Errors
    /// When the system has no watches left, or no thread.
    pub(super) fn start(
        root: PathBuf,
        writers: Writers,
        changed: Changed,
    ) -> Result<Self, WatchError> {
        let (sender, events) = channel();
        let tell = sender.clone();
        let mut watcher = notify::recommended_watcher(move |event| {
            // Nobody listens once the watching thread has ended.
            let _ = tell.send(Message::Event(event));
        })
        .map_err(|error| WatchError(error.to_string()))?;
        watcher
            .watch(&root, RecursiveMode::Recursive)
            .map_err(|error| WatchError(without_paths(error)))?;
        let watching = Watching {
            root,
            watcher,
            writers,
            changed,
            rewatch_at: None,
            watched: None,
            said: None,
        };
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watching.run(&events))
            .map_err(|error| WatchError(error.to_string()))?;
        Ok(Self { stop: sender })
    }
}

impl Watcher {
    /// Watches everything anew: what lies behind links may have moved without a word.
    pub fn refresh(&self) {
        // It may have ended by itself.
        let _ = self.stop.send(Message::Refresh);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stop.send(Message::Stop);
    }
}

struct Watching {
    root: PathBuf,
    watcher: RecommendedWatcher,
    writers: Writers,
    changed: Changed,
    rewatch_at: Option<Instant>,
    /// The folder that is watched, as device and inode.
    watched: Option<(u64, u64)>,
    /// Why it is not watched, where it is not.
    said: Option<String>,
}

impl Watching {
    fn run(mut self, events: &Receiver<Message>) {
        self.watched = self.root_now();
        loop {
            let wait = self.rewatch_at.map_or(LOOK_AFTER_ROOT, |at| {
                at.saturating_duration_since(Instant::now())
            });
            match events.recv_timeout(wait) {
                Ok(Message::Event(Ok(event))) => self.take(&event),
                Ok(Message::Event(Err(error))) => {
                    tracing::warn!(
                        reason = without_paths(error),
                        "an event of the model store was lost"
                    );
                    (self.changed)(None);
                }
                Ok(Message::Refresh) => self.rewatch_at = Some(Instant::now()),
                Err(RecvTimeoutError::Timeout) if self.root_now() != self.watched => {
                    // Another folder has its name now, or none has: its events would never come.
                    self.rewatch_at = Some(Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // A flood of events must not keep the new watches waiting.
            if self.rewatch_at.is_some_and(|at| at <= Instant::now()) {
                self.watch_anew();
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if event.need_rescan() {
            // The system dropped events: anything may have happened.
            self.structure_changed();
            (self.changed)(None);
            return;
        }
        // Reading is no change; without this our own hashing would nudge itself.
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        {
            return;
        }
        // What lies in the places of uploads is nobody's business until it is moved out of them.
        let outside = |path: &&PathBuf| !is_in_a_slot(&self.root, path);
        let paths: Vec<&PathBuf> = event.paths.iter().filter(outside).collect();
        if paths.is_empty() && !event.paths.is_empty() {
            return;
        }
        for path in &paths {
            self.writers.note(path, event.kind);
        }
        if changes_structure(event.kind) && paths.iter().any(|path| !is_plain_file(path)) {
            self.structure_changed();
        }
        let mut told = Vec::new();
        for model in paths.iter().map(|path| self.model_of(path)) {
            if !told.contains(&model) {
                (self.changed)(model.as_ref());
                told.push(model);
            }
        }
    }

    /// The model below whose folder `path` lies; `None` where that cannot be said, also behind a link, as several
    /// models may lead to one folder and an event names one way alone.
    fn model_of(&self, path: &Path) -> Option<ModelId> {
        let below = path.strip_prefix(&self.root).ok()?;
        let name = below.components().next()?.as_os_str();
        let is_link = std::fs::symlink_metadata(self.root.join(name))
            .is_ok_and(|found| found.file_type().is_symlink());
        name.to_str()?.parse().ok().filter(|_| !is_link)
    }

    fn root_now(&self) -> Option<(u64, u64)> {
        let found = std::fs::metadata(&self.root).ok()?;
        Some((found.dev(), found.ino()))
    }

    fn structure_changed(&mut self) {
        self.rewatch_at = Some(Instant::now() + STRUCTURE_SETTLES);
    }

    fn watch_anew(&mut self) {
        self.rewatch_at = None;
        self.watched = self.root_now();
        // It is gone already where the folder itself was replaced.
        let _ = self.watcher.unwatch(&self.root);
        if let Err(error) = self.watcher.watch(&self.root, RecursiveMode::Recursive) {
            // A folder that vanishes while the watches are set ends that; a limit of the system's may be raised.
            self.rewatch_at = Some(Instant::now() + LOOK_AFTER_ROOT);
            let reason = without_paths(error);
            if self.said.as_deref() != Some(&reason) {
                tracing::warn!(
                    reason,
                    "the model store is not watched now; it is still scanned now and then"
                );
                self.said = Some(reason);
            }
        } else if self.said.take().is_some() {
            tracing::info!("the model store is watched again");
        }
        // What changed between the two watches.
        (self.changed)(None);
    }
}

fn changes_structure(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    ) && kind != EventKind::Create(CreateKind::File)
}

fn is_in_a_slot(root: &Path, path: &Path) -> bool {
    path.starts_with(root.join(slot::FOLDER))
}

/// Whether a plain file is there; a link may lead to a folder, and what is gone may have been one.
fn is_plain_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

fn without_paths(error: notify::Error) -> String {
    notify::Error::new(error.kind).to_string()
}

/// Files that somebody has open for writing, as far as the events tell.
#[derive(Clone, Default)]
pub(super) struct Writers(Arc<Mutex<HashMap<PathBuf, Instant>>>);

impl Writers {
    /// Whether `path` was written to lately and not closed since.
    pub(super) fn is_open(&self, path: &Path) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .is_some_and(|last| last.elapsed() < WRITER_IS_DONE)
    }

    fn note(&self, path: &Path, kind: EventKind) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                open.retain(|_, last| last.elapsed() < WRITER_IS_DONE);
                open.insert(path.to_path_buf(), Instant::now());
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                open.remove(path);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What the watcher tells, within a generous time.
    fn heard(events: &Receiver<Option<ModelId>>, wanted: Option<&str>) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Ok(model) =
            events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if model.as_ref().map(ModelId::as_str) == wanted {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_change_names_its_model_and_an_open_file_is_known() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("digits/1")).expect("folders");
        let writers = Writers::default();
        let (tell, events) = channel();
        let changed: Changed = Box::new(move |model| {
            let _ = tell.send(model.cloned());
        });
        let _watcher =
            Watcher::start(dir.path().to_path_buf(), writers.clone(), changed).expect("watched");
        let path = dir.path().join("digits/1/model.onnx");
        let mut file = std::fs::File::create(&path).expect("created");
        file.write_all(b"half").expect("written");
        assert!(heard(&events, Some("digits")));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !writers.is_open(&path) {
            assert!(Instant::now() < deadline, "the open file is not known");
        }
        drop(file);
        while writers.is_open(&path) {
            assert!(
                Instant::now() < deadline,
                "the closed file is still held open"
            );
        }
    }

    #[test]
    fn an_upload_is_heard_when_it_is_put_in_place_and_not_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        std::fs::create_dir_all(root.join("digits")).expect("folders");
        let (tell, events) = channel();
        let changed: Changed = Box::new(move |model| {
            let _ = tell.send(model.cloned());
        });
        let _watcher =
            Watcher::start(root.to_path_buf(), Writers::default(), changed).expect("watched");
        let staged = root.join(slot::FOLDER).join("x/digits/1");
        std::fs::create_dir_all(&staged).expect("folders");
        std::fs::write(staged.join("model.onnx"), "x").expect("written");
        std::thread::sleep(STRUCTURE_SETTLES * 3);
        assert!(
            events.try_recv().is_err(),
            "an upload on its way was heard of"
        );
        std::fs::rename(&staged, root.join("digits/1")).expect("moved");
        assert!(heard(&events, Some("digits")));
        // It is watched where it is now.
        std::thread::sleep(STRUCTURE_SETTLES * 3);
        while events.try_recv().is_ok() {}
        std::fs::write(root.join("digits/1/model.onnx"), "y").expect("written");
        assert!(heard(&events, Some("digits")));
    }

    #[test]
    fn a_switched_link_is_heard_and_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let outside = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        for name in ["old", "new"] {
            std::fs::create_dir_all(outside.path().join(name).join("1")).expect("folders");
        }
        std::os::unix::fs::symlink(outside.path().join("old"), root.join("digits"))
            .expect("a link");
        let (tell, events) = channel();
        let changed: Changed = Box::new(move |model| {
            let _ = tell.send(model.cloned());
        });
        let _watcher =
            Watcher::start(root.to_path_buf(), Writers::default(), changed).expect("watched");
        std::os::unix::fs::symlink(outside.path().join("new"), root.join("tmp-link"))
            .expect("a link");
        std::fs::rename(root.join("tmp-link"), root.join("digits")).expect("switched");
        assert!(heard(&events, None));
        // Everything was watched anew: the link's new end is heard, too.
        std::thread::sleep(STRUCTURE_SETTLES * 2);
        while events.try_recv().is_ok() {}
        std::fs::write(outside.path().join("new/1/model.onnx"), "x").expect("written");
        assert!(heard(&events, None));
    }

    #[test]
    fn another_folder_under_the_same_name_is_watched() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("digits/1")).expect("folders");
        let (tell, events) = channel();
        let changed: Changed = Box::new(move |model| {
            let _ = tell.send(model.cloned());
        });
        let _watcher = Watcher::start(root.clone(), Writers::default(), changed).expect("watched");
        std::fs::rename(&root, dir.path().join("old")).expect("moved");
        std::thread::sleep(LOOK_AFTER_ROOT * 2);
        std::fs::create_dir_all(root.join("digits/1")).expect("folders");
        std::thread::sleep(LOOK_AFTER_ROOT * 3);
        while events.try_recv().is_ok() {}
        std::fs::write(root.join("digits/1/model.onnx"), "x").expect("written");
        assert!(heard(&events, Some("digits")));
    }
}
