//! The spool: what was handed over is in a file before the answer leaves, and stays there until the store has it.
//!
//! Records are appended to segments by one thread, which takes all that has come while it wrote the last time and writes it
//! with one `write(2)` (group commit): a killed process loses nothing that was waited for. They are read in order, and what is
//! read is deleted when the store has it. Knows bytes, no predictions.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::Notify;

use crate::domain::clock::Clock;

mod frame;
mod segments;
mod slot;
#[cfg(test)]
mod tests;

pub(super) use frame::LARGEST;
use frame::{Frame, Frames, LARGEST_FRAME};
pub(crate) use segments::Position;
use segments::{Advanced, Memory, Rest, Segments};
use slot::Slot;

/// How a spool is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpoolSettings {
    /// Bytes of all segments; beyond it the oldest go.
    pub(super) max_bytes: u64,
    /// Whether every write is waited for until it is on the disk.
    pub(super) fsync: bool,
}

/// A segment is closed at this size, or at an eighth of what all may have.
const SEGMENT: u64 = 8 << 20;
const SMALLEST_SEGMENT: u64 = 64 << 10;

/// Bytes that wait for a disk that does not answer; beyond it nothing more is taken.
const MOST_UNWRITTEN: usize = 32 << 20;

/// Bytes that are read in one go: any record fits.
const PIECE: u64 = 2 * LARGEST_FRAME;

/// What happened to records, since the start.
#[derive(Debug, Default)]
pub(super) struct SpoolCounts {
    /// Written.
    pub(super) written: AtomicU64,
    /// Not written, as the disk failed.
    pub(super) failed: AtomicU64,
    /// Deleted before the store had them, as there was no more room.
    pub(super) shed: AtomicU64,
    /// Found damaged, or without an end.
    pub(super) damaged: AtomicU64,
}

/// Records that are written together, and who waits for them.
#[derive(Debug, Default)]
struct Batch {
    state: AtomicU8,
    done: Notify,
}

const WAITING: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

impl Batch {
    fn end(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.done.notify_waiters();
    }
}

/// A record that was handed over.
#[derive(Debug)]
pub(super) struct HandedOver(Arc<Batch>);

impl HandedOver {
    /// Waits until it is written; whether it is.
    pub(super) async fn written(self) -> bool {
        let done = self.0.done.notified();
        let mut done = std::pin::pin!(done);
        done.as_mut().enable();
        if self.0.state.load(Ordering::Acquire) == WAITING {
            done.await;
        }
        self.0.state.load(Ordering::Acquire) == WRITTEN
    }
}

/// What is to be written next.
#[derive(Debug, Default)]
struct Queue {
    frames: Vec<u8>,
    records: u64,
    batch: Arc<Batch>,
    is_closed: bool,
}

#[derive(Debug)]
struct Shared {
    settings: SpoolSettings,
    queue: Mutex<Queue>,
    filled: Condvar,
    segments: Mutex<Segments>,
    memory: Memory,
    /// Told after each write.
    written: Notify,
    counts: SpoolCounts,
    /// Why the last write failed; `None` where it did not.
    trouble: Mutex<Option<String>>,
}

/// Records out of the spool.
#[derive(Debug, Default)]
pub(super) struct Batched {
    /// In order.
    pub(super) records: Vec<Vec<u8>>,
    /// Where the next ones begin; `None` where nothing was read.
    pub(super) end: Option<Position>,
}

/// A spool in a folder of its own.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _slot: Slot,
}

