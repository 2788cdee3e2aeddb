//! `lensgate migrate`: brings the database to this release, before the first replica of it starts.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::config::Config;
use crate::store::{self, Migrated};

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MigrateArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    let database = settings.store.without_password();
    let migrated = runtime
        .block_on(store::migrate(&settings.store))
        .with_context(|| format!("{database} is not migrated"))?;
    if args.json {
        super::say(as_json(&migrated, &database));
    } else {
        super::say(format_args!("{}, {database}", migrated.engine));
        for applied in &migrated.applied {
            super::say(format_args!("  {:04}  {}", applied.number, applied.name));
        }
        let what = match migrated.applied.len() {
            0 => "nothing to apply".to_owned(),
            count => format!("{count} applied"),
        };
        super::say(format_args!(
            "{what}; the database is at migration {}",
            migrated.at
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(migrated: &Migrated, database: &str) -> serde_json::Value {
    let applied: Vec<_> = migrated
        .applied
        .iter()
        .map(|applied| json!({"number": applied.number, "name": applied.name}))
        .collect();
    json!({
        "engine": migrated.engine, "store": database, "applied": applied, "at": migrated.at,
    })
}
