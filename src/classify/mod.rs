//! The use case: a picture in, a label out. One straight line, a step a function.
//!
//! Called by `api` and `jobs`. Knows no HTTP, no database and no backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::config::{CacheConfig, LimitsConfig, Live};
use crate::domain::error::ErrorKind;
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::prediction::{AnsweredBy, Asked};
use crate::domain::rollout::{ArmName, CanaryPlace, Rollout, StickyBy};
use crate::engine::Timings;
use crate::models::{Catalog, CatalogHandle, LoadedVersion, ModelEntry};
use crate::predictions::Tally;
use crate::telemetry::metrics::TenantSeries;
use crate::telemetry::trace;
use crate::vision;

mod arms;
mod budget;
mod cache;
mod counting;
mod error;
mod flights;
mod recorder;
mod scores;
mod shadow;
mod steps;

use arms::{Watch, arm_outcome};
pub use budget::{InflightBudget, Reservation};
use cache::Shape;
use counting::Place;
pub use error::ClassifyError;
pub use recorder::Recorder;
use scores::{Scores, digest_of};
use shadow::{Shadowed, Shadows};

pub use crate::vision::Format;

/// What the classifier needs to know of the settings.
#[derive(Clone, Debug)]
pub struct ClassifierConfig {
    /// The model asked where none is named; may change.
    pub default_model: Live<Option<String>>,
    /// Sizes and times; they may change, and each request takes them as they are when it comes.
    pub limits: Live<LimitsConfig>,
    /// Pictures of one batch that are worked on at the same time.
    pub batch_width: usize,
    /// The result cache.
    pub cache: CacheConfig,
}

/// Which model, and which of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model's id as the caller wrote it; `None` for the default model.
    pub model: Option<String>,
    /// A version or an alias as the caller wrote it; `None` lets the rollout choose.
    pub version: Option<String>,
}

/// A model that a request may use, in the catalog that the request keeps to its end.
#[derive(Clone)]
pub struct Route {
    entry: Arc<ModelEntry>,
    pinned: Option<VersionNumber>,
    _catalog: Arc<Catalog>,
}

impl Route {
    /// The model's id.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        &self.entry.id
    }

    /// How the model's traffic is shared.
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.entry.rollout
    }

    /// The request header whose value stays with its version, where there is one.
    #[must_use]
    pub fn sticky_header(&self) -> Option<&str> {
        match self.sticky_by() {
            Some(StickyBy::Header(name)) => Some(name),
            _ => None,
        }
    }

    /// What stays with its version, where the caller did not name one and it matters.
    fn sticky_by(&self) -> Option<&StickyBy> {
        let rollout = &self.entry.rollout;
        rollout.sticky_by().filter(|_| self.pinned.is_none())
    }

    /// The version for a unit, and why.
    fn assign(&self, unit: &[u8]) -> Result<Choice, ClassifyError> {
        let live = self.entry.live().map(|version| version.number);
        let rollout = &self.entry.rollout;
        let (assigned, mode) = match self.pinned {
            Some(_) => (None, PINNED),
            None => (rollout.assign(unit, live), rollout.mode()),
        };
        let number = self.pinned.or(assigned.map(|assigned| assigned.version));
        let arm = assigned.and_then(|assigned| assigned.arm);
        let stands_in = assigned.is_some_and(|assigned| assigned.stands_in);
        let entry = number.and_then(|number| self.entry.versions.get(&number));
        let version = entry.and_then(|entry| entry.loaded.clone());
        let version = version.ok_or_else(|| ClassifyError::ModelUnavailable {
            model: self.entry.id.clone(),
            version: self.pinned,
            state: entry.map(|entry| entry.state),
        })?;
        let canary = self.entry.rollout.canary();
        let is_arms_own = self.pinned.is_none() && !stands_in;
        let canary = canary.filter(|canary| is_arms_own && canary.is_open());
        Ok(Choice {
            version,
            arm,
            mode,
            canary: canary.map(|canary| (canary.run, canary.step())),
            is_routed: self.pinned.is_none(),
        })
    }

    /// The version of a number, where it is live.
    fn live(&self, number: VersionNumber) -> Option<Arc<LoadedVersion>> {
        self.entry.versions.get(&number)?.loaded.clone()
    }

    /// The most labels that a version has which may answer.
    fn labels(&self) -> Result<usize, ClassifyError> {
        let one = self.assign(&[])?.version.labels.len();
        if self.pinned.is_some() {
            return Ok(one);
        }
        let arms = self.entry.rollout.arms();
        let arms = arms.filter_map(|arm| self.entry.versions.get(&arm.version)?.loaded.as_ref());
        Ok(arms
            .map(|version| version.labels.len())
            .fold(one, usize::max))
    }
}

