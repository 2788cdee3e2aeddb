//! One job from its taking to its end: its pictures one after the other, then its results, its callback and its end in one
//! transaction; or back to where it was, with what came out so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Jobs, PictureOutcome, Terms};
use crate::classify::{Caller, Classification, ClassifyError, EncodedPicture, Reservation, Target};
use crate::domain::callback::{EventKind, NewDelivery};
use crate::domain::error::ErrorKind;
use crate::domain::job::{Job, JobStanding, JobState};
use crate::store::{EndedJob, GivenBack, StoreError, TakenJob, TakenPicture};
use crate::telemetry::trace::{self, Work};

/// A job waits for a part of its age before it is tried again, within these bounds.
const PART_OF_ITS_AGE: i32 = 4;
const SHORTEST_BACK_OFF: TimeDelta = TimeDelta::milliseconds(500);
const LONGEST_BACK_OFF: TimeDelta = TimeDelta::seconds(30);

/// A model or version that a job names was there when the job was taken in: another replica sees it within this time.
const UNTIL_ALL_HAVE_SEEN_IT: TimeDelta = TimeDelta::minutes(1);

/// How often it is looked whether there is memory for a picture.
const LOOK_FOR_MEMORY: Duration = Duration::from_millis(50);

/// The pause after a call that the store did not answer.
const STORE_AGAIN: Duration = Duration::from_millis(500);

/// A job that is carried out.
struct Run<'a> {
    jobs: &'a Jobs,
    taken: &'a TakenJob,
    lease: Uuid,
    terms: Terms,
    target: Target,
    caller: Caller,
    /// One a picture; what has none is still to be done.
    results: Vec<Option<Value>>,
    /// Places of those that came out this time.
    fresh: Vec<usize>,
}

/// What comes after a try at all pictures.
enum Next {
    /// All have results.
    End,
    /// The job is tried again then.
    Again(DateTime<Utc>),
    /// Its pictures are gone, and so is the job; or the store does not give them, and whoever takes it next tries again.
    Nothing,
}

impl Jobs {
    /// Carries out a job that was taken. Where its lease is lost, nothing is written; after `last` it is given back.
    pub(super) async fn carry_out(
        self: Arc<Self>,
        taken: TakenJob,
        lease: Uuid,
        since: Instant,
        last: CancellationToken,
    ) {
        let work = Work::named("job")
            .asked_by(taken.job.traceparent.as_deref())
            .of_request(taken.job.asked.request_id)
            .consuming();
        let noted = Box::pin(self.carry_out_noted(&taken, lease, since, last));
        trace::work(work, noted).await;
    }

    async fn carry_out_noted(
        &self,
        taken: &TakenJob,
        lease: Uuid,
        since: Instant,
        last: CancellationToken,
    ) {
        let id = taken.job.asked.request_id;
        let _in_hand = self.parts.metrics.jobs.in_hand();
        let mut run = match Run::of(self, taken, lease) {
            Ok(run) => run,
            Err(error) => {
                // A newer release wrote them: it may take the job when the lease ends.
                tracing::error!(job = %id, %error, "a job's terms are not understood");
                return;
            }
        };
        let is_cut = tokio::select! {
            biased;
            () = last.cancelled() => true,
            // What has come to its end needs no lease any more.
            () = run.carry_out() => false,
            () = self.keep_lease(id, lease, since) => false,
        };
        if is_cut {
            run.give_back(self.parts.clock.now()).await;
        }
    }
}

impl<'a> Run<'a> {
    fn of(jobs: &'a Jobs, taken: &'a TakenJob, lease: Uuid) -> Result<Self, serde_json::Error> {
        let job = &taken.job;
        let is_lost = taken.attempts > jobs.settings.max_attempts;
        let terms = match serde_json::from_value(job.terms.clone()) {
            // Nobody asks for its terms any more.
            Err(_) if is_lost => Terms::default(),
            terms => terms?,
        };
        let tenant: Arc<str> = job.asked.tenant.to_string().into();
        let caller = Caller {
            name: Arc::clone(&tenant),
            tenant: Some(Arc::clone(&tenant)),
            reuse: terms.reuse(),
            deadline: None,
            since: arrival(job, jobs.parts.clock.now()),
            asked: Some(Arc::new(job.asked.clone())),
            unit: terms.unit.as_deref().map(Arc::from),
            series: Some(jobs.parts.metrics.tenant(&tenant)),
            comes_again: true,
        };
        trace::tenant(&caller.name);
        trace::model(&job.model);
        let results = taken.pictures.iter().map(|picture| picture.result.clone());
        Ok(Self {
            jobs,
            taken,
            lease,
            target: Target {
                model: Some(job.model.to_string()),
                version: terms.version.clone(),
            },
            terms,
            caller,
            results: results.collect(),
            fresh: Vec::new(),
        })
    }

