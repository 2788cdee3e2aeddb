//! `GET /v1/predictions/{request_id}`: what was answered, read again by whom it was answered to.

use std::borrow::Cow;
use std::sync::Arc;

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromJSON, ParseResult, ToJSON, Type};
use poem_openapi::{Object, OpenApi, Union};
use serde_json::Value;

use super::answer::{BatchResult, ClassView, TimingView};
use crate::api::DataPlane;
use crate::api::problem::{ApiError, status_of};
use crate::api::security::{Authorized, ToLook};
use crate::domain::error::ErrorKind;
use crate::domain::job::JobState;
use crate::domain::prediction::Prediction;
use crate::jobs::{JobStanding, Jobs};
use crate::predictions::Predictions;

/// One's own predictions.
pub struct PredictionsApi {
    predictions: Predictions,
    jobs: Arc<Jobs>,
}

/// What became of a request, whether its caller waited or not.
#[derive(Union)]
enum PredictionView {
    Job(JobResponse),
    Recorded(PredictionResponse),
}

/// How a request stands that nobody waits for, while it is under way and a while after.
#[derive(Object)]
struct JobResponse {
    /// The request's id.
    request_id: String,
    /// `queued`, `running`, `done`, or `failed` where no picture has an answer.
    status: String,
    /// The model that was asked.
    model: String,
    /// One a picture, in order, as `batch-classify` answers them; empty until all have come out.
    results: Vec<KeptResult>,
}

/// A result as it was kept: what an older release worded differently stays so.
struct KeptResult(Value);

/// What became of a request.
#[derive(Object)]
pub(in crate::api) struct PredictionResponse {
    /// The request's id.
    request_id: String,
    /// `done`; `failed` where no picture has an answer.
    status: String,
    /// The model that was asked.
    model: String,
    /// One a picture, in order.
    results: Vec<RecordedResult>,
}

/// What became of a picture.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::api) struct RecordedResult {
    /// The picture's place in the request, from 0.
    index: u32,
    /// The model that was asked.
    model: String,
    /// The version that answered, or was to answer.
    version: Option<u64>,
    /// SHA-256 of that version's model file.
    digest: Option<String>,
    /// The first class.
    class: Option<String>,
    /// Its confidence, not rounded.
    confidence: Option<f32>,
    /// The classes that were answered, best first.
    classes: Option<Vec<ClassView>>,
    /// The arm of the rollout that answered, where there are arms.
    arm: Option<String>,
    /// Whether the scores came from the result cache.
    cached: bool,
    /// Where the time went, in milliseconds.
    timing_ms: TimingView,
    /// The picture, without its content.
    image: Option<RecordedImage>,
    /// The true label, where it was told.
    feedback: Option<String>,
    /// Why there is no answer.
    error: Option<RecordedError>,
}

/// What is known of a picture; its content is not kept here.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::api) struct RecordedImage {
    /// SHA-256 of its file.
    digest: String,
    /// Bytes of its file.
    bytes: u64,
    /// Its format, e.g. `jpeg`.
    format: Option<String>,
    /// Columns as stored.
    width: Option<u32>,
    /// Rows as stored.
    height: Option<u32>,
}

/// Why there was no answer.
#[derive(Object)]
pub(in crate::api) struct RecordedError {
    /// The kind of failure for people.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The kind of failure for programs.
    code: String,
}

impl PredictionsApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            predictions: plane.predictions.clone(),
            jobs: Arc::clone(&plane.jobs),
        }
    }
}

#[OpenApi]
impl PredictionsApi {
    /// What was answered to a request of one's own, or will be
    #[oai(path = "/v1/predictions/:request_id", method = "get")]
    async fn get(
        &self,
        holder: Authorized<ToLook>,
        /// The `request_id` of an answer.
        request_id: Path<String>,
    ) -> Result<Json<PredictionView>, ApiError> {
        let not_found = || {
            let detail = format!("there is no prediction {:?}", request_id.0);
            ApiError::new(ErrorKind::PredictionNotFound, detail)
        };
        holder.admit()?;
        let id = request_id.0.parse().map_err(|_| not_found())?;
        let tenant = holder.tenant_id();
        // While the store is away, this replica's spool may still know of those that were waited for.
        let away = match self.jobs.find(id, tenant).await {
            Ok(Some(standing)) if holder.may_use(&standing.job.model) => {
                return Ok(Json(PredictionView::Job(JobResponse::of(standing))));
            }
            Ok(Some(_)) => return Err(not_found()),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let found = self.predictions.find(id, Some(tenant)).await?;
        let model = found.first().map(|first| &first.model);
        let model = model.filter(|model| holder.may_use(model));
        let model = model.ok_or_else(|| away.map_or_else(not_found, ApiError::from))?;
        let model = model.to_string();
        let mut results: Vec<RecordedResult> = found.into_iter().map(RecordedResult::of).collect();
        // What this replica's spool has is told while the store is away, without what only that knows.
        for told in self.predictions.told(id, tenant).await.unwrap_or_default() {
            let result = results.iter_mut().find(|result| result.index == told.index);
            if let Some(result) = result {
                result.feedback = Some(told.label);
            }
        }
        let any = results.iter().any(|result| result.error.is_none());
        Ok(Json(PredictionView::Recorded(PredictionResponse {
            request_id: id.to_string(),
            status: JobState::ended(any).to_string(),
            model,
            results,
        })))
    }
}

impl JobResponse {
    fn of(standing: JobStanding) -> Self {
        Self {
            request_id: standing.job.asked.request_id.to_string(),
            status: standing.state.as_str().to_owned(),
            model: standing.job.model.to_string(),
            results: standing.results.into_iter().map(KeptResult).collect(),
        }
    }
}

impl Type for KeptResult {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        BatchResult::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        BatchResult::schema_ref()
    }

    fn register(registry: &mut Registry) {
        BatchResult::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(
        &'a self,
    ) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for KeptResult {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Ok(Self(value.unwrap_or_default()))
    }
}

impl ToJSON for KeptResult {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone())
    }
}

impl RecordedResult {
    fn of(one: Prediction) -> Self {
        let (class, confidence, classes) = match one.answer {
            Some(answer) => {
                let classes = answer
                    .classes
                    .into_iter()
                    .map(ClassView::recorded)
                    .collect();
                (Some(answer.class), Some(answer.confidence), Some(classes))
            }
            None => (None, None, None),
        };
        let by = one.answered_by;
        let size = one.picture.as_ref().and_then(|picture| picture.size);
        Self {
            index: one.index,
            model: one.model.to_string(),
            version: by.as_ref().map(|by| by.version.get()),
            digest: by.as_ref().map(|by| by.digest.to_string()),
            class,
            confidence,
            classes,
            arm: by.and_then(|by| by.arm),
            cached: one.cached,
            timing_ms: TimingView::recorded(one.timings),
            image: one.picture.map(|picture| RecordedImage {
                digest: picture.digest.to_string(),
                bytes: picture.bytes,
                format: picture.format,
                width: size.map(|(width, _)| width),
                height: size.map(|(_, height)| height),
            }),
            feedback: None,
            error: one.code.map(|code| RecordedError {
                title: ErrorKind::named(&code)
                    .map_or("It failed", |kind| status_of(kind).1)
                    .to_owned(),
                status: one.status,
                code,
            }),
        }
    }
}
