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

/// Health of the gateway.
pub struct HealthApi {
    classifier: Arc<Classifier>,
    catalog: CatalogHandle,
    required: Vec<ModelId>,
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
            classifier: Arc::clone(&plane.classifier),
            catalog: plane.catalog.clone(),
            required: plane.required_models.clone(),
        }
    }

    fn view(&self) -> HealthView {
        let catalog = self.catalog.load();
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
        let not_ready = |kind, detail: String| {
            Err(ApiError::new(kind, detail).retry_after(Duration::from_secs(1)))
        };
        if self.classifier.phase() != Phase::Serving {
            return not_ready(
                ErrorKind::Draining,
                "the gateway is shutting down".to_owned(),
            );
        }
        let catalog = self.catalog.load();
        if !catalog.settled {
            return not_ready(ErrorKind::ModelUnavailable, "models are loading".to_owned());
        }
        match self.required.iter().find(|id| !catalog.is_live(id)) {
            Some(id) => not_ready(
                ErrorKind::ModelUnavailable,
                format!("model {id}, which is required, is not live"),
            ),
            None => Ok(Json(self.view())),
        }
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
