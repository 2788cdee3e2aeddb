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
    /// No such route.
    NotFound,
    /// No such model, or not one that the caller may see.
    ModelNotFound,
    /// The model has no such version.
    VersionNotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// Too many bytes.
    PayloadTooLarge,
    /// Too many pictures in one request.
    BatchTooLarge,
    /// Not a body or a picture format that is served.
    UnsupportedMediaType,
    /// A picture of a known format that is cut off or broken.
    UndecodableImage,
    /// Too many pixels.
    ImageTooLarge,
    /// A failure of ours.
    Internal,
    /// More work than can be done soon.
    Overloaded,
    /// No version that could answer is live.
    ModelUnavailable,
    /// The gateway is shutting down.
    Draining,
    /// The answer was not ready within the request's time.
    DeadlineExceeded,
}

impl ErrorKind {
    /// Every kind, in the order of the error table.
    pub const ALL: [Self; 17] = [
        Self::BadRequest,
        Self::MissingImage,
        Self::NotFound,
        Self::ModelNotFound,
        Self::VersionNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::BatchTooLarge,
        Self::UnsupportedMediaType,
        Self::UndecodableImage,
        Self::ImageTooLarge,
        Self::Internal,
        Self::Overloaded,
        Self::ModelUnavailable,
        Self::Draining,
        Self::DeadlineExceeded,
    ];

    /// The stable name that programs compare, e.g. `model_not_found`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::MissingImage => "missing_image",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::VersionNotFound => "version_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UndecodableImage => "undecodable_image",
            Self::ImageTooLarge => "image_too_large",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::ModelUnavailable => "model_unavailable",
            Self::Draining => "draining",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
