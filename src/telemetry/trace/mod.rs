//! Traces: what a request, or a piece of work beside the requests, went through, as spans for a collector.
//!
//! A span here is no `tracing` span, but for those of [`Upkeep`]. A request notes its steps in a list of its own, some tens of nanoseconds each, and only a
//! trace that is kept becomes spans, at its end, when it is known whether it failed or was slow. Without a collector nothing is
//! noted. Whoever runs within a request finds it by the task that it runs in: no room hands it on.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use uuid::Uuid;

use super::otlp::{self, Queue};
use crate::config::TelemetryConfig;
use crate::domain::ids::{ModelId, VersionNumber};

mod batch;
mod context;
mod export;
mod http;
mod sampling;
mod statements;
mod upkeep;
mod work;

pub use batch::Batch;
pub use context::TraceContext;
pub use http::{Head, Request, method_name};
pub(super) use statements::Statements;
pub use statements::statements;
pub(super) use upkeep::layer as upkeep_layer;
pub use upkeep::{Upkeep, stage};
pub use work::{Work, work};

use export::Ended;
use sampling::Sampling;

/// What is kept, and where it goes.
#[derive(Debug)]
struct Tracing {
    sampling: Sampling,
    queue: Queue,
}

/// There once a collector is known.
static TRACING: OnceLock<Tracing> = OnceLock::new();

/// From now on traces go into this queue. Once in a process.
pub(super) fn begin(config: &TelemetryConfig, queue: Queue) {
    let _ = TRACING.set(Tracing {
        sampling: Sampling::new(config.trace_ratio, config.trace_slow.get()),
        queue,
    });
}

/// Puts other rules in force.
pub(super) fn set(config: &TelemetryConfig) {
    if let Some(tracing) = TRACING.get() {
        let slow = config.trace_slow.get();
        tracing.sampling.set(config.trace_ratio, slow);
    }
}

/// What became of spans; `None` where there is no collector.
pub(super) fn outcomes() -> Option<&'static Arc<otlp::Outcomes>> {
    TRACING.get().map(|tracing| tracing.queue.outcomes())
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Where a task is: in which request or piece of work, and at which of its pictures.
#[derive(Clone, Debug)]
pub(super) struct Current {
    scope: Arc<Scope>,
    picture: Option<Arc<Picture>>,
}

/// A request, or a piece of work beside the requests: what is known of it, for the log's lines and its span.
#[derive(Debug, Default)]
pub(super) struct Scope {
    request_id: Option<Uuid>,
    /// Its own span; where none is noted, the caller's.
    context: Option<TraceContext>,
    tenant: OnceLock<Arc<str>>,
    model: OnceLock<ModelId>,
    version: OnceLock<VersionNumber>,
    notes: Option<Notes>,
    /// Where it is no request, and its span one of `tracing`.
    upkeep: Option<tracing::Span>,
}

/// One picture of several.
#[derive(Debug)]
struct Picture {
    index: u32,
    context: TraceContext,
    version: OnceLock<VersionNumber>,
    began: Instant,
    ended: OnceLock<Instant>,
    failure: OnceLock<Cow<'static, str>>,
}

/// What a trace notes until it ends.
#[derive(Debug)]
struct Notes {
    parent: Option<TraceContext>,
    state: Option<::http::HeaderValue>,
    began: Instant,
    began_at: SystemTime,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    route: Option<Arc<str>>,
    /// Who asks, where it is not who is at the connection's other end.
    client: Option<IpAddr>,
    failure: Option<Cow<'static, str>>,
    attributes: Vec<KeyValue>,
    pictures: Vec<Arc<Picture>>,
    steps: Vec<Step>,
}

