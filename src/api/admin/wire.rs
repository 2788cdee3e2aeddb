//! What the resources of the admin plane have in common on the wire: ids, times, pages, `ETag` and `If-Match`.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use poem::Request;
use poem::http::header;
use poem_openapi::ApiResponse;
use poem_openapi::types::MaybeUndefined;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::admin::{AdminError, Edit, Page};
use crate::api::problem::ApiError;
use crate::domain::error::ErrorKind;
use crate::domain::ids::Digest;

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let kind = error.kind();
        let mut api = Self::new(kind, error.to_string());
        if let Some(cause) = error.cause() {
            api = api.caused_by(cause);
        }
        if let Some(checks) = error.checks() {
            api = api.with_checks(checks);
        }
        match kind {
            ErrorKind::Overloaded
            | ErrorKind::ModelUnavailable
            | ErrorKind::StoreUnavailable
            | ErrorKind::Draining => api.retry_after(Duration::from_secs(1)),
            _ => api,
        }
    }
}

/// An id in a path: what is none names nothing.
pub(super) fn id_in_path<I: FromStr>(text: &str, what: &'static str) -> Result<I, ApiError> {
    text.parse().map_err(|_| AdminError::NotFound(what).into())
}

/// An id in a query or a body.
pub(super) fn id<I: FromStr>(field: &str, text: &str) -> Result<I, ApiError> {
    text.parse()
        .map_err(|_| invalid(format!("`{field}` is {text:?}, which is no id")))
}

/// Words that are looked for. PostgreSQL has no NUL in a text, and nobody else a use for control characters.
pub(super) fn words(field: &str, given: Option<String>) -> Result<Option<String>, ApiError> {
    match given {
        Some(text) if text.chars().any(char::is_control) => {
            Err(invalid(format!("`{field}` has a control character")))
        }
        given => Ok(given),
    }
}

/// A time as it is shown: RFC 3339, UTC, microseconds.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A time as it is given.
pub(super) fn given_time(field: &str, text: &str) -> Result<DateTime<Utc>, ApiError> {
    use chrono::SubsecRound as _;
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        invalid(format!(
            "`{field}` is {text:?}; it must be a time like 2027-01-31T12:00:00Z"
        ))
    })?;
    Ok(time.with_timezone(&Utc).trunc_subsecs(6))
}

/// A request that cannot be understood.
pub(super) fn invalid(reason: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, reason)
}

/// The answer to a deletion.
#[derive(ApiResponse)]
pub(super) enum Deleted {
    /// Gone
    #[oai(status = 204)]
    Gone,
}

/// Items of a page where the caller does not say.
const USUAL_PAGE: u32 = 100;
/// Items of a page at most.
const LARGEST_PAGE: u32 = 1000;

/// How many items a query asks for.
pub(super) fn limit(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(invalid(format!(
            "`limit` is {limit}; allowed is 1 to {LARGEST_PAGE}"
        )));
    }
    Ok(limit)
}

/// The page that a query asks for of things that go by their names.
pub(super) fn page_by_name<N: FromStr>(
    given: Option<u32>,
    after: Option<&str>,
) -> Result<(usize, Option<N>), ApiError> {
    let after = after.map(|text| id("after", text)).transpose()?;
    Ok((usize::try_from(limit(given)?).unwrap_or(usize::MAX), after))
}

/// The page that a query asks for.
pub(super) fn page(given: Option<u32>, after: Option<&str>) -> Result<Page, ApiError> {
    let limit = limit(given)?;
    let after = after.map(|text| id::<Uuid>("after", text)).transpose()?;
    Ok(Page { after, limit })
}

/// What a merge patch says of a value.
pub(super) fn edit<T>(given: MaybeUndefined<T>) -> Edit<T> {
    match given {
        MaybeUndefined::Undefined => Edit::Keep,
        MaybeUndefined::Null => Edit::Remove,
        MaybeUndefined::Value(value) => Edit::Set(value),
    }
}

/// As [`edit`], with the value read.
pub(super) fn edit_with<T, U>(
    given: MaybeUndefined<T>,
    read: impl FnOnce(T) -> Result<U, ApiError>,
) -> Result<Edit<U>, ApiError> {
    Ok(match given {
        MaybeUndefined::Undefined => Edit::Keep,
        MaybeUndefined::Null => Edit::Remove,
        MaybeUndefined::Value(value) => Edit::Set(read(value)?),
    })
}

/// The `ETag` of a version.
pub(super) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

/// The weak `ETag` of a body that has no version: the beginning of its SHA-256.
pub(super) fn weak_etag(body: &[u8]) -> String {
    let hash = Digest::from_bytes(Sha256::digest(body).into()).to_string();
    let digits = hash.trim_start_matches("sha256:");
    format!("W/\"{}\"", digits.get(..16).unwrap_or(digits))
}

/// The version that `If-Match` asks for; `None` where any will do. Of several the caller cannot mean one.
///
/// # Errors
/// [`AdminError::Stale`] where it names what never was, as another entity tag can only be of another state.
pub(super) fn if_match(request: &Request) -> Result<Option<i64>, ApiError> {
    let mut values = request.headers().get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| invalid("the header If-Match cannot be read"))?;
    if values.next().is_some() || text.contains(',') {
        return Err(invalid("the header If-Match must name one entity tag"));
    }
    let text = text.trim();
    if text == "*" {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(bare) = bare else {
        return Err(if text.starts_with("W/\"") {
            AdminError::Stale.into()
        } else {
            invalid("the header If-Match must be an entity tag in quotes, as ETag gave it, or *")
        });
    };
    bare.parse().map(Some).map_err(|_| AdminError::Stale.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Result<Option<i64>, ErrorKind> {
        let request = Request::builder().header("if-match", value).finish();
        if_match(&request).map_err(|error| error.kind())
    }

    #[test]
    fn if_match_names_one_version() {
        assert_eq!(asked("\"3\""), Ok(Some(3)));
        assert_eq!(asked(" \"3\" "), Ok(Some(3)));
        assert_eq!(asked("*"), Ok(None));
        assert_eq!(
            if_match(&Request::default()).map_err(|e| e.kind()),
            Ok(None)
        );
        assert_eq!(asked("\"abc\""), Err(ErrorKind::PreconditionFailed));
        assert_eq!(asked("W/\"3\""), Err(ErrorKind::PreconditionFailed));
        assert_eq!(asked("3"), Err(ErrorKind::BadRequest));
        assert_eq!(asked("\"1\", \"2\""), Err(ErrorKind::BadRequest));
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(page(None, None).expect("a page").limit, USUAL_PAGE);
        assert!(page(Some(0), None).is_err());
        assert!(page(Some(LARGEST_PAGE + 1), None).is_err());
        assert!(page(Some(5), Some("nonsense")).is_err());
        assert!(page(Some(5), Some(&Uuid::now_v7().to_string())).is_ok());
    }

    #[test]
    fn times_are_read_with_any_offset_and_shown_in_utc() {
        let at = given_time("expires_at", "2027-01-31T13:00:00.1234567+01:00").expect("a time");
        assert_eq!(time(at), "2027-01-31T12:00:00.123456Z");
        assert!(given_time("expires_at", "tomorrow").is_err());
    }
}
