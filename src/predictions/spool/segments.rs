//! The segments of a spool: which files there are, how far each is written, how far all of it is read.
//!
//! A new process begins a new segment and never adds to an old one: an end that was torn by a crash stays an end. What is read
//! is deleted, a segment at a time; how far it is read is remembered beside them, and may be a little behind the truth.
//!
//! [`Segments`] is what is known of the files, and is locked for as long as it takes to look; the files themselves are made,
//! deleted and renamed outside that lock.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A place in a spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The number of the segment.
    pub(super) segment: u64,
    /// Bytes from its beginning.
    pub(super) offset: u64,
}

/// A file of the spool.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// When it was begun, in milliseconds since the epoch: all that lies in the ones before it is older.
    pub(super) begun: u64,
    pub(super) path: PathBuf,
    /// Bytes that are known to be written.
    pub(super) length: u64,
}

/// What is left of a segment.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) segment: Segment,
    /// Where it begins.
    pub(super) offset: u64,
    /// Whether nothing will be added to the segment.
    pub(super) is_closed: bool,
}

impl Rest {
    /// Where it ends.
    pub(super) fn end(&self) -> Position {
        Position {
            segment: self.segment.number,
            offset: self.segment.length,
        }
    }

    /// Where it begins.
    pub(super) fn position(&self) -> Position {
        Position {
            segment: self.segment.number,
            offset: self.offset,
        }
    }
}

/// The segments of a folder, in order.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    list: VecDeque<Segment>,
    /// Whether the last one is being written.
    is_open: bool,
    read: Position,
    next: u64,
    /// Bytes that other processes left beyond what this one may have: there is room for them until they are read.
    beyond: u64,
}

/// What is to be done with the files once all up to a position is read for good.
#[derive(Debug)]
pub(super) struct Advanced {
    /// Segments that are read to their end.
    pub(super) gone: Vec<PathBuf>,
    /// What is to be remembered.
    pub(super) read: Position,
}

/// The file in which it is remembered how far all is read.
const POSITION: &str = "position";
const ENDING: &str = "log";

impl Segments {
    /// The segments of a folder as another process left them.
    pub(super) fn open(folder: &Path, remembered: Position) -> io::Result<Self> {
        let list = Segment::all(folder)?;
        let newest = list.back().map_or(0, |newest| newest.number);
        Ok(Self {
            folder: folder.to_path_buf(),
            next: newest.max(remembered.segment) + 1,
            list,
            is_open: false,
            read: remembered,
            beyond: 0,
        })
    }

    /// Takes the segments of another folder over, each at its time among those that are here; they are begun `now` then, as
    /// what lies in one may be newer than what lies behind it. All of it is read from the beginning: the position that is to
    /// be remembered is given once all files are where they belong, so that who is interrupted here loses nothing.
    pub(super) fn adopt(&mut self, folder: &Path, now: u64) -> io::Result<Option<Position>> {
        let others = Segment::all(folder)?;
        if others.is_empty() {
            return Ok(None);
        }
        self.list.extend(others);
        self.list.make_contiguous().sort_by_key(|one| one.begun);
        let read = Position {
            segment: self.next,
            offset: 0,
        };
        for segment in &mut self.list {
            (segment.number, segment.begun) = (self.next, now);
            let path = self.folder.join(segment.name());
            std::fs::rename(&segment.path, &path)?;
            segment.path = path;
            self.next += 1;
        }
        // The names are on the disk before the position that only fits them.
        File::open(&self.folder)?.sync_all()?;
        self.read = read;
        Ok(Some(read))
    }

    /// What lies here at the start is not shed because other processes, or other settings, had room for more.
    /// There is `more` room beside it.
    pub(super) fn make_room(&mut self, limit: u64, more: u64) {
        let beyond = self.bytes().checked_sub(limit);
        self.beyond = beyond.map_or(0, |beyond| beyond + more);
    }

    /// The next segment, of which there is no file yet. Nothing is added to the last one any more.
    pub(super) fn next(&mut self, now: u64) -> Segment {
        self.is_open = false;
        let mut segment = Segment {
            number: self.next,
            begun: now,
            path: PathBuf::new(),
            length: 0,
        };
        segment.path = self.folder.join(segment.name());
        self.next += 1;
        segment
    }

    /// A segment is there, and is written from now on.
    pub(super) fn begin(&mut self, segment: Segment) {
        self.list.push_back(segment);
        self.is_open = true;
    }

    /// The last segment has grown.
    pub(super) fn grow(&mut self, bytes: u64) {
        if let Some(last) = self.list.back_mut() {
            last.length += bytes;
        }
    }

