//! The trace of a run of several pictures: they come from several requests, so that it is a trace of its own, tied to theirs by
//! links.

use std::time::{Instant, SystemTime};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};

use super::super::otlp::{of, text};
use super::context::{new_trace_id, span_id};
use super::export::{self, SAMPLED};
use super::{TRACING, TraceContext};

/// A run of several pictures, of which at least one belongs to a trace that is kept.
#[derive(Debug)]
pub struct Batch {
    context: TraceContext,
    began: Instant,
    began_at: SystemTime,
    links: Vec<Link>,
    pictures: usize,
}

impl Batch {
    /// A run for these pictures, which begins now; `None` where no trace of theirs is to be kept.
    pub fn begin(pictures: impl Iterator<Item = Option<TraceContext>>) -> Option<Self> {
        TRACING.get()?;
        let (mut links, mut count) = (Vec::new(), 0);
        for picture in pictures {
            count += 1;
            let kept = picture.filter(|picture| picture.sampled);
            links.extend(kept.map(|picture| export::link(&picture)));
        }
        (!links.is_empty()).then(|| Self {
            context: TraceContext {
                trace: new_trace_id(),
                span: span_id(),
                sampled: true,
            },
            began: Instant::now(),
            began_at: SystemTime::now(),
            links,
            pictures: count,
        })
    }

    /// Its span, which the pictures' own are linked to.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// It has ended; `version` is its model's and its number, `digits/2`.
    pub fn end(self, version: &str) {
        let Some(tracing) = TRACING.get() else { return };
        let start = export::nanos(self.began_at);
        let pictures = Value::IntValue(i64::try_from(self.pictures).unwrap_or(i64::MAX));
        let (model, number) = version.rsplit_once('/').unwrap_or((version, ""));
        let number = number.parse().ok().map(Value::IntValue);
        let number = number.map(|number| of("lensgate.version", number));
        let mut attributes = vec![
            text("lensgate.model", model),
            of("lensgate.batch.pictures", pictures),
        ];
        attributes.extend(number);
        tracing.queue.offer(vec![Span {
            trace_id: self.context.trace.to_be_bytes().to_vec(),
            span_id: self.context.span.to_be_bytes().to_vec(),
            flags: SAMPLED,
            name: "batch".to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: export::later(start, self.began.elapsed()),
            attributes,
            links: self.links,
            ..Span::default()
        }]);
    }
}
