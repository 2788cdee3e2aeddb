//! `/admin/v1/status`, `/reload` and `/events`: the gateway as a whole.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use poem::web::sse;
use poem_openapi::payload::{EventStream, Json};
use poem_openapi::types::{Any, ToJSON as _};
use poem_openapi::{Object, OpenApi};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::wire::time;
use crate::access::Access;
use crate::admin::{Admin, Event, RemoteStatus};
use crate::api::data::{REQUIRED_MODEL, Readiness};
use crate::api::problem::ApiError;
use crate::classify::{Classifier, Phase};
use crate::predictions::{ArchiveStatus, LogStatus};

/// The gateway.
pub(super) struct GatewayApi {
    admin: Arc<Admin>,
    access: Arc<Access>,
    classifier: Arc<Classifier>,
    readiness: Arc<Readiness>,
    closing: CancellationToken,
}

/// How the gateway is.
#[derive(Object)]
struct StatusView {
    /// `ok`, or `degraded` where something is wrong that does not stop it from serving.
    status: String,
    /// What is wrong, in words an operator can act on.
    degraded: Vec<String>,
    /// The same, each with the name that programs compare; the metric `lensgate_degraded` has it too.
    reasons: Vec<DegradedView>,
    /// The program's version.
    version: String,
    /// `serving`, `leaving` (it will stop soon) or `draining`.
    phase: String,
    /// When it started.
    started_at: String,
    /// Seconds since then.
    uptime_s: i64,
    /// The database.
    store: StoreView,
    /// The prediction log of this replica; `null` where predictions are not logged.
    predictions: Option<LogView>,
    /// The archive of pictures, as this replica sees it; `null` where there is none.
    archive: Option<ArchiveView>,
    /// The bucket of models, as this replica sees it; `null` where models are in a folder.
    model_store: Option<BucketView>,
    /// Models and versions.
    models: ModelsCount,
    /// Callers.
    access: AccessView,
}

/// Something that is wrong.
#[derive(Object)]
struct DegradedView {
    /// `store_away`, `log_waiting`, `log_filling`, `log_failing`, `log_lost`, `archive_away`, `version_failed`,
    /// `telemetry_away`, `models_away` or `required_model`.
    reason: String,
    /// In words an operator can act on.
    detail: String,
}

/// The database.
#[derive(Object)]
struct StoreView {
    /// Which, and of which version.
    engine: String,
    /// `ok` or `away`.
    status: String,
    /// Since when it does not answer.
    away_since: Option<String>,
    /// The revision of tenants, keys and wishes that is in force here.
    revision: i64,
}

/// The prediction log: what happened since the start, and what waits.
#[derive(Object)]
struct LogView {
    /// `ok`; `waiting` where the database does not take predictions; `failing` where the spool cannot be written.
    status: String,
    /// Bytes that wait in the spool for the database.
    waiting_bytes: u64,
    /// Bytes that may wait there.
    limit_bytes: u64,
    /// Predictions that were written to the spool.
    spooled: u64,
    /// Predictions that the database took.
    stored: u64,
    /// Predictions whose answers went out although they could not be written.
    unlogged: u64,
    /// Predictions whose answers waited no longer for the spool.
    late: u64,
    /// Predictions that were lost before the database had them, as the spool was full.
    lost: u64,
    /// Records that were found damaged in the spool, or torn at their end by a crash.
    damaged: u64,
    /// Predictions that the database takes in no form.
    refused: u64,
    /// Predictions that were too old to be kept when the database could take them.
    expired: u64,
}

impl LogView {
    fn of(log: &LogStatus) -> Self {
        Self {
            status: log.state().to_owned(),
            waiting_bytes: log.waiting_bytes,
            limit_bytes: log.limit_bytes,
            spooled: log.spooled,
            stored: log.stored,
            unlogged: log.unlogged,
            late: log.late,
            lost: log.lost,
            damaged: log.damaged,
            refused: log.refused,
            expired: log.expired,
        }
    }
}

/// The bucket of models.
#[derive(Object)]
struct BucketView {
    /// `ok` or `away`: what was brought serves on.
    status: String,
    /// Since when it could not be taken in whole.
    away_since: Option<String>,
    /// Why not.
    trouble: Option<String>,
    /// When all of it was taken in last.
    synced_at: Option<String>,
    /// Bytes of its models on this machine.
    cached_bytes: u64,
}

impl BucketView {
    fn of(bucket: &RemoteStatus) -> Self {
        let away = bucket.away_since;
        Self {
            status: if away.is_some() { "away" } else { "ok" }.to_owned(),
            away_since: away.map(time),
            trouble: bucket.trouble.clone(),
            synced_at: bucket.synced_at.map(time),
            cached_bytes: bucket.cached_bytes,
        }
    }
}

/// The archive of pictures: what happened since the start, and what waits.
#[derive(Object)]
struct ArchiveView {
    /// `ok` or `away`.
    status: String,
    /// Since when it takes nothing.
    away_since: Option<String>,
    /// Pictures that were put there.
    stored: u64,
    /// Pictures that wait to be put there.
    waiting: usize,
    /// Their bytes.
    waiting_bytes: u64,
    /// Pictures that were not kept as too many waited.
    dropped_full: u64,
    /// Pictures that were not kept as they have too many bytes.
    dropped_too_large: u64,
    /// Pictures that were not kept as they alone were not taken.
    dropped_failed: u64,
}

impl ArchiveView {
    fn of(archive: &ArchiveStatus) -> Self {
        let away = archive.away_since;
        Self {
            status: if away.is_some() { "away" } else { "ok" }.to_owned(),
            away_since: away.map(time),
            stored: archive.stored,
            waiting: archive.waiting,
            waiting_bytes: archive.waiting_bytes,
            dropped_full: archive.dropped_full,
            dropped_too_large: archive.dropped_too_large,
            dropped_failed: archive.dropped_failed,
        }
    }
}

