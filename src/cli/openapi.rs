//! `lensgate openapi data|admin`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::access::{Access, AccessSettings};
use crate::api::{self, DataPlane};
use crate::classify::Classifier;
use crate::config::{Config, Reloader, Sources};
use crate::domain::clock::SystemClock;
use crate::models::CatalogHandle;

#[derive(Args, Debug)]
pub(super) struct OpenapiArgs {
    /// Which plane
    plane: Plane,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Plane {
    /// What applications call
    Data,
    /// What operators call
    Admin,
}

pub(super) fn run(args: &OpenapiArgs, settings: &Config) -> ExitCode {
    match args.plane {
        Plane::Data => super::say(data_document(settings)),
        Plane::Admin => super::say(api::admin::document()),
    }
    ExitCode::SUCCESS
}

/// The document of a gateway with these settings; it does not depend on any model.
fn data_document(settings: &Config) -> String {
    let catalog = CatalogHandle::default();
    let reloader = Reloader::new(settings, Sources::default());
    let classifier = Classifier::new(
        catalog.clone(),
        crate::app::classifier_config(settings, &reloader),
    );
    api::data_document(&DataPlane {
        classifier: Arc::new(classifier),
        catalog,
        access: Access::new(Arc::new(SystemClock), &AccessSettings::default()),
        limits: reloader.limits(),
        required_models: Vec::new(),
    })
}
