//! `lensgate openapi data`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::api::{self, DataPlane};
use crate::classify::Classifier;
use crate::config::Config;
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
}

pub(super) fn run(args: &OpenapiArgs, settings: &Config) -> ExitCode {
    match args.plane {
        Plane::Data => super::say(data_document(settings)),
    }
    ExitCode::SUCCESS
}

/// The document of a gateway with these settings; it does not depend on any model.
fn data_document(settings: &Config) -> String {
    let catalog = CatalogHandle::default();
    let classifier = Classifier::new(catalog.clone(), crate::app::classifier_config(settings));
    api::data_document(&DataPlane {
        classifier: Arc::new(classifier),
        catalog,
        limits: settings.limits.clone(),
        required_models: Vec::new(),
    })
}