    async fn carry_out(&mut self) {
        let next = if self.taken.attempts > self.jobs.settings.max_attempts {
            self.abandon().await
        } else {
            self.classify_all().await
        };
        match next {
            Next::End => self.end().await,
            Next::Again(at) => self.give_back(at).await,
            Next::Nothing => {}
        }
    }

    /// Classifies what has no result yet, until something is in the way that may pass.
    async fn classify_all(&mut self) -> Next {
        for (place, picture) in self.taken.pictures.iter().enumerate() {
            if self.results.get(place).is_some_and(Option::is_some) {
                continue;
            }
            // The last try's failure stands, and is remembered.
            self.caller.comes_again = !self.is_late();
            match trace::picture(picture.index, self.classify(picture)).await {
                None => return Next::Nothing,
                Some(Err(error)) if self.may_pass(&error) && self.caller.comes_again => {
                    return Next::Again(self.again_after(&error));
                }
                Some(outcome) => self.came_out(place, picture, outcome.map_err(Some)),
            }
        }
        Next::End
    }

    /// A job that took its gateway with it each time.
    async fn abandon(&mut self) -> Next {
        tracing::error!(
            job = %self.taken.job.asked.request_id,
            attempts = self.taken.attempts - 1,
            "a job is given up: whoever had it did not come back"
        );
        let route = self.jobs.parts.classifier.route(&self.target, |_| true);
        for (place, picture) in self.taken.pictures.iter().enumerate() {
            if self.results.get(place).is_some_and(Option::is_some) {
                continue;
            }
            if let Ok(route) = &route {
                let classifier = &self.jobs.parts.classifier;
                classifier
                    .refuse(route, &self.caller, picture.index, ErrorKind::Internal)
                    .await;
            }
            self.came_out(place, picture, Err(None));
        }
        Next::End
    }

    /// What becomes of a picture; `None` where it is gone.
    async fn classify(
        &self,
        picture: &TakenPicture,
    ) -> Option<Result<Classification, ClassifyError>> {
        let classifier = &self.jobs.parts.classifier;
        // Before its bytes are read: a model that cannot answer needs none.
        let route = match classifier.route(&self.target, |_| true) {
            Ok(route) => route,
            Err(error) => return Some(Err(error)),
        };
        let reservation = match self.memory(picture.bytes).await {
            Ok(reservation) => Arc::new(reservation),
            Err(error) => return Some(Err(error)),
        };
        let bytes = self.content(picture.index).await?;
        let picture = EncodedPicture {
            index: picture.index,
            bytes,
            reservation,
        };
        let answer = classifier
            .classify(&route, picture, self.terms.options(), &self.caller)
            .await;
        Some(answer)
    }

    /// The picture's share of the memory that all requests share. It is waited for, and half of it is left to those who
    /// wait themselves.
    async fn memory(&self, bytes: u64) -> Result<Reservation, ClassifyError> {
        let budget = self.jobs.parts.classifier.budget();
        loop {
            let held = budget.used();
            if held == 0 || held.saturating_add(bytes) <= budget.limit() / 2 {
                match budget.reserve(bytes) {
                    Err(ClassifyError::OutOfMemoryBudget) => {}
                    outcome => return outcome,
                }
            }
            if self.is_late() {
                return Err(ClassifyError::OutOfMemoryBudget);
            }
            tokio::time::sleep(LOOK_FOR_MEMORY).await;
        }
    }

    /// The picture's file; `None` where it is gone, or cannot be had.
    async fn content(&self, index: u32) -> Option<Bytes> {
        let job = self.taken.job.asked.request_id;
        loop {
            match self.jobs.parts.store.job_picture(job, index).await {
                Ok(content) => return content.map(Bytes::from),
                Err(error) if may_answer_later(job, &error).await => {}
                Err(_) => return None,
            }
        }
    }

    fn came_out(
        &mut self,
        place: usize,
        picture: &TakenPicture,
        outcome: Result<Classification, Option<ClassifyError>>,
    ) {
        let result = (self.jobs.parts.wording)(PictureOutcome {
            request_id: self.taken.job.asked.request_id,
            index: picture.index,
            filename: picture.filename.as_deref(),
            outcome,
            total: self.caller.since.elapsed(),
        });
        if let Some(slot) = self.results.get_mut(place) {
            *slot = Some(result);
            self.fresh.push(place);
        }
    }

    /// Whether it may be otherwise soon. A replica may not have seen yet what the one that took the job in has seen.
    fn may_pass(&self, error: &ClassifyError) -> bool {
        let is_unknown = matches!(
            error,
            ClassifyError::ModelNotFound(_) | ClassifyError::VersionNotFound { .. }
        );
        error.passes() || (is_unknown && self.age() < UNTIL_ALL_HAVE_SEEN_IT)
    }

