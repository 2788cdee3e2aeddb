//! How much a day: what a key has used of the current UTC day, here and, as far as the store has told, elsewhere.
//!
//! Counted in memory, for keys without a quota too. What was counted is taken out from time to time, added to the store,
//! and comes back as the total of all replicas; in between it is on its way, and counts on. Called by `meter`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// What was counted of a day and has not been taken out yet; may be negative, where something was given back.
pub(super) type Delta = (NaiveDate, i64);

/// A key's usage of one day; of days before, only what it hands out when a new one begins.
#[derive(Debug)]
pub(super) struct Usage(Mutex<Counts>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    day: NaiveDate,
    /// Of all replicas, as the store last told.
    told: i64,
    /// Taken out, and not among `told` yet.
    on_its_way: i64,
    /// Counted here since.
    fresh: i64,
    /// Somebody was told that there is something to take out, and has not come for it.
    announced: bool,
}

/// What a change of a key's usage leaves to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// There is something to take out, and nobody has been told so before.
    pub(super) due: bool,
    /// What belongs to another day than the one that is counted.
    pub(super) left_over: Option<Delta>,
}

impl Counts {
    fn of(day: NaiveDate) -> Self {
        Self {
            day,
            told: 0,
            on_its_way: 0,
            fresh: 0,
            announced: false,
        }
    }

    fn total(&self) -> u64 {
        let total = self.told + self.on_its_way + self.fresh;
        u64::try_from(total).unwrap_or_default()
    }

    /// Begins another day, where it is another; gives what was counted of the one before.
    fn turn_to(&mut self, day: NaiveDate) -> Option<Delta> {
        if self.day == day {
            return None;
        }
        let next = Self {
            announced: self.announced,
            ..Self::of(day)
        };
        let before = std::mem::replace(self, next);
        (before.fresh != 0).then_some((before.day, before.fresh))
    }

    fn add(&mut self, pictures: i64) -> bool {
        self.fresh += pictures;
        !std::mem::replace(&mut self.announced, true)
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self(Mutex::new(Counts::of(NaiveDate::MIN)))
    }
}

impl Usage {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A handful of plain numbers: whole after a panic as before it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts pictures of `today`; all, or none where that would be more than `limit`.
    ///
    /// # Errors
    /// With what is left of the limit.
    pub(super) fn take(
        &self,
        pictures: u32,
        limit: Option<u64>,
        today: NaiveDate,
    ) -> (Result<(), u64>, Aftermath) {
        let mut counts = self.counts();
        let left_over = counts.turn_to(today);
        let left = limit.map(|limit| limit.saturating_sub(counts.total()));
        let (outcome, due) = match left {
            Some(left) if u64::from(pictures) > left => (Err(left), false),
            _ => (Ok(()), counts.add(i64::from(pictures))),
        };
        (outcome, Aftermath { due, left_over })
    }

    /// Pictures of `day` that do not count after all.
    pub(super) fn give_back(&self, pictures: u32, day: NaiveDate) -> Aftermath {
        self.put(-i64::from(pictures), day)
    }

    fn put(&self, pictures: i64, day: NaiveDate) -> Aftermath {
        let mut counts = self.counts();
        if counts.day == day {
            let due = counts.add(pictures);
            return Aftermath {
                due,
                left_over: None,
            };
        }
        Aftermath {
            due: false,
            left_over: Some((day, pictures)),
        }
    }

    /// What was counted since the last time. From now on it is on its way: [`Self::tell`] or [`Self::put_back`] must follow.
    pub(super) fn take_out(&self) -> Option<Delta> {
        let mut counts = self.counts();
        counts.announced = false;
        let fresh = std::mem::take(&mut counts.fresh);
        counts.on_its_way += fresh;
        (fresh != 0).then_some((counts.day, fresh))
    }

    /// What was taken out did not arrive.
    pub(super) fn put_back(&self, (day, pictures): Delta) -> Aftermath {
        {
            let mut counts = self.counts();
            if counts.day == day {
                counts.on_its_way -= pictures;
            }
        }
        self.put(pictures, day)
    }

    /// The total of all replicas, all that was taken out here among it. Of a day that is over it means nothing any more. Gives how
    /// many others have taken of it since the last time, too.
    pub(super) fn tell(&self, (day, total): Delta) -> (Aftermath, u64) {
        let mut counts = self.counts();
        let left_over = if day > counts.day {
            counts.turn_to(day)
        } else {
            None
        };
        let mut elsewhere = 0;
        if counts.day == day {
            let known = counts.told.saturating_add(counts.on_its_way);
            elsewhere = u64::try_from(total.saturating_sub(known)).unwrap_or_default();
            counts.told = total;
            counts.on_its_way = 0;
        }
        let aftermath = Aftermath {
            due: false,
            left_over,
        };
        (aftermath, elsewhere)
    }

    /// What was used of `today`.
    pub(super) fn of(&self, today: NaiveDate) -> u64 {
        let counts = self.counts();
        if counts.day == today {
            counts.total()
        } else {
            0
        }
    }

    /// What is left of `limit` on `today`.
    pub(super) fn left(&self, limit: u64, today: NaiveDate) -> u64 {
        limit.saturating_sub(self.of(today))
    }
}

