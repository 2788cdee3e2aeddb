//! From a candidate to a version that can answer: choose a backend, try everything, start the engine.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::VersionState;
use super::examine::{self, Check, Examination, ExamineOptions, Opened};
use super::loaded::LoadedVersion;
use super::trial::Trial;
use super::widen;
use crate::backend::{Backend, OpenOptions, Session};
use crate::domain::manifest::{BackendChoice, ServingSection};
use crate::engine::{BatchConfig, RunPermits, Scheduler, SchedulerConfig};
use crate::model_store::Candidate;
use crate::telemetry::metrics::{ClassMix, Metrics};
use crate::telemetry::trace;
use crate::vision::DecodeLimits;

/// The backends that are there.
#[derive(Clone)]
pub struct Backends {
    /// ONNX Runtime, where its library was found.
    pub ort: Result<Arc<dyn Backend>, String>,
    /// tract, always.
    pub tract: Arc<dyn Backend>,
    /// This program and the runtimes' versions, one word: what a verdict on a graph holds for.
    pub runtime: String,
}

/// What is the same for every version.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// ONNX Runtime's providers in the order of preference.
    pub execution_providers: Vec<String>,
    /// Cores that the process may use.
    pub cores: usize,
    /// The longest expected wait before a version.
    pub max_queue_wait: Duration,
    /// The pixels that a golden picture may have.
    pub max_image_pixels: u64,
}

/// Why a candidate may not serve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LoadError {
    /// In words an operator can act on.
    pub reason: String,
    /// Every check that was made.
    pub checks: Vec<Check>,
    /// Whether the files changed meanwhile, so that nothing can be said.
    pub changed: bool,
}

impl LoadError {
    /// A failure before or beside the checks.
    #[must_use]
    pub fn of(reason: String) -> Self {
        Self::with(reason, Vec::new())
    }

    pub(super) fn with(reason: String, checks: Vec<Check>) -> Self {
        Self {
            reason,
            checks,
            changed: false,
        }
    }

    /// The same, because the files changed meanwhile.
    #[must_use]
    pub(super) fn for_a_change(self) -> Self {
        Self {
            changed: true,
            ..self
        }
    }
}

/// Told where a load stands.
pub(super) type Progress<'a> = dyn Fn(VersionState, Option<&str>) + 'a;

/// Loads versions. Blocks for as long as a graph takes to open: never call it on the async runtime.
pub struct Loader {
    backends: Backends,
    permits: Arc<RunPermits>,
    config: LoaderConfig,
    trial: Option<Trial>,
    metrics: Arc<Metrics>,
}

impl Loader {
    /// A loader whose versions share the process's cores.
    #[must_use]
    pub fn new(backends: Backends, config: LoaderConfig) -> Self {
        Self {
            backends,
            permits: RunPermits::new(config.cores),
            config,
            trial: None,
            metrics: Arc::default(),
        }
    }

    /// How long a load may take before it counts as hanging.
    pub(super) fn longest(&self) -> Duration {
        let trial = self.trial.as_ref().map(Trial::longest);
        OPENING_TIME.saturating_add(trial.unwrap_or_default())
    }

    /// Tries every candidate in a child process before it is opened in this one.
    #[must_use]
    pub fn with_trial(self, trial: Trial) -> Self {
        Self {
            trial: Some(trial),
            ..self
        }
    }

    /// Counts into `metrics` what its versions do.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Where it is counted what its versions do.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// This program and the runtimes' versions.
    pub(super) fn runtime(&self) -> &str {
        &self.backends.runtime
    }

    /// The cores that all runs share.
    pub(super) fn permits(&self) -> &RunPermits {
        &self.permits
    }

    /// Cores that the process may use.
    pub(super) fn cores(&self) -> usize {
        self.config.cores.max(1)
    }

    /// Opens and tries a candidate on the backend that its manifest asks for.
    ///
    /// # Errors
    /// With the reason and every check that was made.
    pub fn examine(&self, candidate: &Candidate) -> Result<(Opened, Vec<Check>), LoadError> {
        self.examine_step_by_step(candidate, &|| ())
    }

