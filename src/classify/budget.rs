//! The budget of bytes that bodies and decoded pixels share: over it a request is refused, never queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ClassifyError;

/// The budget; cheap to clone.
#[derive(Clone, Debug)]
pub struct InflightBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: AtomicU64,
    used: AtomicU64,
}

/// Bytes that are held; given back when dropped. May grow while it is shared, as a body streams in.
#[derive(Debug)]
pub struct Reservation {
    budget: InflightBudget,
    bytes: AtomicU64,
}

impl InflightBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
        }))
    }

    /// The whole of it.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Makes it larger or smaller; what is held stays held.
    pub fn set_limit(&self, limit: u64) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`.
    ///
    /// # Errors
    /// [`ClassifyError::TooLargeForBudget`] when they could never be had, [`ClassifyError::OutOfMemoryBudget`] when not now.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, ClassifyError> {
        let reservation = Reservation {
            budget: self.clone(),
            bytes: AtomicU64::new(0),
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }
}

impl Reservation {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes `more` bytes on top, for a body that streams in.
    ///
    /// # Errors
    /// As [`InflightBudget::reserve`]; what was held is still held.
    pub fn grow(&self, more: u64) -> Result<(), ClassifyError> {
        let (limit, used) = (self.budget.limit(), &self.budget.0.used);
        if self.bytes().saturating_add(more) > limit {
            return Err(ClassifyError::TooLargeForBudget { limit });
        }
        used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |held| {
            held.checked_add(more).filter(|sum| *sum <= limit)
        })
        .map_err(|_| ClassifyError::OutOfMemoryBudget)?;
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back() {
        let budget = InflightBudget::new(100);
        let first = budget.reserve(60).expect("room");
        assert!(matches!(
            budget.reserve(60),
            Err(ClassifyError::OutOfMemoryBudget)
        ));
        assert!(matches!(
            budget.reserve(101),
            Err(ClassifyError::TooLargeForBudget { .. })
        ));
        first.grow(40).expect("room");
        assert!(first.grow(1).is_err());
        assert_eq!((first.bytes(), budget.used()), (100, 100));
        budget.set_limit(50);
        assert_eq!(budget.used(), 100, "what is held stays held");
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve(51).is_err());
        assert!(budget.reserve(50).is_ok());
    }
}
