//! A request's trace: begun by the listener with its head, ended with its answer, named by OpenTelemetry's conventions for HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use uuid::Uuid;

use super::super::otlp::{of, text};
use super::export::Ended;
use super::{CURRENT, Current, List, Scope, TraceContext};

/// A request's head as it came, and over which connection.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The gateway's own id for it.
    pub id: Uuid,
    /// Its method.
    pub method: &'a Method,
    /// What is asked for.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The protocol.
    pub version: Version,
    /// `http` or `https`.
    pub scheme: &'a Scheme,
    /// Who is at the connection's other end.
    pub remote: SocketAddr,
}

/// A request under way. Dropped before [`Self::end`], it was left by its client.
#[derive(Debug)]
pub struct Request {
    scope: Arc<Scope>,
    /// What the span will say of it; `None` where nothing is noted.
    kept: Option<Kept>,
}

/// Parts of the head: cheap to keep, and made text only where the trace is kept.
#[derive(Debug)]
struct Kept {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    version: Version,
    scheme: Scheme,
    remote: SocketAddr,
}

impl Request {
    /// A request whose head has just come. Probes and readers of metrics have no traces.
    #[must_use]
    pub fn begin(head: &Head<'_>) -> Self {
        let Head { headers, .. } = head;
        let parent = TraceContext::of_caller(headers);
        let mut scope = if is_probe(head.uri.path()) {
            Scope {
                context: parent,
                ..Scope::default()
            }
        } else {
            let state = parent.and_then(|_| headers.get("tracestate").cloned());
            Scope::begin(parent, state)
        };
        scope.request_id = Some(head.id);
        let kept = scope.notes.is_some().then(|| Kept {
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: headers.get(header::HOST).cloned(),
            agent: headers.get(header::USER_AGENT).cloned(),
            version: head.version,
            scheme: head.scheme.clone(),
            remote: head.remote,
        });
        Self {
            scope: Arc::new(scope),
            kept,
        }
    }

    /// Does what is done for it: whatever runs within finds it.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        let current = Current {
            scope: Arc::clone(&self.scope),
            picture: None,
        };
        CURRENT.scope(current, work)
    }

    /// Its answer has this status.
    pub fn end(mut self, status: u16) {
        self.finish(Some(status));
    }

    fn finish(&mut self, status: Option<u16>) {
        if let Some(kept) = self.kept.take() {
            let failed = status.is_some_and(|status| status >= 500);
            self.scope
                .end(failed, |list| kept.ended(&self.scope, list, status));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish(None);
    }
}

fn is_probe(path: &str) -> bool {
    path == "/metrics" || path == "/health" || path.starts_with("/health/")
}

/// A method that is not known by the conventions: a client's own name makes no name of ours.
const OTHER: &str = "_OTHER";

/// A method as the conventions name it.
#[must_use]
pub fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
    ];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or(OTHER)
}

impl Kept {
    fn ended(self, scope: &Scope, list: &List, status: Option<u16>) -> Ended {
        let method = method_name(&self.method);
        let is_known = method != OTHER;
        let spoken = if is_known { method } else { "HTTP" };
        let name = match &list.route {
            Some(route) => format!("{spoken} {route}"),
            None => spoken.to_owned(),
        };
        let mut attributes = vec![
            text("http.request.method", method),
            text("url.path", self.uri.path()),
            text("url.scheme", self.scheme.as_str()),
        ];
        if !is_known {
            attributes.push(text("http.request.method_original", self.method.as_str()));
        }
        if let Some(route) = &list.route {
            attributes.push(text("http.route", &**route));
        }
        self.connection(list.client, &mut attributes);
        let failed = status.is_some_and(|status| status >= 500);
        if let Some(status) = status {
            let value = Value::IntValue(status.into());
            attributes.push(of("http.response.status_code", value));
        }
        match (status, list.failure.as_deref()) {
            (None, _) => attributes.push(text("error.type", "client_left")),
            (Some(500..), Some(code)) => attributes.push(text("error.type", code)),
            (Some(status @ 500..), None) => {
                attributes.push(text("error.type", status.to_string()));
            }
            _ => {}
        }
        if let Some(id) = scope.request_id {
            attributes.push(text("lensgate.request_id", id.to_string()));
        }
        Ended {
            name,
            kind: SpanKind::Server,
            attributes,
            failed,
        }
    }

    fn connection(&self, client: Option<IpAddr>, attributes: &mut Vec<KeyValue>) {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        let authority = host.and_then(|host| host.parse::<http::uri::Authority>().ok());
        // HTTP/2 has it in the address itself.
        if let Some(authority) = authority.as_ref().or(self.uri.authority()) {
            attributes.push(text("server.address", authority.host()));
            let usual = if self.scheme == Scheme::HTTPS {
                443
            } else {
                80
            };
            let port = authority.port_u16().unwrap_or(usual);
            attributes.push(of("server.port", Value::IntValue(port.into())));
        }
        let peer = self.remote.ip().to_string();
        let client = client.map_or_else(|| peer.clone(), |client| client.to_string());
        attributes.push(text("client.address", client));
        attributes.push(text("network.peer.address", peer));
        let port = Value::IntValue(self.remote.port().into());
        attributes.push(of("network.peer.port", port));
        let version = match self.version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        attributes.push(text("network.protocol.version", version));
        if let Some(agent) = self.agent.as_ref().and_then(|agent| agent.to_str().ok()) {
            attributes.push(text("user_agent.original", agent));
        }
    }
}