impl Spool {
    /// Takes a place below `root`, with what another process left there and in places that belong to nobody any more.
    pub(super) fn open(
        root: &Path,
        settings: SpoolSettings,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let slot = Slot::take(root)?;
        let memory = Memory::open(&slot.folder)?;
        let mut segments = Segments::open(&slot.folder, memory.remembered().unwrap_or_default())?;
        // A process that was killed may not have deleted all that it had read.
        forget(&memory, &segments.advance(Position::default()))?;
        let now = now(&*clock);
        let mut more = 0;
        for other in slot.abandoned(root)? {
            if let Some(read) = segments.adopt(&other.folder, now)? {
                memory.remember(read)?;
                // For what comes, beside what was taken over.
                more = settings.max_bytes / 2;
            }
        }
        segments.make_room(settings.max_bytes, more);
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            filled: Condvar::new(),
            segments: Mutex::new(segments),
            memory,
            written: Notify::new(),
            counts: SpoolCounts::default(),
            trouble: Mutex::default(),
        });
        let appender = Appender {
            shared: Arc::clone(&shared),
            clock,
            file: None,
            length: 0,
        };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || appender.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _slot: slot,
        })
    }

    /// Hands a record over; `None` where the disk holds up too many already, or it is too large.
    pub(super) fn hand_over(&self, record: &[u8]) -> Option<HandedOver> {
        let mut queue = held(&self.shared.queue);
        if queue.frames.len() + record.len() > MOST_UNWRITTEN
            || !frame::append(&mut queue.frames, record)
        {
            drop(queue);
            self.shared.counts.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        queue.records += 1;
        let batch = Arc::clone(&queue.batch);
        let is_first = queue.records == 1;
        drop(queue);
        if is_first {
            self.shared.filled.notify_one();
        }
        Some(HandedOver(batch))
    }

    /// Waits until something was written after the last call.
    pub(super) async fn written(&self) {
        self.shared.written.notified().await;
    }

    /// Reads on after what was read for good: `most` records, or as many as are there. Blocks.
    pub(super) fn read(&self, most: usize) -> io::Result<Batched> {
        let mut batched = Batched::default();
        let rest = held(&self.shared.segments).rest();
        let begin = rest.first().map(Rest::position);
        for rest in rest {
            let Some(bytes) = piece(&rest, PIECE)? else {
                // It was deleted for want of room.
                batched.end = Some(rest.end()).filter(|_| Some(rest.end()) != begin);
                continue;
            };
            let mut frames = Frames::of(&bytes);
            while batched.records.len() < most {
                match frames.next() {
                    Some(Frame::Whole(record)) => batched.records.push(record.to_vec()),
                    Some(Frame::Damaged) => self.damaged(&rest, "a record is damaged"),
                    None => break,
                }
            }
            let is_full = batched.records.len() >= most;
            let mut end = Position {
                offset: rest.offset + length(frames.walked()),
                ..rest.position()
            };
            let is_all = length(bytes.len()) < PIECE;
            let has_ended = (is_all && rest.is_closed) || frames.is_nonsense();
            if !is_full && has_ended && end.offset < rest.segment.length {
                // A crash tore its end: whoever handed that over has no answer.
                self.damaged(&rest, "its end was never written whole");
                end.offset = rest.segment.length;
            }
            batched.end = Some(end).filter(|_| Some(end) != begin);
            if is_full || end.offset < rest.segment.length {
                break;
            }
        }
        Ok(batched)
    }

    /// All up to `position` is in the store. Blocks.
    pub(super) fn advance(&self, position: Position) -> io::Result<()> {
        let advanced = held(&self.shared.segments).advance(position);
        forget(&self.shared.memory, &advanced)
    }

    /// Looks through what the store does not have yet, a segment at a time, the newest first; `look` is given a segment's
    /// records, oldest first, and when the segment was begun: the segments after it hold nothing that was handed over later.
    /// Ends when `look` says so. Blocks.
    pub(super) fn look_back(
        &self,
        mut look: impl FnMut(&mut dyn Iterator<Item = &[u8]>, u64) -> bool,
    ) -> io::Result<()> {
        let rest = held(&self.shared.segments).rest();
        for rest in rest
            .iter()
            .rev()
            .filter(|rest| rest.offset < rest.segment.length)
        {
            // It may have been read to its end and deleted meanwhile.
            let Some(bytes) = whole(rest)? else { continue };
            let mut records = Frames::of(&bytes).filter_map(|frame| match frame {
                Frame::Whole(record) => Some(record),
                Frame::Damaged => None,
            });
            if look(&mut records, rest.segment.begun) {
                break;
            }
        }
        Ok(())
    }

    /// Bytes that the store does not have yet.
    pub(super) fn waiting(&self) -> u64 {
        held(&self.shared.segments).waiting()
    }

    /// Bytes that may wait.
    pub(super) fn max_bytes(&self) -> u64 {
        self.shared.settings.max_bytes
    }

    pub(super) fn counts(&self) -> &SpoolCounts {
        &self.shared.counts
    }

    /// Why the last write failed.
    pub(super) fn trouble(&self) -> Option<String> {
        held(&self.shared.trouble).clone()
    }

    fn damaged(&self, rest: &Rest, what: &'static str) {
        self.shared.counts.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(segment = %rest.segment.path.display(), "prediction spool: {what}: it is left out");
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        held(&self.shared.queue).is_closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread has panicked");
        }
    }
}

/// The one who writes.
struct Appender {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// The segment that is written.
    file: Option<File>,
    /// Its bytes.
    length: u64,
}