    /// Since it was taken in.
    fn age(&self) -> TimeDelta {
        self.jobs.parts.clock.now() - self.taken.job.created_at
    }

    /// Whether it was tried for as long as it may be.
    fn is_late(&self) -> bool {
        let age = self.age().to_std();
        age.is_ok_and(|age| age >= self.jobs.settings.give_up_after.get())
    }

    /// When to try again what failed for a reason that passes: the older the job, the later.
    fn again_after(&self, error: &ClassifyError) -> DateTime<Utc> {
        let (now, age) = (self.jobs.parts.clock.now(), self.age());
        let asked = error
            .retry_after()
            .and_then(|after| TimeDelta::from_std(after).ok());
        let least = asked.unwrap_or_default().max(SHORTEST_BACK_OFF);
        now + (age / PART_OF_ITS_AGE).max(least).min(LONGEST_BACK_OFF)
    }

    /// Gives the job back with what came out so far. Where the store is away, the lease ends by itself.
    async fn give_back(&self, due_at: DateTime<Utc>) {
        let id = self.taken.job.asked.request_id;
        self.jobs.parts.metrics.jobs.resumed.one();
        let pictures = self.taken.pictures.iter().zip(&self.results);
        let results: Vec<(u32, Value)> = pictures
            .enumerate()
            .filter(|(place, _)| self.fresh.contains(place))
            .filter_map(|(_, (picture, result))| Some((picture.index, result.clone()?)))
            .collect();
        let back = GivenBack {
            results: &results,
            due_at,
        };
        let given = self.jobs.parts.store.give_back_job(id, self.lease, back);
        match given.await {
            Ok(true) => tracing::debug!(job = %id, %due_at, "a job was given back"),
            Ok(false) => tracing::debug!(job = %id, "a job was deleted before it was given back"),
            Err(error) => {
                tracing::warn!(job = %id, %error, "a job was not given back: it is taken when its lease ends");
            }
        }
    }

    /// Ends the job. While the store is away it is tried until the lease is lost.
    async fn end(&self) {
        let store = &self.jobs.parts.store;
        let job = &self.taken.job;
        let id = job.asked.request_id;
        let now = self.jobs.parts.clock.now();
        let results: Vec<Value> = self.results.iter().flatten().cloned().collect();
        let standing = JobStanding {
            job: job.clone(),
            state: JobState::of(&results),
            results,
        };
        let delivery = job.callback_url.as_deref().map(|url| {
            let event = EventKind::PredictionCompleted;
            let told = standing.told();
            NewDelivery::of(event, job.asked.tenant, url, &told, now).of_trace(trace::traceparent())
        });
        let end = EndedJob {
            state: standing.state,
            results: &standing.results,
            at: now,
            delivery: delivery.as_ref(),
        };
        loop {
            match store.end_job(id, self.lease, end).await {
                Ok(true) => break,
                Ok(false) => {
                    tracing::info!(job = %id, "a job was deleted before its end");
                    return;
                }
                Err(error) if may_answer_later(id, &error).await => {}
                Err(_) => return,
            }
        }
        let counts = &self.jobs.parts.metrics.jobs;
        match standing.state {
            JobState::Failed => counts.failed.one(),
            _ => counts.completed.one(),
        }
        if delivery.is_some() {
            self.jobs.parts.outbox.nudge();
        }
        self.give_back_quota(&standing.results);
    }

    /// Pictures that failed for reasons of ours do not count against their key's day.
    fn give_back_quota(&self, results: &[Value]) {
        let is_ours = |result: &&Value| {
            let status = result.pointer("/error/status").and_then(Value::as_u64);
            status.is_some_and(|status| status >= 500)
        };
        let failed = results.iter().filter(is_ours).count();
        if let Some(failed) = u32::try_from(failed).ok().filter(|&failed| failed > 0) {
            let job = &self.taken.job;
            let day = job.created_at.date_naive();
            self.jobs.parts.quota.give_back(job.asked.key, day, failed);
        }
    }
}

/// When a job's request came, on this process's clock.
fn arrival(job: &Job, now: DateTime<Utc>) -> Instant {
    let age = (now - job.created_at).to_std().unwrap_or_default();
    let began = Instant::now();
    began.checked_sub(age).unwrap_or(began)
}

/// Whether a call that the store did not do is to be tried again here, after a pause. Where it fails for good, the job is left
/// to whoever takes it when its lease ends, so often as a job is begun.
async fn may_answer_later(job: Uuid, error: &StoreError) -> bool {
    if !matches!(error, StoreError::Unavailable(_)) {
        tracing::error!(%job, %error, "the store fails a job: it is left until its lease ends");
        return false;
    }
    tracing::debug!(%job, %error, "a job waits for the store");
    tokio::time::sleep(STORE_AGAIN).await;
    true
}
