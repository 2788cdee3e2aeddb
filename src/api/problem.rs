//! The one error table: kind → status and title; and the one body that every failure has (RFC 9457).

use std::time::Duration;

use poem::Response;
use poem::error::{MethodNotAllowedError, NotFoundError, ResponseError};
use poem::http::{HeaderValue, StatusCode, header};
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::{ToJSON as _, Type as _};
use poem_openapi::{ApiResponse, Object};

use super::listener::{BodyTimeout, RequestId};
use crate::access::AccessError;
use crate::classify::ClassifyError;
use crate::domain::error::ErrorKind;
use crate::models::Check;
use crate::predictions::ReadError;

/// The media type of every failure's body.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A failure, as RFC 9457 words it.
#[derive(Clone, Debug, Object)]
pub struct Problem {
    /// A name for this kind of failure, `urn:lensgate:problem:<code>`.
    #[oai(rename = "type")]
    pub type_: String,
    /// The kind of failure for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong with this request, and what is allowed.
    pub detail: String,
    /// The kind of failure for programs.
    pub code: String,
    /// The request's id, also in the header `X-Request-Id`.
    pub request_id: String,
    /// Every check that was made of a version that may not serve (`model_rejected`).
    #[oai(skip_serializing_if_is_none)]
    pub checks: Option<Vec<CheckView>>,
}

/// One thing that was checked of a version.
#[derive(Clone, Debug, Object)]
pub struct CheckView {
    /// `file`, `external`, `manifest`, `graph`, `input`, `output`, `warm_up`, `scores`, `labels`, `golden`; `load` where
    /// it could not be put into service after all; `version` in a dry run: whether the number is free.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// What was found, or why it did not hold.
    pub detail: String,
}

impl CheckView {
    /// The checks as they are shown.
    #[must_use]
    pub fn all(checks: &[Check]) -> Vec<Self> {
        let shown = |check: &Check| Self {
            name: check.name.to_owned(),
            ok: check.ok,
            detail: check.detail.clone(),
        };
        checks.iter().map(shown).collect()
    }
}

/// Status and title of a kind.
#[must_use]
pub fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::BadRequest => (StatusCode::BAD_REQUEST, "The request is malformed"),
        ErrorKind::MissingImage => (StatusCode::BAD_REQUEST, "The request holds no picture"),
        ErrorKind::MissingCredentials => (StatusCode::UNAUTHORIZED, "Credentials are needed"),
        ErrorKind::InvalidCredentials => {
            (StatusCode::UNAUTHORIZED, "The credentials are not valid")
        }
        ErrorKind::Forbidden => (StatusCode::FORBIDDEN, "The credentials do not allow this"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "There is no such thing here"),
        ErrorKind::ModelNotFound => (StatusCode::NOT_FOUND, "There is no such model"),
        ErrorKind::VersionNotFound => (StatusCode::NOT_FOUND, "There is no such version"),
        ErrorKind::PredictionNotFound => (StatusCode::NOT_FOUND, "There is no such prediction"),
        ErrorKind::MethodNotAllowed => (
            StatusCode::METHOD_NOT_ALLOWED,
            "The route does not take this method",
        ),
        ErrorKind::RequestTimeout => (
            StatusCode::REQUEST_TIMEOUT,
            "The request did not arrive in time",
        ),
        ErrorKind::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too many bytes"),
        ErrorKind::BatchTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too many pictures"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "It conflicts with what is there"),
        ErrorKind::PreconditionFailed => {
            (StatusCode::PRECONDITION_FAILED, "It has changed meanwhile")
        }
        ErrorKind::UnsupportedMediaType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Not a format that is served",
        ),
        ErrorKind::UndecodableImage => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "The picture cannot be decoded",
        ),
        ErrorKind::InvalidLabel => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "The model has no such label",
        ),
        ErrorKind::ImageTooLarge => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "The picture has too many pixels",
        ),
        ErrorKind::ModelRejected => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "The version may not serve",
        ),
        ErrorKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
        ErrorKind::QuotaExceeded => (
            StatusCode::TOO_MANY_REQUESTS,
            "The pictures of the day are used up",
        ),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "A failure of ours"),
        ErrorKind::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "Too much to do right now"),
        ErrorKind::ModelUnavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The model cannot answer right now",
        ),
        ErrorKind::StoreUnavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The store cannot be used right now",
        ),
        ErrorKind::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        ErrorKind::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The gateway is shutting down",
        ),
        ErrorKind::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "The time was over"),
    }
}

/// Characters of a detail: what it quotes of the request may be of any length.
const MAX_DETAIL: usize = 500;

/// A failure on its way to the door.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    kind: ErrorKind,
    detail: String,
    retry_after: Option<Duration>,
    checks: Option<Vec<CheckView>>,
    /// What is logged and never shown.
    cause: Option<String>,
}

