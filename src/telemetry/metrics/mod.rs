//! Metrics: what is counted as it happens, and what is read from where it stands when somebody asks.
//!
//! What is counted of a model, a version or a tenant is held by that; when only the book here holds it, it is gone. Every label
//! is a name that operators gave or that stands in this program: no request makes a series. `docs/metrics.md` lists all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

mod histogram;
mod mix;
mod page;
mod plane;
mod process;
mod push;
mod series;

pub use histogram::{Counter, Histogram, Spread};
pub use mix::ClassMix;
pub use page::{MetricsError, Page, real, real_size};
pub use plane::{ConnectionOutcome, Held, PlaneSeries};
pub(crate) use push::push;
pub use series::{
    Arm, Busy, CacheResult, CallbackSeries, Counts, JobSeries, Limit, ModelSeries, PictureOutcome,
    ShadowResult, StepTimes, TenantSeries, VersionSeries,
};

/// What `lensgate_degraded` tells; several add to it.
pub const DEGRADED_HELP: &str =
    "1 for what is wrong and does not stop the gateway from serving; the status tells it in words.";

/// Somebody who knows how things stand.
pub trait Source: Send + Sync {
    /// Adds what it knows. Called on a thread that may take a moment, not for long.
    fn tell(&self, page: &mut Page);
}

/// All that is counted.
pub struct Metrics {
    book: Mutex<Book>,
    /// The listener of the data plane.
    pub data: Arc<PlaneSeries>,
    /// The listener of the admin plane.
    pub admin: Arc<PlaneSeries>,
    /// Callbacks.
    pub callbacks: CallbackSeries,
    /// Requests that nobody waits for.
    pub jobs: JobSeries,
    sources: Mutex<Vec<Weak<dyn Source>>>,
    pushes: push::Pushes,
}

#[derive(Default)]
struct Book {
    models: BTreeMap<String, Arc<ModelSeries>>,
    versions: BTreeMap<(String, u64), Arc<VersionSeries>>,
    tenants: BTreeMap<String, Arc<TenantSeries>>,
}

impl Book {
    /// Forgets what nobody else holds.
    fn forget(&mut self) {
        self.versions
            .retain(|_, series| Arc::strong_count(series) > 1);
        self.models
            .retain(|_, series| Arc::strong_count(series) > 1);
        self.tenants
            .retain(|_, series| Arc::strong_count(series) > 1);
    }

    fn model(&mut self, model: &str) -> Arc<ModelSeries> {
        let series = self.models.entry(model.to_owned());
        Arc::clone(series.or_insert_with(|| Arc::new(ModelSeries::of(model))))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            data: Arc::new(PlaneSeries::of("data")),
            admin: Arc::new(PlaneSeries::of("admin")),
            callbacks: CallbackSeries::default(),
            jobs: JobSeries::default(),
            sources: Mutex::default(),
            pushes: push::Pushes::default(),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted of a model; whoever holds it keeps it.
    #[must_use]
    pub fn model(&self, model: &str) -> Arc<ModelSeries> {
        self.book().model(model)
    }

    /// What is counted of a version; whoever holds it keeps it. A version that takes another's place goes on where it was.
    #[must_use]
    pub fn version(&self, model: &str, version: u64) -> Arc<VersionSeries> {
        let mut book = self.book();
        let of_model = book.model(model);
        let series = book.versions.entry((model.to_owned(), version));
        Arc::clone(series.or_insert_with(|| Arc::new(VersionSeries::of(of_model, version))))
    }

    /// A true label was joined with an answer of a version; where that is gone, nothing is counted.
    pub fn labelled(&self, model: &str, version: u64, is_correct: bool) {
        if let Some(series) = self.book().versions.get(&(model.to_owned(), version)) {
            series.labelled(is_correct);
        }
    }

    /// What is counted of a tenant, by its id; whoever holds it keeps it.
    #[must_use]
    pub fn tenant(&self, id: &str) -> Arc<TenantSeries> {
        let mut book = self.book();
        Arc::clone(book.tenants.entry(id.to_owned()).or_default())
    }

    /// Counts a decision about a model's canary.
    pub fn rollout_decided(&self, model: &str, decision: &'static str) {
        self.model(model).decisions.one(decision);
    }

    /// Who is asked, too, for as long as it is there.
    pub fn ask(&self, source: &Arc<dyn Source>) {
        let sources = self.sources.lock();
        let mut sources = sources.unwrap_or_else(PoisonError::into_inner);
        sources.push(Arc::downgrade(source));
    }

    /// Whether there is a collector that does not take what is sent to it.
    #[must_use]
    pub fn is_collector_away(&self) -> bool {
        self.pushes.are_away() || super::span_outcomes().is_some_and(|spans| spans.is_away())
    }

    /// All metrics as they are now. What is gone is not on it. Takes milliseconds where there are many models: not for the
    /// runtime's threads.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let sources = self.sources.lock();
        let sources = sources.unwrap_or_else(PoisonError::into_inner).clone();
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.tell(&mut page);
        }
        self.data.tell(&mut page);
        self.admin.tell(&mut page);
        self.callbacks.tell(&mut page);
        self.jobs.tell(&mut page);
        process::tell(&mut page);
        self.pushes.tell(&mut page);
        tell_spans(&mut page);
        let mut book = self.book();
        book.forget();
        for series in book.models.values() {
            series.tell(&mut page);
        }
        for series in book.versions.values() {
            series.tell(&mut page);
        }
        for series in book.tenants.values() {
            series.tell(&mut page);
        }
        page
    }
}

