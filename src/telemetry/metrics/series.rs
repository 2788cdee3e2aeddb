//! What is counted of one model, one version, one tenant: held by what it is about, and gone with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::histogram::{Counter, Histogram, LOAD_SECONDS, PICTURES, RATIOS, SECONDS};
use super::page::{Page, real_size};

/// Counts by a name that stands in this program.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    /// One more under a name.
    pub fn one(&self, name: &'static str) {
        *lock(&self.0).entry(name).or_default() += 1;
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = lock(&self.0);
        counts.iter().map(|(name, count)| (*name, *count)).collect()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the result cache had to do with a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// It gave the answer.
    Hit,
    /// It had none.
    Miss,
    /// The same was under way for somebody else.
    Coalesced,
    /// The caller did not want its answer.
    Bypass,
    /// It is turned off.
    Off,
}

const CACHE_RESULTS: [&str; 5] = ["hit", "miss", "coalesced", "bypass", "off"];

/// What is counted of a model, whatever the version.
#[derive(Debug)]
pub struct ModelSeries {
    model: String,
    cache: [Counter; 5],
    /// Loads that went live, and how long they took.
    loads: Histogram,
    loads_failed: Counter,
    /// Pictures for which no version was chosen, by the failure.
    unanswered: Counts,
    /// Decisions about canaries.
    pub(super) decisions: Counts,
}

impl Default for ModelSeries {
    fn default() -> Self {
        Self::of("")
    }
}

impl ModelSeries {
    pub(super) fn of(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            cache: Default::default(),
            loads: Histogram::new(LOAD_SECONDS),
            loads_failed: Counter::default(),
            unanswered: Counts::default(),
            decisions: Counts::default(),
        }
    }

    /// A version went live, so long after its load began; or it failed.
    pub fn loaded(&self, took: Option<Duration>) {
        match took {
            Some(took) => self.loads.took(took),
            None => self.loads_failed.one(),
        }
    }

    /// A picture for which no version was chosen.
    pub fn unanswered(&self, outcome: &'static str) {
        self.unanswered.one(outcome);
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let model = ("model", self.model.as_str());
        for (result, count) in CACHE_RESULTS.into_iter().zip(&self.cache) {
            page.counter(
                "lensgate_cache_requests_total",
                "Pictures by what the result cache had to do with them.",
                &[model, ("result", result)],
                count.get(),
            );
        }
        let ok = self.loads.snapshot().count();
        for (outcome, count) in [("ok", ok), ("failed", self.loads_failed.get())] {
            page.counter(
                "lensgate_model_loads_total",
                "Loads of a model's versions that came to an end.",
                &[model, ("outcome", outcome)],
                count,
            );
        }
        page.histogram(
            "lensgate_model_load_duration_seconds",
            "From the beginning of a load that went live to its end.",
            &[model],
            &self.loads,
        );
        for (outcome, count) in self.unanswered.all() {
            let labels = [model, ("version", ""), ("arm", ""), ("outcome", outcome)];
            page.counter(PREDICTIONS, PREDICTIONS_HELP, &labels, count);
        }
        for (decision, count) in self.decisions.all() {
            page.counter(
                "lensgate_rollout_decisions_total",
                "Decisions about canaries that this replica has taken or was told.",
                &[model, ("decision", decision)],
                count,
            );
        }
    }
}

const PREDICTIONS: &str = "lensgate_predictions_total";
const PREDICTIONS_HELP: &str = "Pictures that were answered or refused, by what became of them.";

/// An arm of a rollout, as classifiers tell them apart: a number, and a name that is made where it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// Another for each name.
    pub key: u64,
    /// Its name; a number where it has none in this program.
    pub name: Option<&'static str>,
}

/// What an arm of a version did.
#[derive(Debug)]
struct ArmSeries {
    arm: String,
    duration: Histogram,
    failed: Counts,
}

/// Where a picture's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTimes {
    /// Waiting for a core or for a batch.
    pub queue: Duration,
    /// From the file to pixels.
    pub decode: Duration,
    /// From pixels to the tensor.
    pub preprocess: Duration,
    /// The run.
    pub inference: Duration,
    /// From the output to the answer.
    pub postprocess: Duration,
}

const STEPS: [&str; 5] = ["queue", "decode", "preprocess", "inference", "postprocess"];

const SHADOW_RESULTS: [&str; 4] = ["agreed", "disagreed", "failed", "dropped"];

/// What came of asking a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowResult {
    /// Its first class was the same.
    Agreed,
    /// It was another.
    Disagreed,
    /// It said nothing.
    Failed,
    /// There was no room to ask it.
    Dropped,
}

/// What is counted of a version.
#[derive(Debug)]
pub struct VersionSeries {
    version: String,
    model: Arc<ModelSeries>,
    arms: RwLock<Vec<(u64, Arc<ArmSeries>)>>,
    steps: [Histogram; 5],
    confidence: Histogram,
    batch: Histogram,
    busy: AtomicUsize,
    /// By the shadow's number.
    shadows: Mutex<BTreeMap<u64, [u64; 4]>>,
    labels_correct: Counter,
    labels_wrong: Counter,
}

