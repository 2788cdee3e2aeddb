//! `/admin/v1/audit`.

use std::sync::Arc;

use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;

use super::AdminPlane;
use super::call::{Call, Viewer};
use super::wire::{given_time, id, page, time, words};
use crate::admin::{Admin, AuditFilter};
use crate::api::problem::ApiError;
use crate::domain::operator::AuditEntry;

/// The audit.
pub(super) struct AuditApi {
    admin: Arc<Admin>,
}

/// One entry of the audit.
#[derive(Object)]
struct AuditView {
    /// Its id.
    id: String,
    /// When.
    at: String,
    /// Who: the token's name, or the part of the program that acted by itself.
    actor: String,
    /// The token's id.
    token_id: Option<String>,
    /// What was done, e.g. `key.create`.
    action: String,
    /// To what, e.g. `keys/0199…`.
    target: String,
    /// How it was before; never a secret.
    before: Option<Any<Value>>,
    /// How it was after; never a secret.
    after: Option<Any<Value>>,
    /// The caller's address.
    address: Option<String>,
    /// The request's id.
    request_id: Option<String>,
}

/// A page of the audit.
#[derive(Object)]
struct AuditListView {
    /// Newest first.
    items: Vec<AuditView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

impl AuditApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/audit")]
impl AuditApi {
    /// What operators did, newest first
    #[oai(path = "/", method = "get")]
    #[expect(clippy::too_many_arguments, reason = "one a query parameter")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// This action, or all that begin so where it ends in a dot: `key.`.
        action: Query<Option<String>>,
        /// This target, or all that begin so where it ends in a slash: `models/`.
        target: Query<Option<String>>,
        /// What this token did.
        token_id: Query<Option<String>>,
        /// From this time on, RFC 3339.
        from: Query<Option<String>>,
        /// Before this time, RFC 3339.
        to: Query<Option<String>>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<AuditListView>, ApiError> {
        let filter = AuditFilter {
            action: words("action", action.0)?,
            target: words("target", target.0)?,
            token: token_id.0.map(|text| id("token_id", &text)).transpose()?,
            from: from.0.map(|text| given_time("from", &text)).transpose()?,
            to: to.0.map(|text| given_time("to", &text)).transpose()?,
        };
        let page = page(limit.0, after.0.as_deref())?;
        let listing = self.admin.audit(&filter, page).await?;
        Ok(Json(AuditListView {
            items: listing.items.into_iter().map(AuditView::of).collect(),
            next: listing.next.map(|next| next.to_string()),
        }))
    }
}

impl AuditView {
    fn of(entry: AuditEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            at: time(entry.at),
            actor: entry.actor,
            token_id: entry.token.map(|token| token.to_string()),
            action: entry.action,
            target: entry.target,
            before: entry.before.map(Any),
            after: entry.after.map(Any),
            address: entry.address,
            request_id: entry.request_id.map(|id| id.to_string()),
        }
    }
}
