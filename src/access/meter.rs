//! What is counted of a key, whatever becomes of its secret and its limits: tokens, pictures, when it was last used, and how
//! often it was over a limit. Kept by `roll`, asked by `mod.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, NaiveDate, Utc};

use super::limiter::{Bucket, Level, Rate, Shortage};
use super::quota::{Aftermath, Usage};
use crate::domain::tenant::{KeyId, TokenId};

/// What was taken of a key on other replicas and is not counted here yet. The rate is known to whoever asks, not to whoever tells.
#[derive(Debug, Default)]
struct Elsewhere {
    pictures: u64,
    /// Since when, in nanoseconds since 1970.
    since: u64,
    /// When the store was last heard.
    heard_at: u64,
}

/// The state of one key.
#[derive(Debug)]
pub(super) struct Meter {
    key: KeyId,
    bucket: Bucket,
    elsewhere: Mutex<Elsewhere>,
    pub(super) usage: Usage,
    pub(super) seen: Seen,
    over_limit: AtomicU64,
    said: Bucket,
}

impl Meter {
    pub(super) fn new(key: KeyId) -> Self {
        Self {
            key,
            bucket: Bucket::default(),
            elsewhere: Mutex::default(),
            usage: Usage::default(),
            seen: Seen::default(),
            over_limit: AtomicU64::new(0),
            said: Bucket::default(),
        }
    }

    pub(super) fn key(&self) -> KeyId {
        self.key
    }

    /// Takes tokens at the moment `now`, all or none, from what all replicas share as far as it is known here.
    pub(super) fn take(&self, rate: Rate, tokens: u32, now: u64) -> Result<(), Shortage> {
        self.charge(rate, now);
        self.bucket.take(rate, tokens, now)
    }

    /// What is there at the moment `now`.
    pub(super) fn level(&self, rate: Rate, now: u64) -> Level {
        self.charge(rate, now);
        self.bucket.level(rate, now)
    }

    /// Counts what was taken elsewhere until now.
    fn charge(&self, rate: Rate, now: u64) {
        let mut elsewhere = self.elsewhere();
        let pictures = std::mem::take(&mut elsewhere.pictures);
        if pictures > 0 {
            self.bucket.charge(rate, pictures, elsewhere.since, now);
        }
    }

    /// The store has told how many pictures others took since it was last heard.
    pub(super) fn hear(&self, pictures: u64, now: u64) {
        let mut elsewhere = self.elsewhere();
        if elsewhere.pictures == 0 {
            elsewhere.since = elsewhere.heard_at;
        }
        elsewhere.pictures = elsewhere.pictures.saturating_add(pictures);
        elsewhere.heard_at = now;
    }

    fn elsewhere(&self) -> MutexGuard<'_, Elsewhere> {
        self.elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that was over a limit; how many there were, where the log should hear of it again: once a minute.
    pub(super) fn over_limit(&self, now: u64) -> Option<u64> {
        let count = self.over_limit.fetch_add(1, Ordering::Relaxed) + 1;
        let once_a_minute = Rate::new(1.0 / 60.0, 1);
        self.said
            .take(once_a_minute, 1, now)
            .is_ok()
            .then_some(count)
    }

    /// Requests that were over a limit since the start.
    pub(super) fn times_over_limit(&self) -> u64 {
        self.over_limit.load(Ordering::Relaxed)
    }
}

/// When something was last used, and whether that is written down already.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Microseconds since 1970.
    at: AtomicI64,
    announced: AtomicBool,
}

impl Seen {
    /// It was used at `at`; whether somebody must be told to come for it.
    pub(super) fn note(&self, at: DateTime<Utc>) -> bool {
        self.at.fetch_max(at.timestamp_micros(), Ordering::SeqCst);
        !self.announced.load(Ordering::SeqCst) && !self.announced.swap(true, Ordering::SeqCst)
    }

    /// When it was last used.
    pub(super) fn last_at(&self) -> Option<DateTime<Utc>> {
        let at = Some(self.at.load(Ordering::SeqCst)).filter(|&at| at > 0);
        at.and_then(DateTime::from_timestamp_micros)
    }

    /// When it was last used; a use after this call is announced anew.
    fn take_out(&self) -> Option<DateTime<Utc>> {
        self.announced.store(false, Ordering::SeqCst);
        self.last_at()
    }
}

/// Who has something to write down. Holds as many entries as there are keys and tokens, at most.
#[derive(Default)]
pub(super) struct Ledger {
    keys_used: Mutex<Vec<Arc<Meter>>>,
    tokens_used: Mutex<Vec<(TokenId, Arc<Seen>)>>,
    counted: Mutex<Vec<Arc<Meter>>>,
    left_over: Mutex<Vec<(KeyId, NaiveDate, i64)>>,
}

fn locked<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    // A list is whole at every moment.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    pub(super) fn key_used(&self, meter: &Arc<Meter>, at: DateTime<Utc>) {
        if meter.seen.note(at) {
            locked(&self.keys_used).push(Arc::clone(meter));
        }
    }

    pub(super) fn token_used(&self, token: TokenId, seen: &Arc<Seen>, at: DateTime<Utc>) {
        if seen.note(at) {
            locked(&self.tokens_used).push((token, Arc::clone(seen)));
        }
    }

    pub(super) fn settle(&self, meter: &Arc<Meter>, aftermath: Aftermath) {
        if let Some((day, pictures)) = aftermath.left_over {
            locked(&self.left_over).push((meter.key, day, pictures));
        }
        if aftermath.due {
            locked(&self.counted).push(Arc::clone(meter));
        }
    }

    /// What belongs to a day that nobody counts any more, or to a key that is gone.
    pub(super) fn leave_over(&self, entry: (KeyId, NaiveDate, i64)) {
        locked(&self.left_over).push(entry);
    }

    pub(super) fn take_keys_used(&self) -> Vec<(KeyId, DateTime<Utc>)> {
        let meters = std::mem::take(&mut *locked(&self.keys_used));
        let used = meters
            .iter()
            .filter_map(|meter| Some((meter.key, meter.seen.take_out()?)));
        used.collect()
    }

    pub(super) fn take_tokens_used(&self) -> Vec<(TokenId, DateTime<Utc>)> {
        let tokens = std::mem::take(&mut *locked(&self.tokens_used));
        let used = tokens
            .iter()
            .filter_map(|(id, seen)| Some((*id, seen.take_out()?)));
        used.collect()
    }

    /// What was counted, one entry a key and day.
    pub(super) fn take_counted(&self) -> Vec<(KeyId, NaiveDate, i64)> {
        let mut sums: BTreeMap<(KeyId, NaiveDate), i64> = BTreeMap::new();
        for (key, day, pictures) in std::mem::take(&mut *locked(&self.left_over)) {
            *sums.entry((key, day)).or_default() += pictures;
        }
        for meter in std::mem::take(&mut *locked(&self.counted)) {
            if let Some((day, pictures)) = meter.usage.take_out() {
                *sums.entry((meter.key, day)).or_default() += pictures;
            }
        }
        let sums = sums.into_iter().filter(|(_, pictures)| *pictures != 0);
        sums.map(|((key, day), pictures)| (key, day, pictures))
            .collect()
    }
}
