//! The record of one classified picture: who asked, with what, what the answer was and how long it took.
//!
//! Its time is the request's own, out of its `UUIDv7`; so is its day, and writing it twice is writing it once.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use super::ids::{Digest, ModelId, VersionNumber};
use super::tenant::{KeyId, TenantId};

/// Who asked for a classification, and under which names it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request (`UUIDv7`).
    pub request_id: Uuid,
    /// Whose key it came with.
    pub tenant: TenantId,
    /// The key.
    pub key: KeyId,
    /// The client's own name for the request.
    pub client_request_id: Option<String>,
    /// The trace that the request belongs to: 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

/// One picture of a request, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Who asked.
    pub asked: Asked,
    /// The picture's place in the request, from 0.
    pub index: u32,
    /// The model that was asked.
    pub model: ModelId,
    /// What answered, or was to answer; `None` where it did not come so far.
    pub answered_by: Option<AnsweredBy>,
    /// The picture; `None` where none was received.
    pub picture: Option<PictureFacts>,
    /// The answer; `None` where there is none.
    pub answer: Option<Answer>,
    /// Whether the scores came from the result cache.
    pub cached: bool,
    /// Where the time went.
    pub timings: Spent,
    /// The HTTP status.
    pub status: u16,
    /// The code of the failure.
    pub code: Option<String>,
}

/// A version, and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// The version.
    pub version: VersionNumber,
    /// SHA-256 of its model file.
    pub digest: Digest,
    /// The arm of the rollout, where there are arms.
    pub arm: Option<String>,
}

/// What is known of a picture; never its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureFacts {
    /// SHA-256 of its file.
    pub digest: Digest,
    /// Bytes of its file.
    pub bytes: u64,
    /// Its format, e.g. `jpeg`; `None` where it is none that is served.
    pub format: Option<String>,
    /// Columns and rows as stored, where its header was read.
    pub size: Option<(u32, u32)>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The first class.
    pub class: String,
    /// Its confidence.
    pub confidence: f32,
    /// The classes that were answered, best first.
    pub classes: Vec<PredictedClass>,
}

/// A class and its confidence.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PredictedClass {
    /// The label, or the decimal index where the model has none.
    pub class: String,
    /// The output's index.
    pub index: usize,
    /// The confidence, not rounded.
    pub confidence: f32,
}

/// Where a picture's time went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Decoding and preprocessing.
    pub decode: f64,
    /// Waiting.
    pub queue: f64,
    /// The model.
    pub inference: f64,
    /// From the request's head until the record was made.
    pub total: f64,
}

impl Prediction {
    /// The request's time: milliseconds, from its id.
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        time_of(self.asked.request_id)
    }

    /// The request's day (UTC), from its id.
    #[must_use]
    pub fn day(&self) -> NaiveDate {
        self.at().date_naive()
    }
}

/// Milliseconds with three decimals: microseconds are what the clock is good for.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The time in a `UUIDv7`; the epoch for an id that has none.
#[must_use]
pub fn time_of(id: Uuid) -> DateTime<Utc> {
    let millis = match id.get_version_num() {
        7 => id.as_u128() >> 80,
        _ => 0,
    };
    let millis = i64::try_from(millis).unwrap_or_default();
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

/// The least `UUIDv7` of this moment or, where it lies between two milliseconds, of the next one: ids are compared with it
/// as times are with `at`.
#[must_use]
pub fn first_id_at(at: DateTime<Utc>) -> Uuid {
    const VERSION: u128 = 7 << 76;
    const VARIANT: u128 = 2 << 62;
    let between = u128::from(!at.timestamp_subsec_nanos().is_multiple_of(1_000_000));
    let millis = u128::try_from(at.timestamp_millis()).unwrap_or_default() + between;
    Uuid::from_u128((millis << 80) | VERSION | VARIANT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_time_and_a_time_its_first_id() {
        let id: Uuid = "0199ff00-1234-7abc-8def-0123456789ab"
            .parse()
            .expect("an id");
        let at = time_of(id);
        assert_eq!(at.timestamp_millis(), 0x0199_ff00_1234);
        let first = first_id_at(at);
        assert_eq!(first.get_version_num(), 7);
        assert!(first <= id && time_of(first) == at);
        let later = at + chrono::TimeDelta::microseconds(1);
        assert!(first_id_at(later) > id, "the id's time is before {later}");
        assert_eq!(
            time_of(first_id_at(later)).timestamp_millis(),
            at.timestamp_millis() + 1
        );
        assert_eq!(time_of(Uuid::nil()), DateTime::UNIX_EPOCH);
    }
}
