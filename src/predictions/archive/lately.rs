//! What was put in the archive lately: the same picture is not put again on the same day, and goes with what its tenant asked
//! for last with it.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};

use super::waiting::Key;
use crate::domain::tenant::TenantId;

/// Pictures that are remembered at least, and half of what is remembered at most: some 15 MB.
const REMEMBERED: usize = 65_536;

/// Two generations of pictures, each of one day: when the younger is full or its day is over, the older one goes. What is of
/// an earlier day is put again, but a deletion still finds it here.
#[derive(Default)]
pub(super) struct Lately {
    younger: Generation,
    older: Generation,
}

#[derive(Default)]
struct Generation {
    day: NaiveDate,
    /// When each was asked for last.
    asked: HashMap<Key, DateTime<Utc>>,
}

impl Lately {
    /// Whether a picture was put on this day, as far as is remembered. Where it was, it is asked for again.
    pub(super) fn renew(&mut self, key: &Key, asked: DateTime<Utc>, today: NaiveDate) -> bool {
        let mut of_today = [&mut self.younger, &mut self.older]
            .into_iter()
            .filter(|generation| generation.day == today);
        let last = of_today.find_map(|generation| generation.asked.get_mut(key));
        last.map(|last| *last = asked.max(*last)).is_some()
    }

    /// Remembers that a picture was put.
    pub(super) fn add(&mut self, key: Key, asked: DateTime<Utc>, today: NaiveDate) {
        if self.younger.day != today || self.younger.asked.len() >= REMEMBERED {
            let new = Generation {
                day: today,
                ..Generation::default()
            };
            self.older = std::mem::replace(&mut self.younger, new);
        }
        let last = self.younger.asked.entry(key).or_insert(asked);
        *last = asked.max(*last);
    }

    /// Pictures of a tenant, and when they were asked for; of one that was put twice, the last time comes last.
    pub(super) fn of(&self, tenant: TenantId) -> impl Iterator<Item = (Key, DateTime<Utc>)> {
        let all = self.older.asked.iter().chain(&self.younger.asked);
        all.filter(move |((of, _), _)| *of == tenant)
            .map(|(key, asked)| (*key, *asked))
    }

    /// Remembers nothing of a tenant.
    pub(super) fn forget(&mut self, tenant: TenantId) {
        for generation in [&mut self.younger, &mut self.older] {
            generation.asked.retain(|(of, _), _| *of != tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::Digest;

    fn key(number: usize) -> Key {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        let tenant = TenantId(Uuid::from_u128(u128::from(number % 2 == 1)));
        (tenant, Digest::from_bytes(digest))
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    #[test]
    fn a_day_is_remembered_up_to_a_bound() {
        let mut lately = Lately::default();
        let today = NaiveDate::MIN + chrono::Days::new(9);
        for number in 0..3 * REMEMBERED {
            assert!(!lately.renew(&key(number), at(0), today));
            lately.add(key(number), at(0), today);
            assert!(lately.renew(&key(number), at(0), today));
            assert!(lately.younger.asked.len() + lately.older.asked.len() <= 2 * REMEMBERED);
        }
        assert!(lately.renew(&key(2 * REMEMBERED), at(0), today));
        assert!(!lately.renew(&key(0), at(0), today), "the oldest go");
    }

    #[test]
    fn another_day_and_a_forgotten_tenant_begin_anew() {
        let mut lately = Lately::default();
        let today = NaiveDate::MIN + chrono::Days::new(9);
        lately.add(key(1), at(0), today);
        lately.add(key(2), at(0), today);
        lately.forget(key(1).0);
        assert!(!lately.renew(&key(1), at(0), today) && lately.renew(&key(2), at(0), today));
        let tomorrow = today + chrono::Days::new(1);
        assert!(!lately.renew(&key(2), at(0), tomorrow));
        lately.add(key(4), at(0), tomorrow);
        assert!(!lately.renew(&key(2), at(0), tomorrow) && lately.renew(&key(4), at(0), tomorrow));
    }

    #[test]
    fn it_is_known_when_each_was_asked_for_last_also_when_its_day_is_over() {
        let mut lately = Lately::default();
        let today = NaiveDate::MIN + chrono::Days::new(9);
        for number in [2, 4, 6, 7] {
            lately.add(key(number), at(5), today);
        }
        assert!(lately.renew(&key(4), at(8), today));
        assert!(lately.renew(&key(4), at(7), today), "it is no later");
        let tomorrow = today + chrono::Days::new(1);
        lately.add(key(6), at(9), tomorrow);
        let of: HashMap<_, _> = lately.of(key(2).0).collect();
        let expected = [(key(2), at(5)), (key(4), at(8)), (key(6), at(9))];
        assert_eq!(of, HashMap::from(expected));
        lately.forget(key(2).0);
        assert_eq!(lately.of(key(2).0).count(), 0);
    }
}
