//! What stands between the kernel's queue and a connection's task: places, the pause after accept errors, file limits.
//! Called by the accept loop in `mod.rs` alone. Must not know HTTP.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Raises the soft limit of open files to the hard one; returns the limit before and after.
///
/// `u64::MAX` stands for no limit. A refusal by the kernel is logged and leaves the limit as it was.
#[must_use]
pub fn raise_open_file_limit() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if before >= most {
        return (before, before);
    }
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        Ok(()) => (before, most),
        Err(error) => {
            tracing::warn!(%error, before, most, "open-file limit not raised");
            (before, before)
        }
    }
}

/// Counts the connections that are alive.
#[derive(Debug)]
pub(super) struct Admission {
    taken: Arc<AtomicUsize>,
    normal: usize,
    all: usize,
}

impl Admission {
    pub(super) fn new(normal: usize, reserved: usize) -> Self {
        Self {
            taken: Arc::default(),
            normal,
            all: normal.saturating_add(reserved),
        }
    }

    /// A place, or nothing when even the reserved ones are taken.
    pub(super) fn enter(&self) -> Option<Place> {
        let before = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                (taken < self.all).then(|| taken + 1)
            })
            .ok()?;
        Some(Place {
            taken: Arc::clone(&self.taken),
            reserved: before >= self.normal,
        })
    }
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<AtomicUsize>,
    reserved: bool,
}

impl Place {
    /// Whether only health checks may be answered on it.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Paces the accept loop while the machine is out of descriptors or memory: the connection that could not be accepted
/// stays in the queue, so the next attempt fails at once and a loop without a pause would spin.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    failures: u64,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            next: FIRST_PAUSE,
            failures: 0,
        }
    }

    pub(super) fn accepted(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "accepting again");
            *self = Self::new();
        }
    }

    /// How long to pause; nothing for an error of the one connection that was to be accepted.
    pub(super) fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
        ) {
            return None;
        }
        if self.failures == 0 {
            tracing::warn!(%error, "cannot accept connections, pausing");
        }
        self.failures += 1;
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_start_anew() {
        let mut backoff = Backoff::new();
        let emfile = io::Error::from_raw_os_error(24);
        let pauses: Vec<u128> = (0..7)
            .filter_map(|_| backoff.failed(&emfile))
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        backoff.accepted();
        assert_eq!(backoff.failed(&emfile), Some(FIRST_PAUSE));
    }

    #[test]
    fn an_aborted_connection_is_no_reason_to_pause() {
        let mut backoff = Backoff::new();
        assert_eq!(
            backoff.failed(&io::ErrorKind::ConnectionAborted.into()),
            None
        );
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::new(1, 1);
        let [first, second] = [admission.enter(), admission.enter()];
        let reserved = |place: &Option<Place>| place.as_ref().map(Place::is_reserved);
        assert_eq!(
            (reserved(&first), reserved(&second)),
            (Some(false), Some(true))
        );
        assert!(admission.enter().is_none());
        drop(first);
        drop(second);
        assert!(admission.enter().is_some_and(|place| !place.is_reserved()));
    }
}
