//! From a picture to its scores: kept ones, those that are being worked out for somebody else, or the engine's.
//!
//! Called by the use case in `mod.rs`. Knows no labels, no options and no HTTP.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::cache::{Key, ResultCache, Shape};
use super::flights::{Boarding, Flights, Seat};
use super::{CacheUse, Caller, ClassifyError, EncodedPicture, InflightBudget, Reuse};
use crate::config::{CacheConfig, LimitsConfig, Live};
use crate::domain::ids::Digest;
use crate::engine::{EngineError, Flow, Job, Prepare, Priority, Timings};
use crate::models::LoadedVersion;
use crate::telemetry::trace;
use crate::vision::{self, DecodeLimits};

/// Pictures up to this size are hashed where they are: it takes less than handing them to another thread and back
/// would delay them. Larger ones would hold up the runtime.
const HASHED_AT_ONCE: usize = 256 << 10;

/// A flight that failed for reasons of its leader's is followed by another; after so many a caller runs by itself.
const FLIGHTS: usize = 2;

/// The scores of a picture and how they came about.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    /// After the activation, in output order; at least one.
    pub(super) scores: Arc<[f32]>,
    /// What the picture's header said.
    pub(super) shape: Shape,
    /// Where this caller's time went inside the engine.
    pub(super) timings: Timings,
    /// The part of its `prepare` that was decoding.
    pub(super) decode: Duration,
    /// From the output to its scores.
    pub(super) activation: Duration,
    /// What the cache had to do with it.
    pub(super) cache: CacheUse,
}

type Outcome = Result<Scored, ClassifyError>;

/// What a run that nobody waits for works within.
pub(super) struct Beside<'a> {
    /// The picture's.
    pub(super) digest: Digest,
    /// When it is given up.
    pub(super) deadline: Instant,
    /// What its bytes and pixels are taken from.
    pub(super) budget: &'a InflightBudget,
}

/// Where scores come from.
pub(super) struct Scores {
    cache: Option<ResultCache>,
    /// Whether all tenants share what is kept.
    shared: bool,
    flights: Flights<Key, Outcome>,
    limits: Live<LimitsConfig>,
    budget: InflightBudget,
}

impl Scores {
    /// What is kept: bytes, bytes that may be, entries.
    pub(super) fn kept(&self) -> (u64, u64, u64) {
        self.cache.as_ref().map_or((0, 0, 0), ResultCache::size)
    }

    pub(super) fn new(
        cache: &CacheConfig,
        limits: Live<LimitsConfig>,
        budget: InflightBudget,
    ) -> Self {
        Self {
            cache: ResultCache::new(cache),
            shared: cache.shared,
            flights: Flights::new(),
            limits,
            budget,
        }
    }

    /// The scores of `picture` on `version`, by `deadline` at the latest. `digest` is the picture's, where it is known.
    pub(super) async fn of(
        &self,
        version: &Arc<LoadedVersion>,
        picture: EncodedPicture,
        digest: Option<Digest>,
        caller: &Caller,
        deadline: Instant,
    ) -> Outcome {
        if Instant::now() >= deadline {
            return Err(ClassifyError::DeadlineExceeded);
        }
        let run = Run {
            version: Arc::clone(version),
            limits: DecodeLimits {
                max_pixels: self.limits.load().max_image_pixels,
            },
            budget: self.budget.clone(),
            flow: Flow(Arc::clone(&caller.name)),
            priority: Priority::Normal,
            deadline,
        };
        let alone = async |run: Run, picture, cache| {
            let ran = within(deadline, run.scores(picture)).await?;
            Ok(ran.scored(cache))
        };
        let Some(cache) = self.cache.as_ref().filter(|_| version.cache) else {
            return alone(run, picture, CacheUse::Off).await;
        };
        if caller.reuse == Reuse::Neither {
            return alone(run, picture, CacheUse::Declined { stored: false }).await;
        }
        let digest = match digest {
            Some(digest) => digest,
            None => digest_of(&picture.bytes).await?,
        };
        let key = self.key(&run, digest, caller);
        if caller.reuse == Reuse::Renew {
            let mut fresh = alone(run, picture, CacheUse::Off).await?;
            let stored = cache.store(key, &fresh.scores, fresh.shape).await;
            fresh.cache = CacheUse::Declined { stored };
            return Ok(fresh);
        }
        if let Some(scored) = kept(cache, &key).await {
            return Ok(scored);
        }
        self.together(cache, key, run, picture).await
    }

