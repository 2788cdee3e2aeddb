//! Run permits: as many as there are cores, for the whole process, so that versions share the cores.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A counting semaphore for threads.
#[derive(Debug)]
pub struct RunPermits {
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to use one core; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit<'p>(&'p RunPermits);

impl RunPermits {
    /// `count` permits, at least one.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(count.max(1)),
            freed: Condvar::new(),
        })
    }

    /// Waits for a permit.
    pub(super) fn acquire(&self) -> Permit<'_> {
        let guard = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(guard, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