impl ApiError {
    /// A failure of `kind`; `detail` is for the caller.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.truncate(end);
            detail.push('…');
        }
        Self {
            kind,
            detail,
            retry_after: None,
            checks: None,
            cause: None,
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same, with what is logged of it and never shown.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same, with every check that was made.
    #[must_use]
    pub fn with_checks(mut self, checks: &[Check]) -> Self {
        self.checks = Some(CheckView::all(checks));
        self
    }

    /// Whether the failure is ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        status_of(self.kind).0.is_server_error()
    }

    /// When the caller should try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The body; an internal cause is logged here, once.
    #[must_use]
    pub fn problem(&self, id: RequestId) -> Problem {
        let (status, title) = status_of(self.kind);
        if let Some(cause) = &self.cause {
            tracing::error!(request_id = %id, cause, "request failed");
        }
        Problem {
            type_: format!("urn:lensgate:problem:{}", self.kind.code()),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            code: self.kind.code().to_owned(),
            request_id: id.to_string(),
            checks: self.checks.clone(),
        }
    }

    fn response(&self, id: RequestId) -> Response {
        let problem = self.problem(id);
        let mut response = Response::builder()
            .status(status_of(self.kind).0)
            .content_type(CONTENT_TYPE)
            .body(problem.to_json_string());
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, at least one: 0 would invite the crowd back at once.
            let seconds = after.as_secs_f64().ceil().max(1.0);
            if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.0}")) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        status_of(self.kind).0
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        let mut api = Self::new(error.kind(), error.to_string());
        api.retry_after = error.retry_after();
        api
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let detail = match &error {
            ReadError::Away(_) => "the database cannot be reached",
            ReadError::Failed(_) => "predictions cannot be read",
        };
        let api = Self::new(error.kind(), detail).caused_by(error.to_string());
        match error {
            ReadError::Away(_) => api.retry_after(Duration::from_secs(1)),
            ReadError::Failed(_) => api,
        }
    }
}

impl From<ClassifyError> for ApiError {
    fn from(error: ClassifyError) -> Self {
        let mut api = Self::new(error.kind(), error.to_string());
        api.retry_after = error.retry_after();
        api.cause = match &error {
            ClassifyError::Engine(cause) => Some(cause.to_string()),
            _ => None,
        };
        api
    }
}

/// What a failure inside the framework is to the caller.
fn translate(error: &poem::Error) -> ApiError {
    if error.is::<NotFoundError>() {
        return ApiError::new(
            ErrorKind::NotFound,
            "there is no such route; GET /docs lists them",
        );
    }
    if error.is::<MethodNotAllowedError>() {
        return ApiError::new(
            ErrorKind::MethodNotAllowed,
            "the route takes other methods, see the header Allow",
        );
    }
    let kind = match error.status() {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ErrorKind::MethodNotAllowed,
        StatusCode::REQUEST_TIMEOUT => ErrorKind::RequestTimeout,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::PayloadTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorKind::UnsupportedMediaType,
        status if status.is_client_error() => ErrorKind::BadRequest,
        _ => ErrorKind::Internal,
    };
    if kind == ErrorKind::Internal {
        let mut internal = ApiError::new(kind, "the request could not be answered");
        internal.cause = Some(error.to_string());
        return internal;
    }
    ApiError::new(kind, error.to_string())
}

/// The answer to a request that failed, whoever refused it.
#[must_use]
pub fn response(error: poem::Error, id: RequestId) -> Response {
    match error.downcast::<ApiError>() {
        Ok(error) => error.response(id),
        Err(error) => translate(&error).response(id),
    }
}

/// A body that could not be read to its end.
#[must_use]
pub fn broken_body(error: &std::io::Error) -> ApiError {
    if BodyTimeout::caused(error) {
        ApiError::new(ErrorKind::RequestTimeout, "the body did not arrive in time")
    } else {
        ApiError::new(
            ErrorKind::BadRequest,
            "the body ended before it was complete",
        )
    }
}

impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let mut statuses: Vec<u16> = ErrorKind::ALL
            .iter()
            .map(|&kind| status_of(kind).0.as_u16())
            .collect();
        statuses.sort_unstable();
        statuses.dedup();
        let responses = statuses
            .into_iter()
            .map(|status| MetaResponse {
                description: description_of(status),
                status: Some(status),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: CONTENT_TYPE,
                    schema: MetaSchemaRef::Reference(Problem::name().into_owned()),
                }],
                headers: vec![],
            })
            .collect();
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

fn description_of(status: u16) -> &'static str {
    match status {
        400 => "`bad_request`, `missing_image`",
        401 => "`missing_credentials`, `invalid_credentials`",
        403 => "`forbidden` (scope or role)",
        404 => "`not_found`, `model_not_found`, `version_not_found`, `prediction_not_found`",
        405 => "`method_not_allowed`",
        408 => "`request_timeout`",
        409 => "`conflict`",
        412 => "`precondition_failed`",
        413 => "`payload_too_large` (bytes), `batch_too_large` (pictures)",
        415 => "`unsupported_media_type`",
        422 => {
            "`undecodable_image`, `image_too_large` (pixels), `invalid_label`, `model_rejected` with `checks`"
        }
        429 => "`rate_limited`, `quota_exceeded`; with `Retry-After`",
        500 => "`internal`",
        503 => {
            "`overloaded`, `model_unavailable`, `store_unavailable`, `draining`; with `Retry-After`"
        }
        507 => "`storage_full`",
        _ => "`deadline_exceeded`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_named_under_its_status_in_the_document() {
        for kind in ErrorKind::ALL {
            let description = description_of(status_of(kind).0.as_u16());
            assert!(
                description.contains(&format!("`{}`", kind.code())),
                "{kind}: {description}"
            );
        }
    }
}
