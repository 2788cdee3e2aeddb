//! The collector: where it is, who we are to it, and how something is sent there, by gRPC or HTTP.
//! The one door to tonic and to OpenTelemetry's messages, with `trace`.
//!
//! Nothing here waits for a collector on a request's path: spans go through the bounded queue in `queue`.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use uuid::Uuid;

use crate::config::{Environment, OtlpProtocol, TelemetryConfig, header_pairs};

mod queue;

pub use queue::{Exporting, Outcomes};
pub(super) use queue::{Queue, begin};

/// How long one request to the collector may take, its connection included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const MOST_READ: usize = 64 << 10;

/// The collector cannot be spoken to as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// What names it is no address.
    #[error("{from} is no address of a collector: it must begin with http:// or https://")]
    Address {
        /// The setting or variable.
        from: &'static str,
    },
    /// The headers for it are none.
    #[error("{from} is not name=value pairs that could be headers")]
    Headers {
        /// The setting or variable.
        from: &'static str,
    },
    /// The protocol is unknown.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0:?}; known are grpc and http/protobuf")]
    Protocol(String),
    /// There is nothing to send with.
    #[error("nothing can be sent to a collector: {0}")]
    Client(String),
}

/// Why something did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct SendError {
    reason: String,
    /// Whether the same may arrive later.
    pub(crate) passes: bool,
}

impl SendError {
    fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            passes: true,
        }
    }
}

/// A collector, and who we are to it.
#[derive(Clone)]
pub struct Target {
    endpoint: String,
    protocol: OtlpProtocol,
    headers: HeaderMap,
    resource: Vec<(String, String)>,
}

/// Without the headers: they may hold credentials.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("protocol", &self.protocol)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// The setting, and the variables that are heard where it is empty.
const SETTING: &str = "telemetry.otlp_endpoint";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const SERVICE: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";

impl Target {
    /// The collector that the settings name, else the one that OpenTelemetry's own variables name; `None` without one.
    ///
    /// # Errors
    /// When what names it is of no use.
    pub fn of(
        config: &TelemetryConfig,
        environment: &Environment,
    ) -> Result<Option<Self>, OtlpError> {
        let variable = |name| environment.for_collectors(name);
        let own = config.otlp_endpoint.trim();
        let (from, endpoint) = match (own, variable(ENDPOINT)) {
            ("", None) => return Ok(None),
            ("", Some(endpoint)) => (ENDPOINT, endpoint.trim()),
            (own, _) => (SETTING, own),
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(OtlpError::Address { from });
        }
        let protocol = match variable(PROTOCOL).filter(|_| own.is_empty()) {
            None => config.otlp_protocol,
            Some("grpc") => OtlpProtocol::Grpc,
            Some("http/protobuf") => OtlpProtocol::Http,
            Some(other) => return Err(OtlpError::Protocol(other.to_owned())),
        };
        let (from, text) = match (config.otlp_headers.expose(), variable(HEADERS)) {
            ("", Some(text)) if own.is_empty() => (HEADERS, text),
            (text, _) => ("telemetry.otlp_headers", text),
        };
        let headers = headers(text).ok_or(OtlpError::Headers { from })?;
        Ok(Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            protocol,
            headers,
            resource: resource(config, environment),
        }))
    }

    /// Where it is, for people: without a user's name and password.
    #[must_use]
    pub fn place(&self) -> String {
        let (scheme, rest) = self.endpoint.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}")
    }
}

fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in header_pairs(text)? {
        let name = HeaderName::try_from(name).ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Some(headers)
}

/// This process, until it ends: the same for traces and for metrics.
static INSTANCE: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);

/// Who we are: the variables' attributes, then what the settings and the program itself say, which wins.
fn resource(config: &TelemetryConfig, environment: &Environment) -> Vec<(String, String)> {
    let given = environment.for_collectors(RESOURCE).unwrap_or_default();
    let mut all = header_pairs(given).unwrap_or_default();
    let mut put = |name: &str, value: String, wins: bool| {
        let known = all.iter_mut().find(|(own, _)| own == name);
        match known {
            Some((_, old)) if wins => *old = value,
            Some(_) => {}
            None => all.push((name.to_owned(), value)),
        }
    };
    let own = config.service_name.trim();
    let is_default = own == TelemetryConfig::default().service_name;
    match environment.for_collectors(SERVICE).filter(|_| is_default) {
        Some(name) => put("service.name", name.trim().to_owned(), true),
        None => put("service.name", own.to_owned(), !is_default),
    }
    put(
        "service.version",
        env!("CARGO_PKG_VERSION").to_owned(),
        true,
    );
    put("service.instance.id", INSTANCE.to_string(), false);
    let node = rustix::system::uname();
    put(
        "host.name",
        node.nodename().to_string_lossy().into_owned(),
        false,
    );
    all
}