    /// The scores of `picture` on `version` for nobody who waits: kept ones, or those of a run of lower priority. Nobody else's
    /// run is joined, and nobody joins this one: who did would wait as if nobody did.
    pub(super) async fn beside(
        &self,
        version: &Arc<LoadedVersion>,
        picture: EncodedPicture,
        caller: &Caller,
        beside: Beside<'_>,
    ) -> Outcome {
        let run = Run {
            version: Arc::clone(version),
            limits: DecodeLimits {
                max_pixels: self.limits.load().max_image_pixels,
            },
            budget: beside.budget.clone(),
            flow: Flow(Arc::clone(&caller.name)),
            priority: Priority::Background,
            deadline: beside.deadline,
        };
        // What the caller wants of the cache holds for its shadows, too.
        let may_keep = version.cache && caller.reuse != Reuse::Neither;
        let cache = self.cache.as_ref().filter(|_| may_keep);
        let kept_as = cache.map(|cache| (cache, self.key(&run, beside.digest, caller)));
        if caller.reuse == Reuse::Allowed
            && let Some((cache, key)) = &kept_as
            && let Some(scored) = kept(cache, key).await
        {
            return Ok(scored);
        }
        let ran = within(beside.deadline, run.scores(picture)).await?;
        let stored = match kept_as {
            Some((cache, key)) => cache.store(key, &ran.scores, ran.shape).await,
            None => false,
        };
        Ok(ran.scored(CacheUse::Miss { stored }))
    }

    /// What the scores of a picture are kept as.
    fn key(&self, run: &Run, picture: Digest, caller: &Caller) -> Key {
        Key {
            fingerprint: run.version.fingerprint,
            backend: run.version.backend,
            picture,
            max_pixels: run.limits.max_pixels,
            tenant: caller.tenant.clone().filter(|_| !self.shared),
        }
    }

    /// Works the scores out for all who ask for them now. Whose leader failed by a deadline, a full queue or a fault
    /// of ours takes over; what is wrong with the picture is wrong for all. To be able to, who follows keeps its
    /// picture's bytes, held against the budget, until it has an answer.
    async fn together(
        &self,
        cache: &ResultCache,
        key: Key,
        run: Run,
        mut picture: EncodedPicture,
    ) -> Outcome {
        let deadline = run.deadline;
        for _ in 0..FLIGHTS {
            let begin = |picture| lead(cache.clone(), key.clone(), run.clone(), picture);
            match self.flights.board(&key, picture, begin) {
                Boarding::Leads(seat) => return within(deadline, seat).await,
                Boarding::Follows(seat, mine) => match follow(seat, deadline).await {
                    Err(error) if !error.lies_in_the_picture() && Instant::now() < deadline => {
                        picture = mine;
                    }
                    outcome => return outcome,
                },
            }
        }
        within(deadline, lead(cache.clone(), key, run, picture)).await
    }
}

/// What is kept, as an answer: nothing was decoded, nothing waited, nothing ran.
async fn kept(cache: &ResultCache, key: &Key) -> Option<Scored> {
    let step = trace::step("cache");
    let hit = cache.find(key).await;
    drop(step);
    let hit = hit?;
    Some(Scored {
        scores: hit.scores,
        shape: hit.shape,
        timings: Timings::default(),
        decode: Duration::ZERO,
        activation: Duration::ZERO,
        cache: CacheUse::Hit { ttl: hit.ttl },
    })
}

/// The flight itself. Somebody else's may have landed since the caller looked: it looks again.
async fn lead(cache: ResultCache, key: Key, run: Run, picture: EncodedPicture) -> Outcome {
    if let Some(scored) = kept(&cache, &key).await {
        return Ok(scored);
    }
    // A panic here would be everybody's who waits.
    let run = AssertUnwindSafe(run.scores(picture)).catch_unwind().await;
    let ran = run.unwrap_or_else(|_| Err(EngineError::Panicked.into()))?;
    let stored = cache.store(key, &ran.scores, ran.shape).await;
    Ok(ran.scored(CacheUse::Miss { stored }))
}

/// Waits for somebody else's flight. The wait is all that this caller's time went into.
async fn follow(seat: Seat<Outcome>, deadline: Instant) -> Outcome {
    let since = Instant::now();
    let mut scored = within(deadline, seat).await?;
    if !scored.cache.is_hit() {
        scored.cache = CacheUse::Collapsed;
        scored.timings = Timings {
            since: Some(since),
            queue: since.elapsed(),
            ..Timings::default()
        };
        (scored.decode, scored.activation) = (Duration::ZERO, Duration::ZERO);
    }
    Ok(scored)
}

