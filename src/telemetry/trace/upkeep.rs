//! The traces of what the gateway does to itself: a model's version comes, is tried and goes. Spans of `tracing`, through
//! tracing-opentelemetry.
//!
//! There are few of them, so all are kept, and an SDK's span may cost what it costs. Requests are noted otherwise: see [`super`].

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracerProvider, Span as SdkSpan, SpanData, SpanProcessor,
};
use tracing::span::EnteredSpan;
use tracing::{Span, Subscriber, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{CURRENT, Current, Scope, TRACING, TraceContext};
use crate::domain::ids::{ModelId, VersionNumber};

/// The target of these spans: no other becomes one of OpenTelemetry's. Whoever does not know this room writes them by `tracing` alone.
const OURS: &str = "lensgate::upkeep";

/// The layer that makes them OpenTelemetry's, and hands them to the queue of all traces.
pub(in crate::telemetry) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        // The queue says whose they are, as of all others.
        .with_resource(Resource::builder_empty().build())
        .with_span_processor(IntoQueue)
        .build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("lensgate"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(heard())
}

fn heard<S>() -> impl Filter<S> {
    filter_fn(|metadata| metadata.target() == OURS).with_max_level_hint(LevelFilter::INFO)
}

/// A span that has ended waits with all others for the collector.
#[derive(Debug)]
struct IntoQueue;

impl SpanProcessor for IntoQueue {
    fn on_start(&self, _: &mut SdkSpan, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(tracing) = TRACING.get() {
            tracing.queue.offer(vec![otlp::Span::from(span)]);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Something that is done to a version, with a trace of its own to which the log's lines lead; [`super::failed`] within says that it
/// came to nothing.
#[derive(Debug)]
pub struct Upkeep {
    span: Span,
    current: Current,
}

impl Upkeep {
    /// What is done, and to which version.
    #[must_use]
    pub fn of(what: &'static str, model: &ModelId, version: VersionNumber) -> Self {
        let span = tracing::info_span!(
            target: OURS,
            parent: None,
            "upkeep",
            otel.name = what,
            otel.status_code = field::Empty,
            "error.type" = field::Empty,
            lensgate.model = model.as_str(),
            lensgate.version = version.get(),
        );
        let scope = Scope {
            context: context(&span),
            upkeep: Some(span.clone()),
            ..Scope::default()
        };
        let _ = scope.model.set(model.clone());
        let _ = scope.version.set(version);
        let current = Current {
            scope: Arc::new(scope),
            picture: None,
        };
        Self { span, current }
    }

    /// Does it, on a thread that may block.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let Self { span, current } = self;
        CURRENT.sync_scope(current, || span.in_scope(work))
    }
}

/// A part of what is done, which ends when this is dropped; of nothing, nothing.
pub fn stage(name: &'static str) -> EnteredSpan {
    let is_part = super::here(|current| current.scope.upkeep.is_some());
    if is_part.unwrap_or_default() {
        tracing::info_span!(target: OURS, "stage", otel.name = name).entered()
    } else {
        Span::none().entered()
    }
}

/// Says of a span that it came to nothing, and why: a code of ours.
pub(super) fn fail(span: &Span, code: &str) {
    span.record("error.type", code);
    span.record("otel.status_code", "ERROR");
}

/// What the log's lines and others say of where they are; `None` where there is no collector.
fn context(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| TraceContext {
        trace: u128::from_be_bytes(context.trace_id().to_bytes()),
        span: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: true,
    })
}