/// An attribute that is text.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    of(key, Value::StringValue(value.into()))
}

/// An attribute of this value.
pub(super) fn of(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Sends to a collector; cheap to clone. Whoever sends decides when, and what becomes of what did not arrive.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Wire>);

struct Wire {
    resource: Resource,
    how: How,
}

enum How {
    Grpc {
        channel: Channel,
        headers: MetadataMap,
    },
    Http {
        client: reqwest::Client,
        endpoint: String,
    },
}

impl Sender {
    /// A sender to this collector. Connects when there is something to send. Must be called inside the runtime that it is
    /// used on.
    ///
    /// # Errors
    /// When there is nothing to send with.
    pub(crate) fn new(target: &Target) -> Result<Self, OtlpError> {
        let failed = |error: &dyn std::error::Error| OtlpError::Client(error.to_string());
        let how = match target.protocol {
            OtlpProtocol::Grpc => {
                let endpoint = Endpoint::from_shared(target.endpoint.clone());
                let mut endpoint = endpoint.map_err(|error| failed(&error))?;
                if target.endpoint.starts_with("https://") {
                    let tls = ClientTlsConfig::new().with_native_roots();
                    endpoint = endpoint.tls_config(tls).map_err(|error| failed(&error))?;
                }
                How::Grpc {
                    channel: endpoint.connect_timeout(TIMEOUT).connect_lazy(),
                    headers: MetadataMap::from_headers(target.headers.clone()),
                }
            }
            OtlpProtocol::Http => {
                let client = reqwest::Client::builder()
                    .default_headers(target.headers.clone())
                    .redirect(reqwest::redirect::Policy::none())
                    .build();
                How::Http {
                    client: client.map_err(|error| failed(&error))?,
                    endpoint: target.endpoint.clone(),
                }
            }
        };
        let attributes = target.resource.iter();
        let resource = Resource {
            attributes: attributes.map(|(key, value)| text(key, value)).collect(),
            ..Resource::default()
        };
        Ok(Self(Arc::new(Wire { resource, how })))
    }

    /// Who we are to the collector.
    pub(crate) fn resource(&self) -> Resource {
        self.0.resource.clone()
    }

    /// Sends metrics, within 5 s.
    ///
    /// # Errors
    /// When they did not arrive, or were refused.
    pub(crate) async fn metrics(
        &self,
        metrics: ExportMetricsServiceRequest,
    ) -> Result<(), SendError> {
        in_time(async {
            match &self.0.how {
                How::Grpc { channel, headers } => {
                    let mut client = MetricsServiceClient::new(channel.clone());
                    let answer = client.export(with(metrics, headers)).await;
                    let answer = answer.map_err(|status| refused(&status))?.into_inner();
                    left_out(answer.partial_success.map(|part| part.rejected_data_points))
                }
                How::Http { client, endpoint } => {
                    let url = format!("{endpoint}/v1/metrics");
                    let answer = post(client, &url, metrics.encode_to_vec()).await?;
                    let answer = ExportMetricsServiceResponse::decode(&answer[..]);
                    let part = answer.unwrap_or_default().partial_success;
                    left_out(part.map(|part| part.rejected_data_points))
                }
            }
        })
        .await
    }