/// What a request is told that names its version itself.
const PINNED: &str = "pinned";

/// The version for a picture, and why.
struct Choice {
    version: Arc<LoadedVersion>,
    arm: Option<ArmName>,
    mode: &'static str,
    /// The run and the step of a canary of which something is still to be decided.
    canary: Option<(Uuid, u64)>,
    /// Whether the rollout has chosen it, and not the caller.
    is_routed: bool,
}

impl Choice {
    /// Whose figures it adds to, where a canary is to be decided.
    fn place(&self) -> Option<CanaryPlace> {
        let (run, step) = self.canary?;
        Some((run, step, self.arm?))
    }
}

/// What a caller may choose beside the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// How many classes are wanted; the default is five, or all where there are fewer.
    pub top_k: Option<usize>,
    /// Classes below it are left out of `classes`; the first class is named in any case.
    pub min_confidence: Option<f32>,
}

/// Who asks, and on which terms.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose turn it is when many wait.
    pub name: Arc<str>,
    /// Whose kept results it may see and adds to; without one, those of all who have none.
    pub tenant: Option<Arc<str>>,
    /// What it wants of the result cache.
    pub reuse: Reuse,
    /// When it stops waiting, if that is before the version's own time is over.
    pub deadline: Option<Instant>,
    /// When its request came.
    pub since: Instant,
    /// Under which names it is remembered; who has none is not.
    pub asked: Option<Arc<Asked>>,
    /// The hash of the header's value that stays with its version, where the model's rollout names one.
    pub unit: Option<Arc<str>>,
    /// Where it is counted what becomes of its tenant's pictures.
    pub series: Option<Arc<TenantSeries>>,
    /// Whether it comes again with a picture that could not be classified for reasons that pass: these are not remembered.
    pub comes_again: bool,
}

/// What a caller wants of the result cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Kept results, and those that are being worked out for others.
    #[default]
    Allowed,
    /// A run of its own, whose result is kept for others.
    Renew,
    /// A run of its own, and nothing is kept of it.
    Neither,
}

/// What the result cache had to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// It gave the answer, which it keeps for so long.
    Hit {
        /// What is left of the time it is kept.
        ttl: Duration,
    },
    /// It had none; whether it took this one.
    Miss {
        /// Whether it took this one.
        stored: bool,
    },
    /// It had none, but the same was being worked out for somebody else.
    Collapsed,
    /// The caller did not want its answer; whether it took this one.
    Declined {
        /// Whether it took this one.
        stored: bool,
    },
    /// It is turned off, for all or for this model.
    Off,
}

impl CacheUse {
    /// Whether the scores came from the cache.
    #[must_use]
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit { .. })
    }

    /// Whether the scores came from a run for this answer.
    fn has_run(self) -> bool {
        !matches!(self, Self::Hit { .. } | Self::Collapsed)
    }
}

/// One encoded picture, and its bytes' share of the budget.
pub struct EncodedPicture {
    /// Its place in the request, from 0.
    pub index: u32,
    /// The file as it came.
    pub bytes: Bytes,
    /// What the body it came in holds; given back when its last picture is decoded.
    pub reservation: Arc<Reservation>,
}

/// A class and its confidence.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredClass {
    /// The label, or the decimal index where the model has none.
    pub class: String,
    /// The output's index.
    pub index: usize,
    /// The confidence, not rounded.
    pub confidence: f32,
}

