//! `[jobs]`: classifications that nobody waits for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[jobs]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobsConfig {
    /// Jobs that this gateway works on at the same time; 0 for as many as there are cores.
    pub concurrency: usize,
    /// Jobs of one tenant that may wait, those that are worked on included.
    pub max_queued_per_tenant: u64,
    /// Bytes of one tenant's pictures that may wait so.
    pub max_queued_bytes_per_tenant: u64,
    /// Callbacks to one tenant that may wait to arrive; over it no job is taken that would end with another one.
    pub max_untold_per_tenant: u64,
    /// How long a job is one gateway's alone; it is renewed while that works on it.
    pub lease: Seconds,
    /// How often a job is begun that ends with its gateway each time.
    pub max_attempts: u32,
    /// How long a job is tried while its model cannot take it.
    pub give_up_after: Seconds,
    /// How long a job's results are kept.
    pub retention: Seconds,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self {
            concurrency: 0,
            max_queued_per_tenant: 1000,
            max_queued_bytes_per_tenant: 256 << 20,
            max_untold_per_tenant: 10_000,
            lease: Seconds::new(30),
            max_attempts: 3,
            give_up_after: Seconds::new(3600),
            retention: Seconds::new(24 * 3600),
        }
    }
}

/// A shorter lease would be lost to a slow database.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// What nobody means to wait for.
const LONGEST: Duration = Duration::from_hours(366 * 24);

impl JobsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.concurrency > 1024 {
            return Err(bad("jobs.concurrency", "must be 1024 at most"));
        }
        if self.max_untold_per_tenant > u64::from(u32::MAX) {
            let most = format!("must be {} at most", u32::MAX);
            return Err(bad("jobs.max_untold_per_tenant", most));
        }
        if !(1..=1000).contains(&self.max_attempts) {
            return Err(bad("jobs.max_attempts", "must be 1 to 1000"));
        }
        for (key, value, least) in [
            ("jobs.lease", self.lease, SHORTEST_LEASE),
            ("jobs.give_up_after", self.give_up_after, Duration::ZERO),
            ("jobs.retention", self.retention, Duration::ZERO),
        ] {
            if value.get() < least || value.get() > LONGEST {
                let (least, most) = (least.as_secs(), LONGEST.as_secs());
                return Err(bad(key, format!("must be {least}s to {most}s")));
            }
        }
        Ok(())
    }
}