    /// As [`Self::examine`]; `opened` hears when the graph is open and its trial begins.
    fn examine_step_by_step(
        &self,
        candidate: &Candidate,
        opened: &dyn Fn(),
    ) -> Result<(Opened, Vec<Check>), LoadError> {
        let choice = candidate.manifest.serving.backend;
        let ort = || match &self.backends.ort {
            Ok(ort) => Ok(self.try_on(candidate, &**ort, opened)),
            Err(reason) => Err(LoadError::of(format!(
                "the manifest asks for ort, but {reason}"
            ))),
        };
        let tract = || self.try_on(candidate, &*self.backends.tract, opened);
        match choice {
            BackendChoice::Ort => conclude(ort()?),
            BackendChoice::Tract => conclude(tract()),
            BackendChoice::Auto => match &self.backends.ort {
                Err(_) => conclude(tract()),
                Ok(ort) => {
                    let first = self.try_on(candidate, &**ort, opened);
                    if first.is_backends_fault() {
                        conclude_two(first, tract())
                    } else {
                        conclude(first)
                    }
                }
            },
        }
    }

    fn try_on(
        &self,
        candidate: &Candidate,
        backend: &dyn Backend,
        opened: &dyn Fn(),
    ) -> Examination {
        examine::examine(candidate, backend, &self.examine_options(), opened)
    }

    fn examine_options(&self) -> ExamineOptions {
        ExamineOptions {
            execution_providers: self.config.execution_providers.clone(),
            threads: 1,
            limits: DecodeLimits {
                max_pixels: self.config.max_image_pixels,
            },
        }
    }

    /// Opens a second session of a version that was examined, whose runs use all the cores, for a caller that has the
    /// process to itself. `None` where the version has no use for one: its manifest says how many threads a run has or
    /// asks for batches, there is one core, the model is large or quick, or it does not run on ONNX Runtime's CPU.
    #[must_use]
    pub fn widen(&self, candidate: &Candidate, opened: &Opened) -> Option<Arc<dyn Session>> {
        let serving = &candidate.manifest.serving;
        let backend = self.backends.ort.as_ref().ok()?;
        if self.config.cores < 2 || serving.threads.is_some() || batch(serving, opened, 1).is_some()
        {
            return None;
        }
        let options = OpenOptions {
            threads: self.config.cores,
            spinning: true,
            ..examine::open_options(candidate, &self.examine_options())
        };
        widen::open(candidate, &**backend, &options, opened)
    }

