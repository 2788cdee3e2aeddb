//! Classifications that nobody waits for: kept in the store with their pictures, taken by one replica at a time, and ended
//! with their results and, where somebody is to be told, a callback in the outbox.
//!
//! `submit` keeps them, `read` says how they stand, `worker` takes them, `run` carries one out, `lease` keeps it this
//! replica's alone. Called by `api`; the worker is started by `lifecycle`. Knows no HTTP: how a result is worded it is told.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::callbacks::{Outbox, check_url};
use crate::classify::{Classification, Classifier, ClassifyError, Options, Reuse};
use crate::config::JobsConfig;
use crate::domain::clock::Clock;
use crate::domain::error::ErrorKind;
use crate::domain::tenant::KeyId;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

mod lease;
mod read;
mod run;
mod submit;
mod worker;

pub use submit::{Accepted, Submission};

pub use crate::domain::job::{JobPicture, JobStanding, PictureContent};

/// What became of a picture of a job.
pub struct PictureOutcome<'a> {
    /// The request.
    pub request_id: Uuid,
    /// The picture's place in it, from 0.
    pub index: u32,
    /// The file's name, where the request has one.
    pub filename: Option<&'a str>,
    /// The answer, or why there is none; `Err(None)` where nobody came back with one.
    pub outcome: Result<Classification, Option<ClassifyError>>,
    /// From the request's arrival until now.
    pub total: Duration,
}

/// Words a result as `batch-classify` does.
pub type Wording = fn(PictureOutcome<'_>) -> Value;

/// Whose pictures are counted.
pub trait DayQuota: Send + Sync {
    /// Pictures that were counted for a day and failed for reasons of ours do not count.
    fn give_back(&self, key: KeyId, day: NaiveDate, pictures: u32);
}

/// What jobs are made of.
pub struct Parts {
    /// Where they are kept.
    pub store: Arc<dyn Store>,
    /// What does them.
    pub classifier: Arc<Classifier>,
    /// Who tells of them.
    pub outbox: Arc<Outbox>,
    /// Whose pictures are counted.
    pub quota: Arc<dyn DayQuota>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How results are worded.
    pub wording: Wording,
    /// Where it is counted what becomes of them.
    pub metrics: Arc<Metrics>,
}

/// Classifications that nobody waits for.
pub struct Jobs {
    parts: Parts,
    settings: JobsConfig,
    /// There is one more.
    wake: Notify,
}

/// What was chosen beside model and picture, as the store keeps it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Terms {
    /// A version or an alias as the caller wrote it.
    version: Option<String>,
    top_k: Option<usize>,
    min_confidence: Option<f32>,
    cache: CacheTerms,
    /// The hash of the header's value that stays with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CacheTerms {
    #[default]
    Allowed,
    Renew,
    Neither,
}

impl Terms {
    fn options(&self) -> Options {
        Options {
            top_k: self.top_k,
            min_confidence: self.min_confidence,
        }
    }

    fn reuse(&self) -> Reuse {
        match self.cache {
            CacheTerms::Allowed => Reuse::Allowed,
            CacheTerms::Renew => Reuse::Renew,
            CacheTerms::Neither => Reuse::Neither,
        }
    }
}

impl From<Reuse> for CacheTerms {
    fn from(reuse: Reuse) -> Self {
        match reuse {
            Reuse::Allowed => Self::Allowed,
            Reuse::Renew => Self::Renew,
            Reuse::Neither => Self::Neither,
        }
    }
}

/// Why a job was not kept or not read. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The address for the result may not be called.
    #[error("`callback_url` is not taken: {0}")]
    Callback(String),
    /// Something else came before under this name.
    #[error("the Idempotency-Key came before with another request")]
    Differs,
    /// The tenant has too much waiting already.
    #[error(
        "too much waits already: {jobs} requests, {bytes} bytes of pictures or {callbacks} callbacks are allowed for a tenant"
    )]
    Full {
        /// Jobs that may wait.
        jobs: u64,
        /// Bytes of pictures that may wait.
        bytes: u64,
        /// Callbacks that may wait to be sent.
        callbacks: u64,
    },
    /// The tenant is gone.
    #[error("the credentials are not valid any more")]
    Gone,
    /// The database cannot be reached; the text is for the log.
    #[error("the database cannot be reached")]
    Away(String),
    /// The database holds or says what it should not; the text is for the log.
    #[error("the request could not be kept")]
    Failed(String),
}

/// When somebody should try again who has too much waiting, and who found the database away.
const FULL: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(1);

impl JobError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Callback(_) => ErrorKind::BadRequest,
            Self::Differs => ErrorKind::Conflict,
            Self::Full { .. } => ErrorKind::RateLimited,
            Self::Gone => ErrorKind::InvalidCredentials,
            Self::Away(_) => ErrorKind::StoreUnavailable,
            Self::Failed(_) => ErrorKind::Internal,
        }
    }

    /// When to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { .. } => Some(FULL),
            Self::Away(_) => Some(AWAY),
            _ => None,
        }
    }

    /// What is logged of it and never shown.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Away(cause) | Self::Failed(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => Self::Away(cause),
            StoreError::NotFound(_) => Self::Gone,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Jobs {
    /// Jobs in a store.
    #[must_use]
    pub fn new(parts: Parts, settings: JobsConfig) -> Self {
        Self {
            parts,
            settings,
            wake: Notify::new(),
        }
    }

    /// Refuses an address that results may not be sent to, as far as the address alone tells.
    ///
    /// # Errors
    /// [`JobError::Callback`].
    pub fn check_callback(&self, url: &str) -> Result<(), JobError> {
        check_url(url, self.parts.outbox.targets())
            .map_err(|error| JobError::Callback(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_back_as_they_were() {
        for reuse in [Reuse::Allowed, Reuse::Renew, Reuse::Neither] {
            let terms = Terms {
                version: Some("stable".to_owned()),
                top_k: Some(3),
                min_confidence: Some(0.1),
                cache: reuse.into(),
                unit: Some("u".to_owned()),
            };
            let kept = serde_json::to_value(&terms).expect("JSON").to_string();
            let back: Terms = serde_json::from_str(&kept).expect("terms");
            assert_eq!(back, terms);
            assert_eq!(back.reuse(), reuse);
        }
    }
}
