//! What became of a picture, as it is handed to the prediction log.
//!
//! Called by the use case in `mod.rs`, at the beginning and at the end of a picture.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Choice, Classification, ClassifyError, EncodedPicture, Reservation, Route};
use crate::domain::error::ErrorKind;
use crate::domain::ids::Digest;
use crate::domain::prediction::{
    Answer, AnsweredBy, Asked, PictureFacts, PredictedClass, Prediction, Spent, millis,
};
use crate::predictions::{Archive, PredictionLog};
use crate::vision::{Format, VisionError};

/// Records what was answered.
#[derive(Clone)]
pub struct Recorder {
    log: Arc<PredictionLog>,
    archive: Option<Arc<Archive>>,
    /// The HTTP status of a failure: the error table's, which this room does not know.
    status_of: fn(ErrorKind) -> u16,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// The record of a picture that is being classified.
pub(super) struct Entry {
    prediction: Prediction,
    /// The picture and what holds its bytes, where it may be archived.
    picture: Option<(Bytes, Arc<Reservation>)>,
}

/// The status of an answer.
const OK: u16 = 200;

impl Recorder {
    /// Records into `log`, and hands pictures that were answered to `archive`; `status_of` is the error table.
    #[must_use]
    pub fn new(
        log: Arc<PredictionLog>,
        archive: Option<Arc<Archive>>,
        status_of: fn(ErrorKind) -> u16,
    ) -> Self {
        Self {
            log,
            archive,
            status_of,
        }
    }

    /// The record of a picture, as far as it is known before it is looked at.
    pub(super) fn begin(
        &self,
        asked: &Arc<Asked>,
        route: &Route,
        choice: &Result<Choice, ClassifyError>,
        picture: &EncodedPicture,
        digest: Option<Digest>,
    ) -> Entry {
        let mut prediction = blank(asked, route, picture.index);
        prediction.answered_by = choice.as_ref().ok().map(|choice| AnsweredBy {
            version: choice.version.number,
            digest: choice.version.digest,
            arm: choice.arm.map(|arm| arm.to_string()),
        });
        prediction.picture = digest.map(|digest| PictureFacts {
            digest,
            bytes: u64::try_from(picture.bytes.len()).unwrap_or(u64::MAX),
            format: Format::sniff(&picture.bytes).map(|format| format.as_str().to_owned()),
            size: None,
        });
        let kept = self.archive.as_ref().map(|_| {
            let EncodedPicture {
                bytes, reservation, ..
            } = picture;
            (bytes.clone(), Arc::clone(reservation))
        });
        Entry {
            prediction,
            picture: kept,
        }
    }

    /// Records what became of the picture.
    pub(super) async fn end(
        &self,
        entry: Entry,
        outcome: &Result<Classification, ClassifyError>,
        since: Instant,
    ) {
        let Entry {
            mut prediction,
            picture,
        } = entry;
        let size = match outcome {
            Ok(answer) => {
                prediction.answer = Some(answered(answer));
                let kept = self.archive.as_ref().zip(picture);
                if let Some(((archive, (bytes, _held)), facts)) =
                    kept.zip(prediction.picture.as_ref())
                {
                    archive.offer(
                        prediction.asked.tenant,
                        facts.digest,
                        bytes,
                        prediction.at(),
                    );
                }
                prediction.cached = answer.cache.is_hit();
                prediction.timings = Spent {
                    decode: millis(answer.timings.prepare),
                    queue: millis(answer.timings.queue),
                    inference: millis(answer.timings.run),
                    total: 0.0,
                };
                Some(answer.shape.size)
            }
            Err(error) => {
                self.fail(&mut prediction, error.kind());
                match error {
                    ClassifyError::Picture(VisionError::TooManyPixels {
                        width, height, ..
                    }) => {
                        let side = |side: u64| u32::try_from(side).ok();
                        side(*width).zip(side(*height))
                    }
                    _ => None,
                }
            }
        };
        if let Some(picture) = &mut prediction.picture {
            picture.size = size;
        }
        self.record(prediction, since.elapsed()).await;
    }

    /// Records a picture that was not received, or is not looked at.
    pub(super) async fn refuse(
        &self,
        asked: &Arc<Asked>,
        route: &Route,
        index: u32,
        kind: ErrorKind,
        since: Instant,
    ) {
        let mut prediction = blank(asked, route, index);
        self.fail(&mut prediction, kind);
        self.record(prediction, since.elapsed()).await;
    }

    fn fail(&self, prediction: &mut Prediction, kind: ErrorKind) {
        prediction.status = (self.status_of)(kind);
        prediction.code = Some(kind.code().to_owned());
    }

    async fn record(&self, mut prediction: Prediction, total: Duration) {
        prediction.timings.total = millis(total);
        self.log.record(&prediction).await;
    }
}

fn blank(asked: &Arc<Asked>, route: &Route, index: u32) -> Prediction {
    Prediction {
        asked: Asked::clone(asked),
        index,
        model: route.model().clone(),
        answered_by: None,
        picture: None,
        answer: None,
        cached: false,
        timings: Spent::default(),
        status: OK,
        code: None,
    }
}

fn answered(answer: &Classification) -> Answer {
    let class = |class: &super::ScoredClass| PredictedClass {
        class: class.class.clone(),
        index: class.index,
        confidence: class.confidence,
    };
    Answer {
        class: answer.best.class.clone(),
        confidence: answer.best.confidence,
        classes: answer.classes.iter().map(class).collect(),
    }
}
