//! `/admin/v1/predictions`.

use std::sync::Arc;

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::AdminPlane;
use super::call::{Administrator, Call, Viewer};
use super::wire::{Deleted, given_time, id, invalid, limit, time, words};
use crate::admin::{Admin, AdminError};
use crate::api::data::{ClassView, TimingView};
use crate::api::problem::ApiError;
use crate::domain::job::JobState;
use crate::domain::prediction::Prediction;
use crate::predictions::{PredictionFilter, PredictionMark};

/// The prediction log.
pub(super) struct PredictionsApi {
    admin: Arc<Admin>,
}

/// One picture of a request, and what became of it.
#[derive(Object)]
struct PredictionView {
    /// The request's id.
    request_id: String,
    /// The picture's place in the request, from 0.
    index: u32,
    /// When the request came.
    at: String,
    /// Whose key it came with.
    tenant_id: String,
    /// The key.
    key_id: String,
    /// The model that was asked.
    model: String,
    /// The version that answered, or was to answer.
    version: Option<u64>,
    /// SHA-256 of that version's model file.
    digest: Option<String>,
    /// The arm of the rollout, where there are arms.
    arm: Option<String>,
    /// SHA-256 of the picture's file.
    picture_digest: Option<String>,
    /// Bytes of the picture's file.
    bytes: Option<u64>,
    /// The picture's format, e.g. `jpeg`.
    format: Option<String>,
    /// Columns of the picture as stored.
    width: Option<u32>,
    /// Rows of the picture as stored.
    height: Option<u32>,
    /// The first class.
    class: Option<String>,
    /// Its confidence.
    confidence: Option<f32>,
    /// The classes that were answered, best first.
    classes: Vec<ClassView>,
    /// Whether the scores came from the result cache.
    cached: bool,
    /// Where the time went, in milliseconds.
    timing_ms: TimingView,
    /// The HTTP status.
    status: u16,
    /// The code of the failure.
    code: Option<String>,
    /// The trace that the request belongs to.
    trace_id: Option<String>,
    /// The client's own name for the request.
    client_request_id: Option<String>,
}

/// A page of the log.
#[derive(Object)]
struct PredictionsView {
    /// Newest first.
    items: Vec<PredictionView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

/// A request.
#[derive(Object)]
struct RequestView {
    /// The request's id.
    request_id: String,
    /// `done`; `failed` where no picture has an answer.
    status: String,
    /// The model that was asked.
    model: String,
    /// One a picture, in order.
    results: Vec<PredictionView>,
}

impl PredictionsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/predictions")]
impl PredictionsApi {
    /// What was predicted, newest first
    #[oai(path = "/", method = "get")]
    #[expect(clippy::too_many_arguments, reason = "one a query parameter")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// Of this tenant.
        tenant: Query<Option<String>>,
        /// By this key.
        key: Query<Option<String>>,
        /// By this model.
        model: Query<Option<String>>,
        /// By this version.
        version: Query<Option<String>>,
        /// With this as the first class.
        class: Query<Option<String>>,
        /// Asked for at this time or later, RFC 3339.
        from: Query<Option<String>>,
        /// Asked for before this time, RFC 3339.
        to: Query<Option<String>>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<PredictionsView>, ApiError> {
        let filter = PredictionFilter {
            tenant: tenant.0.map(|text| id("tenant", &text)).transpose()?,
            key: key.0.map(|text| id("key", &text)).transpose()?,
            model: model.0.map(|text| id("model", &text)).transpose()?,
            version: version.0.map(|text| id("version", &text)).transpose()?,
            class: words("class", class.0)?,
            from: from.0.map(|text| given_time("from", &text)).transpose()?,
            to: to.0.map(|text| given_time("to", &text)).transpose()?,
        };
        let limit = self::limit(limit.0)?;
        let after = after.0.as_deref().map(mark).transpose()?;
        let page = self.admin.predictions(&filter, after, limit).await?;
        Ok(Json(PredictionsView {
            items: page.items.into_iter().map(PredictionView::of).collect(),
            next: page
                .next
                .map(|next| format!("{}.{}", next.request_id, next.index)),
        }))
    }

    /// One request with all of its pictures
    #[oai(path = "/:id", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        id: Path<String>,
    ) -> Result<Json<RequestView>, ApiError> {
        let request_id = id.0.parse().map_err(|_| AdminError::NoPrediction)?;
        let found = self.admin.prediction(request_id).await?;
        let any = found.iter().any(|one| one.code.is_none());
        let model = found.first().map(|first| first.model.to_string());
        Ok(Json(RequestView {
            request_id: request_id.to_string(),
            status: JobState::ended(any).to_string(),
            model: model.unwrap_or_default(),
            results: found.into_iter().map(PredictionView::of).collect(),
        }))
    }

    /// Delete all predictions that a tenant has asked for until now, with what is kept of their pictures
    #[oai(path = "/", method = "delete")]
    async fn delete(
        &self,
        call: Call<Administrator>,
        /// The tenant; it may be gone itself.
        tenant: Query<Option<String>>,
    ) -> Result<Deleted, ApiError> {
        let Some(tenant) = tenant.0 else {
            return Err(invalid(
                "`tenant` is needed: all is deleted that it has asked for",
            ));
        };
        let tenant = id("tenant", &tenant)?;
        self.admin.delete_predictions(&call.actor, tenant).await?;
        Ok(Deleted::Gone)
    }
}

/// A place in the log: a request's id, and a picture's place in it.
fn mark(text: &str) -> Result<PredictionMark, ApiError> {
    let read = || {
        let (request_id, index) = text.split_once('.')?;
        Some(PredictionMark {
            request_id: request_id.parse().ok()?,
            index: index.parse().ok()?,
        })
    };
    read().ok_or_else(|| invalid(format!("`after` is {text:?}, which no `next` has been")))
}

impl PredictionView {
    fn of(one: Prediction) -> Self {
        let (by, picture) = (one.answered_by.as_ref(), one.picture.as_ref());
        let size = picture.and_then(|picture| picture.size);
        let (version, digest) = (
            by.map(|by| by.version.get()),
            by.map(|by| by.digest.to_string()),
        );
        let arm = by.and_then(|by| by.arm.clone());
        let (class, confidence, classes) = match one.answer.clone() {
            Some(answer) => (Some(answer.class), Some(answer.confidence), answer.classes),
            None => (None, None, Vec::new()),
        };
        Self {
            request_id: one.asked.request_id.to_string(),
            index: one.index,
            at: time(one.at()),
            tenant_id: one.asked.tenant.to_string(),
            key_id: one.asked.key.to_string(),
            model: one.model.to_string(),
            version,
            digest,
            arm,
            picture_digest: picture.map(|picture| picture.digest.to_string()),
            bytes: picture.map(|picture| picture.bytes),
            format: picture.and_then(|picture| picture.format.clone()),
            width: size.map(|(width, _)| width),
            height: size.map(|(_, height)| height),
            class,
            confidence,
            classes: classes.into_iter().map(ClassView::recorded).collect(),
            cached: one.cached,
            timing_ms: TimingView::recorded(one.timings),
            status: one.status,
            code: one.code,
            trace_id: one.asked.trace_id,
            client_request_id: one.asked.client_request_id,
        }
    }
}
