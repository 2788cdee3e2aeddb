//! `[telemetry]`: logs.

use serde::{Deserialize, Serialize};

use super::{ConfigError, bad};

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives like `info,lensgate::api=debug`.
    pub log_level: String,
    /// The form of a log line.
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            log_format: LogFormat::Pretty,
        }
    }
}

impl TelemetryConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // `target=level` or `level`, comma-separated.
        let level_of = |directive: &str| match directive.rsplit_once('=') {
            Some((_, level)) => level.trim().to_ascii_lowercase(),
            None => directive.trim().to_ascii_lowercase(),
        };
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        match self
            .log_level
            .split(',')
            .map(level_of)
            .find(|level| !known.contains(&level.as_str()))
        {
            None => Ok(()),
            Some(level) => Err(bad(
                "telemetry.log_level",
                format!("has the level {level:?}; allowed are {}", known.join(", ")),
            )),
        }
    }
}
