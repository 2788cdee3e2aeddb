//! Keeps a job: it is accepted when it is in the store with all its pictures, and not before.

use chrono::TimeDelta;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{JobError, Jobs, Terms};
use crate::classify::{Options, Reuse};
use crate::domain::callback::EventKind;
use crate::domain::ids::ModelId;
use crate::domain::job::{Job, JobPicture, PictureContent};
use crate::domain::prediction::Asked;
use crate::domain::tenant::TenantId;
use crate::store::{JobBounds, Kept, NewJob, NewJobKey};
use crate::telemetry::trace;

/// How long a client's own name for a request is remembered.
const NAMES_ARE_KEPT: TimeDelta = TimeDelta::hours(24);

/// Pictures up to this size are hashed where they are; larger ones would hold up the runtime.
const HASHED_AT_ONCE: u64 = 256 << 10;

/// A request that nobody waits for.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who asks.
    pub asked: Asked,
    /// The model.
    pub model: ModelId,
    /// A version or an alias as the caller wrote it; `None` lets the rollout choose.
    pub version: Option<String>,
    /// What else was chosen.
    pub options: Options,
    /// What is wanted of the result cache.
    pub reuse: Reuse,
    /// The hash of the header's value that stays with its version, where the model's rollout names one.
    pub unit: Option<String>,
    /// Where the result is sent; `None` for the tenant's own address, where it has one.
    pub callback_url: Option<String>,
    /// The client's own name for the request (`Idempotency-Key`).
    pub key: Option<String>,
    /// The pictures, in order.
    pub pictures: Vec<JobPicture>,
}

/// A request that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is kept.
    New,
    /// The same was accepted before under its name, as this request.
    Before(Uuid),
}

impl Jobs {
    /// Keeps a request; when this returns, it is in the store.
    ///
    /// # Errors
    /// When another request came before under its name, its tenant has too much waiting, or the store is away.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, JobError> {
        let now = self.parts.clock.now();
        let fingerprint = match submission.key {
            Some(_) => Some(fingerprint(&submission).await?),
            None => None,
        };
        let callback_url = match submission.callback_url {
            Some(url) => Some(url),
            None => self.own_address(submission.asked.tenant).await?,
        };
        let terms = Terms {
            version: submission.version,
            top_k: submission.options.top_k,
            min_confidence: submission.options.min_confidence,
            cache: submission.reuse.into(),
            unit: submission.unit,
        };
        let job = Job {
            asked: submission.asked,
            model: submission.model,
            terms: serde_json::to_value(terms).map_err(failed)?,
            callback_url,
            created_at: now,
            traceparent: trace::traceparent(),
        };
        let bounds = JobBounds {
            jobs: self.settings.max_queued_per_tenant,
            bytes: self.settings.max_queued_bytes_per_tenant,
            callbacks: self.settings.max_untold_per_tenant,
        };
        let key = submission.key.as_deref().zip(fingerprint.as_ref());
        let new = NewJob {
            job: &job,
            pictures: &submission.pictures,
            key: key.map(|(key, fingerprint)| NewJobKey {
                key,
                fingerprint,
                forgotten: now - NAMES_ARE_KEPT,
            }),
            bounds,
        };
        match self.parts.store.add_job(&new).await? {
            Kept::New => {
                self.parts.metrics.jobs.accepted.one();
                self.wake.notify_one();
                Ok(Accepted::New)
            }
            Kept::Before(request) => Ok(Accepted::Before(request)),
            Kept::Differs => Err(JobError::Differs),
            Kept::Full => Err(JobError::Full {
                jobs: bounds.jobs,
                bytes: bounds.bytes,
                callbacks: bounds.callbacks,
            }),
        }
    }

    /// The address that a tenant wants its results at.
    async fn own_address(&self, tenant: TenantId) -> Result<Option<String>, JobError> {
        let tenant = self.parts.store.find_tenant(tenant).await?;
        let tenant = tenant.ok_or(JobError::Gone)?;
        let kind = EventKind::PredictionCompleted.as_str();
        let wanted = tenant.events.is_empty() || tenant.events.iter().any(|event| event == kind);
        Ok(tenant.callback_url.filter(|_| wanted))
    }

    /// Names that are remembered were given after this.
    pub(super) fn names_forgotten(&self) -> chrono::DateTime<chrono::Utc> {
        self.parts.clock.now() - NAMES_ARE_KEPT
    }
}

/// SHA-256 of all that was asked: the same whatever the body's form and boundaries were.
async fn fingerprint(submission: &Submission) -> Result<[u8; 32], JobError> {
    let asked = json!({
        "model": submission.model.as_str(),
        "version": submission.version,
        "top_k": submission.options.top_k,
        "min_confidence": submission.options.min_confidence,
        "callback_url": submission.callback_url,
        "pictures": submission.pictures.len(),
    });
    let pictures = submission.pictures.clone();
    let digest = move || {
        let mut digest = Sha256::new();
        digest.update(asked.to_string());
        for picture in &pictures {
            digest.update(Value::from(picture.filename.as_deref()).to_string());
            match &picture.content {
                PictureContent::Waiting(bytes) => digest.update(Sha256::digest(bytes)),
                // Why it was refused names the request, which is another one each time.
                PictureContent::Ended(result) => {
                    let code = result.pointer("/error/code").unwrap_or(&Value::Null);
                    digest.update(code.to_string());
                }
            }
        }
        digest.finalize().into()
    };
    let bytes = submission.pictures.iter().map(JobPicture::bytes);
    if bytes.sum::<u64>() <= HASHED_AT_ONCE {
        return Ok(digest());
    }
    tokio::task::spawn_blocking(digest).await.map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> JobError {
    JobError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::tenant::KeyId;

    fn submission(picture: &'static [u8]) -> Submission {
        Submission {
            asked: Asked {
                request_id: Uuid::now_v7(),
                tenant: TenantId(Uuid::now_v7()),
                key: KeyId(Uuid::now_v7()),
                client_request_id: None,
                trace_id: None,
            },
            model: "digits".parse().expect("an id"),
            version: None,
            options: Options::default(),
            reuse: Reuse::Allowed,
            unit: None,
            callback_url: None,
            key: Some("k".to_owned()),
            pictures: vec![JobPicture {
                index: 0,
                filename: None,
                content: PictureContent::Waiting(Bytes::from_static(picture)),
            }],
        }
    }

    #[tokio::test]
    async fn a_fingerprint_is_of_what_was_asked_and_not_of_who_asked_when() {
        let first = fingerprint(&submission(b"a")).await.expect("a digest");
        assert_eq!(fingerprint(&submission(b"a")).await, Ok(first));
        let other = |change: fn(&mut Submission)| {
            let mut other = submission(b"a");
            change(&mut other);
            other
        };
        for other in [
            submission(b"b"),
            other(|one| one.version = Some("2".to_owned())),
            other(|one| one.options.top_k = Some(1)),
            other(|one| one.options.min_confidence = Some(0.5)),
            other(|one| one.callback_url = Some("https://example.com".to_owned())),
            other(|one| one.pictures[0].filename = Some("a.png".to_owned())),
            other(|one| one.pictures.clear()),
            other(|one| one.model = "other".parse().expect("an id")),
        ] {
            assert_ne!(fingerprint(&other).await, Ok(first), "{other:?}");
        }
    }
}
