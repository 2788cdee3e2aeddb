//! `GET /metrics`, for Prometheus. The listener is private: no token is asked for.

use std::sync::Arc;

use poem_openapi::payload::PlainText;
use poem_openapi::{ApiResponse, OpenApi};

use super::AdminPlane;
use crate::admin::Admin;
use crate::api::problem::ApiError;
use crate::domain::error::ErrorKind;

/// Metrics.
pub(super) struct MetricsApi {
    admin: Arc<Admin>,
}

#[derive(ApiResponse)]
enum MetricsResponse {
    /// The metrics, in Prometheus's text format
    #[oai(
        status = 200,
        content_type = "text/plain; version=0.0.4; charset=utf-8"
    )]
    Text(PlainText<String>),
}

impl MetricsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi]
impl MetricsApi {
    /// The gateway's metrics, for Prometheus
    #[oai(path = "/metrics", method = "get")]
    async fn metrics(&self) -> Result<MetricsResponse, ApiError> {
        let admin = Arc::clone(&self.admin);
        // With many models it takes milliseconds.
        let text = tokio::task::spawn_blocking(move || admin.metrics_text())
            .await
            .map_err(|_| ApiError::new(ErrorKind::Draining, "the gateway is shutting down"))??;
        Ok(MetricsResponse::Text(PlainText(text)))
    }
}
