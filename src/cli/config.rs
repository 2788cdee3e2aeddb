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

/// Sections and keys that are read and checked, but have no effect in this release.
const PLANNED: [&str; 1] = ["[archive]"];

pub(super) fn run(args: &ConfigArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    let mut shown = settings.clone();
    for secret in [
        &mut shown.bootstrap.api_key,
        &mut shown.bootstrap.admin_token,
    ] {
        *secret = secret.as_ref().map(|_| Secret::hidden());
    }
    shown.store.url = shown.store.without_password();
    if args.json {
        super::say(serde_json::to_string_pretty(&shown).context("the settings cannot be shown")?);
    } else {
        super::say(toml::to_string(&shown).context("the settings cannot be shown")?);
        super::say("# These settings are valid.");
        super::say(format_args!(
            "# Without effect in this release: {}.",
            PLANNED.join(", ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}
