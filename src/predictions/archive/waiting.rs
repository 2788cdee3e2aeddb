//! Pictures that wait to be put in the archive, bounded in bytes, and what is counted of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};

use super::lately::Lately;
use super::{ArchiveError, ArchiveStatus};
use crate::domain::ids::Digest;
use crate::domain::tenant::TenantId;

/// What a picture is kept under.
pub(super) type Key = (TenantId, Digest);

/// How often a picture is tried that its place does not take while it takes others.
const TRIES: u8 = 3;

/// A picture on its way.
pub(super) struct Picture {
    pub(super) key: Key,
    pub(super) bytes: Bytes,
    /// Failures between which the place took others.
    tries: u8,
    /// How many were stored when it failed last.
    stored_before: Option<u64>,
}

/// A picture that is being put.
struct UnderWay {
    bytes: Bytes,
    /// Its tenant's pictures are being deleted: this one is tried no more.
    is_forgotten: bool,
}

/// What became of a picture that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits.
    Waits,
    /// It waits already, or was put today.
    Known,
    /// It has too many bytes.
    TooLarge,
    /// Too many wait.
    Full,
}

/// What becomes of a picture that was not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for another try.
    Waits,
    /// It is not kept.
    Dropped,
    /// It is not to be kept any more.
    Forgotten,
}

/// All pictures that wait or are under way.
pub(super) struct Waiting {
    most_of_one: u64,
    most_of_all: u64,
    queue: VecDeque<Picture>,
    under_way: HashMap<Key, UnderWay>,
    /// Of those that wait and those that are under way.
    keys: HashSet<Key>,
    lately: Lately,
    shouted: Option<Instant>,
    status: ArchiveStatus,
}

impl Waiting {
    pub(super) fn new(most_of_one: u64, most_of_all: u64) -> Self {
        Self {
            most_of_one,
            most_of_all,
            queue: VecDeque::new(),
            under_way: HashMap::new(),
            keys: HashSet::new(),
            lately: Lately::default(),
            shouted: None,
            status: ArchiveStatus::default(),
        }
    }

    pub(super) fn offer(&mut self, key: Key, bytes: Bytes, today: NaiveDate) -> Taken {
        let length = length(&bytes);
        if length > self.most_of_one {
            self.status.dropped_too_large += 1;
            return Taken::TooLarge;
        }
        if self.keys.contains(&key) || self.lately.knows(&key, today) {
            return Taken::Known;
        }
        if self.status.waiting_bytes + length > self.most_of_all {
            self.status.dropped_full += 1;
            return Taken::Full;
        }
        self.status.waiting_bytes += length;
        self.keys.insert(key);
        self.queue.push_back(Picture {
            key,
            bytes,
            tries: 0,
            stored_before: None,
        });
        Taken::Waits
    }

    /// The picture whose turn it is; it is under way then.
    pub(super) fn next(&mut self) -> Option<Picture> {
        let picture = self.queue.pop_front()?;
        let under_way = UnderWay {
            bytes: picture.bytes.clone(),
            is_forgotten: false,
        };
        self.under_way.insert(picture.key, under_way);
        Some(picture)
    }

    /// A picture is in its place. Gives since when the place took nothing, where it did not.
    pub(super) fn stored(&mut self, picture: &Picture, today: NaiveDate) -> Option<DateTime<Utc>> {
        self.leaves(picture);
        self.lately.add(picture.key, today);
        self.status.stored += 1;
        self.status.trouble = None;
        self.shouted = None;
        self.status.away_since.take()
    }

    /// A picture was not put. It goes to the end, so that it keeps no other one back. While the place takes none at all, for
    /// whatever reason, it waits; it is given up where the place has taken others since it failed before, again and again.
    pub(super) fn failed(
        &mut self,
        mut picture: Picture,
        error: &ArchiveError,
        now: DateTime<Utc>,
    ) -> Fate {
        if self.is_forgotten(&picture.key) {
            self.leaves(&picture);
            return Fate::Forgotten;
        }
        if self.status.away_since.is_none() {
            self.status.away_since = Some(now);
            self.shouted = None;
        }
        self.status.trouble = Some(error.to_string());
        let others_went = picture
            .stored_before
            .is_some_and(|before| before < self.status.stored);
        picture.stored_before = Some(self.status.stored);
        picture.tries += u8::from(others_went);
        if picture.tries >= TRIES {
            self.leaves(&picture);
            self.status.dropped_failed += 1;
            return Fate::Dropped;
        }
        self.under_way.remove(&picture.key);
        self.queue.push_back(picture);
        Fate::Waits
    }

    /// A picture that waits or is under way.
    pub(super) fn find(&self, key: &Key) -> Option<Bytes> {
        if !self.keys.contains(key) {
            return None;
        }
        let mut waiting = self.queue.iter();
        let waiting = waiting.find(|picture| picture.key == *key);
        let waiting = waiting.map(|picture| &picture.bytes);
        let under_way = self.under_way.get(key).filter(|one| !one.is_forgotten);
        waiting
            .or(under_way.map(|under_way| &under_way.bytes))
            .cloned()
    }

