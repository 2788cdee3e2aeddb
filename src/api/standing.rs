//! How a key stands with its limits, for the head of every answer: `RateLimit-Policy` and `RateLimit`, as structured fields
//! (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write as _;
use std::time::Duration;

use poem::http::{HeaderMap, HeaderName, HeaderValue};

use crate::access::{Share, Standing};

/// The limits: `"burst";q=10;w=2`.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of them: `"burst";r=9;t=1`.
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field.
const LARGEST: u64 = 999_999_999_999_999;

/// Writes both fields, where there is a limit.
pub(super) fn tell(standing: Standing, headers: &mut HeaderMap) {
    let (mut policy, mut left) = (String::new(), String::new());
    for (name, share) in [("burst", standing.burst), ("day", standing.day)] {
        let Some(share) = share else {
            continue;
        };
        let comma = if policy.is_empty() { "" } else { ", " };
        let Share {
            quota,
            window,
            remaining,
            resets_in,
        } = share;
        // Writing to a string cannot fail.
        let _ = write!(
            policy,
            "{comma}\"{name}\";q={};w={}",
            quota.min(LARGEST),
            seconds(window).max(1)
        );
        let _ = write!(
            left,
            "{comma}\"{name}\";r={};t={}",
            remaining.min(LARGEST),
            seconds(resets_in)
        );
    }
    for (name, text) in [(POLICY, policy), (LEFT, left)] {
        if let Some(value) = HeaderValue::try_from(text)
            .ok()
            .filter(|value| !value.is_empty())
        {
            headers.insert(name, value);
        }
    }
}

/// Whole seconds, rounded up: what is promised for then holds then.
fn seconds(time: Duration) -> u64 {
    let up = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(up).min(LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(standing: Standing) -> (String, String) {
        let mut headers = HeaderMap::new();
        tell(standing, &mut headers);
        let text = |name| {
            let value = headers.get(name).map(|value| value.to_str().expect("text"));
            value.unwrap_or_default().to_owned()
        };
        (text(POLICY), text(LEFT))
    }

    fn share(quota: u64, window: u64, remaining: u64, resets_in_ms: u64) -> Share {
        Share {
            quota,
            window: Duration::from_secs(window),
            remaining,
            resets_in: Duration::from_millis(resets_in_ms),
        }
    }

    #[test]
    fn both_limits_are_items_of_the_same_lists() {
        assert_eq!(written(Standing::default()), (String::new(), String::new()));
        let burst = Standing {
            burst: Some(share(10, 2, 9, 200)),
            day: None,
        };
        let expected = (
            "\"burst\";q=10;w=2".to_owned(),
            "\"burst\";r=9;t=1".to_owned(),
        );
        assert_eq!(written(burst), expected);
        let both = Standing {
            burst: Some(share(1, 0, 0, 0)),
            day: Some(share(u64::MAX, 86_400, 7, 43_200_000)),
        };
        let (policy, left) = written(both);
        assert_eq!(
            policy,
            "\"burst\";q=1;w=1, \"day\";q=999999999999999;w=86400"
        );
        assert_eq!(left, "\"burst\";r=0;t=0, \"day\";r=7;t=43200");
        let day = Standing {
            day: both.day,
            burst: None,
        };
        assert!(written(day).0.starts_with("\"day\";q="));
    }
}
