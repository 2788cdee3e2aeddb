//! True labels: taken for predictions of one's own, also for those that only another replica's spool has yet.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Predictions, ReadError};
use crate::domain::error::ErrorKind;
use crate::domain::feedback::Feedback;
use crate::domain::prediction::{Prediction, time_of};
use crate::domain::tenant::TenantId;
use crate::store::StoreError;

/// How old a request may be of which nothing is known here: another replica may still have it.
const MAY_BE_UNDER_WAY: TimeDelta = TimeDelta::hours(1);

/// What another replica's clock may be ahead.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(1);

/// What became of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is kept with its prediction.
    Joined,
    /// It is kept, and joined when the prediction is there.
    Later,
}

/// Why a label was not kept. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// There is no such prediction, or it is not the caller's.
    #[error("there is no such prediction")]
    NotFound,
    /// The picture has no answer that a label could be compared with.
    #[error("the picture has no answer: there is nothing to say of it")]
    Unanswered,
    /// The model has no such label.
    #[error("model {model} has no label {label:?}")]
    Label {
        /// The model.
        model: String,
        /// What was given.
        label: String,
    },
    /// The log could not be read or written.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl FeedbackError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::PredictionNotFound,
            Self::Unanswered => ErrorKind::Conflict,
            Self::Label { .. } => ErrorKind::InvalidLabel,
            Self::Read(error) => error.kind(),
        }
    }
}

impl From<StoreError> for FeedbackError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}

impl Predictions {
    /// Keeps a label. `may_use` says whether the caller may see a prediction's model, `is_label` whether the version that
    /// answered has the label (`None` where that is not known any more).
    ///
    /// # Errors
    /// When there is no such prediction, it has no answer, the label is none of its model's, or the store is away.
    pub async fn tell(
        &self,
        feedback: &Feedback,
        may_use: impl Fn(&Prediction) -> bool + Send,
        is_label: impl Fn(&Prediction) -> Option<bool> + Send,
    ) -> Result<Told, FeedbackError> {
        let found = self.find(feedback.request_id, None).await?;
        let is_known = !found.is_empty();
        let own =
            |one: &Prediction| one.asked.tenant == feedback.tenant && one.index == feedback.index;
        let told = match found.into_iter().find(own) {
            Some(one) if !may_use(&one) => return Err(FeedbackError::NotFound),
            Some(one) if one.answer.is_none() => return Err(FeedbackError::Unanswered),
            Some(one) if is_label(&one) == Some(false) => {
                return Err(FeedbackError::Label {
                    model: one.model.to_string(),
                    label: feedback.label.clone(),
                });
            }
            Some(_) => Told::Joined,
            // Another tenant's, or a picture that is none of the request's.
            None if is_known || !is_recent(feedback.request_id, feedback.at) => {
                return Err(FeedbackError::NotFound);
            }
            None => Told::Later,
        };
        let is_joined = told == Told::Joined;
        if self.store().put_feedback(feedback, is_joined).await? {
            Ok(told)
        } else {
            Err(FeedbackError::NotFound)
        }
    }

    /// The labels that a tenant has told for a request's pictures, in their order.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn told(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Vec<Feedback>, ReadError> {
        Ok(self.store().find_feedback(request_id, tenant).await?)
    }
}

/// Whether a request came so lately that its record may not have arrived.
fn is_recent(request_id: Uuid, now: DateTime<Utc>) -> bool {
    let asked = time_of(request_id);
    asked > now - MAY_BE_UNDER_WAY && asked < now + CLOCKS_DIFFER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prediction::first_id_at;

    #[test]
    fn only_a_request_of_the_last_hour_may_be_under_way() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
        for (seconds, recent) in [
            (0, true),
            (-3599, true),
            (-3600, false),
            (59, true),
            (60, false),
        ] {
            let id = first_id_at(now + TimeDelta::seconds(seconds));
            assert_eq!(is_recent(id, now), recent, "{seconds}");
        }
        assert!(!is_recent(Uuid::nil(), now) && !is_recent(Uuid::max(), now));
    }
}
