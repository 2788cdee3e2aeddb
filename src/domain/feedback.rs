//! Feedback: the true label that a client sends later for a prediction of its own.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::tenant::TenantId;

/// The true label of a picture. Of several for one picture, the last counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The request.
    pub request_id: Uuid,
    /// The picture's place in it, from 0.
    pub index: u32,
    /// Whose prediction it is.
    pub tenant: TenantId,
    /// The label.
    pub label: String,
    /// When it came.
    pub at: DateTime<Utc>,
}