impl Default for VersionSeries {
    fn default() -> Self {
        Self::of(Arc::default(), 0)
    }
}

/// An instance at work; over when it is dropped.
pub struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl VersionSeries {
    pub(super) fn of(model: Arc<ModelSeries>, version: u64) -> Self {
        Self {
            version: version.to_string(),
            model,
            arms: RwLock::default(),
            steps: std::array::from_fn(|_| Histogram::new(SECONDS)),
            confidence: Histogram::new(RATIOS),
            batch: Histogram::new(PICTURES),
            busy: AtomicUsize::new(0),
            shadows: Mutex::default(),
            labels_correct: Counter::default(),
            labels_wrong: Counter::default(),
        }
    }

    fn arm(&self, arm: Arm) -> Arc<ArmSeries> {
        let known = |arms: &[(u64, Arc<ArmSeries>)]| {
            let found = arms.iter().find(|(key, _)| *key == arm.key);
            found.map(|(_, series)| Arc::clone(series))
        };
        let arms = self.arms.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known(&arms) {
            return series;
        }
        drop(arms);
        let mut arms = self.arms.write().unwrap_or_else(PoisonError::into_inner);
        known(&arms).unwrap_or_else(|| {
            let named = arm.name.map(str::to_owned);
            let series = Arc::new(ArmSeries {
                arm: named.unwrap_or_else(|| arm.key.to_string()),
                duration: Histogram::new(SECONDS),
                failed: Counts::default(),
            });
            arms.push((arm.key, Arc::clone(&series)));
            series
        })
    }

    /// A picture was answered, `took` after its request came, with such a confidence of its first class.
    pub fn answered(&self, arm: Arm, took: Duration, confidence: f32) {
        self.arm(arm).duration.took(took);
        self.confidence.observe(f64::from(confidence));
    }

    /// A picture was not answered.
    pub fn failed(&self, arm: Arm, outcome: &'static str) {
        self.arm(arm).failed.one(outcome);
    }

    /// What the cache had to do with a picture.
    pub fn cache(&self, result: CacheResult) {
        if let Some(count) = self.model.cache.get(result as usize) {
            count.one();
        }
    }

    /// A picture went through the engine.
    pub fn stepped(&self, times: StepTimes) {
        let times = [
            times.queue,
            times.decode,
            times.preprocess,
            times.inference,
            times.postprocess,
        ];
        for (histogram, time) in self.steps.iter().zip(times) {
            histogram.took(time);
        }
    }

    /// Another instance is at work until the answer is dropped.
    pub fn at_work(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.busy)
    }

    /// A run of so many pictures.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a batch has at most a few hundred pictures"
    )]
    pub fn ran(&self, pictures: usize) {
        self.batch.observe(pictures as f64);
    }

    /// What came of asking the version `shadow` for a picture that this one answered.
    pub fn compared(&self, shadow: u64, result: ShadowResult) {
        let mut shadows = lock(&self.shadows);
        let counts = shadows.entry(shadow).or_default();
        if let Some(count) = counts.get_mut(result as usize) {
            *count += 1;
        }
    }

    /// Forgets the shadows that are not there any more.
    pub fn keep_shadows(&self, is_there: impl Fn(u64) -> bool) {
        lock(&self.shadows).retain(|shadow, _| is_there(*shadow));
    }

    /// A true label was joined with an answer.
    pub fn labelled(&self, is_correct: bool) {
        if is_correct {
            self.labels_correct.one();
        } else {
            self.labels_wrong.one();
        }
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let (model, version) = (
            ("model", self.model.model.as_str()),
            ("version", self.version.as_str()),
        );
        self.tell_arms(page, model, version);
        for (step, times) in STEPS.into_iter().zip(&self.steps) {
            page.histogram(
                "lensgate_step_duration_seconds",
                "Where the time of pictures went that were run.",
                &[model, version, ("step", step)],
                times,
            );
        }
        page.histogram(
            "lensgate_prediction_confidence_ratio",
            "The first class's confidence, 0 to 1.",
            &[model, version],
            &self.confidence,
        );
        page.histogram(
            "lensgate_batch_pictures",
            "Pictures in one run.",
            &[model, version],
            &self.batch,
        );
        page.gauge(
            "lensgate_instances_busy",
            "Threads that execute a picture or a batch.",
            &[model, version],
            real_size(self.busy.load(Ordering::Relaxed)),
        );
        for (shadow, counts) in lock(&self.shadows).iter() {
            let shadow = shadow.to_string();
            for (result, count) in SHADOW_RESULTS.into_iter().zip(counts) {
                page.counter(
                    "lensgate_shadow_comparisons_total",
                    "Pictures that a shadow was asked for beside the version that answered.",
                    &[model, version, ("shadow", &shadow), ("result", result)],
                    *count,
                );
            }
        }
        let labels = [
            ("correct", &self.labels_correct),
            ("wrong", &self.labels_wrong),
        ];
        for (result, count) in labels {
            page.counter(
                "lensgate_feedback_total",
                "True labels that were joined here with an answer of the version.",
                &[model, version, ("result", result)],
                count.get(),
            );
        }
    }

    fn tell_arms(
        &self,
        page: &mut Page,
        model: (&'static str, &str),
        version: (&'static str, &str),
    ) {
        let arms = self.arms.read().unwrap_or_else(PoisonError::into_inner);
        for (_, series) in arms.iter() {
            let arm = ("arm", series.arm.as_str());
            let answered = series.duration.snapshot().count();
            let failed = series.failed.all().into_iter();
            for (outcome, count) in std::iter::once(("ok", answered)).chain(failed) {
                let labels = [model, version, arm, ("outcome", outcome)];
                page.counter(PREDICTIONS, PREDICTIONS_HELP, &labels, count);
            }
            page.histogram(
                "lensgate_prediction_duration_seconds",
                "From a request's head to the result of an answered picture.",
                &[model, version, arm],
                &series.duration,
            );
        }
    }
}

/// What is counted of a tenant.
#[derive(Debug, Default)]
pub struct TenantSeries {
    /// As it is called now.
    name: Mutex<String>,
    pictures: [Counter; 3],
    limited: [Counter; 3],
}

/// Whose fault it is that a picture has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureOutcome {
    /// It has one.
    Ok,
    /// The caller's.
    ClientError,
    /// Ours.
    ServerError,
}

