//! Shadows: versions that also classify a sample of the pictures, after the answer has gone, where there is room for them.
//!
//! Called by the use case in `mod.rs`. A shadow's picture is a copy in a budget of its own, its run has the engine's lower
//! priority, and what finds no place is dropped and counted: nobody who waits for an answer waits for a shadow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::scores::{Beside, Scores, digest_of};
use super::{
    Caller, Choice, Classification, ClassifyError, EncodedPicture, InflightBudget, Reservation,
    Route, ScoredClass,
};
use crate::config::{LimitsConfig, Live};
use crate::domain::ids::Digest;
use crate::domain::prediction::{Asked, time_of};
use crate::domain::rollout::{ArmName, CanaryPlace, Disagreement, Pair, is_sampled};
use crate::models::LoadedVersion;
use crate::predictions::{Heard, Tally};
use crate::telemetry::metrics::{ShadowResult, VersionSeries};
use crate::vision;

/// Pictures that wait for a shadow, or are in its hands.
const PLACES: usize = 16;

/// How long a picture waits for a moment in which nothing else has to be done.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of the budget of requests that shadows have beside it.
const PART_OF_BUDGET: u64 = 4;

/// Larger pictures are copied off the runtime.
const COPIED_AT_ONCE: usize = 256 << 10;

/// What shadows run with.
pub(super) struct Shadows {
    scores: Arc<Scores>,
    tally: Arc<Tally>,
    limits: Live<LimitsConfig>,
    places: Arc<Semaphore>,
    budget: InflightBudget,
    /// Nothing waits for them at the end.
    tasks: TaskTracker,
}

/// A picture that shadows will be asked for, once it is answered.
pub(super) struct Shadowed {
    listeners: Vec<Listener>,
    picture: Bytes,
    index: u32,
    /// What holds the bytes until they are copied.
    _reservation: Arc<Reservation>,
    digest: Option<Digest>,
    asked: Arc<Asked>,
    /// Of the version that answers.
    series: Arc<VersionSeries>,
}

/// A version that is asked beside the one that answers.
struct Listener {
    version: Arc<LoadedVersion>,
    /// The arm whose agreement it tells, where it is a canary's baseline.
    place: Option<CanaryPlace>,
}

/// A listener's task and what it holds.
struct Run {
    shadowed: Arc<Shadowed>,
    listener: Listener,
    pair: Pair,
    best: ScoredClass,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

impl Shadowed {
    /// A picture, where others than the version that answers are to be asked for it; `None`, at next to no cost, for most.
    pub(super) fn of(
        route: &Route,
        choice: &Choice,
        picture: &EncodedPicture,
        digest: Option<Digest>,
        caller: &Caller,
    ) -> Option<Self> {
        let asked = caller.asked.as_ref()?;
        let listeners = listeners(route, choice, (asked.request_id, picture.index));
        (!listeners.is_empty()).then(|| Self {
            listeners,
            picture: picture.bytes.clone(),
            index: picture.index,
            _reservation: Arc::clone(&picture.reservation),
            digest,
            asked: Arc::clone(asked),
            series: Arc::clone(&choice.version.series),
        })
    }
}

impl Shadows {
    pub(super) fn new(
        scores: &Arc<Scores>,
        tally: &Arc<Tally>,
        limits: Live<LimitsConfig>,
    ) -> Self {
        Self {
            scores: Arc::clone(scores),
            tally: Arc::clone(tally),
            budget: InflightBudget::new(limits.load().max_inflight_bytes / PART_OF_BUDGET),
            limits,
            places: Arc::new(Semaphore::new(PLACES)),
            tasks: TaskTracker::new(),
        }
    }

    /// Shows an answered picture to its shadows; returns at once.
    pub(super) fn show(
        self: &Arc<Self>,
        mut shadowed: Shadowed,
        answer: &Classification,
        caller: &Caller,
    ) {
        let at = time_of(shadowed.asked.request_id);
        let listeners = std::mem::take(&mut shadowed.listeners);
        let shadowed = Arc::new(shadowed);
        for listener in listeners {
            let pair = Pair {
                model: answer.model.clone(),
                version: answer.version,
                shadow: listener.version.number,
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                let shadow = pair.shadow.get();
                shadowed.series.compared(shadow, ShadowResult::Dropped);
                self.tally.heard(pair, listener.place, Heard::Nothing, at);
                continue;
            };
            let run = Run {
                shadowed: Arc::clone(&shadowed),
                listener,
                pair,
                best: answer.best.clone(),
                caller: caller.clone(),
                _place: place,
            };
            let shadows = Arc::clone(self);
            self.tasks.spawn(async move { shadows.run(run).await });
        }
    }