    /// Sends spans, within 5 s.
    ///
    /// # Errors
    /// When they did not arrive, or were refused.
    async fn spans(&self, spans: ExportTraceServiceRequest) -> Result<(), SendError> {
        in_time(async {
            match &self.0.how {
                How::Grpc { channel, headers } => {
                    let mut client = TraceServiceClient::new(channel.clone());
                    let answer = client.export(with(spans, headers)).await;
                    let answer = answer.map_err(|status| refused(&status))?.into_inner();
                    left_out(answer.partial_success.map(|part| part.rejected_spans))
                }
                How::Http { client, endpoint } => {
                    let url = format!("{endpoint}/v1/traces");
                    let answer = post(client, &url, spans.encode_to_vec()).await?;
                    let answer = ExportTraceServiceResponse::decode(&answer[..]);
                    let part = answer.unwrap_or_default().partial_success;
                    left_out(part.map(|part| part.rejected_spans))
                }
            }
        })
        .await
    }
}

async fn in_time(sending: impl Future<Output = Result<(), SendError>>) -> Result<(), SendError> {
    let sent = tokio::time::timeout(TIMEOUT, sending).await;
    sent.unwrap_or_else(|_| Err(SendError::passing("no answer within 5 s")))
}

fn with<T>(message: T, headers: &MetadataMap) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = headers.clone();
    request
}

/// The specification says after which answers the same may be sent again.
fn refused(status: &tonic::Status) -> SendError {
    use tonic::Code;
    let passes = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            // A connection that broke, or was never made.
            | Code::Unknown
    );
    SendError {
        reason: format!("{:?}", status.code()),
        passes,
    }
}

/// What a collector took and then left out for good does not come again.
fn left_out(count: Option<i64>) -> Result<(), SendError> {
    match count {
        Some(1..) => Err(SendError {
            reason: "the collector left a part out".to_owned(),
            passes: false,
        }),
        _ => Ok(()),
    }
}

async fn post(client: &reqwest::Client, url: &str, body: Vec<u8>) -> Result<Vec<u8>, SendError> {
    let request = client.post(url).body(body);
    let request = request.header(CONTENT_TYPE, "application/x-protobuf");
    // Without the address: it may hold credentials.
    let sent = request.send().await;
    let mut answer = sent.map_err(|error| SendError::passing(error.without_url().to_string()))?;
    let status = answer.status();
    let mut read = Vec::new();
    while read.len() < MOST_READ
        && let Ok(Some(piece)) = answer.chunk().await
    {
        read.extend_from_slice(&piece);
    }
    if status.is_success() {
        return Ok(read);
    }
    Err(SendError {
        reason: format!("the answer was {}", status.as_u16()),
        passes: matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(endpoint: &str, variables: &[(&str, &str)]) -> Result<Option<Target>, OtlpError> {
        let config = TelemetryConfig {
            otlp_endpoint: endpoint.to_owned(),
            ..TelemetryConfig::default()
        };
        Target::of(&config, &Environment::from_pairs(variables.iter().copied()))
    }

    #[test]
    fn a_collector_is_named_by_the_settings_else_by_the_variables() {
        let variables = [
            (ENDPOINT, "https://user:pass@elsewhere:4318/prefix/"),
            (PROTOCOL, "http/protobuf"),
            (HEADERS, "authorization=Bearer%20secret"),
            (SERVICE, "mine"),
            (
                RESOURCE,
                "deployment.environment.name=test,service.version=9",
            ),
        ];
        assert!(target("", &[]).expect("none").is_none());
        let by_variables = target("", &variables).expect("one").expect("one");
        assert_eq!(by_variables.protocol, OtlpProtocol::Http);
        assert_eq!(
            by_variables.endpoint,
            "https://user:pass@elsewhere:4318/prefix"
        );
        assert_eq!(by_variables.place(), "https://elsewhere:4318");
        assert_eq!(by_variables.headers["authorization"], "Bearer secret");
        assert!(!format!("{by_variables:?}").contains("secret"));
        let is = |key: &str| {
            let mut all = by_variables.resource.iter();
            all.find(|(own, _)| own == key)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(is("service.name"), Some("mine"));
        assert_eq!(is("service.version"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(is("deployment.environment.name"), Some("test"));
        assert!(is("service.instance.id").is_some());
        let own = target("http://here:4317", &variables)
            .expect("one")
            .expect("one");
        assert_eq!(own.protocol, OtlpProtocol::Grpc);
        assert!(own.headers.is_empty(), "those were for the other one");
        assert!(target("", &[(ENDPOINT, "elsewhere:4317")]).is_err());
        assert!(target("", &[variables[0], (PROTOCOL, "http/json")]).is_err());
    }
}
