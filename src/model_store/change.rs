//! Why the store was not changed, and which kind of failure that is.

use std::io;

use super::name::InvalidName;
use crate::domain::error::ErrorKind;
use crate::domain::ids::{Digest, ModelId, VersionNumber};

/// Why the store was not changed. The text is for the caller, but for [`Self::cause`]: no path of this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A file's name that may not be.
    #[error("the file {name:?}: {reason}")]
    Name {
        /// The name as it was given, shortened.
        name: String,
        /// Why not.
        reason: InvalidName,
    },
    /// Two files of one name, or a file where another's folder is.
    #[error("the upload has {0:?} twice, or as a file and as a folder")]
    Twice(String),
    /// More files than a version may have.
    #[error("the upload has more than the {0} files that are allowed")]
    TooManyFiles(usize),
    /// More bytes than are allowed.
    #[error("{what} has more than the {limit} bytes that are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What is allowed.
        limit: u64,
    },
    /// No model file.
    #[error("the upload holds no model")]
    NoModelFile,
    /// A part that was not read to its end.
    #[error("the upload ended before it was complete")]
    Unfinished,
    /// Another content than was announced.
    #[error("the model file's SHA-256 is {found}, not {wanted}")]
    OtherContent {
        /// What was announced.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// The model has no folder.
    #[error("there is no model {:?}", .0.as_str())]
    NoModel(ModelId),
    /// The version has no folder.
    #[error("model {0} has no version {1}")]
    NoVersion(ModelId, VersionNumber),
    /// There is such a model.
    #[error("there is a model {0} already")]
    ModelExists(ModelId),
    /// There is such a version, and it is another one.
    #[error(
        "version {number} of model {model} is there already and {how}; a version never changes: take another number"
    )]
    VersionExists {
        /// The model.
        model: ModelId,
        /// The version.
        number: VersionNumber,
        /// How it differs.
        how: String,
    },
    /// The model's folder is a link that leads out of the store.
    #[error("the folder of model {0} is a link that leads outside the model store")]
    Outside(ModelId),
    /// What the upload was checked with is not what is there now.
    #[error("model.toml or another file of the model was changed meanwhile; try again")]
    Changed,
    /// The model's own manifest is broken.
    #[error("{0}")]
    Manifest(String),
    /// So many uploads are under way that another has to wait.
    #[error("{0} uploads are under way; try again soon")]
    Busy(usize),
    /// The disk is full.
    #[error("the model store's disk is full")]
    Full,
    /// The system does not let the store be changed.
    #[error("the model store cannot be written")]
    Unavailable {
        /// The system's reason, for the log.
        reason: String,
    },
}

impl ChangeError {
    /// What the system said while the store was changed.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::Unavailable {
                reason: error.to_string(),
            },
        }
    }

    /// A name that may not be.
    #[must_use]
    pub fn name(name: &str, reason: InvalidName) -> Self {
        Self::Name {
            name: name.chars().take(100).collect(),
            reason,
        }
    }

    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name { .. }
            | Self::Twice(_)
            | Self::TooManyFiles(_)
            | Self::NoModelFile
            | Self::Unfinished
            | Self::OtherContent { .. } => ErrorKind::BadRequest,
            Self::TooLarge { .. } => ErrorKind::PayloadTooLarge,
            Self::NoModel(_) => ErrorKind::ModelNotFound,
            Self::NoVersion(..) => ErrorKind::VersionNotFound,
            Self::ModelExists(_)
            | Self::VersionExists { .. }
            | Self::Outside(_)
            | Self::Changed
            | Self::Manifest(_) => ErrorKind::Conflict,
            Self::Busy(_) => ErrorKind::Overloaded,
            Self::Full => ErrorKind::StorageFull,
            Self::Unavailable { .. } => ErrorKind::StoreUnavailable,
        }
    }

    /// What is for the log alone.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Unavailable { reason } => Some(reason),
            _ => None,
        }
    }
}
