//! `lensgate openapi data|admin`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::api;

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

pub(super) fn run(args: &OpenapiArgs) -> ExitCode {
    match args.plane {
        Plane::Data => super::say(api::data_document()),
        Plane::Admin => super::say(api::admin::document()),
    }
    ExitCode::SUCCESS
}
