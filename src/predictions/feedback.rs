//! True labels: taken for predictions of one's own, also for those that only another replica's spool has yet; these are left
//! to `joining`.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::log::is_purged;
use super::subjects::Subjects;
use super::{Predictions, ReadError};
use crate::domain::error::ErrorKind;
use crate::domain::feedback::{Feedback, Judged, Subject};
use crate::domain::ids::ModelId;
use crate::domain::prediction::time_of;
use crate::domain::tenant::TenantId;
use crate::telemetry::metrics::Metrics;

/// How old a request may be of which nothing is known here: another replica may still have it.
pub(super) const MAY_BE_UNDER_WAY: TimeDelta = TimeDelta::hours(1);

/// What another replica's clock may be ahead.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(1);

/// Labels that are compared with their models' in one go: a model may have many, and others have their turn in between.
pub(super) const CHECKED_AT_ONCE: usize = 32;

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
}

impl FeedbackError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::PredictionNotFound,
            Self::Unanswered => ErrorKind::Conflict,
            Self::Label { .. } => ErrorKind::InvalidLabel,
        }
    }
}

impl Predictions {
    /// Keeps labels, each by itself; of several for one picture the last one that is kept counts. `may_use` says whether the
    /// caller may see a model, `is_label` whether the version that answered has the label (`None` where that is not known any
    /// more). Gives what became of each, in order.
    ///
    /// # Errors
    /// When the store is away: no label is kept then.
    pub async fn tell(
        &self,
        labels: Vec<Feedback>,
        may_use: impl Fn(&ModelId) -> bool + Send + Sync,
        is_label: impl Fn(&Subject, &str) -> Option<bool> + Send + Sync,
    ) -> Result<Vec<Result<Told, FeedbackError>>, ReadError> {
        let subjects = self.subjects(&labels).await?;
        let (mut told, mut taken) = (Vec::with_capacity(labels.len()), Vec::new());
        for (place, label) in labels.into_iter().enumerate() {
            if place % CHECKED_AT_ONCE == CHECKED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let judged = judge(&label, &subjects, &may_use, &is_label);
            told.push(judged.map(|judged| {
                let told = judged.as_ref().map_or(Told::Later, |_| Told::Joined);
                taken.push(Feedback { judged, ..label });
                told
            }));
        }
        let kept = self.store().put_feedback(&taken).await?;
        for (label, _) in taken.iter().zip(&kept).filter(|(_, kept)| **kept) {
            count(&self.metrics, label);
        }
        let mut kept = kept.into_iter();
        for outcome in told.iter_mut().filter(|outcome| outcome.is_ok()) {
            // What it is about was deleted meanwhile.
            if kept.next() != Some(true) {
                *outcome = Err(FeedbackError::NotFound);
            }
        }
        Ok(told)
    }

    /// What labels are about, out of the spool and out of the store.
    async fn subjects(&self, labels: &[Feedback]) -> Result<Subjects, ReadError> {
        let mut subjects = Subjects::of(labels);
        // The spool first: what leaves it meanwhile is in the store then.
        if let Some(log) = self.log() {
            let requests = subjects.requests();
            let mut waiting = log.waiting_of(requests, Subject::from).await?;
            if !waiting.is_empty() {
                let purges = self.purges_or_seen().await?;
                waiting.retain(|one| !is_purged(&purges, one.tenant, one.request_id));
            }
            subjects.note(waiting);
        }
        subjects.look_into(self.store()).await?;
        Ok(subjects)
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

/// Counts a label that was joined.
pub(super) fn count(metrics: &Metrics, label: &Feedback) {
    if let Some(judged) = &label.judged {
        let is_correct = judged.class == label.label;
        metrics.labelled(judged.model.as_str(), judged.version.get(), is_correct);
    }
}

/// What a label is about; `None` where that may still turn up.
fn judge(
    label: &Feedback,
    subjects: &Subjects,
    may_use: impl Fn(&ModelId) -> bool,
    is_label: impl Fn(&Subject, &str) -> Option<bool>,
) -> Result<Option<Judged>, FeedbackError> {
    match subjects.of_label(label) {
        Some(one) if !may_use(&one.model) => Err(FeedbackError::NotFound),
        Some(one) => checked(one, label, is_label).map(Some),
        // Another tenant's, or a picture that is none of the request's.
        None if subjects.knows(label.request_id) => Err(FeedbackError::NotFound),
        None if is_recent(label.request_id, label.at) => Ok(None),
        None => Err(FeedbackError::NotFound),
    }
}

/// What a label is about, if that has an answer and its model has the label.
pub(super) fn checked(
    one: &Subject,
    label: &Feedback,
    is_label: impl Fn(&Subject, &str) -> Option<bool>,
) -> Result<Judged, FeedbackError> {
    let judged = one.judged().ok_or(FeedbackError::Unanswered)?;
    if is_label(one, &label.label) == Some(false) {
        return Err(FeedbackError::Label {
            model: one.model.to_string(),
            label: label.label.clone(),
        });
    }
    Ok(judged)
}

/// Whether a request came so lately that its record may not have arrived.
fn is_recent(request_id: Uuid, now: DateTime<Utc>) -> bool {
    let asked = time_of(request_id);
    asked > now - MAY_BE_UNDER_WAY && asked < now + CLOCKS_DIFFER
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::prediction;
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

    #[test]
    fn a_label_is_judged_by_what_is_known_of_its_picture() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
        let (request, owner) = (first_id_at(now), TenantId(Uuid::from_u128(1)));
        let mut one = Subject::from(prediction(request));
        let label = |index, tenant, text: &str| Feedback {
            request_id: request,
            index,
            tenant,
            label: text.to_owned(),
            at: now,
            judged: None,
        };
        let (own, wrong) = (label(3, owner, "8"), label(3, owner, "eight"));
        let foreign = label(3, TenantId(Uuid::from_u128(2)), "8");
        let beside = label(4, owner, "8");
        let old = Feedback {
            at: now + MAY_BE_UNDER_WAY,
            ..own.clone()
        };
        let said = |label: &Feedback, found: Option<&Subject>, may_use: bool| {
            let mut subjects = Subjects::of([label]);
            subjects.note(found.cloned());
            judge(label, &subjects, |_| may_use, |_, text| Some(text == "8"))
        };
        let not_found = Err(FeedbackError::NotFound);
        assert_eq!(said(&own, None, true), Ok(None));
        assert_eq!(said(&old, None, true), not_found);
        assert_eq!(said(&own, Some(&one), true), Ok(one.judged()));
        assert_eq!(said(&old, Some(&one), true), Ok(one.judged()));
        assert!(one.judged().is_some());
        assert_eq!(said(&own, Some(&one), false), not_found);
        for other in [&foreign, &beside] {
            assert_eq!(said(other, Some(&one), true), not_found);
        }
        let refused = said(&wrong, Some(&one), true).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::InvalidLabel));
        one.class = None;
        let refused = said(&own, Some(&one), true);
        assert_eq!(refused, Err(FeedbackError::Unanswered));
    }
}
