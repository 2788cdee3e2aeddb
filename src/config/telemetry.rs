//! `[telemetry]`: logs, and where traces and metrics are sent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, Secret, bad};

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives like `info,lensgate::api=debug`.
    pub log_level: String,
    /// The form of a log line.
    pub log_format: LogFormat,
    /// The collector that traces and metrics are sent to (`http://…` or `https://…`); without one, nothing is.
    pub otlp_endpoint: String,
    /// How it is spoken to.
    pub otlp_protocol: OtlpProtocol,
    /// Headers that it wants: `name=value`, comma-separated. They may hold its credentials.
    pub otlp_headers: Secret,
    /// The part of the traces that begin here and are kept, 0 to 1; those with errors and slow ones are kept beside.
    pub trace_ratio: f64,
    /// What takes so long is slow.
    pub trace_slow: Seconds,
    /// As what this gateway is known there.
    pub service_name: String,
    /// How often metrics are sent.
    pub metrics_interval: Seconds,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// OTLP over gRPC, usually on port 4317.
    Grpc,
    /// OTLP as protobuf over HTTP, usually on port 4318; `/v1/traces` and `/v1/metrics` are added to the endpoint.
    Http,
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
            otlp_endpoint: String::new(),
            otlp_protocol: OtlpProtocol::Grpc,
            otlp_headers: Secret::default(),
            trace_ratio: 0.1,
            trace_slow: Seconds::new(1),
            service_name: "lensgate".to_owned(),
            metrics_interval: Seconds::new(15),
        }
    }
}

/// Metrics are sent no more often, and no less.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);

impl TelemetryConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_level()?;
        let is_web = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if !self.otlp_endpoint.is_empty() && !is_web(&self.otlp_endpoint) {
            return Err(bad(
                "telemetry.otlp_endpoint",
                "must be empty, or begin with http:// or https://",
            ));
        }
        if header_pairs(self.otlp_headers.expose()).is_none() {
            return Err(bad(
                "telemetry.otlp_headers",
                "must be name=value pairs, comma-separated",
            ));
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return Err(bad("telemetry.trace_ratio", "must be 0 to 1"));
        }
        if self.service_name.trim().is_empty() {
            return Err(bad("telemetry.service_name", "must not be empty"));
        }
        if !INTERVALS.contains(&self.metrics_interval.get()) {
            return Err(bad("telemetry.metrics_interval", "must be 100ms to 1h"));
        }
        Ok(())
    }

    fn validate_level(&self) -> Result<(), ConfigError> {
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

/// `name=value` pairs, comma-separated, values percent-encoded where they must be; `None` where one is no pair.
pub(crate) fn header_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| (name, percent_decoded(value.trim())))
    };
    pairs.map(pair).collect()
}

/// Text without its `%20`s; what is no such thing stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| byte == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        out.push(code.unwrap_or(byte));
        rest = after
            .get(if code.is_some() { 2 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(header_pairs(""), Some(Vec::new()));
        assert_eq!(
            header_pairs("X-Key=a=b, authorization=Basic%20dTpw,"),
            Some(vec![
                pair("x-key", "a=b"),
                pair("authorization", "Basic dTpw")
            ])
        );
        assert_eq!(
            header_pairs("odd=100%, x=%zz"),
            Some(vec![pair("odd", "100%"), pair("x", "%zz")])
        );
        for bad in ["x", "=y", "a b=c", "x=1,y"] {
            assert_eq!(header_pairs(bad), None, "{bad}");
        }
    }
}
