//! What the answers of `classify` look like on the wire.

use std::time::Duration;

use poem_openapi::{Object, Union};

use crate::api::problem::Problem;
use crate::classify::{Classification, ScoredClass};
use crate::domain::prediction::{PredictedClass, Spent, millis};
use crate::domain::rollout::Rollout;

/// The answer for one picture.
#[derive(Clone, Debug, Object)]
pub(super) struct ClassifyResponse {
    /// The request's id (`UUIDv7`), also in the header `X-Request-Id`.
    pub(super) request_id: String,
    /// The model.
    pub(super) model: String,
    /// The version that answered.
    pub(super) version: u64,
    /// SHA-256 of that version's model file.
    pub(super) digest: String,
    /// The first class.
    pub(super) class: String,
    /// Its confidence, not rounded.
    pub(super) confidence: f32,
    /// The first classes, best first.
    pub(super) classes: Vec<ClassView>,
    /// Why this version answered.
    pub(super) rollout: RolloutView,
    /// Whether the scores came from the result cache; the header `Cache-Status` says more.
    pub(super) cached: bool,
    /// Where the time went, in milliseconds.
    pub(super) timing_ms: TimingView,
}

/// A class and its confidence.
#[derive(Clone, Debug, Object)]
pub(in crate::api) struct ClassView {
    /// The label, or the decimal index where the model has none.
    pub(super) class: String,
    /// The output's index.
    pub(super) index: usize,
    /// The confidence, not rounded.
    pub(super) confidence: f32,
}

/// How a model's traffic is shared.
#[derive(Clone, Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct RolloutView {
    /// `latest`, `pinned` or `split`; of an answer also `pinned` where the request named its version.
    pub(super) mode: String,
    /// The arm that answered, where there are arms.
    pub(super) arm: Option<String>,
}

/// Where the time went, in milliseconds. A cached answer was not decoded, did not wait and ran nothing.
#[derive(Clone, Debug, Object)]
pub(in crate::api) struct TimingView {
    /// Decoding and preprocessing.
    pub(super) decode: f64,
    /// Waiting: for a core, or for the same picture that was under way for somebody else.
    pub(super) queue: f64,
    /// The model.
    pub(super) inference: f64,
    /// From the request's head to the answer.
    pub(super) total: f64,
}

/// The answer for several pictures.
#[derive(Object)]
pub(super) struct BatchResponse {
    /// The request's id (`UUIDv7`), also in the header `X-Request-Id`.
    pub(super) request_id: String,
    /// The model.
    pub(super) model: String,
    /// One result or one error a picture, in order.
    pub(super) results: Vec<BatchResult>,
}

/// One result or one error.
#[derive(Union)]
pub(super) enum BatchResult {
    Classified(BatchItem),
    Refused(BatchRefusal),
}

impl BatchResult {
    /// Whether the picture has no answer for reasons of ours.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.error.status >= 500)
    }
}

/// One picture's answer.
#[derive(Object)]
pub(super) struct BatchItem {
    /// The picture's place in the request, from 0.
    pub(super) index: usize,
    /// The file's name, where the request has one.
    pub(super) filename: Option<String>,
    #[oai(flatten)]
    pub(super) answer: ClassifyResponse,
}

/// Why one picture has no answer.
#[derive(Object)]
pub(super) struct BatchRefusal {
    /// The picture's place in the request, from 0.
    pub(super) index: usize,
    /// The file's name, where the request has one.
    pub(super) filename: Option<String>,
    /// What was wrong with this picture.
    pub(super) error: Problem,
}

impl ClassifyResponse {
    /// The answer of request `id`, `total` after the request's head came.
    pub(super) fn of(answer: Classification, id: &str, total: Duration) -> Self {
        let timings = answer.timings;
        Self {
            request_id: id.to_owned(),
            model: answer.model.to_string(),
            version: answer.version.get(),
            digest: answer.digest.to_string(),
            confidence: answer.best.confidence,
            class: answer.best.class,
            classes: answer.classes.into_iter().map(ClassView::of).collect(),
            rollout: RolloutView {
                mode: answer.mode.to_owned(),
                arm: answer.arm.map(|arm| arm.to_string()),
            },
            cached: answer.cache.is_hit(),
            timing_ms: TimingView {
                decode: millis(timings.prepare),
                queue: millis(timings.queue),
                inference: millis(timings.run),
                total: millis(total),
            },
        }
    }
}

impl ClassView {
    fn of(class: ScoredClass) -> Self {
        Self {
            class: class.class,
            index: class.index,
            confidence: class.confidence,
        }
    }

    /// A class as it was recorded.
    pub(in crate::api) fn recorded(class: PredictedClass) -> Self {
        Self {
            class: class.class,
            index: class.index,
            confidence: class.confidence,
        }
    }
}

impl RolloutView {
    pub(super) fn of(rollout: &Rollout) -> Self {
        Self {
            mode: rollout.mode().to_owned(),
            arm: None,
        }
    }
}

impl TimingView {
    /// Where the time went, as it was recorded.
    pub(in crate::api) fn recorded(spent: Spent) -> Self {
        Self {
            decode: spent.decode,
            queue: spent.queue,
            inference: spent.inference,
            total: spent.total,
        }
    }

    /// The `Server-Timing` header.
    pub(super) fn header(&self) -> String {
        format!(
            "decode;dur={}, queue;dur={}, inference;dur={}, total;dur={}",
            self.decode, self.queue, self.inference, self.total
        )
    }
}