async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, ClassifyError>>,
) -> Result<T, ClassifyError> {
    tokio::time::timeout_at(deadline.into(), work)
        .await
        .unwrap_or(Err(ClassifyError::DeadlineExceeded))
}

/// SHA-256 of a picture's file. A large one is hashed off the runtime.
pub(super) async fn digest_of(picture: &Bytes) -> Result<Digest, ClassifyError> {
    let sha256 = |bytes: &[u8]| Digest::from_bytes(Sha256::digest(bytes).into());
    if picture.len() <= HASHED_AT_ONCE {
        return Ok(sha256(picture));
    }
    let picture = picture.clone();
    // It can only be lost when the runtime ends.
    tokio::task::spawn_blocking(move || sha256(&picture))
        .await
        .map_err(|_| ClassifyError::Draining)
}

/// What a run on the engine gave.
struct Ran {
    scores: Arc<[f32]>,
    shape: Shape,
    timings: Timings,
    decode: Duration,
    activation: Duration,
}

/// What `prepare` tells of a picture, beside its tensor.
#[derive(Default)]
struct Told {
    /// What its header says.
    shape: OnceLock<Shape>,
    /// How long its decoding took.
    decode: OnceLock<Duration>,
}

impl Ran {
    fn scored(self, cache: CacheUse) -> Scored {
        Scored {
            scores: self.scores,
            shape: self.shape,
            timings: self.timings,
            decode: self.decode,
            activation: self.activation,
            cache,
        }
    }
}

/// One run on the engine, as its caller asked for it.
#[derive(Clone)]
struct Run {
    version: Arc<LoadedVersion>,
    limits: DecodeLimits,
    budget: InflightBudget,
    flow: Flow,
    priority: Priority,
    deadline: Instant,
}

impl Run {
    /// Hands the picture to the engine and waits for its scores. Dropped, it takes the job back.
    async fn scores(self, picture: EncodedPicture) -> Result<Ran, ClassifyError> {
        let (reply, outcome) = oneshot::channel();
        let told = Arc::new(Told::default());
        self.version.scheduler.submit(Job {
            prepare: self.prepare(picture, Arc::clone(&told)),
            flow: self.flow.clone(),
            priority: self.priority,
            deadline: self.deadline,
            reply,
            trace: trace::current(),
        })?;
        // The instance dropped the reply: its version was stopped with the job inside.
        let done = outcome.await.map_err(|_| EngineError::Stopped)??;
        let began = Instant::now();
        let raw = done.output.data();
        let scores = vision::scores(raw, 0..raw.len(), &self.version.output);
        // A model may give NaN or infinity for one picture and not for another: that is no answer.
        let are_scores = !scores.is_empty() && scores.iter().all(|score| score.is_finite());
        // Whatever ran was prepared, and had a header then.
        let shape = told.shape.get().filter(|_| are_scores);
        Ok(Ran {
            shape: *shape.ok_or(ClassifyError::NoScores)?,
            scores: scores.into(),
            timings: done.timings,
            decode: told.decode.get().copied().unwrap_or_default(),
            activation: began.elapsed(),
        })
    }

    /// The work before the session: it runs on the instance's thread.
    fn prepare(&self, picture: EncodedPicture, told: Arc<Told>) -> Prepare {
        let (limits, budget) = (self.limits, self.budget.clone());
        let preprocessor = Arc::clone(&self.version.preprocessor);
        Box::new(move || {
            let EncodedPicture {
                bytes, reservation, ..
            } = picture;
            let started = Instant::now();
            let header = vision::read_header(&bytes, &limits).map_err(ClassifyError::from)?;
            told.shape.get_or_init(|| Shape {
                format: header.format,
                size: (header.width, header.height),
            });
            // One picture within the pixel limit may need more than all share: then it runs alone.
            let share = budget.limit().saturating_sub(reservation.bytes());
            let pixels = budget.reserve(header.working_bytes.min(share))?;
            let decoded = preprocessor
                .decode_for(&bytes, &header)
                .map_err(ClassifyError::from)?;
            told.decode.get_or_init(|| started.elapsed());
            drop((bytes, reservation));
            let tensor = preprocessor.tensor(&decoded);
            drop((decoded, pixels));
            Ok(tensor)
        })
    }
}
