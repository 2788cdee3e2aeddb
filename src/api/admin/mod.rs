//! The admin plane: what operators call. One file a resource; every handler takes a [`call::Call`], and so runs for nobody
//! whose token has not the role.

use std::sync::Arc;

use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint as _, EndpointExt as _, Response};
use poem_openapi::{OpenApi, OpenApiService};
use tokio_util::sync::CancellationToken;

use super::data::HealthApi;
use super::listener::RequestId;
use super::problem;
use super::{DataPlane, Described};
use crate::access::Access;
use crate::admin::Admin;

mod aliases;
mod audit;
mod call;
mod callback_secrets;
mod callbacks;
mod gateway;
mod keys;
mod metrics;
mod models;
mod prediction_image;
mod predictions;
mod report;
mod rollouts;
mod tenants;
mod tokens;
mod upload;
mod versions;
mod wire;

/// What the admin plane needs.
#[derive(Clone)]
pub struct AdminPlane {
    /// The use cases.
    pub admin: Arc<Admin>,
    /// Who may call.
    pub access: Arc<Access>,
    /// What is told of the gateway's health.
    pub data: DataPlane,
    /// Ends what would stream for ever, so that a stopping gateway can drain.
    pub closing: CancellationToken,
}

type AdminApis = (
    tenants::TenantsApi,
    callback_secrets::CallbackSecretsApi,
    keys::KeysApi,
    tokens::TokensApi,
    models::ModelsApi,
    versions::VersionsApi,
    aliases::AliasesApi,
    rollouts::RolloutsApi,
    report::ReportApi,
    predictions::PredictionsApi,
    callbacks::CallbacksApi,
    prediction_image::PredictionImageApi,
    audit::AuditApi,
    gateway::GatewayApi,
    metrics::MetricsApi,
    HealthApi,
);

fn apis(plane: &AdminPlane) -> AdminApis {
    (
        tenants::TenantsApi::new(plane),
        callback_secrets::CallbackSecretsApi::new(plane),
        keys::KeysApi::new(plane),
        tokens::TokensApi::new(plane),
        models::ModelsApi::new(plane),
        versions::VersionsApi::new(plane),
        aliases::AliasesApi::new(plane),
        rollouts::RolloutsApi::new(plane),
        report::ReportApi::new(plane),
        predictions::PredictionsApi::new(plane),
        callbacks::CallbacksApi::new(plane),
        prediction_image::PredictionImageApi::new(plane),
        audit::AuditApi::new(plane),
        gateway::GatewayApi::new(plane),
        metrics::MetricsApi::new(plane),
        HealthApi::new(&plane.data),
    )
}

fn service<A: OpenApi>(apis: A) -> OpenApiService<A, ()> {
    OpenApiService::new(apis, "Lensgate admin plane", env!("CARGO_PKG_VERSION"))
        .description(
            "Operate the gateway: tenants, keys, tokens, models, callbacks, and what happened.",
        )
        .license(poem_openapi::LicenseObject::new("Apache-2.0"))
}

/// The admin plane's OpenAPI document, JSON. Needs no gateway: it depends on no model and no database.
#[must_use]
pub fn document() -> String {
    service(Described::<AdminApis>::default()).spec()
}

/// Every route of the admin plane, with the error table around them.
#[must_use]
pub fn routes(plane: &AdminPlane) -> BoxEndpoint<'static, Response> {
    super::plane_routes(service(apis(plane)), &plane.access)
        .around(|endpoint, request| async move {
            let is_get = request.method() == Method::GET;
            let response = endpoint.call(request).await?;
            Ok(if is_get {
                tagged(response).await
            } else {
                response
            })
        })
        .boxed()
}

/// Gives what is read an entity tag where its resource has none of its own: lists, tokens, the status.
async fn tagged(mut response: Response) -> Response {
    let headers = response.headers();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if response.status() != StatusCode::OK || !is_json || headers.contains_key(header::ETAG) {
        return response;
    }
    match response.take_body().into_bytes().await {
        Ok(body) => {
            let tag = wire::weak_etag(&body);
            if let Ok(value) = HeaderValue::from_str(&tag) {
                response.headers_mut().insert(header::ETAG, value);
            }
            response.set_body(body);
            response
        }
        // It was made in memory: there is nothing that could fail.
        Err(error) => problem::response(error.into(), RequestId(uuid::Uuid::now_v7())),
    }
}
