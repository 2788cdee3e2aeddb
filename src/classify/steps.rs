//! The engine's steps, for a trace: from what it says its time went into.

use std::time::{Duration, Instant};

use super::scores::Scored;
use crate::telemetry::trace::Step;

/// Notes where a picture's time went, now that it has its classes; `began` is when its scores were there.
pub(super) fn note(scored: &Scored, began: Instant) {
    let timings = &scored.timings;
    if let Some(since) = timings.since {
        let before = timings.queue.saturating_sub(timings.gather);
        let prepared = since + before;
        let ran = prepared + timings.prepare + timings.gather;
        taken("queue", since, before);
        // Who waited for somebody else's run has waited, and no more.
        if timings.pictures > 0 {
            taken("decode", prepared, scored.decode);
            let preprocess = timings.prepare.saturating_sub(scored.decode);
            taken("preprocess", prepared + scored.decode, preprocess);
            if !timings.gather.is_zero() {
                taken("gather", prepared + timings.prepare, timings.gather);
            }
            let run = Step::taken("inference", ran, timings.run);
            let run = run.map(|run| run.counting("lensgate.batch.pictures", timings.pictures));
            let run = run.map(|run| run.linked(timings.batch));
            run.into_iter().for_each(Step::note);
        }
    }
    let start = began.checked_sub(scored.activation).unwrap_or(began);
    taken("postprocess", start, start.elapsed());
}

fn taken(name: &'static str, began: Instant, took: Duration) {
    Step::taken(name, began, took)
        .into_iter()
        .for_each(Step::note);
}
