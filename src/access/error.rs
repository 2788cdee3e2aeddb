//! Why a caller is not let in, and which kind of failure that is.

use std::time::Duration;

use crate::domain::api_key::Scope;
use crate::domain::error::ErrorKind;

/// Why a caller is not let in. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nobody has this secret, or not any more.
    #[error("the credentials are unknown, or were revoked")]
    Unknown,
    /// It was known until a moment that is over.
    #[error("the credentials have expired")]
    Expired,
    /// The key has none of the scopes that are needed; one of them would do.
    #[error("the key has not the scope {}", or(.0))]
    Scope(&'static [Scope]),
    /// The address has presented wrong credentials, or none, too often.
    #[error("too many requests without valid credentials came from this address")]
    TooManyAttempts {
        /// When it is told again what is wrong.
        retry_after: Duration,
    },
    /// The key's rate is used up.
    #[error("the key's limit of {burst} at once is used up")]
    RateLimited {
        /// What may come at once after a pause.
        burst: u32,
        /// When enough will be there again.
        retry_after: Duration,
    },
    /// More pictures than the key's rate ever lets through at once.
    #[error("the request holds {pictures} pictures; the key's limit lets {burst} through at once")]
    BatchTooLarge {
        /// Pictures of the request.
        pictures: u64,
        /// What may come at once after a pause.
        burst: u32,
    },
    /// The key's pictures of this day are used up, or fewer are left than the request holds.
    #[error(
        "the key's {limit} pictures a day are used up but for {left}; the day ends at midnight UTC"
    )]
    QuotaExceeded {
        /// Pictures a day.
        limit: u64,
        /// What is left of them.
        left: u64,
        /// When the next day begins.
        retry_after: Duration,
    },
}

fn or(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    names.join(" or ")
}

impl AccessError {
    /// The kind, as clients tell failures apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown | Self::Expired => ErrorKind::InvalidCredentials,
            Self::Scope(_) => ErrorKind::Forbidden,
            Self::TooManyAttempts { .. } | Self::RateLimited { .. } => ErrorKind::RateLimited,
            Self::BatchTooLarge { .. } => ErrorKind::BatchTooLarge,
            Self::QuotaExceeded { .. } => ErrorKind::QuotaExceeded,
        }
    }

    /// When to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyAttempts { retry_after }
            | Self::RateLimited { retry_after, .. }
            | Self::QuotaExceeded { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_scope_is_named() {
        let one = AccessError::Scope(&[Scope::Classify]);
        assert_eq!(one.to_string(), "the key has not the scope classify");
        let two = AccessError::Scope(&[Scope::Read, Scope::Classify]);
        assert_eq!(
            two.to_string(),
            "the key has not the scope read or classify"
        );
    }
}
