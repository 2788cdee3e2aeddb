//! What a classify request's headers ask for: `Cache-Control` and `X-Request-Timeout-Ms`; and `Cache-Status`, which answers.
//!
//! Called by `classify`. Decides nothing: what is asked for is the use case's to grant.

use std::time::Duration;

use poem::http::{HeaderMap, header};

use crate::api::problem::ApiError;
use crate::classify::{CacheUse, Reuse};
use crate::domain::error::ErrorKind;

/// The caller's own deadline, in milliseconds from the request's arrival.
pub(super) const TIMEOUT: &str = "X-Request-Timeout-Ms";

/// What the result cache did (RFC 9211).
pub(super) const CACHE_STATUS: &str = "Cache-Status";

/// Where the time went.
pub(super) const SERVER_TIMING: &str = "Server-Timing";

/// `Cache-Control` of a request (RFC 9111): `no-store` wants no part in the cache, `no-cache` a fresh result, which is
/// kept for others. Other directives mean nothing here.
pub(super) fn reuse(headers: &HeaderMap) -> Reuse {
    let mut reuse = Reuse::Allowed;
    for line in headers.get_all(header::CACHE_CONTROL) {
        for member in members(line.as_bytes()) {
            let name = member.split(|&byte| byte == b'=').next();
            let name = name.unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"no-store") {
                return Reuse::Neither;
            }
            if name.eq_ignore_ascii_case(b"no-cache") {
                reuse = Reuse::Renew;
            }
        }
    }
    reuse
}

/// The members of a list, by the commas that stand in no quoted string.
pub(super) fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |&byte| {
        if escaped {
            escaped = false;
        } else if quoted && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        }
        byte == b',' && !quoted
    })
}

/// The time that the caller gives its request.
///
/// # Errors
/// When it is no positive integer, or comes twice.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut values = headers.get_all(TIMEOUT).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.to_str().ok().filter(|text| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        plain && values.next().is_none()
    });
    digits
        .and_then(|text| text.parse().ok())
        .filter(|&millis| millis > 0)
        .map(|millis| Some(Duration::from_millis(millis)))
        .ok_or_else(|| {
            ApiError::new(
                ErrorKind::BadRequest,
                format!("the header {TIMEOUT} must be one positive integer, in milliseconds"),
            )
        })
}

/// The client's own name for the request, as far as it is worth remembering.
const CLIENT_REQUEST_ID: &str = "X-Request-Id";
const LONGEST_NAME: usize = 200;

