//! `[backend]`: what executes graphs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// The names that `execution_providers` may hold.
pub const EXECUTION_PROVIDERS: [&str; 4] = ["tensorrt", "cuda", "openvino", "cpu"];

/// `[backend]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    /// ONNX Runtime's shared library; without it `ORT_DYLIB_PATH`, the binary's folder and `make`'s place are tried.
    pub ort_library: Option<PathBuf>,
    /// ONNX Runtime's execution providers, tried in this order; the CPU is always the last.
    pub execution_providers: Vec<String>,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            ort_library: None,
            execution_providers: vec!["cpu".to_owned()],
        }
    }
}

impl BackendConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let unknown = |name: &&String| !EXECUTION_PROVIDERS.contains(&name.as_str());
        match self.execution_providers.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(bad(
                "backend.execution_providers",
                format!(
                    "has {name:?}; allowed are {}",
                    EXECUTION_PROVIDERS.join(", ")
                ),
            )),
        }
    }
}