    async fn run(&self, run: Run) {
        let (asked, index) = (Arc::clone(&run.shadowed.asked), run.shadowed.index);
        let at = time_of(asked.request_id);
        let (pair, place, best) = (run.pair.clone(), run.listener.place, run.best.clone());
        let series = Arc::clone(&run.shadowed.series);
        let heard = match self.ask(run).await {
            Ok((class, _)) if class.class == best.class => Heard::Agrees,
            Ok((class, picture)) => Heard::Disagrees(Disagreement {
                picture,
                tenant: asked.tenant,
                request_id: asked.request_id,
                index,
                class: (best.class, best.confidence),
                shadow_class: (class.class, class.confidence),
                at,
            }),
            Err(error) => {
                tracing::debug!(%error, shadow = %pair.shadow, "a shadow said nothing of a picture");
                Heard::Nothing
            }
        };
        let result = match &heard {
            Heard::Agrees => ShadowResult::Agreed,
            Heard::Disagrees(_) => ShadowResult::Disagreed,
            Heard::Nothing => ShadowResult::Failed,
        };
        series.compared(pair.shadow.get(), result);
        self.tally.heard(pair, place, heard, at);
    }

    /// A shadow's first class for a picture, and the picture's digest.
    async fn ask(&self, run: Run) -> Result<(ScoredClass, Digest), ClassifyError> {
        let deadline = Instant::now() + PATIENCE;
        let Run {
            shadowed,
            listener,
            caller,
            _place,
            ..
        } = run;
        self.budget
            .set_limit(self.limits.load().max_inflight_bytes / PART_OF_BUDGET);
        let bytes = u64::try_from(shadowed.picture.len()).unwrap_or(u64::MAX);
        let reservation = Arc::new(self.budget.reserve(bytes)?);
        let picture = copied(&shadowed.picture).await?;
        let (index, digest) = (shadowed.index, shadowed.digest);
        // From here on the request's own bytes are free.
        drop(shadowed);
        let digest = match digest {
            Some(digest) => digest,
            None => digest_of(&picture).await?,
        };
        let picture = EncodedPicture {
            index,
            bytes: picture,
            reservation,
        };
        let beside = Beside {
            digest,
            deadline,
            budget: &self.budget,
        };
        let asking = self
            .scores
            .beside(&listener.version, picture, &caller, beside);
        let scored = asking.await?;
        let best = vision::top_k(&scored.scores, 1).into_iter().next();
        let (index, confidence) = best.ok_or(ClassifyError::NoScores)?;
        let class = listener.version.labels.get(index).cloned();
        let class = class.ok_or(ClassifyError::NoScores)?;
        let class = ScoredClass {
            class,
            index,
            confidence,
        };
        Ok((class, digest))
    }
}

/// The versions that are asked for a picture beside the one that answers: the shadow, and for a canary's candidate its baseline.
fn listeners(route: &Route, choice: &Choice, (request, index): (Uuid, u32)) -> Vec<Listener> {
    let rollout = route.rollout();
    let mut listeners = Vec::new();
    if let (Some((run, step)), Some(canary)) = (choice.canary, rollout.canary())
        && choice.arm == Some(ArmName::Candidate)
        && is_sampled(request, index, canary.agreement_sample)
        && let Some(version) = route.live(canary.baseline)
    {
        listeners.push(Listener {
            version,
            place: Some((run, step, ArmName::Candidate)),
        });
    }
    if let Some(shadow) = &rollout.shadow
        && choice.is_routed
        && shadow.version != choice.version.number
        && listeners
            .iter()
            .all(|one| one.version.number != shadow.version)
        && is_sampled(request, index, shadow.sample)
        && let Some(version) = route.live(shadow.version)
    {
        listeners.push(Listener {
            version,
            place: None,
        });
    }
    listeners
}

async fn copied(picture: &Bytes) -> Result<Bytes, ClassifyError> {
    if picture.len() <= COPIED_AT_ONCE {
        return Ok(Bytes::copy_from_slice(picture));
    }
    let picture = picture.clone();
    // It can only be lost when the runtime ends.
    tokio::task::spawn_blocking(move || Bytes::copy_from_slice(&picture))
        .await
        .map_err(|_| ClassifyError::Draining)
}