impl Notes {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Steps that a classify request has, about; so many fit the allocator's quick lists.
const STEPS: usize = 12;

impl Scope {
    /// The scope of something that begins now, below `parent`.
    fn begin(parent: Option<TraceContext>, state: Option<::http::HeaderValue>) -> Self {
        let Some(tracing) = TRACING.get() else {
            return Self {
                context: parent,
                ..Self::default()
            };
        };
        let trace = parent.map_or_else(context::new_trace_id, |parent| parent.trace);
        let sampled = tracing.sampling.at_first(parent.as_ref(), trace);
        Self {
            context: Some(TraceContext {
                trace,
                span: context::span_id(),
                sampled,
            }),
            notes: Some(Notes {
                parent,
                state,
                began: Instant::now(),
                began_at: SystemTime::now(),
                list: Mutex::new(List {
                    steps: Vec::with_capacity(STEPS),
                    ..List::default()
                }),
            }),
            ..Self::default()
        }
    }

    /// Hands the trace on if it is kept. `told` is asked for the rest only then.
    fn end(&self, failed: bool, told: impl FnOnce(&List) -> Ended) {
        let (Some(tracing), Some(notes), Some(context)) =
            (TRACING.get(), &self.notes, &self.context)
        else {
            return;
        };
        let took = notes.began.elapsed();
        if tracing.sampling.at_last(context.sampled, failed, took) {
            let list = std::mem::take(&mut *notes.list());
            let ended = told(&list);
            let spans = export::spans(self, context, notes, list, ended, took);
            tracing.queue.offer(spans);
        }
    }
}

/// Where a task is, if it is in a request or a piece of work.
fn here<T>(ask: impl FnOnce(&Current) -> T) -> Option<T> {
    CURRENT.try_with(ask).ok()
}

/// The same, where it is noted what happens.
fn noting(note: impl FnOnce(&Current, &mut List)) {
    let _ = CURRENT.try_with(|current| {
        if let Some(notes) = &current.scope.notes {
            note(current, &mut notes.list());
        }
    });
}

/// Who asks is known from here on.
pub fn tenant(tenant: &Arc<str>) {
    here(|current| {
        current
            .scope
            .tenant
            .get_or_init(|| Arc::clone(tenant))
            .len()
    });
}

/// Which model is asked is known from here on.
pub fn model(model: &ModelId) {
    here(|current| {
        current.scope.model.get_or_init(|| model.clone());
    });
}

/// Which version answers is known from here on; of several pictures each has its own.
pub fn version(version: VersionNumber) {
    here(|current| {
        let own = current.picture.as_ref().map(|picture| &picture.version);
        own.unwrap_or(&current.scope.version)
            .get_or_init(|| version);
    });
}

/// The route that a request has taken, as the table of routes writes it.
pub fn route(route: &Arc<str>) {
    noting(|_, list| list.route = Some(Arc::clone(route)));
}

/// Whose address asks, behind proxies that are trusted. `find` is called only where that is noted.
pub fn client(find: impl FnOnce() -> Option<IpAddr>) {
    if is_noted() {
        let client = find();
        noting(|_, list| list.client = client);
    }
}

/// Something more of what happens; text of ours or of operators, never of callers.
pub fn note(key: &str, value: impl Into<String>) {
    noting(|_, list| list.attributes.push(otlp::text(key, value)));
}

/// The same, of something that is counted.
pub fn note_count(key: &str, count: u64) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    noting(|_, list| list.attributes.push(otlp::of(key, Value::IntValue(count))));
}

/// Why it comes to nothing: a code of ours. What is known first stands. Of several pictures each has its own.
pub fn failed(code: impl Into<Cow<'static, str>>) {
    let code = code.into();
    here(|current| {
        if let Some(span) = &current.scope.upkeep {
            upkeep::fail(span, &code);
        }
    });
    noting(|current, list| match &current.picture {
        Some(picture) => {
            picture.failure.get_or_init(|| code);
        }
        None => {
            list.failure.get_or_insert(code);
        }
    });
}

/// The span that is under way, for whoever is called or goes on; the caller's where none is noted.
#[must_use]
pub fn current() -> Option<TraceContext> {
    here(|current| match &current.picture {
        Some(picture) => Some(picture.context),
        None => current.scope.context,
    })
    .flatten()
}