/// The answer for one picture.
#[derive(Clone, Debug)]
pub struct Classification {
    /// The model.
    pub model: ModelId,
    /// The version that answered.
    pub version: VersionNumber,
    /// SHA-256 of that version's model file.
    pub digest: Digest,
    /// Why that version: the rollout's mode, or `pinned` where the caller named it.
    pub mode: &'static str,
    /// The arm of the rollout, where there are arms.
    pub arm: Option<ArmName>,
    /// The first class.
    pub best: ScoredClass,
    /// The first classes, best first, those below `min_confidence` left out.
    pub classes: Vec<ScoredClass>,
    /// Where this caller's time went inside the engine: nowhere if the answer was kept, and into waiting alone if it
    /// was worked out for somebody else.
    pub timings: Timings,
    /// The part of its `prepare` that was decoding.
    pub decode: Duration,
    /// From the output to the answer.
    pub postprocess: Duration,
    /// What the result cache had to do with it.
    pub cache: CacheUse,
    /// What the picture's header said.
    shape: Shape,
}

/// Where the gateway is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Takes requests.
    Serving,
    /// Still takes requests, but asks for no more: it will stop soon.
    Leaving,
    /// Refuses new requests and finishes the running ones.
    Draining,
}

/// Classifies pictures.
pub struct Classifier {
    catalog: CatalogHandle,
    config: ClassifierConfig,
    budget: InflightBudget,
    scores: Arc<Scores>,
    shadows: Arc<Shadows>,
    tally: Arc<Tally>,
    recorder: Option<Recorder>,
    phase: AtomicU8,
}

impl Classifier {
    /// A classifier over the catalog, whose answers are recorded by `recorder`.
    #[must_use]
    pub fn new(
        catalog: CatalogHandle,
        config: ClassifierConfig,
        recorder: Option<Recorder>,
    ) -> Self {
        let budget = InflightBudget::new(config.limits.load().max_inflight_bytes);
        let limits = config.limits.clone();
        let scores = Arc::new(Scores::new(&config.cache, limits.clone(), budget.clone()));
        let tally = Arc::default();
        Self {
            catalog,
            shadows: Arc::new(Shadows::new(&scores, &tally, limits)),
            scores,
            tally,
            config,
            budget,
            recorder,
            phase: AtomicU8::new(Phase::Serving as u8),
        }
    }

    /// What bodies and pixels share; bodies reserve as they stream.
    #[must_use]
    pub fn budget(&self) -> &InflightBudget {
        &self.budget
    }

    /// What rollouts are judged by; whoever decides takes it to the store.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Pictures of one batch that should be worked on at the same time.
    #[must_use]
    pub fn batch_width(&self) -> usize {
        self.config.batch_width.max(1)
    }

    /// Where the gateway is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Serving as u8 => Phase::Serving,
            phase if phase == Phase::Leaving as u8 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    /// Enters a phase; `lifecycle` alone does.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Finds the model and checks that it could answer; comes before a body is read. A model that the caller may not use
    /// is to it as if it were not there: `may_use` is asked before anything is told of it.
    ///
    /// # Errors
    /// When there is no such model or version, none is live, or the gateway is stopping.
    pub fn route(
        &self,
        target: &Target,
        may_use: impl Fn(&ModelId) -> bool,
    ) -> Result<Route, ClassifyError> {
        if self.phase() == Phase::Draining {
            return Err(ClassifyError::Draining);
        }
        let catalog = self.catalog.load();
        let id = match &target.model {
            Some(name) => {
                let id = name.parse::<ModelId>().ok().filter(&may_use);
                id.ok_or_else(|| ClassifyError::ModelNotFound(name.clone()))?
            }
            None => self.default_model(&catalog, &may_use)?,
        };
        let entry = catalog.models.get(&id).cloned();
        let entry = entry.ok_or_else(|| {
            if catalog.scanned {
                ClassifyError::ModelNotFound(id.to_string())
            } else {
                ClassifyError::Starting
            }
        })?;
        let pinned = match &target.version {
            None => None,
            Some(name) => {
                let not_found = || ClassifyError::VersionNotFound {
                    model: id.clone(),
                    version: name.clone(),
                };
                Some(entry.named(name).ok_or_else(not_found)?)
            }
        };
        let route = Route {
            entry,
            pinned,
            _catalog: catalog,
        };
        // Whatever the unit: where one has no version, no other has.
        route.assign(&[])?;
        Ok(route)
    }

