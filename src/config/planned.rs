//! Sections whose rooms are not built yet. Their keys are accepted and checked from the first release on,
//! so that one file serves every release; `config check` says which of them have no effect so far.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::server::check_address;
use super::{ConfigError, bad};

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of the admin plane.
    pub listen: String,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8081".to_owned(),
        }
    }
}

/// `[archive]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Where pictures are kept: a folder or an `s3://` bucket. Without it none is.
    pub images: Option<String>,
}

/// `[callbacks]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksConfig {
    /// Whether private and loopback addresses may be called.
    pub allow_private: bool,
}

/// `[bootstrap]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// The first API key, instead of a random one.
    pub api_key: Option<Secret>,
    /// The first admin token, instead of a random one.
    pub admin_token: Option<Secret>,
}

impl AdminConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_address("admin.listen", &self.listen)
    }
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

impl BootstrapConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, secret) in [
            ("bootstrap.api_key", &self.api_key),
            ("bootstrap.admin_token", &self.admin_token),
        ] {
            if secret
                .as_ref()
                .is_some_and(|secret| secret.expose().chars().count() < 16)
            {
                return Err(bad(key, "must have 16 characters or more"));
            }
        }
        Ok(())
    }
}

/// Text that is never shown: its `Debug` is `***`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// What stands for a secret where settings are shown.
    #[must_use]
    pub fn hidden() -> Self {
        Self("***".to_owned())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