/// The same as the header `traceparent` has it.
#[must_use]
pub fn traceparent() -> Option<String> {
    current().map(|context| context.to_string())
}

/// Works on one picture of several: its steps become its own.
pub async fn picture<T>(index: u32, work: impl Future<Output = T>) -> T {
    let picture = here(|current| {
        let notes = current.scope.notes.as_ref()?;
        let picture = Arc::new(Picture {
            index,
            context: current.scope.context?.child(),
            version: OnceLock::new(),
            began: Instant::now(),
            ended: OnceLock::new(),
            failure: OnceLock::new(),
        });
        notes.list().pictures.push(Arc::clone(&picture));
        Some(Current {
            scope: Arc::clone(&current.scope),
            picture: Some(picture),
        })
    });
    let Some(inner) = picture.flatten() else {
        return work.await;
    };
    let picture = inner.picture.clone();
    let outcome = CURRENT.scope(inner, work).await;
    if let Some(picture) = picture {
        picture.ended.get_or_init(Instant::now);
    }
    outcome
}

/// A step of what is under way. Small: most have but a name and two times, and most traces are not kept.
#[derive(Debug)]
pub struct Step {
    name: Cow<'static, str>,
    began: Instant,
    ended: Instant,
    /// The span of the picture that it belongs to; 0 where there is but one.
    picture: u64,
    more: Option<Box<More>>,
}

/// What few steps have.
#[derive(Debug, Default)]
struct More {
    kind: SpanKind,
    attributes: Vec<KeyValue>,
    link: Option<TraceContext>,
}

impl Step {
    /// A step that has been taken; `None` where none is noted.
    #[must_use]
    pub fn taken(name: &'static str, began: Instant, took: Duration) -> Option<Self> {
        is_noted().then(|| Self {
            name: name.into(),
            began,
            ended: began + took,
            picture: 0,
            more: None,
        })
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| {
            Box::new(More {
                kind: SpanKind::Internal,
                ..More::default()
            })
        })
    }

    /// What more is known of it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.more().attributes.push(otlp::text(key, value));
        self
    }

    /// How many of something it had.
    #[must_use]
    pub fn counting(mut self, key: &'static str, count: usize) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let count = otlp::of(key, Value::IntValue(count));
        self.more().attributes.push(count);
        self
    }

    /// The span of another trace that did it.
    #[must_use]
    pub fn linked(mut self, link: Option<TraceContext>) -> Self {
        if link.is_some() {
            self.more().link = link;
        }
        self
    }

    /// Notes it.
    pub fn note(self) {
        noting(|current, list| list.push(self, current));
    }
}

impl List {
    fn push(&mut self, mut step: Step, current: &Current) {
        step.picture = current
            .picture
            .as_ref()
            .map_or(0, |picture| picture.context.span);
        self.steps.push(step);
    }
}

/// Whether steps are noted where this task is.
#[must_use]
pub fn is_noted() -> bool {
    here(|current| current.scope.notes.is_some()).unwrap_or_default()
}

/// A step that ends when this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    began: Option<Instant>,
}

/// Begins a step.
pub fn step(name: &'static str) -> Running {
    Running {
        name,
        began: is_noted().then(Instant::now),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            let step = Step::taken(self.name, began, began.elapsed());
            step.into_iter().for_each(Step::note);
        }
    }
}

/// What a line of the log says of where it was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) trace_id: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) model: Option<ModelId>,
    pub(super) version: Option<VersionNumber>,
}

/// What is known where this task is.
pub(super) fn facts() -> Option<Facts> {
    here(|current| {
        let scope = &current.scope;
        let own = current.picture.as_ref();
        let own = own.and_then(|picture| picture.version.get());
        Facts {
            trace_id: scope.context.map(|context| context.trace_id()),
            request_id: scope.request_id.map(|id| id.to_string()),
            tenant: scope.tenant.get().cloned(),
            model: scope.model.get().cloned(),
            version: own.or_else(|| scope.version.get()).copied(),
        }
    })
}
