//! `[model_store]`: where the models lie and how changes are noticed.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::archive::{is_part, is_server};
use super::{ConfigError, Seconds, bad};

/// `[model_store]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelStoreConfig {
    /// A folder, or a bucket: `s3://`, `gs://` or `az://` with its name and a prefix.
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
    /// Where a bucket's models lie on this machine. Each process has its own.
    pub cache: PathBuf,
    /// The bytes that they may take there; 0 is no bound.
    pub cache_max_bytes: u64,
    /// How long a version that came into the bucket without a `version.json` must stay as it is before it counts.
    pub bucket_quiet: Seconds,
    /// The server of the bucket, where it is not Amazon's.
    pub s3_endpoint: Option<String>,
    /// The bucket's region.
    pub s3_region: Option<String>,
    /// Whether the bucket is named in the path of an address, not in its host.
    pub s3_path_style: bool,
    /// Whether the server may be spoken to without TLS.
    pub s3_allow_http: bool,
}

/// Where the models are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelsPlace {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a bucket.
    Bucket {
        /// Its address: scheme, name and prefix.
        url: String,
        /// Where what was brought from there lies.
        cache: PathBuf,
    },
}

/// Whose buckets are spoken to.
const BUCKETS: [&str; 3] = ["s3", "gs", "az"];

/// How often a bucket is looked at where nothing else is said.
const LOOK_AT_BUCKET: Duration = Duration::from_secs(5);

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
            cache: PathBuf::from("data/model-cache"),
            cache_max_bytes: 20 << 30,
            bucket_quiet: Seconds::new(10),
            s3_endpoint: None,
            s3_region: None,
            s3_path_style: true,
            s3_allow_http: false,
        }
    }
}

impl ModelStoreConfig {
    /// Where the models are.
    #[must_use]
    pub fn place(&self) -> ModelsPlace {
        match self.url.split_once("://") {
            Some((scheme, _)) if BUCKETS.contains(&scheme) => ModelsPlace::Bucket {
                url: self.url.trim_end_matches('/').to_owned(),
                cache: self.cache.clone(),
            },
            Some(("file", folder)) => ModelsPlace::Folder(PathBuf::from(folder)),
            _ => ModelsPlace::Folder(PathBuf::from(&self.url)),
        }
    }

    /// The folder that models are read from on this machine.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        match self.place() {
            ModelsPlace::Folder(folder) => folder,
            ModelsPlace::Bucket { cache, .. } => cache.join("models"),
        }
    }

    /// How often a bucket is looked at.
    #[must_use]
    pub fn look_every(&self) -> Duration {
        self.poll.interval().unwrap_or(LOOK_AT_BUCKET)
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
            return Err(bad(key, "must name a folder or a bucket"));
        }
        match self.url.split_once("://") {
            None | Some(("file", _)) => {}
            Some((scheme, rest)) if BUCKETS.contains(&scheme) => {
                if !rest.trim_end_matches('/').split('/').all(is_part) {
                    return Err(bad(
                        key,
                        "must have a bucket behind its scheme; a prefix has letters, digits and any of . _ - = between its slashes",
                    ));
                }
            }
            Some((scheme, _)) => {
                return Err(bad(
                    key,
                    format!(
                        "has the scheme {scheme}://; allowed are a folder, s3://, gs:// and az://"
                    ),
                ));
            }
        }
        is_server(
            "model_store",
            self.s3_endpoint.as_deref(),
            self.s3_allow_http,
        )?;
        if self.cache.as_os_str().is_empty() {
            return Err(bad("model_store.cache", "must name a folder"));
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
