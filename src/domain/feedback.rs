//! Feedback: the true label that a client sends later for a prediction of its own, and what it is right or wrong about.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ids::{ModelId, VersionNumber};
use super::prediction::{AnsweredBy, Prediction};
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
    /// What was predicted; `None` until the prediction is found. A label that has it is joined.
    pub judged: Option<Judged>,
}

/// What was predicted of a picture: the label is right or wrong about this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The model.
    pub model: ModelId,
    /// The version that answered.
    pub version: VersionNumber,
    /// The arm of the rollout, where there were arms.
    pub arm: Option<String>,
    /// The first class.
    pub class: String,
}

/// A prediction, as far as a label can be about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The request.
    pub request_id: Uuid,
    /// The picture's place in it, from 0.
    pub index: u32,
    /// Whose prediction it is.
    pub tenant: TenantId,
    /// The model that was asked.
    pub model: ModelId,
    /// What answered, or was to answer; `None` where it did not come so far.
    pub answered_by: Option<AnsweredBy>,
    /// The first class; `None` where there is no answer.
    pub class: Option<String>,
}

impl Feedback {
    /// Which picture it is about, and who says it.
    #[must_use]
    pub fn place(&self) -> (Uuid, u32, TenantId) {
        (self.request_id, self.index, self.tenant)
    }
}

impl Subject {
    /// Which picture it is, and whose.
    #[must_use]
    pub fn place(&self) -> (Uuid, u32, TenantId) {
        (self.request_id, self.index, self.tenant)
    }

    /// What a label would be compared with; `None` where there is no answer.
    #[must_use]
    pub fn judged(&self) -> Option<Judged> {
        let by = self.answered_by.as_ref()?;
        Some(Judged {
            model: self.model.clone(),
            version: by.version,
            arm: by.arm.clone(),
            // PostgreSQL has no NUL in a text, and no label that is taken has one.
            class: self.class.as_ref()?.replace('\0', "\u{fffd}"),
        })
    }
}

impl From<Prediction> for Subject {
    fn from(one: Prediction) -> Self {
        Self {
            request_id: one.asked.request_id,
            index: one.index,
            tenant: one.asked.tenant,
            model: one.model,
            answered_by: one.answered_by,
            class: one.answer.map(|answer| answer.class),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Digest;

    #[test]
    fn only_an_answer_can_be_judged() {
        let full = Subject {
            request_id: Uuid::nil(),
            index: 0,
            tenant: TenantId(Uuid::nil()),
            model: "digits".parse().expect("an id"),
            answered_by: Some(AnsweredBy {
                version: "2".parse().expect("a version"),
                digest: Digest::from_bytes([1; 32]),
                arm: Some("candidate".to_owned()),
            }),
            class: Some("a\0b".to_owned()),
        };
        let judged = full.judged().expect("an answer");
        assert_eq!(judged.model, full.model);
        assert_eq!((judged.version.get(), &*judged.class), (2, "a\u{fffd}b"));
        assert_eq!(judged.arm.as_deref(), Some("candidate"));
        let unanswered = Subject {
            class: None,
            ..full.clone()
        };
        let refused = Subject {
            answered_by: None,
            ..full
        };
        assert_eq!((unanswered.judged(), refused.judged()), (None, None));
    }
}
