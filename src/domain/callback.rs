//! Callbacks: what is told to tenants, and what became of the telling.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::tenant::TenantId;

/// What a tenant can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A classification that nobody waited for has come to its end.
    PredictionCompleted,
    /// A version serves.
    VersionLive,
    /// A version may not serve.
    VersionFailed,
    /// A rollout's candidate has got all the traffic.
    RolloutPromoted,
    /// A rollout's candidate was taken back.
    RolloutRolledBack,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PredictionCompleted,
        Self::VersionLive,
        Self::VersionFailed,
        Self::RolloutPromoted,
        Self::RolloutRolledBack,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PredictionCompleted => "prediction.completed",
            Self::VersionLive => "version.live",
            Self::VersionFailed => "version.failed",
            Self::RolloutPromoted => "rollout.promoted",
            Self::RolloutRolledBack => "rollout.rolled_back",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an event is prediction.completed, version.live, version.failed, rollout.promoted or rollout.rolled_back"
)]
pub struct InvalidEvent;

impl FromStr for EventKind {
    type Err = InvalidEvent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or(InvalidEvent)
    }
}

/// Something that is to be told to a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its id (`UUIDv7`), the same in every attempt: receivers tell by it what they have had.
    pub id: Uuid,
    /// Who is told.
    pub tenant: TenantId,
    /// What happened.
    pub event: EventKind,
    /// Where it is sent.
    pub url: String,
    /// What is sent: JSON.
    pub body: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The span of what it tells of, as `traceparent` writes it.
    pub traceparent: Option<String>,
}

impl NewDelivery {
    /// An event and what there is to say of it, as Standard Webhooks lays it out: `type`, `timestamp` and `data`.
    #[must_use]
    pub fn of(
        event: EventKind,
        tenant: TenantId,
        url: &str,
        data: &Value,
        now: DateTime<Utc>,
    ) -> Self {
        let body = json!({
            "type": event.as_str(),
            "timestamp": now.to_rfc3339_opts(SecondsFormat::Micros, true),
            "data": data,
        });
        Self {
            id: Uuid::now_v7(),
            tenant,
            event,
            url: url.to_owned(),
            body: body.to_string(),
            created_at: now,
            traceparent: None,
        }
    }

    /// The same as a part of a trace, by its `traceparent`.
    #[must_use]
    pub fn of_trace(self, traceparent: Option<String>) -> Self {
        Self {
            traceparent,
            ..self
        }
    }

    /// A number that stands for the host: deliveries to one host share its few places.
    #[must_use]
    pub fn lane(&self) -> i64 {
        let digest = Sha256::digest(host(&self.url).to_ascii_lowercase());
        let mut first = [0; 8];
        first
            .iter_mut()
            .zip(digest)
            .for_each(|(to, from)| *to = from);
        i64::from_be_bytes(first)
    }
}

/// The host in a web address, without its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    host.unwrap_or_default().trim_end_matches('.')
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// It is sent, again and again, until it arrives or its time is over.
    Pending,
    /// It has arrived.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// A text that is no state of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is pending, delivered or dead")]
pub struct InvalidState;

impl FromStr for DeliveryState {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == text);
        state.ok_or(InvalidState)
    }
}

/// A delivery and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What is sent, and where.
    pub what: NewDelivery,
    /// How far it has come.
    pub state: DeliveryState,
    /// Attempts since it was made or last sent anew.
    pub attempts: u32,
    /// When it is tried next; `None` once it is finished.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What the last attempt was answered: an HTTP status.
    pub last_status: Option<u16>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it arrived or was given up.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: DateTime<Utc>,
    /// The answer's HTTP status; `None` where there was none.
    pub status: Option<u16>,
    /// Why it failed; `None` where it arrived.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl Attempt {
    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> DateTime<Utc> {
        let took = i64::try_from(self.duration_ms).unwrap_or(i64::MAX);
        let took = TimeDelta::try_milliseconds(took).unwrap_or_default();
        self.at.checked_add_signed(took).unwrap_or(self.at)
    }
}

/// What signs a tenant's callbacks.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackSecret {
    /// Its id (`UUIDv7`); not the secret.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// The secret: `whsec_` and base64. Kept as it is, as signing needs it.
    pub secret: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends; `None` for the one in use.
    pub expires_at: Option<DateTime<Utc>>,
}

impl CallbackSecret {
    /// Whether it signs at this time.
    #[must_use]
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// Without the secret.
impl fmt::Debug for CallbackSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackSecret")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(url: &str) -> NewDelivery {
        let now = DateTime::from_timestamp_micros(1_767_225_600_000_001).expect("a time");
        let tenant = TenantId(Uuid::from_u128(1));
        NewDelivery::of(EventKind::VersionLive, tenant, url, &json!({"a": 1}), now)
    }

    #[test]
    fn names_lead_back() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert!(InvalidEvent.to_string().contains(kind.as_str()));
        }
        assert_eq!("version.seen".parse::<EventKind>(), Err(InvalidEvent));
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn a_body_says_what_when_and_more() {
        assert_eq!(
            delivery("https://example.com").body,
            r#"{"type":"version.live","timestamp":"2026-01-01T00:00:00.000001Z","data":{"a":1}}"#
        );
    }

    #[test]
    fn one_host_is_one_lane() {
        let lane = |url| delivery(url).lane();
        for same in [
            "http://EXAMPLE.com:8080/b?c#d",
            "https://example.com.?x",
            "https://u:p@example.com#x",
        ] {
            assert_eq!(lane(same), lane("https://example.com/a"), "{same}");
        }
        assert_eq!(lane("http://[::1]:80/"), lane("http://[::1]/x"));
        for other in [
            "https://www.example.com",
            "https://example.org",
            "http://[::1]",
        ] {
            assert_ne!(lane(other), lane("https://example.com"), "{other}");
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        let secret = CallbackSecret {
            id: Uuid::nil(),
            tenant: TenantId(Uuid::nil()),
            secret: "whsec_abc".to_owned(),
            created_at: DateTime::UNIX_EPOCH,
            expires_at: None,
        };
        assert!(!format!("{secret:?}").contains("whsec"));
        assert!(secret.is_valid(DateTime::UNIX_EPOCH));
    }
}
