//! Tenants: who is calling, and what is theirs.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Declares an id: a UUID that is not mixed up with another one's.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id! {
    /// The id of a tenant (`UUIDv7`).
    TenantId
}
uuid_id! {
    /// The id of an API key (`UUIDv7`); not the secret.
    KeyId
}
uuid_id! {
    /// The id of an admin token (`UUIDv7`); not the secret.
    TokenId
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name; no two have the same.
    pub name: String,
    /// Where results are sent that nobody waits for.
    pub callback_url: Option<String>,
    /// The kinds of events that are sent there; empty for all.
    pub events: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Counts its changes, from 1: what `ETag` and `If-Match` are about.
    pub version: i64,
}
