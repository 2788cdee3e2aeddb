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

/// What a picture costs while it waits, beside its bytes: many small ones are many too.
const EACH: u64 = 512;

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

/// A deletion of a tenant's pictures.
struct Purge {
    /// It reaches what was asked for until then.
    until: DateTime<Utc>,
    is_done: bool,
    /// Pictures that are not to be kept any more and of which a try failed: they may be there all the same.
    doubtful: HashSet<Key>,
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
    /// It was asked for before its tenant's pictures were deleted.
    Purged,
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
    /// Those that wait and those that are under way, and when each was asked for last.
    keys: HashMap<Key, DateTime<Utc>>,
    lately: Lately,
    purges: HashMap<TenantId, Purge>,
    shouted: Option<Instant>,
    status: ArchiveStatus,
}

impl Waiting {
    pub(super) fn new(most_of_one: u64, most_of_all: u64) -> Self {
        Self {
            most_of_one,
            // The largest one has room, if it is alone.
            most_of_all: most_of_all.max(most_of_one.saturating_add(EACH)),
            queue: VecDeque::new(),
            under_way: HashMap::new(),
            keys: HashMap::new(),
            lately: Lately::default(),
            purges: HashMap::new(),
            shouted: None,
            status: ArchiveStatus::default(),
        }
    }

