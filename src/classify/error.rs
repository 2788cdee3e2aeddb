//! Why a picture was not classified, and which kind of failure that is.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::error::ErrorKind;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::engine::EngineError;
use crate::models::VersionState;
use crate::vision::VisionError;

/// Why a picture was not classified. The text is for the caller: no paths, no internals.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClassifyError {
    /// No such model.
    #[error("there is no model {0:?}")]
    ModelNotFound(String),
    /// The model store has not been read to its end yet.
    #[error("models are being read; try again soon")]
    Starting,
    /// No model was named and none is the default.
    #[error("no model was named, and there is no default model")]
    NoDefaultModel,
    /// The model has no such version.
    #[error("model {model} has no version {version:?}")]
    VersionNotFound {
        /// The model.
        model: ModelId,
        /// The version as the caller wrote it.
        version: String,
    },
    /// Nothing that could answer is live.
    #[error("{}", unavailable(model, *version, *state))]
    ModelUnavailable {
        /// The model.
        model: ModelId,
        /// The version that the caller asked for.
        version: Option<VersionNumber>,
        /// Where that version stands.
        state: Option<VersionState>,
    },
    /// The gateway is stopping.
    #[error("the gateway is shutting down")]
    Draining,
    /// `top_k` is out of range.
    #[error("top_k is {top_k}; allowed is 1 to {labels}, the number of labels")]
    TopK {
        /// What was asked for.
        top_k: usize,
        /// The number of labels.
        labels: usize,
    },
    /// `min_confidence` is out of range.
    #[error("min_confidence must be a number from 0 to 1")]
    MinConfidence,
    /// The picture was refused.
    #[error(transparent)]
    Picture(#[from] VisionError),
    /// The picture or body needs more memory than is there for all requests together.
    #[error("it needs more memory than the {limit} bytes that all requests share")]
    TooLargeForBudget {
        /// The budget.
        limit: u64,
    },
    /// Other requests hold the memory that this one needs.
    #[error("requests in progress hold all the memory there is for pictures")]
    OutOfMemoryBudget,
    /// Too much waits already.
    #[error("the model has more work than it can do soon")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The time was over.
    #[error("the answer was not ready in time")]
    DeadlineExceeded,
    /// A failure of ours; its cause is logged, not shown.
    #[error("the model could not be run")]
    Engine(#[source] Arc<EngineError>),
    /// The graph gave no score.
    #[error("the model gave no scores")]
    NoScores,
}

fn unavailable(
    model: &ModelId,
    version: Option<VersionNumber>,
    state: Option<VersionState>,
) -> String {
    match (version, state) {
        (Some(version), Some(state)) => {
            format!("version {version} of model {model} is {}", state.as_str())
        }
        // An alias names it still.
        (Some(version), None) => format!("version {version} of model {model} is gone"),
        (None, _) => format!("no version of model {model} is live"),
    }
}

impl ClassifyError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ModelNotFound(_) | Self::NoDefaultModel => ErrorKind::ModelNotFound,
            Self::VersionNotFound { .. } => ErrorKind::VersionNotFound,
            Self::ModelUnavailable { .. } | Self::Starting => ErrorKind::ModelUnavailable,
            Self::Draining => ErrorKind::Draining,
            Self::TopK { .. } | Self::MinConfidence => ErrorKind::BadRequest,
            Self::Picture(error) => match error {
                VisionError::Empty => ErrorKind::MissingImage,
                VisionError::UnsupportedFormat { .. } => ErrorKind::UnsupportedMediaType,
                VisionError::TooManyPixels { .. } => ErrorKind::ImageTooLarge,
                VisionError::Undecodable { .. } | VisionError::Truncated { .. } => {
                    ErrorKind::UndecodableImage
                }
            },
            Self::TooLargeForBudget { .. } => ErrorKind::ImageTooLarge,
            Self::OutOfMemoryBudget | Self::Overloaded { .. } => ErrorKind::Overloaded,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Engine(_) | Self::NoScores => ErrorKind::Internal,
        }
    }

    /// Whether the same may be done a while later, for all that is known.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Overloaded | ErrorKind::ModelUnavailable | ErrorKind::Draining
        )
    }

    /// Whether the same picture would fail the same way whoever sent it, at any time.
    pub(super) fn lies_in_the_picture(&self) -> bool {
        matches!(self, Self::Picture(_) | Self::TooLargeForBudget { .. })
    }

    /// When to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => Some(*retry_after),
            Self::OutOfMemoryBudget
            | Self::ModelUnavailable { .. }
            | Self::Starting
            | Self::Draining => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<EngineError> for ClassifyError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { retry_after, .. } => Self::Overloaded { retry_after },
            EngineError::DeadlineExceeded => Self::DeadlineExceeded,
            EngineError::Stopped => Self::Draining,
            // `prepare` is this room's own closure: what it gives is this room's own error.
            EngineError::Prepare(cause) => match cause.downcast::<Self>() {
                Ok(error) => *error,
                Err(other) => Self::Engine(Arc::new(EngineError::Prepare(other))),
            },
            other => Self::Engine(Arc::new(other)),
        }
    }
}
