//! Pictures that were counted against a key's day, in the hands of the request that they were counted for.

use std::sync::Arc;

use chrono::NaiveDate;

use super::meter::{Ledger, Meter};

/// Pictures that were counted. They stay counted unless they are given back; a request that panics gives all of them back.
#[must_use]
pub struct Taken<'a> {
    ledger: &'a Ledger,
    meter: &'a Arc<Meter>,
    day: NaiveDate,
    pictures: u32,
}

impl<'a> Taken<'a> {
    pub(super) fn new(
        ledger: &'a Ledger,
        meter: &'a Arc<Meter>,
        day: NaiveDate,
        pictures: u32,
    ) -> Self {
        Self {
            ledger,
            meter,
            day,
            pictures,
        }
    }

    /// Pictures that failed for reasons of ours do not count: so many, never more than were taken.
    pub fn give_back(&mut self, pictures: usize) {
        let pictures = u32::try_from(pictures)
            .unwrap_or(u32::MAX)
            .min(self.pictures);
        if pictures == 0 {
            return;
        }
        self.pictures -= pictures;
        // To the day that they were counted for, also when that is over.
        let aftermath = self.meter.usage.give_back(pictures, self.day);
        self.ledger.settle(self.meter, aftermath);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_back(usize::MAX);
        }
    }
}
