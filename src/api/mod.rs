//! HTTP: the route table, the error table and the translation between the wire and the use cases.
//!
//! Built by `app`, driven by [`listener`]. Decides nothing about models, pictures or callers.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::http::{Method, Version, header};
use poem::{Endpoint, EndpointExt as _, Request, Response, Route, endpoint::make_sync};
use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{OpenApi, OpenApiService};

use crate::access::Access;
use crate::classify::Classifier;
use crate::config::{LimitsConfig, Live};
use crate::domain::clock::Clock;
use crate::domain::error::ErrorKind;
use crate::jobs::Jobs;
use crate::models::CatalogHandle;
use crate::predictions::Predictions;
use crate::telemetry::trace;

pub mod admin;
pub mod data;
mod json;
pub mod listener;
pub mod problem;
mod routes;
mod schema;
mod security;
mod standing;

use problem::ApiError;
use routes::RouteTable;
use security::Slot;

/// What the data plane needs.
#[derive(Clone)]
pub struct DataPlane {
    /// The use case.
    pub classifier: Arc<Classifier>,
    /// What is servable.
    pub catalog: CatalogHandle,
    /// Who may call.
    pub access: Arc<Access>,
    /// Sizes; they may change.
    pub limits: Live<LimitsConfig>,
    /// What was predicted.
    pub predictions: Predictions,
    /// What nobody waits for.
    pub jobs: Arc<Jobs>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether it should get traffic.
    pub readiness: Arc<Readiness>,
}

pub use data::{Readiness, worded};

/// The HTTP status of a failure.
#[must_use]
pub fn status_of(kind: ErrorKind) -> u16 {
    problem::status_of(kind).0.as_u16()
}

impl listener::RequestId {
    /// The request's id; a new one where no listener has given it one.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        request
            .extensions()
            .get()
            .copied()
            .unwrap_or_else(|| Self(uuid::Uuid::now_v7()))
    }
}

impl std::fmt::Display for listener::RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

type DataApis = (
    data::Limited<data::Documented<data::ClassifyApi>>,
    data::Limited<data::ModelsApi>,
    data::Limited<data::PredictionsApi>,
    data::Limited<data::FeedbackApi>,
    data::HealthApi,
);

fn data_service<A: OpenApi>(apis: A) -> OpenApiService<A, ()> {
    OpenApiService::new(apis, "Lensgate data plane", env!("CARGO_PKG_VERSION"))
        .description("Classify pictures with the models of this gateway.")
        .license(poem_openapi::LicenseObject::new("Apache-2.0"))
}

/// The data plane's OpenAPI document, JSON. Needs no gateway: it depends on no model and no database.
#[must_use]
pub fn data_document() -> String {
    data_service(Described::<DataApis>::default()).spec()
}

/// APIs that are only described and never served.
struct Described<A>(PhantomData<A>);

impl<A> Default for Described<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A: OpenApi> OpenApi for Described<A> {
    fn meta() -> Vec<MetaApi> {
        A::meta()
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

/// Every route of the data plane, with the error table around them.
#[must_use]
pub fn data_routes(plane: &DataPlane) -> BoxEndpoint<'static, Response> {
    let apis = (
        data::Limited(data::Documented(data::ClassifyApi::new(plane))),
        data::Limited(data::ModelsApi::new(plane)),
        data::Limited(data::PredictionsApi::new(plane)),
        data::Limited(data::FeedbackApi::new(plane)),
        data::HealthApi::new(plane),
    );
    plane_routes(data_service(apis), &plane.access)
}

/// A plane's routes, its page and its document.
fn plane_routes<A: OpenApi + 'static>(
    service: OpenApiService<A, ()>,
    access: &Arc<Access>,
) -> BoxEndpoint<'static, Response> {
    let access = Arc::clone(access);
    let document = service.spec();
    let table = Arc::new(RouteTable::of(&document));
    let docs = static_page("text/html; charset=utf-8", service.swagger_ui_html());
    Route::new()
        .nest("/", service)
        .at("/docs", poem::get(docs))
        .at(
            "/openapi.json",
            poem::get(static_page("application/json", document)),
        )
        .around(move |endpoint, mut request| {
            let table = Arc::clone(&table);
            let slot = Slot::open(&mut request, &access);
            async move { answer(&*endpoint, request, &table, &slot).await }
        })
        .boxed()
}

/// Calls the endpoint; whatever fails becomes a problem document here, and nowhere else. Whatever comes of it, the answer
/// says how the caller's key stands with its limits.
async fn answer<E>(
    endpoint: &E,
    request: Request,
    table: &RouteTable,
    slot: &Slot,
) -> poem::Result<Response>
where
    E: Endpoint<Output = Response>,
{
    let id = listener::RequestId::of(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    trace::client(|| security::client_address(&request));
    let route = table.find(&path);
    if let Some(route) = route {
        listener::RouteName::note(&request, &route.template);
        trace::route(&route.template);
    }
    let outcome = match refuse_head(&request) {
        None => endpoint.call(request).await,
        Some(refusal) => Err(refusal.into()),
    };
    let mut response = match outcome {
        Ok(response) => response,
        Err(error) => {
            let mut response = problem::response(error, id);
            if response.status() == poem::http::StatusCode::METHOD_NOT_ALLOWED {
                let methods = route.map_or("", |route| &route.methods);
                if let Ok(value) = methods.parse() {
                    response.headers_mut().insert(header::ALLOW, value);
                }
            }
            response
        }
    };
    slot.tell(response.headers_mut());
    tracing::debug!(
        request_id = %id,
        %method,
        path,
        status = response.status().as_u16(),
        "answered"
    );
    Ok(response)
}

/// What is wrong with a request's head, whatever its route.
fn refuse_head(request: &Request) -> Option<ApiError> {
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && !headers.contains_key(header::HOST) {
        return Some(ApiError::new(
            ErrorKind::BadRequest,
            "the request has no Host header",
        ));
    }
    let encoding = headers.get(header::CONTENT_ENCODING)?;
    let plain = encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    (!plain).then(|| {
        ApiError::new(
            ErrorKind::UnsupportedMediaType,
            "the body has a Content-Encoding; bodies are taken as they are",
        )
    })
}

/// An answer that never changes, shared and not copied.
fn static_page(content_type: &'static str, text: String) -> impl Endpoint<Output = Response> {
    let body = bytes::Bytes::from(text);
    make_sync(move |_| {
        Response::builder()
            .content_type(content_type)
            .body(body.clone())
    })
}
