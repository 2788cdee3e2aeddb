//! What a report counts in the database: outcomes, times, labels, comparisons with shadows. Read over connections of their
//! own, within a time of their own: these calls may go through millions of rows. The statements are in `sql`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StoreError;
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::prediction::Spent;

mod sql;

/// A time: from its beginning on, before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub from: DateTime<Utc>,
    /// The first moment after it.
    pub to: DateTime<Utc>,
}

/// How many predictions came out alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// The version that answered, or was to answer.
    pub version: VersionNumber,
    /// The first class; `None` where there is no answer.
    pub class: Option<String>,
    /// Whether the scores came from the result cache.
    pub cached: bool,
    /// Whether the failure was ours: a status of 500 or more.
    pub is_error: bool,
    /// The predictions.
    pub n: u64,
    /// The sum of their confidences.
    pub confidence_sum: f64,
    /// How many of their confidences lie in each tenth of 0 to 1; 1 itself in the last.
    pub tenths: [u64; 10],
}

/// Where the time of one picture went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// The version that answered.
    pub version: VersionNumber,
    /// Its time.
    pub spent: Spent,
}

/// The true labels of an arm's predictions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The version that answered.
    pub version: VersionNumber,
    /// The arm of the rollout it answered for, where there were arms.
    pub arm: Option<String>,
    /// Labels there are.
    pub labels: u64,
    /// Labels that are the class that was answered.
    pub correct: u64,
}

/// How often a version and its shadow named the same class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The version that answered.
    pub version: VersionNumber,
    /// The version that ran beside it.
    pub shadow: VersionNumber,
    /// Pictures that were compared.
    pub compared: u64,
    /// Those of them on which both agreed.
    pub agreed: u64,
    /// Pictures of the sample that the shadow was not run on.
    pub dropped: u64,
}

/// A picture on which a version and its shadow disagree.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// The version that answered.
    pub version: VersionNumber,
    /// The version that ran beside it.
    pub shadow: VersionNumber,
    /// The last request with the picture.
    pub request_id: Uuid,
    /// The picture's place in it.
    pub index: u32,
    /// SHA-256 of the picture's file.
    pub picture_digest: Digest,
    /// What was answered.
    pub class: String,
    /// How sure the version was, 0 to 1.
    pub confidence: f64,
    /// What the shadow says.
    pub shadow_class: String,
    /// How sure the shadow was, 0 to 1.
    pub shadow_confidence: f64,
    /// How sure both were of their different classes, 0 to 1.
    pub strength: f64,
    /// When it was found.
    pub at: DateTime<Utc>,
}

/// What a report is made of. A call may take longer than others, 30 s; few run at the same time.
#[async_trait]
pub trait ReportStore: Send + Sync {
    /// How a model's predictions of a window came out, in no order; those that came to no version are left out.
    async fn outcomes(&self, model: &ModelId, window: Window) -> Result<Vec<Outcomes>, StoreError>;
    /// Where the time went of the window's pictures that these versions answered, not from the cache, in no order: of all,
    /// or where `share` is below 1 of about this share of them. On PostgreSQL that is a sample of the table's pages.
    async fn latencies(
        &self,
        model: &ModelId,
        versions: &[VersionNumber],
        window: Window,
        share: f64,
    ) -> Result<Vec<Timed>, StoreError>;
    /// The labels of a model's predictions that were asked for in a window, as far as the prediction is known, by version
    /// and arm, in no order.
    async fn labelled(&self, model: &ModelId, window: Window) -> Result<Vec<Labelled>, StoreError>;
    /// How often versions of a model and their shadows agreed in a window's minutes, the one included in which it begins;
    /// in the order of the versions.
    async fn compared(&self, model: &ModelId, window: Window) -> Result<Vec<Compared>, StoreError>;
    /// The pictures on which these versions and their shadows disagree most, whenever that was; the strongest first.
    async fn disagreements(
        &self,
        model: &ModelId,
        versions: &[VersionNumber],
        limit: u32,
    ) -> Result<Vec<Disagreement>, StoreError>;
}
