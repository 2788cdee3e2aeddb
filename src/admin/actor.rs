//! Who acts: every use case that changes something takes an [`Actor`], and leaves an audit entry in its name.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::operator::AuditEntry;
use crate::domain::tenant::TokenId;

/// Who acts, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The name of the token, or of the part of the program that acts by itself.
    pub name: String,
    /// The token.
    pub token: Option<TokenId>,
    /// The caller's address.
    pub address: Option<String>,
    /// The request's id.
    pub request_id: Option<Uuid>,
}

/// What was done to what.
pub(super) struct Deed {
    pub(super) action: &'static str,
    pub(super) target: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

impl Actor {
    /// A part of the program that acts without a token.
    #[must_use]
    pub fn program(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            token: None,
            address: None,
            request_id: None,
        }
    }

    /// The audit entry of a deed done now.
    pub(super) fn did(&self, deed: Deed, now: DateTime<Utc>) -> AuditEntry {
        AuditEntry {
            id: Uuid::now_v7(),
            at: now,
            actor: self.name.clone(),
            token: self.token,
            action: deed.action.to_owned(),
            target: deed.target,
            before: deed.before,
            after: deed.after,
            address: self.address.clone(),
            request_id: self.request_id,
        }
    }
}
