//! `[cache]`: the results that are kept.

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of cached results; 0 turns the cache off.
    pub max_bytes: u64,
    /// Seconds a result is kept.
    pub ttl_s: u64,
    /// Whether tenants share results (a hit tells one tenant what another has sent).
    pub shared: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            ttl_s: 3600,
            shared: false,
        }
    }
}

/// Seconds of a year: what is meant to be kept for longer is no cache.
const LONGEST: u64 = 365 * 24 * 3600;

impl CacheConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.ttl_s == 0 || self.ttl_s > LONGEST {
            return Err(bad(
                "cache.ttl_s",
                format!("must be 1 to {LONGEST}; cache.max_bytes = 0 turns the cache off"),
            ));
        }
        Ok(())
    }
}
