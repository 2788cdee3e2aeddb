//! Requests that nobody waits for: what their heads ask, what they are as jobs, what is answered at once, and how a result is
//! worded that nobody is connected for.
//!
//! Called by `classify`. Decides nothing: `jobs` does.

use poem::Request;
use poem::http::HeaderMap;
use poem_openapi::payload::Json;
use poem_openapi::types::ToJSON;
use poem_openapi::{ApiResponse, Object};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{BatchItem, BatchRefusal, BatchResult, ClassifyResponse};
use super::body::Received;
use super::headers;
use crate::api::listener::RequestId;
use crate::api::problem::ApiError;
use crate::classify::check_format;
use crate::domain::error::ErrorKind;
use crate::jobs::{Accepted, JobError, JobPicture, PictureContent, PictureOutcome};

/// RFC 7240.
pub(super) const PREFER: &str = "Prefer";
/// The preference of a caller that does not wait.
pub(super) const RESPOND_ASYNC: &str = "respond-async";
/// The client's own name for what it sends.
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Characters of that name.
const LONGEST_KEY: usize = 255;

/// What the head of a request asks whose caller does not wait.
pub(super) struct Later {
    /// Where the result is sent.
    pub(super) callback_url: Option<String>,
    /// The client's own name for the request.
    pub(super) key: Option<String>,
    /// Whether it was asked for by the header `Prefer`.
    preferred: bool,
}

#[derive(Deserialize)]
struct CallbackQuery {
    callback_url: Option<String>,
}

impl Later {
    /// What is asked; `None` where the caller waits.
    ///
    /// # Errors
    /// When the query names several addresses, or the client's own name cannot be one.
    pub(super) fn of(request: &Request) -> Result<Option<Self>, ApiError> {
        let query = request.params::<CallbackQuery>();
        let query =
            query.map_err(|error| ApiError::new(ErrorKind::BadRequest, error.to_string()))?;
        let preferred = prefers_async(request.headers());
        if query.callback_url.is_none() && !preferred {
            return Ok(None);
        }
        Ok(Some(Self {
            callback_url: query.callback_url,
            key: idempotency_key(request.headers())?,
            preferred,
        }))
    }

    /// The answer to a request that was accepted.
    pub(super) fn answer<T: ToJSON>(&self, accepted: Accepted, id: RequestId) -> Answer<T> {
        let request_id = match accepted {
            Accepted::New => id.to_string(),
            Accepted::Before(first) => first.to_string(),
        };
        let location = format!("/v1/predictions/{request_id}");
        let applied = self.preferred.then(|| RESPOND_ASYNC.to_owned());
        let response = QueuedResponse {
            request_id,
            status: "queued".to_owned(),
        };
        Answer::Later(Json(response), location, applied)
    }
}

/// The answer, now or later.
#[derive(ApiResponse)]
pub(super) enum Answer<T: ToJSON> {
    /// The answer
    #[oai(status = 200)]
    Now(Json<T>),
    /// It is kept and will be classified (`callback_url`, or `Prefer: respond-async`)
    #[oai(status = 202)]
    Later(
        Json<QueuedResponse>,
        /// Where the result will be: `/v1/predictions/{request_id}`.
        #[oai(header = "Location")]
        String,
        /// `respond-async`, where it was asked for so.
        #[oai(header = "Preference-Applied")]
        Option<String>,
    ),
}

/// A request that is kept and will be classified.
#[derive(Object)]
pub(super) struct QueuedResponse {
    /// The request's id (`UUIDv7`). With an `Idempotency-Key` that came before, the first request's.
    pub(super) request_id: String,
    /// `queued`.
    pub(super) status: String,
}

/// Whether a caller prefers not to wait (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(PREFER).into_iter();
    let mut members = lines.flat_map(|line| headers::members(line.as_bytes()));
    members.any(|member| {
        let name = member.split(|byte| b";=".contains(byte)).next();
        name.unwrap_or_default()
            .trim_ascii()
            .eq_ignore_ascii_case(RESPOND_ASYNC.as_bytes())
    })
}

/// The client's own name for what it sends.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let printable = |key: &&str| {
        let plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(plain)
    };
    let key = value.to_str().ok().map(str::trim).filter(printable);
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::new(
            ErrorKind::BadRequest,
            format!(
                "the header {IDEMPOTENCY_KEY} must be one of 1 to {LONGEST_KEY} printable ASCII characters"
            ),
        )),
    }
}

