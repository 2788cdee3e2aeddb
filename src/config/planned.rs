//! Sections whose rooms are not built yet. Their keys are accepted and checked from the first release on,
//! so that one file serves every release; `config check` says which of them have no effect so far.

use serde::{Deserialize, Serialize};

/// `[callbacks]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksConfig {
    /// Whether private and loopback addresses may be called.
    pub allow_private: bool,
}