    /// Nothing is added to the last segment any more; it is given, to be deleted, where nothing is in it that was not read.
    pub(super) fn close(&mut self) -> Option<Segment> {
        let was_open = std::mem::take(&mut self.is_open);
        let last = self.list.back();
        let is_read = last.is_some_and(|last| last.length <= self.offset_in(last));
        self.list.pop_back_if(|_| was_open && is_read)
    }

    /// Takes the oldest segments out until all of them have no more than `limit` bytes; what was not read of them is lost.
    /// The one that is being written stays.
    pub(super) fn shed(&mut self, limit: u64) -> Vec<Rest> {
        let mut shed = Vec::new();
        if self.bytes() <= limit {
            self.beyond = 0;
        }
        let limit = limit + self.beyond;
        while self.bytes() > limit && self.list.len() > usize::from(self.is_open) {
            let Some(segment) = self.list.pop_front() else {
                break;
            };
            let offset = self.offset_in(&segment);
            shed.push(Rest {
                segment,
                offset,
                is_closed: true,
            });
        }
        shed
    }

    /// What is not read yet, in order.
    pub(super) fn rest(&self) -> Vec<Rest> {
        let last = self.list.back().map(|last| last.number);
        let rest = self
            .list
            .iter()
            .filter(|one| one.number >= self.read.segment);
        rest.map(|segment| Rest {
            offset: self.offset_in(segment),
            is_closed: !self.is_open || Some(segment.number) != last,
            segment: segment.clone(),
        })
        .collect()
    }

    /// Bytes that are not read yet.
    pub(super) fn waiting(&self) -> u64 {
        let rest = self.list.iter();
        rest.map(|segment| segment.length.saturating_sub(self.offset_in(segment)))
            .sum()
    }

    /// All up to `position` is read for good.
    pub(super) fn advance(&mut self, position: Position) -> Advanced {
        self.read = self.read.max(position);
        let mut gone = Vec::new();
        while let Some(first) = self.list.front() {
            let is_written = self.is_open && self.list.len() == 1;
            let is_read = first.number < self.read.segment
                || (first.number == self.read.segment && first.length <= self.read.offset);
            if is_written || !is_read {
                break;
            }
            gone.extend(self.list.pop_front().map(|first| first.path));
        }
        Advanced {
            gone,
            read: self.read,
        }
    }

    fn bytes(&self) -> u64 {
        self.list.iter().map(|segment| segment.length).sum()
    }

    fn offset_in(&self, segment: &Segment) -> u64 {
        match segment.number.cmp(&self.read.segment) {
            std::cmp::Ordering::Less => segment.length,
            std::cmp::Ordering::Equal => self.read.offset,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

impl Segment {
    /// Makes its file; where the folder's own entry is to be on the disk too, that is waited for.
    pub(super) fn create(&self, fsync: bool) -> io::Result<File> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)?;
        if let Some(folder) = self.path.parent().filter(|_| fsync) {
            File::open(folder)?.sync_all()?;
        }
        Ok(file)
    }

    /// `<number>-<begun>.log`
    fn name(&self) -> String {
        format!("{:020}-{:013}.{ENDING}", self.number, self.begun)
    }

    /// The segments that lie in a folder, in order.
    fn all(folder: &Path) -> io::Result<VecDeque<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.and_then(|name| name.strip_suffix(&format!(".{ENDING}")));
            let numbers = name.and_then(|name| name.split_once('-'));
            let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            if let Some((number, begun)) = numbers {
                found.push(Self {
                    number,
                    begun,
                    length: path.metadata()?.len(),
                    path,
                });
            }
        }
        found.sort_by_key(|segment| segment.number);
        Ok(found.into())
    }
}

/// Deletes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How far all is read, in a file of its own: segment, offset and a checksum, little-endian.
#[derive(Debug)]
pub(super) struct Memory(File);

impl Memory {
    /// That of a folder.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(folder.join(POSITION))?;
        Ok(Self(file))
    }

    pub(super) fn remember(&self, position: Position) -> io::Result<()> {
        let mut bytes = [0; 20];
        let (numbers, sum) = bytes.split_at_mut(16);
        let (segment, offset) = numbers.split_at_mut(8);
        segment.copy_from_slice(&position.segment.to_le_bytes());
        offset.copy_from_slice(&position.offset.to_le_bytes());
        sum.copy_from_slice(&crc32fast::hash(numbers).to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// What was remembered; `None` where nothing was, or not whole: then all that is there is read again, which does no harm.
    pub(super) fn remembered(&self) -> Option<Position> {
        let mut bytes = [0; 20];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (numbers, sum) = bytes.split_at(16);
        let (segment, offset) = numbers.split_first_chunk::<8>()?;
        (crc32fast::hash(numbers).to_le_bytes() == sum).then_some(Position {
            segment: u64::from_le_bytes(*segment),
            offset: u64::from_le_bytes(offset.try_into().ok()?),
        })
    }
}
