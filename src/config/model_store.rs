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
    /// Whether the file system's events are listened to.
    pub watch: bool,
    /// How often everything is looked at although no event came.
    pub scan_interval: Seconds,
    /// The time that a new version may take to be tried in a child process.
    pub trial_timeout: Seconds,
    /// The memory that a new version may take to be tried; 0 goes by its size: 1 GiB and six times its files.
    pub trial_max_bytes: u64,
    /// Where it is remembered what has passed, so that a restart need not try it again; empty: nowhere.
    pub trials_file: PathBuf,
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
            watch: true,
            scan_interval: Seconds::new(60),
            trial_timeout: Seconds::new(30),
            trial_max_bytes: 0,
            trials_file: PathBuf::from("data/trials"),
        }
    }
}

impl ModelStoreConfig {
    /// The folder that `url` names.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(self.url.strip_prefix("file://").unwrap_or(&self.url)).to_path_buf()
    }

    /// How often everything is looked at.
    #[must_use]
    pub fn scan_every(&self) -> Duration {
        let polled = self.poll.interval();
        polled.map_or(self.scan_interval.get(), |every| {
            every.min(self.scan_interval.get())
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let key = "model_store.url";
        if self.url.is_empty() {
            return Err(bad(key, "must name a folder"));
        }
        if let Some((scheme, _)) = self.url.split_once("://").filter(|(s, _)| *s != "file") {
            return Err(bad(
                key,
                format!("has the scheme {scheme}://; allowed in this release is a folder"),
            ));
        }
        for (key, value) in [
            ("model_store.scan_interval", self.scan_interval),
            ("model_store.trial_timeout", self.trial_timeout),
        ] {
            if value < Seconds::new(1) {
                return Err(bad(key, "must be at least 1s"));
            }
        }
        Ok(())
    }
}
