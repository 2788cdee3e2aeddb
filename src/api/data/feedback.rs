//! `POST /v1/predictions/{request_id}/feedback`: the true label, sent later.

use std::sync::Arc;

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use crate::api::DataPlane;
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::api::security::{Authorized, ToTell};
use crate::classify::Classifier;
use crate::domain::clock::Clock;
use crate::domain::error::ErrorKind;
use crate::domain::feedback::Feedback;
use crate::domain::prediction::Prediction;
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

impl From<FeedbackError> for ApiError {
    fn from(error: FeedbackError) -> Self {
        match error {
            FeedbackError::Read(error) => error.into(),
            other => Self::new(other.kind(), other.to_string()),
        }
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
        body: JsonBody<FeedbackRequest>,
    ) -> Result<FeedbackResponse, ApiError> {
        holder.admit()?;
        let FeedbackRequest { label, index } = body.0;
        // PostgreSQL has no NUL in a text.
        if label.is_empty() || label.len() > LONGEST_LABEL || label.contains('\0') {
            let detail = format!("`label` must have 1 to {LONGEST_LABEL} bytes, none of them NUL");
            return Err(ApiError::new(ErrorKind::InvalidLabel, detail));
        }
        let id = request_id.0.parse().map_err(|_| FeedbackError::NotFound)?;
        let feedback = Feedback {
            request_id: id,
            index: index.unwrap_or_default(),
            tenant: holder.tenant_id(),
            label,
            at: self.clock.now(),
        };
        let is_label = |one: &Prediction| {
            let by = one.answered_by.as_ref()?;
            self.classifier.has_label(&one.model, by, &feedback.label)
        };
        let told = self
            .predictions
            .tell(&feedback, |one| holder.may_use(&one.model), is_label)
            .await?;
        let view = |status: &str| {
            Json(FeedbackView {
                request_id: id.to_string(),
                index: feedback.index,
                label: feedback.label.clone(),
                status: status.to_owned(),
            })
        };
        Ok(match told {
            Told::Joined => FeedbackResponse::Joined(view("joined")),
            Told::Later => FeedbackResponse::Later(view("pending")),
        })
    }
}
