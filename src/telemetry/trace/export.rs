//! From what a trace has noted to OpenTelemetry's spans: the root, its pictures where there are several, and their steps.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::super::otlp::{of, text};
use super::context::span_id;
use super::{List, Notes, Picture, Scope, Step, TraceContext};

/// Flags of a span: that its trace is kept, and whether its parent lives in another process.
pub(super) const SAMPLED: u32 = 0x1;
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// What is known of a root at its end.
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) kind: SpanKind,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) failed: bool,
}

/// Nanoseconds since 1970.
pub(super) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    later(0, since.unwrap_or_default())
}

pub(super) fn later(start: u64, by: Duration) -> u64 {
    start.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

pub(super) fn link(to: &TraceContext) -> Link {
    Link {
        trace_id: to.trace.to_be_bytes().to_vec(),
        span_id: to.span.to_be_bytes().to_vec(),
        flags: u32::from(to.sampled),
        ..Link::default()
    }
}

fn failure() -> Status {
    Status {
        code: StatusCode::Error.into(),
        ..Status::default()
    }
}

/// The spans of a trace that is kept, its root first.
pub(super) fn spans(
    scope: &Scope,
    context: &TraceContext,
    notes: &Notes,
    list: List,
    ended: Ended,
    took: Duration,
) -> Vec<Span> {
    let start = nanos(notes.began_at);
    let clock = Clock {
        began: notes.began,
        start,
        end: later(start, took),
    };
    let mut spans = Vec::with_capacity(1 + list.pictures.len() + list.steps.len());
    let mut root = root(scope, context, notes, ended, &clock);
    root.attributes.extend(list.attributes);
    if let Some(code) = list
        .failure
        .filter(|_| root.kind != i32::from(SpanKind::Server))
    {
        root.attributes.push(text("error.type", code));
    }
    let state = root.trace_state.clone();
    spans.push(root);
    let child = |parent: u64| Span {
        trace_id: context.trace.to_be_bytes().to_vec(),
        parent_span_id: parent.to_be_bytes().to_vec(),
        trace_state: state.clone(),
        flags: SAMPLED | PARENT_IS_KNOWN,
        kind: SpanKind::Internal.into(),
        ..Span::default()
    };
    for picture in &list.pictures {
        spans.push(of_picture(picture, child(context.span), &clock));
    }
    for step in list.steps {
        let parent = match step.picture {
            0 => context.span,
            picture => picture,
        };
        spans.push(of_step(step, child(parent), &clock));
    }
    spans
}

/// The wall clock of a trace: read once, so that its spans lie within each other whatever the system's clock does.
struct Clock {
    began: Instant,
    start: u64,
    end: u64,
}

impl Clock {
    fn at(&self, at: Instant) -> u64 {
        later(self.start, at.saturating_duration_since(self.began)).min(self.end)
    }
}

fn root(scope: &Scope, context: &TraceContext, notes: &Notes, ended: Ended, clock: &Clock) -> Span {
    let mut attributes = ended.attributes;
    if let Some(tenant) = scope.tenant.get() {
        attributes.push(text("lensgate.tenant", &**tenant));
    }
    if let Some(model) = scope.model.get() {
        attributes.push(text("lensgate.model", model.as_str()));
    }
    attributes.extend(scope.version.get().map(|version| version_of(version.get())));
    let state = notes.state.as_ref().and_then(|state| state.to_str().ok());
    let flags = match notes.parent {
        Some(_) => SAMPLED | PARENT_IS_KNOWN | PARENT_IS_REMOTE,
        None => SAMPLED | PARENT_IS_KNOWN,
    };
    let parent = notes
        .parent
        .map(|parent| parent.span.to_be_bytes().to_vec());
    Span {
        trace_id: context.trace.to_be_bytes().to_vec(),
        span_id: context.span.to_be_bytes().to_vec(),
        parent_span_id: parent.unwrap_or_default(),
        trace_state: state.unwrap_or_default().to_owned(),
        flags,
        name: ended.name,
        kind: ended.kind.into(),
        start_time_unix_nano: clock.start,
        end_time_unix_nano: clock.end,
        attributes,
        status: ended.failed.then(failure),
        ..Span::default()
    }
}

fn version_of(number: u64) -> KeyValue {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    of("lensgate.version", Value::IntValue(number))
}

fn of_picture(picture: &Picture, span: Span, clock: &Clock) -> Span {
    let index = Value::IntValue(picture.index.into());
    let mut attributes = vec![of("lensgate.picture.index", index)];
    attributes.extend(
        picture
            .version
            .get()
            .map(|version| version_of(version.get())),
    );
    let failed = picture.failure.get();
    attributes.extend(failed.map(|code| text("error.type", &**code)));
    Span {
        span_id: picture.context.span.to_be_bytes().to_vec(),
        name: "picture".to_owned(),
        start_time_unix_nano: clock.at(picture.began),
        end_time_unix_nano: picture.ended.get().map_or(clock.end, |&at| clock.at(at)),
        attributes,
        ..span
    }
}

fn of_step(step: Step, span: Span, clock: &Clock) -> Span {
    let (began, ended) = (clock.at(step.began), clock.at(step.ended));
    let (kind, attributes, link) = match step.more {
        Some(more) => (more.kind, more.attributes, more.link),
        None => (SpanKind::Internal, Vec::new(), None),
    };
    Span {
        span_id: span_id().to_be_bytes().to_vec(),
        name: step.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: began,
        end_time_unix_nano: ended,
        attributes,
        links: link.iter().map(self::link).collect(),
        ..span
    }
}
