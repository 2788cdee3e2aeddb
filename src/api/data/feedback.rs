//! True labels, sent later: `POST /v1/predictions/{request_id}/feedback` for one, `POST /v1/predictions/feedback` for many.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi, Union};
use serde::Deserialize;

use crate::api::DataPlane;
use crate::api::json::UnreadJson;
use crate::api::listener::RequestId;
use crate::api::problem::{ApiError, Problem};
use crate::api::security::{Authorized, ToTell};
use crate::classify::Classifier;
use crate::domain::clock::Clock;
use crate::domain::error::ErrorKind;
use crate::domain::feedback::{Feedback, Subject};
use crate::predictions::{FeedbackError, Predictions, Told};

/// True labels.
pub struct FeedbackApi {
    predictions: Predictions,
    classifier: Arc<Classifier>,
    clock: Arc<dyn Clock>,
}

/// What was in the picture.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct FeedbackRequest {
    /// The true label, one of the model's.
    label: String,
    /// The picture's place in the request, from 0; 0 where left out.
    index: Option<u32>,
}

/// What was in several pictures, of one request or of many.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct ManyFeedbackRequest {
    /// 1 to 1000; of several for one picture the last counts.
    #[oai(validator(min_items = 1, max_items = 1000))]
    feedback: Vec<FeedbackItem>,
}

/// What was in one of them.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct FeedbackItem {
    /// The `request_id` of an answer.
    request_id: String,
    /// The picture's place in the request, from 0; 0 where left out.
    index: Option<u32>,
    /// The true label, one of the model's.
    label: String,
}

/// A label that was taken.
#[derive(Object)]
struct FeedbackView {
    /// The request.
    request_id: String,
    /// The picture's place in it.
    index: u32,
    /// The label; of several, the last counts.
    label: String,
    /// `joined`; `pending` where the prediction is not in the database yet.
    status: String,
}

/// What became of several labels.
#[derive(Object)]
struct ManyFeedbackView {
    /// One a label, in order.
    results: Vec<FeedbackResult>,
}

/// What became of one of them.
#[derive(Union)]
enum FeedbackResult {
    Taken(TakenFeedback),
    Refused(RefusedFeedback),
}

/// A label that was taken.
#[derive(Object)]
struct TakenFeedback {
    /// The request.
    request_id: String,
    /// The picture's place in it.
    index: u32,
    /// `joined`; `pending` where the prediction is not in the database yet.
    status: String,
}

/// A label that was not taken.
#[derive(Object)]
struct RefusedFeedback {
    /// The request, as it was named.
    request_id: String,
    /// The picture's place in it.
    index: u32,
    /// What was wrong with this label.
    error: Problem,
}

#[derive(ApiResponse)]
enum FeedbackResponse {
    /// Kept with its prediction
    #[oai(status = 200)]
    Joined(Json<FeedbackView>),
    /// Kept, and joined when the prediction is in the database
    #[oai(status = 202)]
    Later(Json<FeedbackView>),
}

/// Bytes of the longest label that is taken before it can be compared with a model's.
const LONGEST_LABEL: usize = 1024;

/// Labels of one request.
const MOST_LABELS: usize = 1000;

