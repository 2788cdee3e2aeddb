//! When a callback is tried again: pauses that grow, a receiver's own word, and an end. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::delivery::Sent;
use crate::config::CallbacksConfig;
use crate::store::{AfterAttempt, LeasedDelivery};

/// Each pause is so many times the one before it, up to the longest.
const GROWTH: i32 = 3;
const LONGEST: TimeDelta = TimeDelta::hours(3);

/// The part of a pause that chance adds or takes, so that what failed together is not tried together.
const JITTER: f64 = 0.2;

/// The pauses between attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    first: TimeDelta,
    give_up_after: TimeDelta,
}

impl Schedule {
    pub(super) fn of(config: &CallbacksConfig) -> Self {
        let delta = |seconds: crate::config::Seconds| {
            // The settings allow a year at most.
            TimeDelta::from_std(seconds.get()).unwrap_or_default()
        };
        Self {
            first: delta(config.first_retry),
            give_up_after: delta(config.give_up_after),
        }
    }

    /// The pause after so many attempts; `chance` is 0 to 1.
    fn pause(&self, attempts: u32, chance: f64) -> TimeDelta {
        let mut pause = self.first;
        for _ in 1..attempts {
            if pause >= LONGEST {
                break;
            }
            pause = pause * GROWTH;
        }
        let pause = pause.min(LONGEST.max(self.first));
        let factor = 1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0);
        let seconds = pause.as_seconds_f64() * factor;
        let pause = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
        TimeDelta::from_std(pause).unwrap_or(LONGEST)
    }

    /// What follows an attempt that ended now. A receiver may ask for a longer pause, within the callback's time; the last
    /// attempt is made when that is over.
    pub(super) fn after(
        &self,
        sent: &Sent,
        delivery: &LeasedDelivery,
        now: DateTime<Utc>,
        chance: f64,
    ) -> AfterAttempt {
        match sent.status {
            Some(200..=299) => return AfterAttempt::Delivered,
            Some(410) => return AfterAttempt::Gone,
            _ => {}
        }
        let end = delivery.begun_at + self.give_up_after;
        if sent.is_hopeless || now >= end {
            return AfterAttempt::Dead;
        }
        let own = now + self.pause(delivery.attempts.saturating_add(1), chance);
        let asked = sent
            .retry_after
            .as_deref()
            .and_then(|text| asked(text, now));
        AfterAttempt::Again(asked.map_or(own, |asked| asked.max(own)).min(end))
    }
}

/// The time that a `Retry-After` names: in so many seconds, or at a date.
fn asked(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // What does not fit is a very long time.
        let seconds = text.parse().unwrap_or(i64::MAX);
        let pause = TimeDelta::try_seconds(seconds).unwrap_or(TimeDelta::MAX);
        return Some(
            now.checked_add_signed(pause)
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
        );
    }
    httpdate::parse_http_date(text).ok().map(DateTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::callback::{EventKind, NewDelivery};
    use crate::domain::tenant::TenantId;
    use uuid::Uuid;

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).expect("a time")
    }

    fn schedule() -> Schedule {
        Schedule::of(&CallbacksConfig::default())
    }

    fn delivery(attempts: u32) -> LeasedDelivery {
        let tenant = TenantId(Uuid::nil());
        let data = serde_json::Value::Null;
        LeasedDelivery {
            what: NewDelivery::of(EventKind::VersionLive, tenant, "http://a", &data, start()),
            attempts,
            begun_at: start(),
        }
    }

    fn sent(status: u16, retry_after: Option<&str>) -> Sent {
        Sent {
            status: Some(status),
            retry_after: retry_after.map(str::to_owned),
            ..Sent::default()
        }
    }

    #[test]
    fn pauses_grow_from_seconds_to_hours_over_a_day() {
        let pauses: Vec<i64> = (1..=9)
            .map(|attempts| schedule().pause(attempts, 0.5).num_seconds())
            .collect();
        assert_eq!(pauses, [5, 15, 45, 135, 405, 1215, 3645, 10_800, 10_800]);
        assert_eq!(schedule().pause(1, 0.0).num_milliseconds(), 4000);
        assert_eq!(schedule().pause(1, 1.0).num_milliseconds(), 6000);
        assert_eq!(schedule().pause(u32::MAX, 0.5), LONGEST);

        // Every attempt is made until the last one, at the end of the day.
        let (mut now, mut attempts) = (start(), 0);
        while let AfterAttempt::Again(at) =
            schedule().after(&sent(500, None), &delivery(attempts), now, 0.5)
        {
            assert!(at > now);
            (now, attempts) = (at, attempts + 1);
        }
        assert_eq!(now, start() + TimeDelta::hours(24));
        assert_eq!(attempts, 15);
    }

    #[test]
    fn statuses_say_what_follows() {
        let after = |status| schedule().after(&sent(status, None), &delivery(0), start(), 0.5);
        for status in [200, 202, 204, 299] {
            assert_eq!(after(status), AfterAttempt::Delivered, "{status}");
        }
        assert_eq!(after(410), AfterAttempt::Gone);
        for status in [199, 301, 302, 400, 401, 404, 429, 500, 503] {
            let again = AfterAttempt::Again(start() + TimeDelta::seconds(5));
            assert_eq!(after(status), again, "{status}");
        }
        let hopeless = Sent {
            is_hopeless: true,
            ..Sent::default()
        };
        let after = schedule().after(&hopeless, &delivery(0), start(), 0.5);
        assert_eq!(after, AfterAttempt::Dead);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_within_the_day() {
        let after = |text| {
            let now = start();
            match schedule().after(&sent(503, Some(text)), &delivery(0), now, 0.5) {
                AfterAttempt::Again(at) => (at - now).num_seconds(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(after("120"), 120);
        assert_eq!(after(" 120 "), 120);
        assert_eq!(after("0"), 5, "never sooner than we would");
        let date = httpdate::fmt_http_date((start() + TimeDelta::hours(2)).into());
        assert_eq!(after(&date), 7200);
        for long in ["99999999", "99999999999999999999999999"] {
            assert_eq!(after(long), 24 * 3600, "{long}");
        }
        for strange in ["", "soon", "-5", "1.5"] {
            assert_eq!(after(strange), 5, "{strange:?}");
        }
    }
}
