//! What was put in the archive lately: the same picture is not put again on the same day.

use std::collections::HashSet;

use chrono::NaiveDate;

use super::waiting::Key;
use crate::domain::tenant::TenantId;

/// Pictures that are remembered at least, and half of what is remembered at most: some 10 MB.
const REMEMBERED: usize = 65_536;

/// Two generations of pictures of one day: when the younger is full, the older one goes.
#[derive(Default)]
pub(super) struct Lately {
    day: NaiveDate,
    younger: HashSet<Key>,
    older: HashSet<Key>,
}

impl Lately {
    /// Whether a picture was put on this day, as far as is remembered.
    pub(super) fn knows(&self, key: &Key, today: NaiveDate) -> bool {
        self.day == today && (self.younger.contains(key) || self.older.contains(key))
    }

    /// Remembers that a picture was put.
    pub(super) fn add(&mut self, key: Key, today: NaiveDate) {
        if self.day != today {
            *self = Self {
                day: today,
                ..Self::default()
            };
        }
        if self.younger.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(key);
    }

    /// Remembers nothing of a tenant.
    pub(super) fn forget(&mut self, tenant: TenantId) {
        for keys in [&mut self.younger, &mut self.older] {
            keys.retain(|(of, _)| *of != tenant);
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

    #[test]
    fn a_day_is_remembered_up_to_a_bound() {
        let mut lately = Lately::default();
        let today = NaiveDate::MIN + chrono::Days::new(9);
        for number in 0..3 * REMEMBERED {
            assert!(!lately.knows(&key(number), today));
            lately.add(key(number), today);
            assert!(lately.knows(&key(number), today));
            assert!(lately.younger.len() + lately.older.len() <= 2 * REMEMBERED);
        }
        assert!(lately.knows(&key(2 * REMEMBERED), today));
        assert!(!lately.knows(&key(0), today), "the oldest go");
    }

    #[test]
    fn another_day_and_a_forgotten_tenant_begin_anew() {
        let mut lately = Lately::default();
        let today = NaiveDate::MIN + chrono::Days::new(9);
        lately.add(key(1), today);
        lately.add(key(2), today);
        lately.forget(key(1).0);
        assert!(!lately.knows(&key(1), today) && lately.knows(&key(2), today));
        let tomorrow = today + chrono::Days::new(1);
        assert!(!lately.knows(&key(2), tomorrow));
        lately.add(key(4), tomorrow);
        assert!(!lately.knows(&key(2), tomorrow) && lately.knows(&key(4), tomorrow));
    }
}