impl From<FeedbackError> for ApiError {
    fn from(error: FeedbackError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl FeedbackItem {
    /// The label, as `holder` says it now.
    fn said(&self, holder: &Authorized<ToTell>, clock: &dyn Clock) -> Result<Feedback, ApiError> {
        let label = &self.label;
        // PostgreSQL has no NUL in a text.
        if label.is_empty() || label.len() > LONGEST_LABEL || label.contains('\0') {
            let detail = format!("`label` must have 1 to {LONGEST_LABEL} bytes, none of them NUL");
            return Err(ApiError::new(ErrorKind::InvalidLabel, detail));
        }
        let request_id = self.request_id.parse();
        Ok(Feedback {
            request_id: request_id.map_err(|_| FeedbackError::NotFound)?,
            index: self.index.unwrap_or_default(),
            tenant: holder.tenant_id(),
            label: label.clone(),
            at: clock.now(),
            judged: None,
        })
    }

    /// What became of it.
    fn result(self, told: Result<Told, ApiError>, id: RequestId) -> FeedbackResult {
        let (request_id, index) = (self.request_id, self.index.unwrap_or_default());
        match told {
            Ok(told) => FeedbackResult::Taken(TakenFeedback {
                request_id,
                index,
                status: status(told).to_owned(),
            }),
            Err(error) => FeedbackResult::Refused(RefusedFeedback {
                request_id,
                index,
                error: error.problem(id),
            }),
        }
    }
}

fn status(told: Told) -> &'static str {
    match told {
        Told::Joined => "joined",
        Told::Later => "pending",
    }
}

impl FeedbackApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            predictions: plane.predictions.clone(),
            classifier: Arc::clone(&plane.classifier),
            clock: Arc::clone(&plane.clock),
        }
    }

    /// Keeps labels, each by itself; gives what became of each, in order.
    async fn keep(
        &self,
        holder: &Authorized<ToTell>,
        items: &[FeedbackItem],
    ) -> Result<Vec<Result<Told, ApiError>>, ApiError> {
        let said = items.iter().map(|item| item.said(holder, &*self.clock));
        let said: Vec<Result<Feedback, ApiError>> = said.collect();
        let labels = said.iter().filter_map(|said| said.as_ref().ok()).cloned();
        let is_label = |one: &Subject, label: &str| {
            let by = one.answered_by.as_ref()?;
            self.classifier.has_label(&one.model, by, label)
        };
        let told = self
            .predictions
            .tell(labels.collect(), |model| holder.may_use(model), is_label)
            .await?;
        let mut told = told.into_iter();
        let outcome = |said: Result<Feedback, ApiError>| {
            said?;
            let told = told.next().unwrap_or(Err(FeedbackError::NotFound));
            told.map_err(ApiError::from)
        };
        Ok(said.into_iter().map(outcome).collect())
    }
}

#[OpenApi]
impl FeedbackApi {
    /// Say what was in a picture that was classified before
    #[oai(path = "/v1/predictions/:request_id/feedback", method = "post")]
    async fn tell(
        &self,
        holder: Authorized<ToTell>,
        /// The `request_id` of an answer.
        request_id: Path<String>,
        body: UnreadJson<FeedbackRequest>,
    ) -> Result<FeedbackResponse, ApiError> {
        holder.admit()?;
        let FeedbackRequest { label, index } = body.read().await?;
        let item = FeedbackItem {
            request_id: request_id.0,
            index,
            label,
        };
        let mut told = self.keep(&holder, std::slice::from_ref(&item)).await?;
        let told = told
            .pop()
            .unwrap_or_else(|| Err(FeedbackError::NotFound.into()))?;
        let view = Json(FeedbackView {
            request_id: item.request_id,
            index: item.index.unwrap_or_default(),
            label: item.label,
            status: status(told).to_owned(),
        });
        Ok(match told {
            Told::Joined => FeedbackResponse::Joined(view),
            Told::Later => FeedbackResponse::Later(view),
        })
    }

    /// Say what was in many pictures; each label is taken or refused by itself
    #[oai(path = "/v1/predictions/feedback", method = "post")]
    async fn tell_many(
        &self,
        request: &Request,
        holder: Authorized<ToTell>,
        body: UnreadJson<ManyFeedbackRequest>,
    ) -> Result<Json<ManyFeedbackView>, ApiError> {
        holder.admit()?;
        let items = body.read().await?.feedback;
        if items.is_empty() {
            let detail = format!("`feedback` must hold 1 to {MOST_LABELS} labels");
            return Err(ApiError::new(ErrorKind::BadRequest, detail));
        }
        if items.len() > MOST_LABELS {
            let detail =
                format!("the request holds more than the {MOST_LABELS} labels that are allowed");
            return Err(ApiError::new(ErrorKind::BatchTooLarge, detail));
        }
        let told = self.keep(&holder, &items).await?;
        let id = RequestId::of(request);
        let results = items.into_iter().zip(told);
        let results = results.map(|(item, told)| item.result(told, id)).collect();
        Ok(Json(ManyFeedbackView { results }))
    }
}
