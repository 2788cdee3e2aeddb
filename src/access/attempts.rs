//! Who knocks too often with wrong keys, or with none: a token bucket an address.
//!
//! The buckets are a table of fixed size, and an address finds its own by a keyed hash: it holds as much when a whole
//! network knocks as when nobody does. Two addresses may share one; then one of them hears sooner that there were too
//! many, and loses nothing by it, since whoever has a key that is valid passes in any case.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::limiter::{Bucket, Rate, Shortage};

/// Buckets, 8 bytes each.
const BUCKETS: usize = 1 << 16;

/// The failed attempts of all addresses.
pub(super) struct Attempts {
    per_minute: AtomicU32,
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

impl Attempts {
    /// So many an address and a minute; 0 for any number.
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            per_minute: AtomicU32::new(per_minute),
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// From now on so many; what was counted stays.
    pub(super) fn limit(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Notes an attempt that failed.
    ///
    /// # Errors
    /// When there were too many: with the time until the next one is within the limit.
    pub(super) fn failed(&self, address: IpAddr, now: u64) -> Result<(), Duration> {
        let per_minute = self.per_minute.load(Ordering::Relaxed);
        if per_minute == 0 {
            return Ok(());
        }
        let rate = Rate::new(f64::from(per_minute) / 60.0, per_minute);
        let taken = self.bucket(address).map(|bucket| bucket.take(rate, 1, now));
        match taken {
            None | Some(Ok(())) => Ok(()),
            Some(Err(Shortage::For(wait))) => Err(wait),
            Some(Err(Shortage::Ever)) => Err(rate.fills_in()),
        }
    }

    fn bucket(&self, address: IpAddr) -> Option<&Bucket> {
        let hash = usize::try_from(self.hasher.hash_one(site(address)) >> 32).unwrap_or_default();
        self.buckets.get(hash % BUCKETS)
    }
}

/// What one site has: an IPv4 address, or the first half of an IPv6 address (of the other half anybody has as many as
/// they like).
fn site(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000_000_000;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_its_number_a_minute() {
        let attempts = Attempts::new(60);
        let loud = address("192.0.2.1");
        for _ in 0..60 {
            assert_eq!(attempts.failed(loud, START), Ok(()));
        }
        assert_eq!(attempts.failed(loud, START), Err(Duration::from_secs(1)));
        let second_later = START + 1_000_000_000;
        assert_eq!(attempts.failed(loud, second_later), Ok(()));
        assert!(attempts.failed(loud, second_later).is_err());
        // Of a hundred others, two in a hundred thousand would share its bucket.
        let others = (0..100).filter(|last| {
            let other = address(&format!("198.51.100.{last}"));
            attempts.failed(other, START).is_ok()
        });
        assert!(others.count() >= 99);
    }

    #[test]
    fn a_site_is_an_address_or_half_of_one() {
        let same = |a: &str, b: &str| site(address(a)) == site(address(b));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn none_is_no_limit_and_a_changed_one_is_in_force() {
        let attempts = Attempts::new(0);
        let loud = address("192.0.2.1");
        for _ in 0..10_000 {
            assert_eq!(attempts.failed(loud, START), Ok(()));
        }
        attempts.limit(2);
        assert_eq!(attempts.failed(loud, START), Ok(()));
        assert_eq!(attempts.failed(loud, START), Ok(()));
        assert_eq!(attempts.failed(loud, START), Err(Duration::from_secs(30)));
        attempts.limit(4);
        assert_eq!(attempts.failed(loud, START), Err(Duration::from_secs(15)));
        attempts.limit(0);
        assert_eq!(attempts.failed(loud, START), Ok(()));
    }

    #[test]
    fn a_whole_network_takes_no_more_memory() {
        let attempts = Attempts::new(1);
        let before = attempts.buckets.len();
        let refused = (0..200_000_u32)
            .filter(|&number| {
                let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
                attempts.failed(address, START).is_err()
            })
            .count();
        assert_eq!(attempts.buckets.len(), before);
        assert!(refused > 0, "they share what there is");
    }
}
