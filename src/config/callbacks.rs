//! `[callbacks]`: where callbacks may go, how many at a time, and how long they are tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[callbacks]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksConfig {
    /// Whether private and loopback addresses may be called.
    pub allow_private: bool,
    /// Whether `http://` may be called, or `https://` alone.
    pub allow_http: bool,
    /// How long one attempt may take.
    pub timeout: Seconds,
    /// How long its connection may take.
    pub connect_timeout: Seconds,
    /// Attempts at the same time.
    pub max_concurrent: usize,
    /// Attempts at the same time to one host.
    pub max_concurrent_per_host: usize,
    /// The pause after the first attempt that fails.
    pub first_retry: Seconds,
    /// How long it is tried.
    pub give_up_after: Seconds,
    /// How long callbacks are kept once they arrived or were given up.
    pub keep_finished: Seconds,
}

impl Default for CallbacksConfig {
    fn default() -> Self {
        Self {
            allow_private: false,
            allow_http: true,
            timeout: Seconds::new(10),
            connect_timeout: Seconds::new(5),
            max_concurrent: 32,
            max_concurrent_per_host: 4,
            first_retry: Seconds::new(5),
            give_up_after: Seconds::new(24 * 3600),
            keep_finished: Seconds::new(7 * 24 * 3600),
        }
    }
}

/// What nobody means to wait for.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// One attempt holds a place for so long at most.
const LONGEST_ATTEMPT: Duration = Duration::from_mins(5);

impl CallbacksConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, value, most) in [
            ("callbacks.timeout", self.timeout, LONGEST_ATTEMPT),
            (
                "callbacks.connect_timeout",
                self.connect_timeout,
                LONGEST_ATTEMPT,
            ),
            ("callbacks.first_retry", self.first_retry, LONGEST),
            ("callbacks.give_up_after", self.give_up_after, LONGEST),
            ("callbacks.keep_finished", self.keep_finished, LONGEST),
        ] {
            if value.get().is_zero() || value.get() > most {
                let most = most.as_secs();
                return Err(bad(key, format!("must be more than 0 and {most}s at most")));
            }
        }
        for (key, value) in [
            ("callbacks.max_concurrent", self.max_concurrent),
            (
                "callbacks.max_concurrent_per_host",
                self.max_concurrent_per_host,
            ),
        ] {
            if !(1..=1024).contains(&value) {
                return Err(bad(key, "must be 1 to 1024"));
            }
        }
        Ok(())
    }
}
