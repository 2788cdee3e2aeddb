//! The kinds of failure a caller can meet, one per `code` of the error table.
//!
//! Every room's error enum says which kind it is; `api::problem` alone turns a kind into a status.

use std::fmt;

/// What went wrong, as a client's program tells failures apart. The name on the wire is [`ErrorKind::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Malformed multipart, JSON, base64, parameters or headers.
    BadRequest,
    /// There is no picture in the request.
    MissingImage,
    /// The request carries no key or token.
    MissingCredentials,
    /// The key or token is unknown, revoked or expired.
    InvalidCredentials,
    /// The key has not the scope, or the token not the role.
    Forbidden,
    /// No such route.
    NotFound,
    /// No such model, or not one that the caller may see.
    ModelNotFound,
    /// The model has no such version.
    VersionNotFound,
    /// No such prediction, or not one of the caller's.
    PredictionNotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// Too many bytes.
    PayloadTooLarge,
    /// Too many pictures in one request.
    BatchTooLarge,
    /// There is one already, or it is still in use.
    Conflict,
    /// It was changed by somebody else since the caller read it.
    PreconditionFailed,
    /// Not a body or a picture format that is served.
    UnsupportedMediaType,
    /// A picture of a known format that is cut off or broken.
    UndecodableImage,
    /// Too many pixels.
    ImageTooLarge,
    /// Not one of the model's labels.
    InvalidLabel,
    /// An uploaded version may not serve.
    ModelRejected,
    /// More requests than the key, or the address, may send now.
    RateLimited,
    /// The key's pictures of this day are used up.
    QuotaExceeded,
    /// A failure of ours.
    Internal,
    /// More work than can be done soon.
    Overloaded,
    /// No version that could answer is live.
    ModelUnavailable,
    /// The database, or the model store, cannot be written or read now.
    StoreUnavailable,
    /// The gateway is shutting down.
    Draining,
    /// The answer was not ready within the request's time.
    DeadlineExceeded,
    /// The disk is full.
    StorageFull,
}

impl ErrorKind {
    /// Every kind, in the order of the error table.
    pub const ALL: [Self; 29] = [
        Self::BadRequest,
        Self::MissingImage,
        Self::MissingCredentials,
        Self::InvalidCredentials,
        Self::Forbidden,
        Self::NotFound,
        Self::ModelNotFound,
        Self::VersionNotFound,
        Self::PredictionNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::BatchTooLarge,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::UnsupportedMediaType,
        Self::UndecodableImage,
        Self::ImageTooLarge,
        Self::InvalidLabel,
        Self::ModelRejected,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::Internal,
        Self::Overloaded,
        Self::ModelUnavailable,
        Self::StoreUnavailable,
        Self::Draining,
        Self::DeadlineExceeded,
        Self::StorageFull,
    ];

    /// The kind of this name; `None` for one that this release does not know.
    #[must_use]
    pub fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether it is ours and not the caller's: what it asked for was right.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Internal
                | Self::Overloaded
                | Self::ModelUnavailable
                | Self::StoreUnavailable
                | Self::Draining
                | Self::DeadlineExceeded
                | Self::StorageFull
        )
    }

    /// The stable name that programs compare, e.g. `model_not_found`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::MissingImage => "missing_image",
            Self::MissingCredentials => "missing_credentials",
            Self::InvalidCredentials => "invalid_credentials",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::VersionNotFound => "version_not_found",
            Self::PredictionNotFound => "prediction_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition_failed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UndecodableImage => "undecodable_image",
            Self::ImageTooLarge => "image_too_large",
            Self::InvalidLabel => "invalid_label",
            Self::ModelRejected => "model_rejected",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::ModelUnavailable => "model_unavailable",
            Self::StoreUnavailable => "store_unavailable",
            Self::Draining => "draining",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::StorageFull => "storage_full",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