    /// Drops what waits of a tenant, and tries no further what is under way; gives how many waited.
    pub(super) fn forget(&mut self, tenant: TenantId) -> u64 {
        let (gone, left) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(|picture| picture.key.0 == tenant);
        self.queue = left;
        for picture in &gone {
            self.leaves(picture);
        }
        for ((of, _), under_way) in &mut self.under_way {
            under_way.is_forgotten |= *of == tenant;
        }
        u64::try_from(gone.len()).unwrap_or(u64::MAX)
    }

    /// Whether a picture of a tenant is still under way that was when it was forgotten.
    pub(super) fn is_forgetting(&self, tenant: TenantId) -> bool {
        let mut under_way = self.under_way.iter();
        under_way.any(|((of, _), one)| *of == tenant && one.is_forgotten)
    }

    fn is_forgotten(&self, key: &Key) -> bool {
        self.under_way.get(key).is_some_and(|one| one.is_forgotten)
    }

    /// What was put of a tenant may not be there any more.
    pub(super) fn forget_lately(&mut self, tenant: TenantId) {
        self.lately.forget(tenant);
    }

    /// Nothing waits any longer; gives how many did.
    pub(super) fn give_up(&mut self) -> usize {
        let left = self.keys.len();
        self.keys.clear();
        self.queue.clear();
        self.under_way.clear();
        self.status.waiting_bytes = 0;
        self.status.dropped_failed += u64::try_from(left).unwrap_or(u64::MAX);
        left
    }

    /// How things are, if it is time again to say so.
    pub(super) fn due_to_shout(&mut self, every: Duration) -> Option<ArchiveStatus> {
        let now = Instant::now();
        let is_time = self
            .shouted
            .is_none_or(|shouted| now.duration_since(shouted) >= every);
        is_time.then(|| {
            self.shouted = Some(now);
            self.status()
        })
    }

    pub(super) fn status(&self) -> ArchiveStatus {
        ArchiveStatus {
            waiting: self.keys.len(),
            ..self.status.clone()
        }
    }

    fn leaves(&mut self, picture: &Picture) {
        self.under_way.remove(&picture.key);
        self.keys.remove(&picture.key);
        self.status.waiting_bytes -= length(&picture.bytes);
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TODAY: NaiveDate = NaiveDate::MAX;

    fn key(tenant: u128, number: u8) -> Key {
        (
            TenantId(Uuid::from_u128(tenant)),
            Digest::from_bytes([number; 32]),
        )
    }

    fn waiting(keys: &[Key]) -> Waiting {
        let mut waiting = Waiting::new(10, 1000);
        for &key in keys {
            let taken = waiting.offer(key, Bytes::from_static(b"12345"), TODAY);
            assert_eq!(taken, Taken::Waits);
        }
        waiting
    }

    fn fail(waiting: &mut Waiting) -> (Key, Fate) {
        let picture = waiting.next().expect("a picture");
        let key = picture.key;
        let error = ArchiveError::Refused(String::new());
        (key, waiting.failed(picture, &error, DateTime::UNIX_EPOCH))
    }

    #[test]
    fn while_none_is_taken_all_wait_and_one_that_alone_is_not_taken_is_given_up() {
        let all = [key(1, 1), key(1, 2)];
        let mut waiting = waiting(&all);
        for round in 0..20 {
            assert_eq!(fail(&mut waiting), (all[round % 2], Fate::Waits));
        }
        assert_eq!(waiting.status().away_since, Some(DateTime::UNIX_EPOCH));
        for number in 10..12 {
            assert_eq!(fail(&mut waiting), (all[0], Fate::Waits));
            let other = waiting.next().expect("a picture");
            waiting.stored(&other, TODAY);
            waiting.offer(key(1, number), Bytes::new(), TODAY);
        }
        assert_eq!(fail(&mut waiting), (all[0], Fate::Waits));
        let other = waiting.next().expect("a picture");
        assert!(waiting.stored(&other, TODAY).is_some(), "it was away");
        assert_eq!(fail(&mut waiting), (all[0], Fate::Dropped));
        let status = waiting.status();
        assert_eq!((status.waiting, status.waiting_bytes), (0, 0));
        assert_eq!((status.stored, status.dropped_failed), (3, 1));
    }

    #[test]
    fn what_is_under_way_when_its_tenant_is_forgotten_is_waited_for_and_tried_no_more() {
        let mut waiting = waiting(&[key(1, 1), key(2, 1), key(1, 2)]);
        let tenant = TenantId(Uuid::from_u128(1));
        let picture = waiting.next().expect("a picture");
        assert!(waiting.find(&picture.key).is_some());
        assert_eq!(waiting.forget(tenant), 1);
        assert!(waiting.is_forgetting(tenant));
        assert_eq!(waiting.find(&picture.key), None);
        let error = ArchiveError::Away(String::new());
        let fate = waiting.failed(picture, &error, DateTime::UNIX_EPOCH);
        assert_eq!(fate, Fate::Forgotten);
        assert!(!waiting.is_forgetting(tenant));
        let status = waiting.status();
        assert_eq!((status.waiting, status.waiting_bytes), (1, 5));
        assert_eq!(status.dropped_failed, 0);
        let taken = waiting.offer(key(1, 1), Bytes::new(), TODAY);
        assert_eq!(taken, Taken::Waits, "it is new");
        waiting.next();
        waiting.next();
        assert!(!waiting.is_forgetting(tenant), "nor is it waited for");
    }
}
