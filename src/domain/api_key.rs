//! API keys: what a key may do, and how much of it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::ids::ModelId;
use super::secret::SecretHash;
use super::tenant::{KeyId, TenantId};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// To classify pictures.
    Classify,
    /// To send true labels.
    Feedback,
    /// To read models and the tenant's own predictions.
    Read,
}

impl Scope {
    /// All of them: what a key has unless it is given less.
    pub const ALL: [Self; 3] = [Self::Classify, Self::Feedback, Self::Read];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Feedback => "feedback",
            Self::Read => "read",
        }
    }
}

/// A text that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is classify, feedback or read")]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scope = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        scope.ok_or(InvalidScope)
    }
}

/// Models by name; `*` stands for any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelPattern(String);

/// A text that is no pattern of model ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a model pattern is 1 to 64 of a-z, 0-9, '.', '_', '-' and '*'")]
pub struct InvalidPattern;

impl ModelPattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern names this model.
    #[must_use]
    pub fn names(&self, id: &ModelId) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = id.as_str().strip_prefix(first) else {
            return false;
        };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else {
            // No star: the whole name.
            return rest.is_empty();
        };
        // The leftmost place for each part leaves the most room for those behind it.
        for part in middle {
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl FromStr for ModelPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*".contains(&byte)
        };
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPattern)
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether limits refuse, or are only counted and logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitMode {
    /// What is over a limit is refused.
    #[default]
    Enforce,
    /// What is over a limit is counted and logged, and goes through.
    Observe,
}

impl LimitMode {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// A text that is no mode of limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a limit mode is enforce or observe")]
pub struct InvalidMode;

impl FromStr for LimitMode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "observe" => Ok(Self::Observe),
            _ => Err(InvalidMode),
        }
    }
}

/// How much a key may do. What is `None` is not limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyLimits {
    /// Pictures a second in the long run; more than 0.
    pub requests_per_second: Option<f64>,
    /// Pictures at once after a pause; without it one second's worth, at least 1. Means nothing without a rate.
    pub burst: Option<u32>,
    /// Pictures a day (UTC).
    pub images_per_day: Option<u64>,
    /// Bytes of one picture, where that is less than the gateway's own limit.
    pub max_image_bytes: Option<u64>,
    /// Whether they refuse.
    pub mode: LimitMode,
}

impl KeyLimits {
    /// The burst in force where there is a rate: as given, else one second's worth rounded up.
    #[must_use]
    pub fn burst_in_force(&self) -> Option<u32> {
        let rate = self.requests_per_second?;
        Some(self.burst.unwrap_or_else(|| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to the type"
            )]
            let one_second = rate.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
            one_second
        }))
    }
}

/// An API key without its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name for people; several may have the same.
    pub name: String,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// The first characters of its secret, for people.
    pub hint: String,
    /// The secret before a rotation, and until when it still opens.
    pub previous: Option<(SecretHash, DateTime<Utc>)>,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// The models it may use; one pattern that fits is enough.
    pub models: Vec<ModelPattern>,
    /// How much.
    pub limits: KeyLimits,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// When it last opened something, to within seconds.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Counts its changes, from 1: what `ETag` and `If-Match` are about.
    pub version: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_models() {
        for (pattern, id, fits) in [
            ("digits", "digits", true),
            ("digits", "digits2", false),
            ("*", "digits", true),
            ("**", "digits", true),
            ("team-a-*", "team-a-digits", true),
            ("team-a-*", "team-a-", true),
            ("team-a-*", "team-b-digits", false),
            ("*-int8", "squeezenet1.1-int8", true),
            ("*-int8", "squeezenet1.1", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("*a*", "bab", true),
            ("*a*a*", "bab", false),
        ] {
            let pattern: ModelPattern = pattern.parse().expect("a pattern");
            assert_eq!(
                pattern.names(&id.parse().expect("an id")),
                fits,
                "{pattern} {id}"
            );
        }
        for bad in ["", "A", "a/b", "a b", "?", &"a".repeat(65)] {
            assert_eq!(bad.parse::<ModelPattern>(), Err(InvalidPattern), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_without_a_burst_allows_a_seconds_worth() {
        let burst = |rate, burst| {
            KeyLimits {
                requests_per_second: rate,
                burst,
                ..KeyLimits::default()
            }
            .burst_in_force()
        };
        assert_eq!(burst(None, Some(3)), None);
        assert_eq!(burst(Some(5.0), None), Some(5));
        assert_eq!(burst(Some(0.1), None), Some(1));
        assert_eq!(burst(Some(2.5), None), Some(3));
        assert_eq!(burst(Some(5.0), Some(20)), Some(20));
    }
}