/// The client's own name for its request: it is remembered and never adopted. What is no printable ASCII is none.
pub(super) fn client_request_id(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(CLIENT_REQUEST_ID)?.to_str().ok()?.trim();
    let name = name.get(..LONGEST_NAME).unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// The header `Cache-Status` (RFC 9211).
pub(super) fn cache_status(cache: CacheUse) -> String {
    match cache {
        CacheUse::Hit { ttl } => format!("lensgate; hit; ttl={}", ttl.as_secs()),
        CacheUse::Miss { stored: true } => "lensgate; fwd=miss; stored".to_owned(),
        CacheUse::Miss { stored: false } => "lensgate; fwd=miss".to_owned(),
        CacheUse::Collapsed => "lensgate; fwd=miss; collapsed".to_owned(),
        CacheUse::Declined { stored: true } => "lensgate; fwd=request; stored".to_owned(),
        CacheUse::Declined { stored: false } => "lensgate; fwd=request".to_owned(),
        CacheUse::Off => "lensgate; fwd=bypass".to_owned(),
    }
}

/// What is true of all of a batch, if anything is: the pictures' common use of the cache, with the least time left.
pub(super) fn of_all(uses: impl IntoIterator<Item = Option<CacheUse>>) -> Option<CacheUse> {
    uses.into_iter()
        .reduce(|all, one| match (all?, one?) {
            (CacheUse::Hit { ttl: a }, CacheUse::Hit { ttl: b }) => {
                Some(CacheUse::Hit { ttl: a.min(b) })
            }
            (all, one) => (all == one).then_some(all),
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                name,
                poem::http::HeaderValue::from_bytes(line).expect("a value"),
            );
        }
        headers
    }

    #[test]
    fn cache_control_is_read_as_written() {
        for (lines, reuse_wanted) in [
            (&[][..], Reuse::Allowed),
            (&[&b""[..]], Reuse::Allowed),
            (&[b"no-cache"], Reuse::Renew),
            (&[b"No-Cache"], Reuse::Renew),
            (&[b" no-cache ,\tmax-age=0"], Reuse::Renew),
            (&[b"max-age=0,no-cache"], Reuse::Renew),
            (&[b"no-cache=\"Set-Cookie\""], Reuse::Renew),
            (&[b"no-store"], Reuse::Neither),
            (&[b"no-cache, NO-STORE"], Reuse::Neither),
            (&[b"no-store, no-cache"], Reuse::Neither),
            (&[b"no-cache", b"no-store"], Reuse::Neither),
            (&[b"max-age=5", b"no-cache"], Reuse::Renew),
            (&[b",, ,no-cache,"], Reuse::Renew),
            (&[b"no-cached"], Reuse::Allowed),
            (&[b"xno-store"], Reuse::Allowed),
            (&[b"no cache"], Reuse::Allowed),
            (&[b"max-age=0, min-fresh=9, only-if-cached"], Reuse::Allowed),
            (&[b"x=no-store"], Reuse::Allowed),
            (&[b"x=\"no-store\""], Reuse::Allowed),
            (&[b"x=\"a, no-store, b\""], Reuse::Allowed),
            (&[b"x=\"a\\\", no-store\""], Reuse::Allowed),
            (&[b"x=\"a\\\\\", no-store"], Reuse::Neither),
            (&[b"x=\"a\", no-cache"], Reuse::Renew),
            (&[b"x=\"never closed, no-store"], Reuse::Allowed),
            (&[b"\xff\xfe, no-cache"], Reuse::Renew),
        ] {
            let headers = headers("cache-control", lines);
            assert_eq!(reuse(&headers), reuse_wanted, "{headers:?}");
        }
    }

    #[test]
    fn a_timeout_is_one_positive_integer() {
        let read = |lines: &[&[u8]]| timeout(&headers("x-request-timeout-ms", lines));
        assert_eq!(read(&[]).expect("none"), None);
        assert_eq!(
            read(&[b"250"]).expect("some"),
            Some(Duration::from_millis(250))
        );
        let longest = u64::MAX.to_string();
        assert!(read(&[longest.as_bytes()]).is_ok());
        let too_long = format!("{longest}0");
        for bad in [
            &b""[..],
            b"0",
            b"00",
            b"-1",
            b"+1",
            b"1.5",
            b"1e3",
            b"1s",
            b" ",
            b"1, 2",
            b"0x10",
            b"\xff",
            too_long.as_bytes(),
        ] {
            let error = read(&[bad]).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::BadRequest, "{bad:?}");
        }
        assert!(read(&[b"1", b"1"]).is_err(), "twice is none");
    }

    #[test]
    fn a_clients_name_is_short_and_printable() {
        let read = |name: &[u8]| client_request_id(&headers("x-request-id", &[name]));
        assert_eq!(read(b" order 66 ").as_deref(), Some("order 66"));
        assert_eq!(read(&[b'x'; 300]).map(|name| name.len()), Some(200));
        for none in [&b""[..], b"  ", b"\xff", "\u{e4}".as_bytes()] {
            assert_eq!(read(none), None);
        }
        assert_eq!(client_request_id(&HeaderMap::new()), None);
    }

    #[test]
    fn a_batch_says_only_what_is_true_of_all() {
        let hit = |seconds| {
            Some(CacheUse::Hit {
                ttl: Duration::from_secs(seconds),
            })
        };
        let miss = Some(CacheUse::Miss { stored: true });
        assert_eq!(of_all([hit(9), hit(3), hit(5)]), hit(3));
        assert_eq!(of_all([miss, miss]), miss);
        assert_eq!(of_all([hit(9), miss]), None);
        assert_eq!(of_all([None, miss, miss]), None, "a refused picture");
        assert_eq!(of_all([miss, None, miss]), None);
        assert_eq!(of_all([]), None);
    }
}
