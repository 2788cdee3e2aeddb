//! The trace of what comes of requests: a job, a callback's attempt, a piece of the log on its way to the store.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use uuid::Uuid;

use super::super::otlp::text;
use super::export::Ended;
use super::{CURRENT, Current, Scope, TraceContext};

/// A piece of work that is to have a span.
#[derive(Clone, Debug)]
pub struct Work {
    name: Cow<'static, str>,
    kind: SpanKind,
    parent: Option<TraceContext>,
    request: Option<Uuid>,
}

impl Work {
    /// Work of this name; without a parent a trace of its own.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self {
            name: name.into(),
            kind: SpanKind::Internal,
            parent: None,
            request: None,
        }
    }

    /// Work that somebody else asked for, by the `traceparent` that was kept of it.
    #[must_use]
    pub fn asked_by(mut self, traceparent: Option<&str>) -> Self {
        self.parent = traceparent.and_then(TraceContext::parse);
        self
    }

    /// The request that it goes on with.
    #[must_use]
    pub fn of_request(mut self, id: Uuid) -> Self {
        self.request = Some(id);
        self
    }

    /// A call of another service.
    #[must_use]
    pub fn calling(mut self) -> Self {
        self.kind = SpanKind::Client;
        self
    }

    /// Something that was kept until it could be worked on.
    #[must_use]
    pub fn consuming(mut self) -> Self {
        self.kind = SpanKind::Consumer;
        self
    }
}

/// Ends the trace also where the work is dropped.
struct Ending(Arc<Scope>, Work);

impl Drop for Ending {
    fn drop(&mut self) {
        let Self(scope, work) = self;
        let notes = scope.notes.as_ref();
        let failed = notes.is_some_and(|notes| notes.list().failure.is_some());
        scope.end(failed, |_| Ended {
            name: work.name.clone().into_owned(),
            kind: work.kind,
            attributes: scope.request_id.iter().map(of_request).collect(),
            failed,
        });
    }
}

fn of_request(id: &Uuid) -> KeyValue {
    text("lensgate.request_id", id.to_string())
}

/// Does a piece of work: whatever runs within finds it.
pub async fn work<T>(what: Work, work: impl Future<Output = T>) -> T {
    let (current, _ending) = begin(what);
    CURRENT.scope(current, work).await
}

fn begin(what: Work) -> (Current, Ending) {
    let mut scope = Scope::begin(what.parent, None);
    scope.request_id = what.request;
    let scope = Arc::new(scope);
    let ending = Ending(Arc::clone(&scope), what);
    let current = Current {
        scope,
        picture: None,
    };
    (current, ending)
}