/// Over which limit a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests a second.
    Rate,
    /// Pictures a day.
    Quota,
    /// One that is only observed.
    Observed,
}

impl TenantSeries {
    /// It is called so now.
    pub fn rename(&self, name: &str) {
        name.clone_into(&mut lock(&self.name));
    }

    /// What became of one of its pictures.
    pub fn picture(&self, outcome: PictureOutcome) {
        if let Some(count) = self.pictures.get(outcome as usize) {
            count.one();
        }
    }

    /// One of its requests was over a limit.
    pub fn limited(&self, limit: Limit) {
        if let Some(count) = self.limited.get(limit as usize) {
            count.one();
        }
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let name = lock(&self.name).clone();
        let tenant = ("tenant", name.as_str());
        let outcomes = ["ok", "client_error", "server_error"];
        for (outcome, count) in outcomes.into_iter().zip(&self.pictures) {
            page.counter(
                "lensgate_tenant_pictures_total",
                "A tenant's pictures, by whether they were answered and whose fault it is where not.",
                &[tenant, ("outcome", outcome)],
                count.get(),
            );
        }
        let limits = ["rate", "quota", "observed"];
        for (limit, count) in limits.into_iter().zip(&self.limited) {
            page.counter(
                "lensgate_limited_total",
                "A tenant's requests over a limit of their key; refused, but for observed.",
                &[tenant, ("limit", limit)],
                count.get(),
            );
        }
    }
}

/// What is counted of callbacks.
#[derive(Debug)]
pub struct CallbackSeries {
    /// The receiver took it.
    pub delivered: Counter,
    /// It is tried again.
    pub retried: Counter,
    /// It is not.
    pub given_up: Counter,
    /// How long attempts took.
    pub attempts: Histogram,
}

impl Default for CallbackSeries {
    fn default() -> Self {
        Self {
            delivered: Counter::default(),
            retried: Counter::default(),
            given_up: Counter::default(),
            attempts: Histogram::new(SECONDS),
        }
    }
}

impl CallbackSeries {
    pub(super) fn tell(&self, page: &mut Page) {
        let outcomes = [
            ("delivered", &self.delivered),
            ("retried", &self.retried),
            ("given_up", &self.given_up),
        ];
        for (outcome, count) in outcomes {
            page.counter(
                "lensgate_callback_attempts_total",
                "Attempts to send a callback.",
                &[("outcome", outcome)],
                count.get(),
            );
        }
        page.histogram(
            "lensgate_callback_duration_seconds",
            "How long an attempt to send a callback took.",
            &[],
            &self.attempts,
        );
    }
}

/// What is counted of jobs.
#[derive(Debug, Default)]
pub struct JobSeries {
    /// Kept in the store.
    pub accepted: Counter,
    /// Ended with a result for each picture.
    pub completed: Counter,
    /// Ended without.
    pub failed: Counter,
    /// Given back, to be taken again.
    pub resumed: Counter,
    running: AtomicUsize,
}

impl JobSeries {
    /// Another is in this replica's hands until the answer is dropped.
    pub fn in_hand(&self) -> Busy<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Busy(&self.running)
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let outcomes = [
            ("accepted", &self.accepted),
            ("completed", &self.completed),
            ("failed", &self.failed),
            ("resumed", &self.resumed),
        ];
        for (outcome, count) in outcomes {
            page.counter(
                "lensgate_jobs_total",
                "Requests that nobody waits for, by what became of them here.",
                &[("outcome", outcome)],
                count.get(),
            );
        }
        page.gauge(
            "lensgate_jobs_running",
            "Requests that nobody waits for in this replica's hands.",
            &[],
            real_size(self.running.load(Ordering::Relaxed)),
        );
    }
}
