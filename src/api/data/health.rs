//! `/health`: whether the process works, and whether it should get traffic.

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::api::DataPlane;
use crate::api::problem::ApiError;
use crate::classify::{Classifier, Phase};
use crate::domain::error::ErrorKind;
use crate::domain::ids::ModelId;
use crate::models::CatalogHandle;
use crate::telemetry::metrics::{DEGRADED_HELP, Page, Source};

/// Whether the gateway should get traffic: it is not about to stop, what it found at its start has come out, and the models
/// without which it is of no use are live. What else is wrong does not keep it from serving, and is told by the status.
pub struct Readiness {
    classifier: Arc<Classifier>,
    catalog: CatalogHandle,
    required: Vec<ModelId>,
}

/// The reason's name in the status and in the metrics, where a required model is not live.
pub(in crate::api) const REQUIRED_MODEL: &str = "required_model";

impl Readiness {
    /// Over these parts; `required` are the models that must be live.
    #[must_use]
    pub fn new(
        classifier: Arc<Classifier>,
        catalog: CatalogHandle,
        required: Vec<ModelId>,
    ) -> Self {
        Self {
            classifier,
            catalog,
            required,
        }
    }

    /// The required models that are not live.
    pub(in crate::api) fn missing(&self) -> impl Iterator<Item = &ModelId> {
        let catalog = self.catalog.load();
        self.required.iter().filter(move |id| !catalog.is_live(id))
    }

    fn check(&self) -> Result<(), ApiError> {
        let not_ready = |kind, detail: String| {
            Err(ApiError::new(kind, detail).retry_after(Duration::from_secs(1)))
        };
        if self.classifier.phase() != Phase::Serving {
            return not_ready(
                ErrorKind::Draining,
                "the gateway is shutting down".to_owned(),
            );
        }
        if !self.classifier.is_settled() {
            return not_ready(ErrorKind::ModelUnavailable, "models are loading".to_owned());
        }
        match self.missing().next() {
            Some(id) => not_ready(
                ErrorKind::ModelUnavailable,
                format!("model {id}, which is required, is not live"),
            ),
            None => Ok(()),
        }
    }
}

impl Source for Readiness {
    fn tell(&self, page: &mut Page) {
        page.gauge(
            "lensgate_ready",
            "1 while the gateway should get traffic.",
            &[],
            f64::from(self.check().is_ok()),
        );
        page.gauge(
            "lensgate_degraded",
            DEGRADED_HELP,
            &[("reason", REQUIRED_MODEL)],
            f64::from(self.missing().next().is_some()),
        );
    }
}

/// Health of the gateway.
pub struct HealthApi {
    readiness: Arc<Readiness>,
}

/// The gateway is well.
#[derive(Object)]
struct HealthView {
    /// `ok`.
    status: String,
    /// Models with a live version.
    models_live: usize,
    /// Versions that could not be loaded.
    versions_failed: usize,
}

impl HealthApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            readiness: Arc::clone(&plane.readiness),
        }
    }

    fn view(&self) -> HealthView {
        let catalog = self.readiness.catalog.load();
        let versions = catalog
            .models
            .values()
            .flat_map(|model| model.versions.values());
        HealthView {
            status: "ok".to_owned(),
            models_live: catalog
                .models
                .keys()
                .filter(|id| catalog.is_live(id))
                .count(),
            versions_failed: versions
                .filter(|entry| entry.state == crate::models::VersionState::Failed)
                .count(),
        }
    }

    fn readiness(&self) -> Result<Json<HealthView>, ApiError> {
        self.readiness.check()?;
        Ok(Json(self.view()))
    }
}

#[OpenApi]
impl HealthApi {
    /// Whether the gateway should get traffic, and how many models it serves
    #[oai(path = "/health", method = "get")]
    async fn health(&self) -> Result<Json<HealthView>, ApiError> {
        self.readiness()
    }

    /// Whether the process works
    #[oai(path = "/health/live", method = "get")]
    async fn live(&self) -> Result<Json<HealthView>, ApiError> {
        Ok(Json(self.view()))
    }

    /// Whether the gateway should get traffic
    #[oai(path = "/health/ready", method = "get")]
    async fn ready(&self) -> Result<Json<HealthView>, ApiError> {
        self.readiness()
    }
}