/// Models and versions.
#[derive(Object)]
struct ModelsCount {
    /// Models.
    models: usize,
    /// Versions by state.
    versions: Any<Value>,
}

/// Callers.
#[derive(Object)]
struct AccessView {
    /// Keys that are known here.
    keys: usize,
    /// Requests over a limit that was only observed, since the start.
    observed_over_limit: u64,
    /// Requests that were refused for a limit, since the start.
    refused_for_limit: u64,
    /// Requests without valid credentials, since the start.
    unauthenticated: u64,
}

/// What a reload did.
#[derive(Object)]
struct ReloadView {
    /// `reloading`: every model is being looked at.
    status: String,
    /// Settings that are in force with a new value.
    changed: Vec<String>,
    /// Settings with a new value that needs a restart.
    needs_restart: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Object)]
struct EventView {
    /// Its id.
    id: String,
    /// When.
    at: String,
    /// What, e.g. `key.created`, `version.live`; `events.missed` where the listener was too slow.
    kind: String,
    /// To what, e.g. `models/digits/versions/2`.
    subject: String,
    /// More of it.
    about: Any<Value>,
}

/// A line of nothing, so that proxies keep the stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl GatewayApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
            access: Arc::clone(&plane.access),
            classifier: Arc::clone(&plane.data.classifier),
            readiness: Arc::clone(&plane.data.readiness),
            closing: plane.closing.clone(),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1")]
impl GatewayApi {
    /// How the gateway is, and what is wrong with it
    #[oai(path = "/status", method = "get")]
    async fn status(&self, _call: Call<Viewer>) -> Result<Json<StatusView>, ApiError> {
        let status = self.admin.status();
        let counts = self.access.counts();
        let versions: serde_json::Map<String, Value> = status
            .versions
            .iter()
            .map(|(state, count)| ((*state).to_owned(), json!(count)))
            .collect();
        let phase = match self.classifier.phase() {
            Phase::Serving => "serving",
            Phase::Leaving => "leaving",
            Phase::Draining => "draining",
        };
        let degraded: Vec<DegradedView> = status
            .degraded
            .into_iter()
            .map(|one| DegradedView {
                reason: one.reason.as_str().to_owned(),
                detail: one.detail,
            })
            .chain(self.readiness.missing().map(|id| DegradedView {
                reason: REQUIRED_MODEL.to_owned(),
                detail: format!(
                    "model {id}, which is required, is not live: the gateway is not ready"
                ),
            }))
            .collect();
        let well = degraded.is_empty();
        Ok(Json(StatusView {
            status: if well { "ok" } else { "degraded" }.to_owned(),
            degraded: degraded.iter().map(|one| one.detail.clone()).collect(),
            reasons: degraded,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.to_owned(),
            started_at: time(status.started_at),
            uptime_s: status.uptime_s,
            store: StoreView {
                engine: status.store.engine,
                status: match status.store.away_since {
                    None => "ok",
                    Some(_) => "away",
                }
                .to_owned(),
                away_since: status.store.away_since.map(time),
                revision: status.store.revision,
            },
            predictions: status.log.as_ref().map(LogView::of),
            archive: status.archive.as_ref().map(ArchiveView::of),
            model_store: status.bucket.as_ref().map(BucketView::of),
            models: ModelsCount {
                models: status.models,
                versions: Any(Value::Object(versions)),
            },
            access: AccessView {
                keys: counts.keys,
                observed_over_limit: counts.observed_over_limit,
                refused_for_limit: counts.refused_for_limit,
                unauthenticated: counts.unauthenticated,
            },
        }))
    }

    /// Read the settings and look at every model anew, and try again what failed
    #[oai(path = "/reload", method = "post")]
    async fn reload(&self, call: Call<Operator>) -> Result<Json<ReloadView>, ApiError> {
        let reloaded = self.admin.reload(&call.actor).await?;
        Ok(Json(ReloadView {
            status: "reloading".to_owned(),
            changed: reloaded.changed,
            needs_restart: reloaded.needs_restart,
        }))
    }

    /// What happens from now on, as server-sent events
    #[oai(path = "/events", method = "get")]
    async fn events(
        &self,
        _call: Call<Viewer>,
    ) -> Result<EventStream<BoxStream<'static, EventView>>, ApiError> {
        let told = self.admin.events().listen();
        let told = futures_util::stream::unfold(told, |mut told| async move {
            match told.recv().await {
                Ok(event) => Some((EventView::of(event), told)),
                Err(RecvError::Lagged(missed)) => Some((EventView::missed(missed), told)),
                Err(RecvError::Closed) => None,
            }
        });
        let until = self.closing.clone().cancelled_owned();
        let stream = EventStream::new(told.take_until(until).boxed());
        Ok(stream.keep_alive(KEEP_ALIVE).to_event(|event| {
            let (id, kind) = (event.id.clone(), event.kind.clone());
            sse::Event::message(event.to_json_string())
                .id(id)
                .event_type(kind)
        }))
    }
}

impl EventView {
    fn of(event: Event) -> Self {
        Self {
            id: event.id.to_string(),
            at: time(event.at),
            kind: event.kind.to_owned(),
            subject: event.subject,
            about: Any(event.about),
        }
    }

    fn missed(count: u64) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            at: String::new(),
            kind: "events.missed".to_owned(),
            subject: "events".to_owned(),
            about: Any(json!({"count": count})),
        }
    }
}
