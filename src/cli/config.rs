//! `lensgate config check`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::config::{Config, Secret};

#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConfigArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    let mut shown = settings.clone();
    for secret in [
        &mut shown.bootstrap.api_key,
        &mut shown.bootstrap.admin_token,
    ] {
        *secret = secret.as_ref().map(|_| Secret::hidden());
    }
    if !shown.telemetry.otlp_headers.expose().is_empty() {
        shown.telemetry.otlp_headers = Secret::hidden();
    }
    shown.store.url = shown.store.without_password();
    if args.json {
        super::say(serde_json::to_string_pretty(&shown).context("the settings cannot be shown")?);
    } else {
        super::say(toml::to_string(&shown).context("the settings cannot be shown")?);
        super::say("# These settings are valid.");
    }
    Ok(ExitCode::SUCCESS)
}