/// A received picture as a job's, and why it was refused already.
pub(super) fn picture(
    id: RequestId,
    index: usize,
    Received { filename, bytes }: Received,
) -> (JobPicture, Option<ErrorKind>) {
    let known = bytes.and_then(|bytes| {
        check_format(&bytes)?;
        Ok(bytes)
    });
    let place = u32::try_from(index).unwrap_or(u32::MAX);
    let (content, refused) = match known {
        Ok(bytes) => (PictureContent::Waiting(bytes), None),
        Err(error) => {
            let kind = error.kind();
            let result = refusal(index, filename.clone(), &error, id);
            (PictureContent::Ended(result), Some(kind))
        }
    };
    let picture = JobPicture {
        index: place,
        filename,
        content,
    };
    (picture, refused)
}

/// Words a result as `batch-classify` does.
#[must_use]
pub fn worded(one: PictureOutcome<'_>) -> Value {
    let id = RequestId(one.request_id);
    let index = usize::try_from(one.index).unwrap_or(usize::MAX);
    let filename = one.filename.map(str::to_owned);
    let error = match one.outcome {
        Ok(answer) => {
            let answer = ClassifyResponse::of(answer, &id.to_string(), one.total);
            let item = BatchItem {
                index,
                filename,
                answer,
            };
            return BatchResult::Classified(item).to_json().unwrap_or_default();
        }
        Err(Some(error)) => ApiError::from(error),
        Err(None) => ApiError::new(
            ErrorKind::Internal,
            "the picture was tried several times and never came to an end",
        ),
    };
    refusal(index, filename, &error, id)
}

fn refusal(index: usize, filename: Option<String>, error: &ApiError, id: RequestId) -> Value {
    let refusal = BatchRefusal {
        index,
        filename,
        error: error.problem(id),
    };
    BatchResult::Refused(refusal).to_json().unwrap_or_default()
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let api = Self::new(error.kind(), error.to_string());
        let api = match error.cause() {
            Some(cause) => api.caused_by(cause),
            None => api,
        };
        match error.retry_after() {
            Some(after) => api.retry_after(after),
            None => api,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, lines: &[(&'static str, &[u8])]) -> Result<Option<Later>, ErrorKind> {
        let mut request = Request::builder().uri_str(uri).finish();
        for (name, value) in lines {
            let value = poem::http::HeaderValue::from_bytes(value).expect("a value");
            request.headers_mut().append(*name, value);
        }
        Later::of(&request).map_err(|error| error.kind())
    }

    #[test]
    fn who_does_not_wait_says_so_in_the_query_or_prefers_it() {
        let plain = asked("/v1/classify?top_k=1", &[]).expect("fine");
        assert!(plain.is_none());
        let url = asked(
            "/v1/classify?top_k=1&callback_url=https%3A%2F%2Fa.b%2Fc%3Fd",
            &[],
        );
        let url = url.expect("fine").expect("later");
        assert_eq!(url.callback_url.as_deref(), Some("https://a.b/c?d"));
        assert!(!url.preferred);
        for (value, later) in [
            (&b"respond-async"[..], true),
            (b"Respond-Async; foo=bar, wait=10", true),
            (b"return=minimal, respond-async", true),
            (b"respond-async=1", true),
            (b"respond-asynchronously", false),
            (b"x=\"respond-async, respond-async\"", false),
            (b"", false),
        ] {
            let found = asked("/v1/classify", &[("prefer", value)]).expect("fine");
            assert_eq!(found.is_some(), later, "{value:?}");
        }
        let twice = asked("/v1/classify?callback_url=a&callback_url=b", &[]);
        assert_eq!(twice.err(), Some(ErrorKind::BadRequest));
    }

    #[test]
    fn a_clients_name_is_short_and_printable() {
        let key = |lines: &[&[u8]]| {
            let mut all = vec![("prefer", &b"respond-async"[..])];
            all.extend(lines.iter().map(|&line| ("idempotency-key", line)));
            asked("/v1/classify", &all).map(|later| later.and_then(|later| later.key))
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&[b" order 66 "]), Ok(Some("order 66".to_owned())));
        assert!(key(&[&[b'x'; 255]]).is_ok());
        for bad in [
            &b""[..],
            b"  ",
            b"a\tb",
            b"\xff",
            "\u{e4}".as_bytes(),
            &[b'x'; 256],
        ] {
            assert_eq!(key(&[bad]), Err(ErrorKind::BadRequest), "{bad:?}");
        }
        assert_eq!(key(&[b"a", b"a"]), Err(ErrorKind::BadRequest));
    }
}
