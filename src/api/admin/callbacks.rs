//! `/admin/v1/callbacks`: what was sent to tenants, and what became of it.

use std::sync::Arc;

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde_json::Value;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::wire::{id, id_in_path, invalid, page, time};
use crate::admin::{Admin, DeliveryFilter};
use crate::api::problem::ApiError;
use crate::domain::callback::{Attempt, Delivery, DeliveryState, EventKind};

/// Callbacks.
pub(super) struct CallbacksApi {
    admin: Arc<Admin>,
}

/// A callback without its body.
#[derive(Object)]
struct CallbackView {
    /// Its id, which is the header `webhook-id` of every attempt.
    id: String,
    /// The tenant that is told.
    tenant_id: String,
    /// What it is told: `prediction.completed`, `version.live`, `version.failed`, `rollout.promoted` or
    /// `rollout.rolled_back`.
    event: String,
    /// Where it is sent.
    url: String,
    /// `pending`, `delivered` or `dead`.
    state: String,
    /// Attempts since it was made or last sent anew.
    attempts: u32,
    /// When it is tried next.
    next_attempt_at: Option<String>,
    /// The HTTP status of the last answer.
    last_status: Option<u16>,
    /// Why the last attempt failed.
    last_error: Option<String>,
    /// When it was made.
    created_at: String,
    /// When it arrived or was given up.
    finished_at: Option<String>,
}

/// A page of callbacks.
#[derive(Object)]
struct CallbacksView {
    /// Newest first.
    items: Vec<CallbackView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

/// One attempt to deliver a callback.
#[derive(Object)]
struct AttemptView {
    /// When it began.
    at: String,
    /// The HTTP status of the answer.
    status: Option<u16>,
    /// Why it failed.
    error: Option<String>,
    /// How long it took.
    duration_ms: u64,
}

/// A callback with its body and its attempts.
#[derive(Object)]
struct WholeCallbackView {
    #[oai(flatten)]
    view: CallbackView,
    /// What is sent.
    body: Any<Value>,
    /// The last attempts, newest first, those before it was sent anew included.
    log: Vec<AttemptView>,
}

#[derive(ApiResponse)]
enum SentAnew {
    /// It is sent anew
    #[oai(status = 202)]
    Callback(Json<CallbackView>),
}

impl CallbacksApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/callbacks")]
impl CallbacksApi {
    /// Callbacks, newest first
    #[oai(path = "/", method = "get")]
    #[expect(clippy::too_many_arguments, reason = "one a query parameter")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// To this tenant.
        tenant: Query<Option<String>>,
        /// In this state: `pending`, `delivered` or `dead`.
        state: Query<Option<String>>,
        /// Of this event, e.g. `version.live`.
        event: Query<Option<String>>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<CallbacksView>, ApiError> {
        let state = state.0.map(|text| {
            text.parse::<DeliveryState>()
                .map_err(|error| invalid(format!("`state` is {text:?}; {error}")))
        });
        let event = event.0.map(|text| {
            text.parse::<EventKind>()
                .map_err(|error| invalid(format!("`event` is {text:?}; {error}")))
        });
        let filter = DeliveryFilter {
            tenant: tenant.0.map(|text| id("tenant", &text)).transpose()?,
            state: state.transpose()?,
            event: event.transpose()?,
        };
        let page = page(limit.0, after.0.as_deref())?;
        let listing = self.admin.deliveries(filter, page).await?;
        Ok(Json(CallbacksView {
            items: listing.items.iter().map(CallbackView::of).collect(),
            next: listing.next.map(|next| next.to_string()),
        }))
    }

    /// One callback with its body and its attempts
    #[oai(path = "/:id", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        id: Path<String>,
    ) -> Result<Json<WholeCallbackView>, ApiError> {
        let (delivery, attempts) = self.admin.delivery(id_in_path(&id, "callback")?).await?;
        let body = serde_json::from_str(&delivery.what.body);
        Ok(Json(WholeCallbackView {
            view: CallbackView::of(&delivery),
            body: Any(body.unwrap_or(Value::Null)),
            log: attempts.into_iter().map(AttemptView::of).collect(),
        }))
    }

    /// Send a callback anew that has arrived or was given up; its id stays the same
    #[oai(path = "/:id/redeliver", method = "post")]
    async fn redeliver(
        &self,
        call: Call<Operator>,
        id: Path<String>,
    ) -> Result<SentAnew, ApiError> {
        let id = id_in_path(&id, "callback")?;
        let delivery = self.admin.redeliver(&call.actor, id).await?;
        Ok(SentAnew::Callback(Json(CallbackView::of(&delivery))))
    }
}

impl CallbackView {
    fn of(delivery: &Delivery) -> Self {
        let what = &delivery.what;
        Self {
            id: what.id.to_string(),
            tenant_id: what.tenant.to_string(),
            event: what.event.to_string(),
            url: what.url.clone(),
            state: delivery.state.as_str().to_owned(),
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at.map(time),
            last_status: delivery.last_status,
            last_error: delivery.last_error.clone(),
            created_at: time(what.created_at),
            finished_at: delivery.finished_at.map(time),
        }
    }
}

impl AttemptView {
    fn of(attempt: Attempt) -> Self {
        Self {
            at: time(attempt.at),
            status: attempt.status,
            error: attempt.error,
            duration_ms: attempt.duration_ms,
        }
    }
}
