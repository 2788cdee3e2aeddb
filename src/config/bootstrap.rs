//! `[bootstrap]`: the secrets of the first start on an empty database.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[bootstrap]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// The first API key, instead of a random one.
    pub api_key: Option<Secret>,
    /// The first admin token, instead of a random one.
    pub admin_token: Option<Secret>,
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

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

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