/// The time until the next UTC day begins.
pub(super) fn until_midnight(now: DateTime<Utc>) -> std::time::Duration {
    let since = now.time() - NaiveTime::MIN;
    (TimeDelta::days(1) - since).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(of_month: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, of_month).expect("a day")
    }

    const NOTHING: Aftermath = Aftermath {
        due: false,
        left_over: None,
    };
    const DUE: Aftermath = Aftermath {
        due: true,
        left_over: None,
    };

    #[test]
    fn pictures_count_until_the_limit_all_or_none() {
        let usage = Usage::default();
        assert_eq!(usage.left(5, day(1)), 5);
        assert_eq!(usage.take(3, Some(5), day(1)), (Ok(()), DUE));
        assert_eq!(usage.take(3, Some(5), day(1)), (Err(2), NOTHING));
        assert_eq!(usage.take(2, Some(5), day(1)), (Ok(()), NOTHING));
        assert_eq!(usage.take(1, Some(5), day(1)), (Err(0), NOTHING));
        assert_eq!(
            usage.take(1, None, day(1)),
            (Ok(()), NOTHING),
            "counted, not limited"
        );
        assert_eq!(usage.left(5, day(1)), 0);
        assert_eq!(usage.left(7, day(1)), 1);
        assert_eq!(usage.give_back(2, day(1)), NOTHING);
        assert_eq!(usage.left(5, day(1)), 1);
        assert_eq!(usage.take_out(), Some((day(1), 4)));
    }

    #[test]
    fn what_others_took_is_told_once() {
        let usage = Usage::default();
        let _ = usage.take(3, None, day(1));
        assert_eq!(usage.take_out(), Some((day(1), 3)));
        assert_eq!(usage.tell((day(1), 10)).1, 7);
        let _ = usage.take(2, None, day(1));
        assert_eq!(
            usage.tell((day(1), 10)).1,
            0,
            "what is not told yet is not among it"
        );
        assert_eq!(usage.take_out(), Some((day(1), 2)));
        assert_eq!(usage.tell((day(1), 11)).1, 0, "others gave back");
        assert_eq!(usage.tell((day(2), 4)).1, 4, "another day begins at none");
        assert_eq!(usage.tell((day(1), 90)).1, 0, "it is over");
    }

    #[test]
    fn what_is_on_its_way_counts_and_is_neither_lost_nor_doubled() {
        let usage = Usage::default();
        let _ = usage.take(3, None, day(1));
        assert_eq!(usage.take_out(), Some((day(1), 3)));
        assert_eq!(usage.take_out(), None);
        assert_eq!(usage.left(10, day(1)), 7, "on its way");
        let (_, aftermath) = usage.take(2, None, day(1));
        assert_eq!(aftermath, DUE, "the next is due again");
        assert_eq!(usage.left(10, day(1)), 5);
        // The store has it, and four of other replicas.
        assert_eq!(usage.tell((day(1), 7)).0, NOTHING);
        assert_eq!(usage.left(10, day(1)), 1, "told, and two fresh");
        assert_eq!(usage.take_out(), Some((day(1), 2)));
        // This time it did not arrive.
        assert_eq!(usage.put_back((day(1), 2)), DUE);
        assert_eq!(usage.left(10, day(1)), 1);
        assert_eq!(usage.take_out(), Some((day(1), 2)), "it goes again");
        assert_eq!(usage.tell((day(1), 9)).0, NOTHING);
        assert_eq!(usage.left(10, day(1)), 1);
    }

    #[test]
    fn given_back_after_it_was_taken_out_is_due_as_a_negative() {
        let usage = Usage::default();
        let _ = usage.take(3, None, day(1));
        let _ = usage.take_out();
        assert_eq!(usage.give_back(1, day(1)), DUE);
        assert_eq!(usage.left(10, day(1)), 8);
        assert_eq!(usage.take_out(), Some((day(1), -1)));
        let _ = usage.tell((day(1), 2));
        assert_eq!(usage.left(10, day(1)), 8);
    }

    #[test]
    fn a_new_day_begins_at_nothing_and_hands_out_the_old_one() {
        let usage = Usage::default();
        let _ = usage.take(5, Some(5), day(1));
        assert_eq!(usage.left(5, day(2)), 5);
        let (outcome, aftermath) = usage.take(1, Some(5), day(2));
        assert_eq!(outcome, Ok(()));
        let expected = Aftermath {
            due: false,
            left_over: Some((day(1), 5)),
        };
        assert_eq!(aftermath, expected);
        // What was taken yesterday is given back to yesterday.
        let expected = Aftermath {
            due: false,
            left_over: Some((day(1), -2)),
        };
        assert_eq!(usage.give_back(2, day(1)), expected);
        assert_eq!(usage.left(5, day(2)), 4);
        // So is what did not arrive.
        let expected = Aftermath {
            due: false,
            left_over: Some((day(1), 5)),
        };
        assert_eq!(usage.put_back((day(1), 5)), expected);
        assert_eq!(
            usage.tell((day(1), 100)).0,
            NOTHING,
            "yesterday's total says nothing"
        );
        assert_eq!(usage.left(5, day(2)), 4);
    }

    #[test]
    fn a_restart_goes_on_where_the_store_says() {
        let usage = Usage::default();
        assert_eq!(usage.tell((day(1), 4)).0, NOTHING);
        assert_eq!(usage.left(5, day(1)), 1);
        assert_eq!(usage.take(2, Some(5), day(1)).0, Err(1));
        assert_eq!(usage.take(1, Some(5), day(1)).0, Ok(()));
    }

    #[test]
    fn midnight_is_utc_and_never_further_than_a_day() {
        let at = |hour, minute, second| {
            let time = NaiveTime::from_hms_opt(hour, minute, second).expect("a time");
            until_midnight(day(1).and_time(time).and_utc()).as_secs()
        };
        assert_eq!(at(0, 0, 0), 86_400);
        assert_eq!(at(23, 59, 59), 1);
        assert_eq!(at(12, 0, 0), 43_200);
    }
}
