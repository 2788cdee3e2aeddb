//! What became of pictures, as metrics.
//!
//! Called by the use case in `mod.rs` when a picture has come to its end.

use std::sync::Arc;

use super::{CacheUse, Caller, Choice, Classification, Classifier, ClassifyError, Route};
use crate::domain::error::ErrorKind;
use crate::domain::rollout::ArmName;
use crate::models::LoadedVersion;
use crate::telemetry::metrics::{Arm, CacheResult, Page, PictureOutcome, Source, StepTimes, real};

/// Whose figures a picture adds to.
pub(super) struct Place {
    version: Arc<LoadedVersion>,
    arm: Arm,
}

impl Place {
    pub(super) fn of(choice: &Choice) -> Self {
        Self {
            version: Arc::clone(&choice.version),
            arm: arm(choice.arm),
        }
    }
}

/// Versions have numbers from 1 to far below the last two.
fn arm(name: Option<ArmName>) -> Arm {
    let (key, name) = match name {
        None => (0, Some("")),
        Some(ArmName::Of(version)) => (version.get(), None),
        Some(ArmName::Baseline) => (u64::MAX, Some("baseline")),
        Some(ArmName::Candidate) => (u64::MAX - 1, Some("candidate")),
    };
    Arm { key, name }
}

/// Counts what became of a picture of a request that somebody waits for, or of a job's last try.
pub(super) fn count(
    place: Option<&Place>,
    route: &Route,
    outcome: &Result<Classification, ClassifyError>,
    caller: &Caller,
) {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => return count_failure(place, route, error.kind(), caller),
    };
    if let Some(Place { version, arm }) = place {
        let series = &version.series;
        series.answered(*arm, caller.since.elapsed(), answer.best.confidence);
        series.cache(result_of(answer.cache));
        version.mix.one(answer.best.index);
        if answer.cache.has_run() {
            series.stepped(steps(answer));
        }
    }
    if let Some(tenant) = &caller.series {
        tenant.picture(PictureOutcome::Ok);
    }
}

/// Counts a picture that has no answer.
pub(super) fn count_failure(
    place: Option<&Place>,
    route: &Route,
    kind: ErrorKind,
    caller: &Caller,
) {
    let code = kind.code();
    match place {
        Some(Place { version, arm }) => version.series.failed(*arm, code),
        None => route.entry.series.unanswered(code),
    }
    if let Some(tenant) = &caller.series {
        tenant.picture(if kind.is_ours() {
            PictureOutcome::ServerError
        } else {
            PictureOutcome::ClientError
        });
    }
}

fn result_of(cache: CacheUse) -> CacheResult {
    match cache {
        CacheUse::Hit { .. } => CacheResult::Hit,
        CacheUse::Miss { .. } => CacheResult::Miss,
        CacheUse::Collapsed => CacheResult::Coalesced,
        CacheUse::Declined { .. } => CacheResult::Bypass,
        CacheUse::Off => CacheResult::Off,
    }
}

fn steps(answer: &Classification) -> StepTimes {
    let timings = answer.timings;
    StepTimes {
        queue: timings.queue,
        decode: answer.decode,
        preprocess: timings.prepare.saturating_sub(answer.decode),
        inference: timings.run,
        postprocess: answer.postprocess,
    }
}

impl Source for Classifier {
    fn tell(&self, page: &mut Page) {
        page.gauge(
            "lensgate_inflight_bytes",
            "Bytes of bodies and pixels in memory.",
            &[],
            real(self.budget.used()),
        );
        page.gauge(
            "lensgate_inflight_limit_bytes",
            "Bytes of bodies and pixels that may be in memory.",
            &[],
            real(self.budget.limit()),
        );
        let (bytes, limit, entries) = self.scores.kept();
        page.gauge(
            "lensgate_cache_bytes",
            "Bytes that the result cache keeps.",
            &[],
            real(bytes),
        );
        page.gauge(
            "lensgate_cache_limit_bytes",
            "Bytes that the result cache may keep; 0 where it is off.",
            &[],
            real(limit),
        );
        page.gauge(
            "lensgate_cache_entries",
            "Results that the cache keeps.",
            &[],
            real(entries),
        );
    }
}
