//! Sections whose rooms are not built yet. Their keys are accepted and checked from the first release on,
//! so that one file serves every release; `config check` says which of them have no effect so far.

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[archive]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Where pictures are kept: a folder or an `s3://` bucket. Without it none is.
    pub images: Option<String>,
}

impl ArchiveConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match self
            .images
            .as_deref()
            .map(|images| (images, images.split_once("://")))
        {
            None | Some((_, Some(("file" | "s3", _)))) => Ok(()),
            Some((path, None)) if !path.is_empty() => Ok(()),
            Some(_) => Err(bad(
                "archive.images",
                "must be a folder or begin with s3://",
            )),
        }
    }
}