    /// The model that is asked where none is named: the configured one, else the only one; of those that the caller may
    /// use.
    fn default_model(
        &self,
        catalog: &Catalog,
        may_use: impl Fn(&ModelId) -> bool,
    ) -> Result<ModelId, ClassifyError> {
        let mut ids = catalog.models.keys().filter(|&id| may_use(id));
        let configured = self.config.default_model.load();
        // The configuration has refused what is no id.
        let configured = configured.as_ref().as_ref().and_then(|id| id.parse().ok());
        match (configured, ids.next(), ids.next()) {
            (Some(id), ..) => {
                let usable = Some(id).filter(may_use);
                usable.ok_or(ClassifyError::NoDefaultModel)
            }
            // A second model may still turn up.
            (None, ..) if !catalog.scanned => Err(ClassifyError::Starting),
            (None, Some(only), None) => Ok(only.clone()),
            _ => Err(ClassifyError::NoDefaultModel),
        }
    }

    /// Whether every version that was found at the start has come out: what is not live then is not to be waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.catalog.load().settled
    }

    /// Whether what answered has a label; `None` where it is not live any more, and nobody can say.
    #[must_use]
    pub fn has_label(&self, model: &ModelId, by: &AnsweredBy, label: &str) -> Option<bool> {
        let catalog = self.catalog.load();
        let version = catalog.models.get(model)?.versions.get(&by.version)?;
        let loaded = version.loaded.as_ref();
        // Another graph under the same number may have other labels.
        let labels = &loaded.filter(|loaded| loaded.digest == by.digest)?.labels;
        Some(labels.iter().any(|one| one == label))
    }

    /// Refuses options that no answer of this route could meet.
    ///
    /// # Errors
    /// When `top_k` is not 1 to the number of labels, or `min_confidence` not 0 to 1.
    pub fn check_options(&self, route: &Route, options: &Options) -> Result<(), ClassifyError> {
        let labels = route.labels()?;
        if let Some(top_k) = options.top_k.filter(|&k| k == 0 || k > labels) {
            return Err(ClassifyError::TopK { top_k, labels });
        }
        match options.min_confidence {
            Some(least) if !(0.0..=1.0).contains(&least) => Err(ClassifyError::MinConfidence),
            _ => Ok(()),
        }
    }

    /// Classifies one picture on the version that the route gives it. Kept answers and new ones go this one way, and it
    /// ends when what became of it is recorded.
    ///
    /// # Errors
    /// When the picture is refused, the version has too much to do, or the time is over.
    pub async fn classify(
        &self,
        route: &Route,
        picture: EncodedPicture,
        options: Options,
        caller: &Caller,
    ) -> Result<Classification, ClassifyError> {
        let recorder = self.recorder.as_ref().zip(caller.asked.as_ref());
        let sticky_by = route.sticky_by();
        let digest = if recorder.is_some() || sticky_by == Some(&StickyBy::Image) {
            Some(digest_of(&picture.bytes).await?)
        } else {
            None
        };
        let unit = sticky_by.map(|by| unit(by, caller, digest, picture.index));
        let choice = route.assign(&unit.unwrap_or_default());
        if let Ok(choice) = &choice {
            trace::version(choice.version.number);
        }
        let place = choice.as_ref().ok().and_then(Choice::place);
        let mut watch = place.map(|place| Watch::new(&self.tally, place, caller.deadline));
        let shadowed = choice
            .as_ref()
            .ok()
            .and_then(|choice| Shadowed::of(route, choice, &picture, digest, caller));
        let counted = choice.as_ref().ok().map(Place::of);
        let entry = recorder.map(|(recorder, asked)| {
            (
                recorder,
                recorder.begin(asked, route, &choice, &picture, digest),
            )
        });
        let outcome = match choice {
            Ok(choice) => self.answer(&choice, picture, digest, options, caller).await,
            Err(error) => Err(error),
        };
        if let Some(watch) = &mut watch {
            watch.end();
        }
        if let Err(error) = &outcome {
            trace::failed(error.kind().code());
        }
        let comes_again = caller.comes_again && outcome.as_ref().is_err_and(ClassifyError::passes);
        if !comes_again {
            counting::count(counted.as_ref(), route, &outcome, caller);
            if let Some((recorder, entry)) = entry {
                let _step = trace::step("record");
                recorder.end(entry, &outcome, caller.since).await;
            }
            if let Some((place, outcome)) = place.zip(arm_outcome(&outcome, caller)) {
                self.tally.did(place, outcome);
            }
        }
        if let Some((shadowed, answer)) = shadowed.zip(outcome.as_ref().ok())
            && self.phase() == Phase::Serving
        {
            self.shadows.show(shadowed, answer, caller);
        }
        outcome
    }

    /// A picture of a request that came so far, but will not be classified, is recorded.
    pub async fn refuse(&self, route: &Route, caller: &Caller, index: u32, kind: ErrorKind) {
        counting::count_failure(None, route, kind, caller);
        if let Some((recorder, asked)) = self.recorder.as_ref().zip(caller.asked.as_ref()) {
            recorder
                .refuse(asked, route, index, kind, caller.since)
                .await;
        }
    }

    async fn answer(
        &self,
        choice: &Choice,
        picture: EncodedPicture,
        digest: Option<Digest>,
        options: Options,
        caller: &Caller,
    ) -> Result<Classification, ClassifyError> {
        let version = &choice.version;
        let own = version
            .timeout
            .unwrap_or_else(|| Duration::from_millis(self.config.limits.load().timeout_ms));
        let own = Instant::now() + own;
        let deadline = caller.deadline.map_or(own, |deadline| deadline.min(own));
        let scored = self.scores.of(version, picture, digest, caller, deadline);
        let scored = scored.await?;
        let began = Instant::now();
        let wanted = options.top_k.unwrap_or(5).min(version.labels.len());
        let mut classes: Vec<ScoredClass> = vision::top_k(&scored.scores, wanted)
            .into_iter()
            .filter_map(|(index, confidence)| {
                let class = version.labels.get(index)?.clone();
                Some(ScoredClass {
                    class,
                    index,
                    confidence,
                })
            })
            .collect();
        let best = classes.first().cloned().ok_or(ClassifyError::NoScores)?;
        if let Some(least) = options.min_confidence {
            classes.retain(|class| class.confidence >= least);
        }
        steps::note(&scored, began);
        Ok(Classification {
            model: version.model.clone(),
            version: version.number,
            digest: version.digest,
            mode: choice.mode,
            arm: choice.arm,
            best,
            classes,
            timings: scored.timings,
            decode: scored.decode,
            postprocess: scored.activation + began.elapsed(),
            cache: scored.cache,
            shape: scored.shape,
        })
    }
}

/// Refuses a picture that will not be classified whatever becomes of it: no format that is served begins so.
///
/// # Errors
/// As [`Classifier::classify`].
pub fn check_format(picture: &[u8]) -> Result<(), ClassifyError> {
    vision::known_format(picture)?;
    Ok(())
}

/// What stays with its version: who asks, the picture, or the value of a header. Who has none of it is assigned by itself.
fn unit(by: &StickyBy, caller: &Caller, digest: Option<Digest>, index: u32) -> Vec<u8> {
    let asked = caller.asked.as_ref();
    let unit = match by {
        StickyBy::None => None,
        StickyBy::Key => asked.map(|asked| asked.key.0.as_bytes().to_vec()),
        StickyBy::Image => digest.map(|digest| digest.as_bytes().to_vec()),
        StickyBy::Header(_) => caller.unit.as_ref().map(|unit| unit.as_bytes().to_vec()),
    };
    unit.unwrap_or_else(|| {
        let request = asked.map_or_else(Uuid::now_v7, |asked| asked.request_id);
        [&request.as_bytes()[..], &index.to_be_bytes()].concat()
    })
}