    /// Makes every check that a candidate must pass, and keeps nothing. Where there is a trial it makes them, in the child
    /// process alone: it is this program with these settings, and what serves here keeps its memory.
    ///
    /// # Errors
    /// As [`Self::examine`], or when the trial ends without a verdict.
    pub(super) fn check(
        &self,
        candidate: &Candidate,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Check>, LoadError> {
        match &self.trial {
            Some(trial) => trial.make(candidate, wanted),
            None => self.examine(candidate).map(|(_, checks)| checks),
        }
    }

    /// Loads a candidate so that it can answer. Where there is a trial, what may crash or hang a runtime does so in a
    /// child process; `wanted` ends a trial whose outcome nobody waits for any more.
    ///
    /// # Errors
    /// As [`Self::examine`], when the trial fails, or when the system gives no threads.
    pub(super) fn load(
        &self,
        candidate: &Candidate,
        progress: &Progress<'_>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<LoadedVersion, LoadError> {
        if let Some(trial) = &self.trial {
            progress(VersionState::Loading, Some("tried in a child process"));
            let tried = trace::stage("trial");
            trial.pass(candidate, wanted)?;
            drop(tried);
            if !wanted() {
                return Err(LoadError::of("something newer is wanted".into()).for_a_change());
            }
        }
        progress(VersionState::Loading, None);
        let testing = || progress(VersionState::Testing, None);
        let (opened, checks) = self.examine_step_by_step(candidate, &testing)?;
        let serving = &candidate.manifest.serving;
        let starting = trace::stage("start");
        let wide = self.widen(candidate, &opened);
        let batch = batch(serving, &opened, self.config.cores);
        let (model, number) = (candidate.model.as_str(), candidate.number.get());
        let series = self.metrics.version(model, number);
        let config = SchedulerConfig {
            name: format!("{}/{}", candidate.model, candidate.number),
            // A session beside the CPU runs one batch at a time; a second instance would only take smaller ones.
            instances: serving.instances.unwrap_or(if is_on_cpu(&opened) {
                self.config.cores
            } else {
                1
            }),
            max_queue: serving.max_queue.unwrap_or(DEFAULT_MAX_QUEUE),
            max_wait: self.config.max_queue_wait,
            input: opened.input.name.clone(),
            output: opened.output_name.clone(),
            threads: if is_off_cpu(&opened) {
                0
            } else {
                serving.threads.unwrap_or(1)
            },
            batch,
            series: Arc::clone(&series),
        };
        let started = Scheduler::start(&opened.session, wide.as_ref(), &self.permits, &config);
        let scheduler = started
            .map_err(|e| LoadError::with(format!("the system gives no threads: {e}"), checks))?;
        drop(starting);
        Ok(LoadedVersion {
            model: candidate.model.clone(),
            number: candidate.number,
            digest: candidate.digest,
            fingerprint: candidate.fingerprint,
            mix: ClassMix::new(opened.labels.len()),
            series,
            labels: opened.labels,
            unlabelled: opened.unlabelled,
            input: opened.input,
            backend: opened.backend,
            providers: opened.session.providers().to_vec(),
            timeout: serving.timeout_ms.map(Duration::from_millis),
            cache: serving.cache.unwrap_or(true),
            preprocessor: opened.preprocessor,
            output: opened.output,
            scheduler,
        })
    }
}

/// A graph that is not open and tried by then hangs.
const OPENING_TIME: Duration = Duration::from_mins(2);

/// Jobs that may wait before a version unless its manifest says otherwise; the expected wait binds long before.
const DEFAULT_MAX_QUEUE: usize = 4096;

/// The pictures of a run beside the processor, unless the manifest says otherwise. On the processor batches gain
/// nothing.
const DEFAULT_OFF_CPU_BATCH: usize = 8;

pub(super) fn is_on_cpu(opened: &Opened) -> bool {
    opened.session.providers().iter().all(|name| name == "cpu")
}

/// Whether the runs leave the processor's cores to others.
pub(super) fn is_off_cpu(opened: &Opened) -> bool {
    let first = opened.session.providers().first();
    first.is_some_and(|name| name == "cuda" || name == "tensorrt")
}

/// How batches are made; `None` where each instance does a picture from end to end: on the CPU without batches.
fn batch(serving: &ServingSection, opened: &Opened, cores: usize) -> Option<BatchConfig> {
    let default = if is_on_cpu(opened) {
        1
    } else {
        DEFAULT_OFF_CPU_BATCH
    };
    let most = match opened.input.shape.first() {
        Some(Some(1)) => 1,
        _ => serving.max_batch_size.unwrap_or(default),
    };
    (most > 1 || is_off_cpu(opened)).then(|| BatchConfig {
        most,
        delay: Duration::from_millis(serving.max_queue_delay_ms.unwrap_or(0)),
        preparers: cores,
    })
}

fn conclude(examination: Examination) -> Result<(Opened, Vec<Check>), LoadError> {
    let reason = examination.failure().map(|check| check.detail.clone());
    match (examination.opened, reason) {
        (Some(opened), _) => Ok((opened, examination.checks)),
        (None, reason) => Err(LoadError::with(
            reason.unwrap_or_else(|| "no check was made".to_owned()),
            examination.checks,
        )),
    }
}

/// Where both backends refused, an operator needs both reasons.
fn conclude_two(
    first: Examination,
    second: Examination,
) -> Result<(Opened, Vec<Check>), LoadError> {
    let earlier = first
        .failure()
        .map(|check| check.detail.clone())
        .unwrap_or_default();
    conclude(second).map_err(|error| {
        let reason = if error.reason == earlier {
            earlier
        } else {
            format!("{earlier}; {}", error.reason)
        };
        let checks = first.checks.into_iter().chain(error.checks).collect();
        LoadError::with(reason, checks)
    })
}