/// What became of spans, where there is a collector.
fn tell_spans(page: &mut Page) {
    let Some(spans) = super::span_outcomes() else {
        return;
    };
    let outcomes = [("exported", spans.exported()), ("dropped", spans.dropped())];
    for (outcome, count) in outcomes {
        page.counter(
            "lensgate_spans_total",
            "Spans for the collector.",
            &[("outcome", outcome)],
            count,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ARM: Arm = Arm {
        key: 0,
        name: Some(""),
    };

    fn text(metrics: &Metrics) -> String {
        metrics.page().text().expect("text")
    }

    #[test]
    fn what_nobody_holds_any_more_is_gone() {
        let metrics = Metrics::default();
        let old = metrics.version("digits", 1);
        let new = metrics.version("digits", 2);
        old.answered(ARM, Duration::from_millis(3), 0.9);
        new.failed(ARM, "overloaded");
        let of = |version: u64, outcome: &str, count: u64| {
            format!(
                "lensgate_predictions_total{{arm=\"\",model=\"digits\",outcome=\"{outcome}\",version=\"{version}\"}} {count}\n"
            )
        };
        let seen = text(&metrics);
        assert!(seen.contains(&of(1, "ok", 1)), "{seen}");
        assert!(seen.contains(&of(2, "overloaded", 1)), "{seen}");
        // A swap: the next one goes on where the last one was.
        let next = metrics.version("digits", 1);
        drop(old);
        next.answered(ARM, Duration::from_millis(3), 0.9);
        assert!(text(&metrics).contains(&of(1, "ok", 2)));
        drop(next);
        let seen = text(&metrics);
        assert!(!seen.contains("version=\"1\""), "{seen}");
        assert!(seen.contains("version=\"2\""), "{seen}");
        drop(new);
        assert!(!text(&metrics).contains("digits"));
    }

    #[test]
    fn tenants_go_by_the_name_that_they_have_now() {
        let metrics = Metrics::default();
        let tenant = metrics.tenant("01");
        tenant.rename("acme");
        tenant.limited(Limit::Rate);
        metrics.tenant("01").rename("acme gmbh");
        let seen = text(&metrics);
        assert!(
            seen.contains("lensgate_limited_total{limit=\"rate\",tenant=\"acme gmbh\"} 1\n"),
            "{seen}"
        );
        assert!(!seen.contains("\"acme\""));
        drop(tenant);
        assert!(!text(&metrics).contains("acme"));
    }

    #[test]
    fn sources_are_asked_while_they_are_there() {
        struct One;
        impl Source for One {
            fn tell(&self, page: &mut Page) {
                page.gauge("lensgate_one", "One.", &[], 1.0);
            }
        }
        let metrics = Metrics::default();
        let one: Arc<dyn Source> = Arc::new(One);
        metrics.ask(&one);
        assert!(text(&metrics).contains("\nlensgate_one 1\n"));
        drop(one);
        assert!(!text(&metrics).contains("lensgate_one"));
    }
}