    pub(super) fn offer(
        &mut self,
        key: Key,
        asked: DateTime<Utc>,
        bytes: Bytes,
        today: NaiveDate,
    ) -> Taken {
        let purge = self.purges.get(&key.0);
        if purge.is_some_and(|purge| asked <= purge.until) {
            return Taken::Purged;
        }
        if length(&bytes) > self.most_of_one {
            self.status.dropped_too_large += 1;
            return Taken::TooLarge;
        }
        if let Some(last) = self.keys.get_mut(&key) {
            *last = asked.max(*last);
            // Whatever was deleted before: it is asked for again.
            if let Some(under_way) = self.under_way.get_mut(&key) {
                under_way.is_forgotten = false;
            }
            return Taken::Known;
        }
        if self.lately.renew(&key, asked, today) {
            return Taken::Known;
        }
        if self.status.waiting_bytes + weight(&bytes) > self.most_of_all {
            self.status.dropped_full += 1;
            return Taken::Full;
        }
        self.status.waiting_bytes += weight(&bytes);
        self.keys.insert(key, asked);
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
        if let Some(asked) = self.leaves(picture) {
            self.lately.add(picture.key, asked, today);
        }
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
            self.doubt(picture.key);
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
        if !self.keys.contains_key(key) {
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

    /// A tenant's pictures that were asked for until then are deleted: none is taken any more. Gives until when that still is
    /// to be done here, which may be later; `None` where it is done.
    pub(super) fn purge(
        &mut self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let purge = self.purges.entry(tenant).or_insert_with(|| Purge {
            until,
            is_done: false,
            doubtful: HashSet::new(),
        });
        if purge.until < until {
            (purge.until, purge.is_done) = (until, false);
        }
        (!purge.is_done).then_some(purge.until)
    }

    /// A tenant's pictures that were asked for until then are gone. What was put of others may not be there any more either: it
    /// is put again.
    pub(super) fn purged(&mut self, tenant: TenantId, until: DateTime<Utc>) {
        // A further deletion needs what is remembered.
        let purge = self.purges.get_mut(&tenant);
        if let Some(purge) = purge.filter(|purge| purge.until <= until) {
            purge.is_done = true;
            purge.doubtful = HashSet::new();
            self.lately.forget(tenant);
        }
    }

    /// What is known of a tenant's pictures that may be there: whether each goes with what was asked for until then. Another
    /// replica may have put one again since, asked for later: rather one too few is kept than one too many.
    pub(super) fn known(&self, tenant: TenantId, until: DateTime<Utc>) -> HashMap<Key, bool> {
        let doubtful = self.purges.get(&tenant).into_iter();
        let doubtful = doubtful.flat_map(|purge| purge.doubtful.iter().map(|key| (*key, true)));
        let lately = self.lately.of(tenant);
        let lately = lately.map(|(key, asked)| (key, asked <= until));
        // What is put anew stays, whatever is there of it.
        let coming = self.keys.keys().filter(|(of, _)| *of == tenant);
        let coming = coming.map(|key| (*key, false));
        doubtful.chain(lately).chain(coming).collect()
    }

    /// Drops what waits of what a tenant asked for until then, and tries no further what is under way; gives how many waited.
    pub(super) fn forget(&mut self, tenant: TenantId, until: DateTime<Utc>) -> u64 {
        let keys = &self.keys;
        let goes = |key: &Key| key.0 == tenant && keys.get(key).is_none_or(|asked| *asked <= until);
        for (key, under_way) in &mut self.under_way {
            under_way.is_forgotten |= goes(key);
        }
        let (gone, left) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(|picture| goes(&picture.key));
        self.queue = left;
        for picture in &gone {
            self.leaves(picture);
            if picture.stored_before.is_some() {
                self.doubt(picture.key);
            }
        }
        u64::try_from(gone.len()).unwrap_or(u64::MAX)
    }

    fn doubt(&mut self, key: Key) {
        if let Some(purge) = self.purges.get_mut(&key.0) {
            purge.doubtful.insert(key);
        }
    }

    /// Whether a picture of a tenant is still under way that was when it was forgotten.
    pub(super) fn is_forgetting(&self, tenant: TenantId) -> bool {
        let mut under_way = self.under_way.iter();
        under_way.any(|((of, _), one)| *of == tenant && one.is_forgotten)
    }

    fn is_forgotten(&self, key: &Key) -> bool {
        self.under_way.get(key).is_some_and(|one| one.is_forgotten)
    }

    /// Nothing waits any longer; gives how many did.
    pub(super) fn give_up(&mut self) -> usize {
        let left = self.keys.len();
        self.keys.clear();
        self.queue.clear();
        // The place may have taken them all the same.
        for (key, _) in std::mem::take(&mut self.under_way) {
            self.doubt(key);
        }
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

    /// A picture neither waits nor is under way any more; gives when it was asked for last.
    fn leaves(&mut self, picture: &Picture) -> Option<DateTime<Utc>> {
        self.under_way.remove(&picture.key);
        self.status.waiting_bytes -= weight(&picture.bytes);
        self.keys.remove(&picture.key)
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// What a picture counts.
fn weight(bytes: &Bytes) -> u64 {
    length(bytes) + EACH
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TODAY: NaiveDate = NaiveDate::MAX;
    const TENANT: TenantId = TenantId(Uuid::from_u128(1));

    fn key(tenant: u128, number: u8) -> Key {
        (
            TenantId(Uuid::from_u128(tenant)),
            Digest::from_bytes([number; 32]),
        )
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    fn offer(waiting: &mut Waiting, key: Key, second: i64) -> Taken {
        waiting.offer(key, at(second), Bytes::from_static(b"12345"), TODAY)
    }

    /// Pictures that were asked for in the first second.
    fn waiting(keys: &[Key]) -> Waiting {
        let mut waiting = Waiting::new(10, 100_000);
        for &key in keys {
            assert_eq!(offer(&mut waiting, key, 1), Taken::Waits);
        }
        waiting
    }

    fn fail(waiting: &mut Waiting) -> (Key, Fate) {
        let picture = waiting.next().expect("a picture");
        let key = picture.key;
        let error = ArchiveError::Refused(String::new());
        (key, waiting.failed(picture, &error, DateTime::UNIX_EPOCH))
    }

    fn store(waiting: &mut Waiting) -> Key {
        let picture = waiting.next().expect("a picture");
        waiting.stored(&picture, TODAY);
        picture.key
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
            store(&mut waiting);
            offer(&mut waiting, key(1, number), 1);
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
        let picture = waiting.next().expect("a picture");
        assert!(waiting.find(&picture.key).is_some());
        assert_eq!(waiting.forget(TENANT, DateTime::<Utc>::MAX_UTC), 1);
        assert!(waiting.is_forgetting(TENANT));
        assert_eq!(waiting.find(&picture.key), None);
        let error = ArchiveError::Away(String::new());
        let fate = waiting.failed(picture, &error, DateTime::UNIX_EPOCH);
        assert_eq!(fate, Fate::Forgotten);
        assert!(!waiting.is_forgetting(TENANT));
        let status = waiting.status();
        assert_eq!((status.waiting, status.waiting_bytes), (1, 5 + EACH));
        assert_eq!(status.dropped_failed, 0);
        let taken = offer(&mut waiting, key(1, 1), 1);
        assert_eq!(taken, Taken::Waits, "it is new");
        waiting.next();
        waiting.next();
        assert!(!waiting.is_forgetting(TENANT), "nor is it waited for");
    }

    #[test]
    fn many_that_are_tiny_are_many_and_the_largest_alone_has_room() {
        let mut waiting = Waiting::new(10, 10 * EACH);
        for number in 0..10 {
            let taken = waiting.offer(key(1, number), at(1), Bytes::new(), TODAY);
            assert_eq!(taken, Taken::Waits);
        }
        let taken = waiting.offer(key(1, 10), at(1), Bytes::new(), TODAY);
        assert_eq!(taken, Taken::Full);
        store(&mut waiting);
        let taken = waiting.offer(key(1, 10), at(1), Bytes::new(), TODAY);
        assert_eq!(taken, Taken::Waits);
        assert_eq!(waiting.give_up(), 10);
        assert_eq!(waiting.status().waiting_bytes, 0);
        let mut waiting = Waiting::new(5, 5);
        assert_eq!(offer(&mut waiting, key(1, 1), 1), Taken::Waits);
        assert_eq!(offer(&mut waiting, key(1, 2), 1), Taken::Full);
    }

    #[test]
    fn what_was_asked_for_before_a_deletion_is_not_taken_and_what_waits_of_it_goes() {
        let mut waiting = waiting(&[key(1, 1), key(1, 2), key(1, 3), key(2, 1)]);
        // Asked for again, later: it stays, whatever comes after it.
        assert_eq!(offer(&mut waiting, key(1, 2), 5), Taken::Known);
        assert_eq!(offer(&mut waiting, key(1, 2), 4), Taken::Known);
        assert_eq!(waiting.purge(TENANT, at(4)), Some(at(4)));
        assert_eq!(waiting.forget(TENANT, at(4)), 2);
        for second in [1, 4] {
            assert_eq!(offer(&mut waiting, key(1, 1), second), Taken::Purged);
        }
        assert_eq!(offer(&mut waiting, key(2, 2), 1), Taken::Waits, "another's");
        assert_eq!(offer(&mut waiting, key(1, 3), 5), Taken::Waits, "later");
        let left: Vec<_> = std::iter::from_fn(|| waiting.next().map(|one| one.key)).collect();
        assert_eq!(left, [key(1, 2), key(2, 1), key(2, 2), key(1, 3)]);
        assert_eq!(waiting.status().dropped_failed, 0);
        assert!(!waiting.is_forgetting(TENANT));
    }

    #[test]
    fn of_what_is_under_way_only_what_was_asked_for_before_goes_unless_it_is_asked_for_again() {
        let mut waiting = waiting(&[key(1, 1), key(1, 2), key(1, 3)]);
        offer(&mut waiting, key(1, 2), 5);
        let pictures = [(); 3].map(|()| waiting.next().expect("a picture"));
        waiting.purge(TENANT, at(4));
        assert_eq!(waiting.forget(TENANT, at(4)), 0);
        assert!(waiting.is_forgetting(TENANT));
        assert_eq!(offer(&mut waiting, key(1, 3), 6), Taken::Known);
        assert!(waiting.find(&key(1, 1)).is_none());
        assert!(waiting.find(&key(1, 2)).is_some() && waiting.find(&key(1, 3)).is_some());
        for picture in &pictures {
            assert_eq!(waiting.is_forgetting(TENANT), picture.key == key(1, 1));
            waiting.stored(picture, TODAY);
        }
        let known = [(key(1, 1), true), (key(1, 2), false), (key(1, 3), false)];
        assert_eq!(waiting.known(TENANT, at(4)), HashMap::from(known));
    }

    #[test]
    fn what_was_put_or_tried_is_remembered_until_its_deletion_is_done() {
        let mut waiting = waiting(&[key(1, 1), key(1, 2), key(1, 3), key(1, 4)]);
        assert_eq!(store(&mut waiting), key(1, 1));
        assert_eq!(store(&mut waiting), key(1, 2));
        assert_eq!(offer(&mut waiting, key(1, 2), 5), Taken::Known);
        // A try that fails may have put it all the same: one waits after it, one is under way.
        assert_eq!(fail(&mut waiting), (key(1, 3), Fate::Waits));
        let under_way = waiting.next().expect("a picture");
        waiting.purge(TENANT, at(4));
        assert_eq!(waiting.forget(TENANT, at(4)), 1);
        let error = ArchiveError::Away(String::new());
        let fate = waiting.failed(under_way, &error, DateTime::UNIX_EPOCH);
        assert_eq!(fate, Fate::Forgotten);
        assert_eq!(offer(&mut waiting, key(1, 5), 5), Taken::Waits);
        let known = [
            (key(1, 1), true),
            (key(1, 2), false),
            (key(1, 3), true),
            (key(1, 4), true),
            (key(1, 5), false),
        ];
        assert_eq!(waiting.known(TENANT, at(4)), HashMap::from(known));
        // A later deletion came meanwhile: it is not done with the earlier one.
        assert_eq!(waiting.purge(TENANT, at(5)), Some(at(5)));
        waiting.purged(TENANT, at(4));
        assert_eq!(waiting.purge(TENANT, at(4)), Some(at(5)));
        assert_eq!(waiting.known(TENANT, at(4)), HashMap::from(known));
        waiting.forget(TENANT, at(5));
        waiting.purged(TENANT, at(5));
        assert_eq!(waiting.purge(TENANT, at(5)), None);
        assert_eq!(waiting.known(TENANT, at(5)), HashMap::new());
        assert_eq!(offer(&mut waiting, key(1, 2), 6), Taken::Waits, "put again");
        assert_eq!(waiting.purge(TENANT, at(6)), Some(at(6)), "a new one");
    }
}
