//! Why an operator's call was not carried out, and which kind of failure that is.

use crate::domain::error::ErrorKind;
use crate::domain::ids::ModelId;
use crate::model_store::ChangeError;
use crate::models::Check;
use crate::predictions::{ArchiveError, ReadError};
use crate::store::StoreError;

/// Why an operator's call was not carried out. The text is for the caller: no paths, no queries.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It conflicts with what is there.
    #[error("{0}")]
    Conflict(String),
    /// Somebody else has changed it since the caller read it.
    #[error("it was changed since it was read: read it again, and send its ETag as If-Match")]
    Stale,
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is no such model.
    #[error("there is no model {0:?}")]
    NoModel(String),
    /// The model has no such version.
    #[error("model {0} has no version {1:?}")]
    NoVersion(ModelId, String),
    /// There is no such prediction.
    #[error("there is no such prediction")]
    NoPrediction,
    /// The archive of pictures could not be read or changed; the cause is logged, not shown.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The model store could not be changed.
    #[error(transparent)]
    Files(#[from] ChangeError),
    /// The version may not serve.
    #[error("{reason}")]
    Rejected {
        /// Why, in words its author can act on.
        reason: String,
        /// Every check that was made.
        checks: Vec<Check>,
    },
    /// It did not come to an end in time.
    #[error("{0}")]
    Late(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
    /// The models have not been read yet.
    #[error("models are being read; try again soon")]
    Starting,
    /// The gateway is stopping.
    #[error("the gateway is shutting down")]
    Stopping,
    /// The database is away; the cause is logged, not shown.
    #[error(
        "the database cannot be reached; it may or may not have been done: look before you repeat it"
    )]
    Away(String),
    /// A failure of ours; the cause is logged, not shown.
    #[error("the call could not be carried out")]
    Failed(String),
}

impl AdminError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::NoModel(_) => ErrorKind::ModelNotFound,
            Self::NoVersion(..) => ErrorKind::VersionNotFound,
            Self::NoPrediction => ErrorKind::PredictionNotFound,
            Self::Files(error) => error.kind(),
            Self::Rejected { .. } => ErrorKind::ModelRejected,
            Self::Late(_) => ErrorKind::DeadlineExceeded,
            Self::NotNow(_) => ErrorKind::Overloaded,
            Self::Starting => ErrorKind::ModelUnavailable,
            Self::Stopping => ErrorKind::Draining,
            Self::Stale => ErrorKind::PreconditionFailed,
            Self::Invalid(_) => ErrorKind::BadRequest,
            Self::Away(_) | Self::Archive(_) => ErrorKind::StoreUnavailable,
            Self::Failed(_) => ErrorKind::Internal,
        }
    }

    /// What is logged and never shown.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Away(cause) | Self::Failed(cause) => Some(cause),
            Self::Files(error) => error.cause(),
            Self::Archive(error) => Some(error.cause()),
            _ => None,
        }
    }

    /// Every check that was made of a version that may not serve.
    #[must_use]
    pub fn checks(&self) -> Option<&[Check]> {
        match self {
            Self::Rejected { checks, .. } => Some(checks),
            _ => None,
        }
    }
}

impl From<ReadError> for AdminError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Away(cause) => Self::Away(cause),
            ReadError::Failed(cause) => Self::Failed(cause),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::NotFound(what),
            StoreError::Conflict(_) => Self::Conflict(error.to_string()),
            StoreError::Stale => Self::Stale,
            StoreError::Unavailable(cause) => Self::Away(cause),
            StoreError::Invalid(cause) | StoreError::Failed(cause) => Self::Failed(cause),
        }
    }
}
