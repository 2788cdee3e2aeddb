//! Operators: who may do what on the admin plane, and the record of what was done.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::secret::SecretHash;
use super::tenant::TokenId;

/// What an admin token may do; each role also what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look at everything but secrets.
    Viewer,
    /// Models, aliases, rollouts, reload, deliveries.
    Operator,
    /// Tenants, keys and tokens too.
    Admin,
}

impl Role {
    /// All of them, from the least.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A text that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is viewer, operator or admin")]
pub struct InvalidRole;

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or(InvalidRole)
    }
}

/// An admin token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    /// Its id.
    pub id: TokenId,
    /// Its name for people; several may have the same.
    pub name: String,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// The first characters of its secret, for people.
    pub hint: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last opened something, to within seconds.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// One entry of the audit: who did what, to what, from where.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Its id (`UUIDv7`); entries are listed by it, newest first.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: a token's name and id, or the program itself (`bootstrap`, `command line`).
    pub actor: String,
    /// The token, where one was used.
    pub token: Option<TokenId>,
    /// What was done, e.g. `key.create`.
    pub action: String,
    /// To what, e.g. `keys/0199…` or `models/digits/versions/2`.
    pub target: String,
    /// How it was before, without secrets; `None` where there was nothing.
    pub before: Option<Value>,
    /// How it is now, without secrets; `None` where nothing is left.
    pub after: Option<Value>,
    /// The caller's address.
    pub address: Option<String>,
    /// The request's id.
    pub request_id: Option<Uuid>,
}
