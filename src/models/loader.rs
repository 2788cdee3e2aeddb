//! From a candidate to a version that can answer: choose a backend, try everything, start the engine.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::VersionState;
use super::examine::{self, Check, Examination, ExamineOptions, Opened};
use super::loaded::LoadedVersion;
use super::trial::Trial;
use crate::backend::Backend;
use crate::domain::manifest::BackendChoice;
use crate::engine::{RunPermits, Scheduler, SchedulerConfig};
use crate::model_store::Candidate;
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
    /// The time of a request where the manifest has none.
    pub timeout: Duration,
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
    /// Whether it is worth another try although the files stay as they are.
    pub again: bool,
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
            again: true,
            changed: false,
        }
    }

    /// The same, not worth another try.
    #[must_use]
    pub(super) fn for_good(self) -> Self {
        Self {
            again: false,
            ..self
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
        }
    }

    /// Tries every candidate in a child process before it is opened in this one.
    #[must_use]
    pub fn with_trial(self, trial: Trial) -> Self {
        Self {
            trial: Some(trial),
            ..self
        }
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
        let options = ExamineOptions {
            execution_providers: self.config.execution_providers.clone(),
            threads: 1,
            limits: DecodeLimits {
                max_pixels: self.config.max_image_pixels,
            },
        };
        examine::examine(candidate, backend, &options, opened)
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
            trial.pass(candidate, wanted)?;
        }
        progress(VersionState::Loading, None);
        let testing = || progress(VersionState::Testing, None);
        let (opened, checks) = self.examine_step_by_step(candidate, &testing)?;
        let serving = &candidate.manifest.serving;
        let instances = serving.instances.unwrap_or(self.config.cores).max(1);
        let config = SchedulerConfig {
            name: format!("{}/{}", candidate.model, candidate.number),
            instances,
            max_queue: serving.max_queue.unwrap_or(DEFAULT_MAX_QUEUE),
            max_wait: self.config.max_queue_wait,
            input: opened.input.name.clone(),
            output: opened.output_name.clone(),
        };
        let scheduler = Scheduler::start(&opened.session, &self.permits, &config)
            .map_err(|e| LoadError::with(format!("the system gives no threads: {e}"), checks))?;
        Ok(LoadedVersion {
            model: candidate.model.clone(),
            number: candidate.number,
            digest: candidate.digest,
            fingerprint: candidate.fingerprint,
            labels: opened.labels,
            unlabelled: opened.unlabelled,
            input: opened.input,
            backend: opened.backend,
            providers: opened.session.providers().to_vec(),
            timeout: serving
                .timeout_ms
                .map_or(self.config.timeout, Duration::from_millis),
            cache: serving.cache.unwrap_or(true),
            preprocessor: opened.preprocessor,
            output: opened.output,
            scheduler,
        })
    }
}

/// Jobs that may wait before a version unless its manifest says otherwise; the expected wait binds long before.
const DEFAULT_MAX_QUEUE: usize = 4096;

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
