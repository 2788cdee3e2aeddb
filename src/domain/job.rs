//! Classifications that nobody waits for: what was asked, with which pictures, and how far it has come.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::ids::ModelId;
use super::prediction::Asked;

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// It waits to be taken.
    Queued,
    /// A replica works on it.
    Running,
    /// It has ended, and at least one picture has an answer.
    Done,
    /// It has ended, and no picture has an answer.
    Failed,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Done, Self::Failed];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// What a request that has ended has come to, as at least one of its pictures has an answer or none has.
    #[must_use]
    pub fn ended(has_an_answer: bool) -> Self {
        if has_an_answer {
            Self::Done
        } else {
            Self::Failed
        }
    }

    /// What a job with these results has come to.
    #[must_use]
    pub fn of(results: &[Value]) -> Self {
        Self::ended(results.iter().any(is_answer))
    }
}

fn is_answer(result: &Value) -> bool {
    result.get("error").is_none()
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no state of a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job is queued, running, done or failed")]
pub struct InvalidJobState;

impl FromStr for JobState {
    type Err = InvalidJobState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == text);
        state.ok_or(InvalidJobState)
    }
}

/// A classification that nobody waits for. Its id is that of its request.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Who asked, and under which names it is remembered.
    pub asked: Asked,
    /// The model.
    pub model: ModelId,
    /// What else was chosen; the `jobs` room alone reads it.
    pub terms: Value,
    /// Where the result is sent.
    pub callback_url: Option<String>,
    /// When it was taken in.
    pub created_at: DateTime<Utc>,
    /// The request's span, as `traceparent` writes it.
    pub traceparent: Option<String>,
}

/// A picture of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPicture {
    /// Its place in the request, from 0.
    pub index: u32,
    /// The file's name, where the request has one.
    pub filename: Option<String>,
    /// The picture, or what became of it already.
    pub content: PictureContent,
}

/// What there is of a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum PictureContent {
    /// The file as it came.
    Waiting(Bytes),
    /// Its result: it was refused before it could be kept.
    Ended(Value),
}

impl JobPicture {
    /// Bytes of its file, which are kept until it has a result.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.content {
            PictureContent::Waiting(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            PictureContent::Ended(_) => 0,
        }
    }
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq)]
pub struct JobStanding {
    /// What was asked.
    pub job: Job,
    /// How far it has come.
    pub state: JobState,
    /// One result a picture, in order, as `batch-classify` words them; empty until it has ended.
    pub results: Vec<Value>,
}

impl JobStanding {
    /// What is told of it, to who asks and to who is called back.
    #[must_use]
    pub fn told(&self) -> Value {
        json!({
            "request_id": self.job.asked.request_id.to_string(),
            "status": self.state.as_str(),
            "model": self.job.model.as_str(),
            "results": self.results,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert!(InvalidJobState.to_string().contains(state.as_str()));
        }
        assert_eq!("ended".parse::<JobState>(), Err(InvalidJobState));
    }

    #[test]
    fn one_answer_makes_a_job_done() {
        let (answer, error) = (json!({"class": "7"}), json!({"error": {"status": 422}}));
        assert_eq!(JobState::of(&[error.clone(), answer]), JobState::Done);
        assert_eq!(JobState::of(&[error]), JobState::Failed);
        assert_eq!(JobState::of(&[]), JobState::Failed);
    }
}
