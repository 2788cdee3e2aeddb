//! `[model_store]`: where the models lie and how changes are noticed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[model_store]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelStoreConfig {
    /// A folder.
    pub url: String,
    /// Whether and how often the folder is scanned because its file system sends no events.
    pub poll: Poll,
    /// Milliseconds without a change before a file counts as written.
    pub quiet_ms: u64,
}

/// `model_store.poll`: `false`, `true` (every 2 s) or an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "poll must be false, true or a duration like 2s")]
pub enum Poll {
    /// Off, or on at the usual interval.
    Switch(bool),
    /// On at this interval; 0 is off.
    Every(Seconds),
}

impl Poll {
    /// The interval, `None` when polling is off.
    #[must_use]
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::Switch(false) => None,
            Self::Switch(true) => Some(Duration::from_secs(2)),
            Self::Every(interval) => Some(interval.get()).filter(|every| !every.is_zero()),
        }
    }
}

impl Default for ModelStoreConfig {
    fn default() -> Self {
        Self {
            url: "model-store".to_owned(),
            poll: Poll::Switch(false),
            quiet_ms: 200,
        }
    }
}

impl ModelStoreConfig {
    /// The folder that `url` names.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(self.url.strip_prefix("file://").unwrap_or(&self.url)).to_path_buf()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let key = "model_store.url";
        if self.url.is_empty() {
            return Err(bad(key, "must name a folder"));
        }
        match self.url.split_once("://") {
            None | Some(("file", _)) => Ok(()),
            Some((scheme, _)) => Err(bad(
                key,
                format!("has the scheme {scheme}://; allowed in this release is a folder"),
            )),
        }
    }
}
