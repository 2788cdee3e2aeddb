//! `[predictions]`: the prediction log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[predictions]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PredictionsConfig {
    /// Whether predictions are logged.
    pub log: bool,
    /// The folder in which they wait for the database.
    pub spool: PathBuf,
    /// Bytes that may wait there; beyond it the oldest go.
    pub spool_max_bytes: u64,
    /// Whether every write there is waited for until it is on the disk.
    pub fsync: bool,
    /// Days that predictions are kept; 0 for ever.
    pub retention_days: u32,
}

impl Default for PredictionsConfig {
    fn default() -> Self {
        Self {
            log: true,
            spool: PathBuf::from("data/spool"),
            spool_max_bytes: 1 << 30,
            fsync: false,
            retention_days: 30,
        }
    }
}

/// Less than that is no room for an outage.
const LEAST: u64 = 1 << 20;
/// A hundred years.
const MOST_DAYS: u32 = 36_500;

impl PredictionsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.spool.as_os_str().is_empty() {
            return Err(bad("predictions.spool", "must name a folder"));
        }
        if self.spool_max_bytes < LEAST {
            return Err(bad(
                "predictions.spool_max_bytes",
                format!("must be at least {LEAST}"),
            ));
        }
        if self.retention_days > MOST_DAYS {
            return Err(bad(
                "predictions.retention_days",
                format!("must be {MOST_DAYS} at most; 0 keeps them for ever"),
            ));
        }
        Ok(())
    }
}