impl Appender {
    fn run(mut self) {
        let mut frames = Vec::new();
        loop {
            let (records, batch) = {
                let mut queue = held(&self.shared.queue);
                while queue.records == 0 {
                    if queue.is_closed {
                        return;
                    }
                    let filled = self.shared.filled.wait(queue);
                    queue = filled.unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut frames, &mut queue.frames);
                let records = std::mem::take(&mut queue.records);
                (records, std::mem::take(&mut queue.batch))
            };
            let outcome = self.write(&frames);
            frames.clear();
            let counts = &self.shared.counts;
            let (count, state) = match &outcome {
                Ok(()) => (&counts.written, WRITTEN),
                Err(_) => (&counts.failed, FAILED),
            };
            count.fetch_add(records, Ordering::Relaxed);
            // Whoever hears of the outcome may look at the status.
            self.note(outcome.err());
            batch.end(state);
            self.shared.written.notify_one();
        }
    }

    /// Writes frames, all or none; what was written of them when it failed is cut off, or left at the end of a segment that
    /// is closed.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let limit = self.shared.settings.max_bytes;
        let mut file = match self.file.take() {
            Some(file) if self.length < (limit / 8).clamp(SMALLEST_SEGMENT, SEGMENT) => file,
            _ => self.begin()?,
        };
        let written = file.write_all(frames).and_then(|()| {
            if self.shared.settings.fsync {
                file.sync_data()
            } else {
                Ok(())
            }
        });
        if let Err(error) = written {
            // Where these fail too, the reader stops at what is known to be whole.
            let _ = file.set_len(self.length);
            let empty = held(&self.shared.segments).close();
            let _ = empty.map(|empty| segments::remove(&empty.path));
            return Err(error);
        }
        self.length += length(frames.len());
        self.file = Some(file);
        let shed = {
            let mut segments = held(&self.shared.segments);
            segments.grow(length(frames.len()));
            segments.shed(limit)
        };
        self.shed(&shed);
        Ok(())
    }

    fn begin(&mut self) -> io::Result<File> {
        let segment = held(&self.shared.segments).next(now(&*self.clock));
        self.length = 0;
        let created = segment.create(self.shared.settings.fsync);
        let file = created.inspect_err(|_| {
            let _ = segments::remove(&segment.path);
        })?;
        held(&self.shared.segments).begin(segment);
        Ok(file)
    }

    /// Deletes segments for which there is no room, and says what is lost with them.
    fn shed(&self, shed: &[Rest]) {
        for rest in shed {
            let lost = whole(rest).ok().flatten();
            let lost = lost.map_or(0, |bytes| Frames::of(&bytes).count());
            self.shared
                .counts
                .shed
                .fetch_add(length(lost), Ordering::Relaxed);
            if let Err(error) = segments::remove(&rest.segment.path) {
                tracing::error!(%error, "prediction spool: a segment cannot be deleted");
            }
            if lost > 0 {
                tracing::error!(
                    predictions = lost,
                    "the prediction spool is full: the oldest predictions are lost"
                );
            }
        }
    }

    /// Says once that the disk fails, and once that it does not any more.
    fn note(&self, error: Option<io::Error>) {
        let mut trouble = held(&self.shared.trouble);
        match (&*trouble, error) {
            (None, Some(error)) => {
                tracing::error!(%error, "the prediction spool cannot be written: answers go out unlogged");
                *trouble = Some(error.to_string());
            }
            (Some(_), None) => {
                tracing::info!("the prediction spool can be written again");
                *trouble = None;
            }
            _ => {}
        }
    }
}

/// Deletes what is read to its end, and remembers how far all is read.
fn forget(memory: &Memory, advanced: &Advanced) -> io::Result<()> {
    // Deleted first, and remembered in any case: a full disk may have no room for the one without the other.
    let mut paths = advanced.gone.iter();
    let deleted = paths.try_for_each(|path| segments::remove(path));
    memory.remember(advanced.read)?;
    deleted
}

/// Milliseconds since the epoch.
fn now(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().timestamp_millis()).unwrap_or_default()
}

/// All that is there of a rest; `None` where the segment is gone.
fn whole(rest: &Rest) -> io::Result<Option<Vec<u8>>> {
    piece(rest, u64::MAX)
}

/// The beginning of a rest.
fn piece(rest: &Rest, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(&rest.segment.path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(rest.offset))?;
    let left = rest.segment.length.saturating_sub(rest.offset);
    let mut bytes = Vec::new();
    file.take(left.min(most)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn length(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
