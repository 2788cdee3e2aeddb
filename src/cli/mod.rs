//! The command line: one file a command. Exit code 0, 1 for a failure, 2 for wrong usage.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Environment, Sources, TelemetryConfig};

mod check;
mod classify;
mod config;
mod gateway;
mod health;
mod keys;
mod migrate;
mod openapi;
mod pick;
mod predictions;
mod push;
mod rollout;
mod serve;
mod tune;

/// A gateway that serves image-classification ONNX models over HTTP.
#[derive(Debug, Parser)]
#[command(name = "lensgate", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Settings {
    /// The settings' file; without it config/lensgate.toml is read where it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, e.g. server.listen=127.0.0.1:9000; wins over file and environment
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models over HTTP until SIGTERM or Ctrl-C
    Serve,
    /// Ask the gateway of this machine whether it is ready: exit code 0 or 1
    Health(health::HealthArgs),
    /// Classify pictures on this machine; needs no server
    Classify(classify::ClassifyArgs),
    /// Look at models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The prediction log
    #[command(subcommand)]
    Predictions(PredictionsCommand),
    /// How a model's traffic is shared
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Bring the database to this release; every start does it too
    Migrate(migrate::MigrateArgs),
    /// Print the OpenAPI document of a plane
    Openapi(openapi::OpenapiArgs),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Try every version: what it is, or why it cannot be served
    Check(check::CheckArgs),
    /// Measure which settings of [serving] serve a model best on this machine
    Tune(tune::TuneArgs),
    /// Upload a version, or a model with all its versions, to a gateway
    Push(push::PushArgs),
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key in the database; its secret is printed once
    Create(keys::CreateArgs),
}

#[derive(Debug, Subcommand)]
enum PredictionsCommand {
    /// Write what the database has of a time, the newest first, for whoever evaluates it
    Export(predictions::ExportArgs),
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// How a model's versions do beside each other: traffic, times, accuracy, agreement, drift
    Report(rollout::ReportArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings and print them as they are in force
    Check(config::ConfigArgs),
}

/// Runs a parsed command line.
///
/// # Errors
/// With the reason, for a person; the exit code is then 1.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let environment = Environment::of_process();
    let sources = Sources {
        file: cli.settings.config,
        environment: environment.clone(),
        flags: cli.settings.set,
    };
    let settings = Config::load(&sources).context("the settings cannot be used")?;
    match cli.command {
        Command::Serve => serve::run(settings, sources),
        Command::Health(args) => {
            quiet(&settings)?;
            health::run(&args, &settings)
        }
        Command::Classify(args) => {
            quiet(&settings)?;
            classify::run(&args, &settings, &environment)
        }
        Command::Models(ModelsCommand::Check(args)) => {
            quiet(&settings)?;
            check::run(&args, settings, &environment)
        }
        Command::Models(ModelsCommand::Tune(args)) => {
            quiet(&settings)?;
            tune::run(&args, settings, &environment)
        }
        Command::Models(ModelsCommand::Push(args)) => {
            quiet(&settings)?;
            push::run(&args, &environment)
        }
        Command::Keys(KeysCommand::Create(args)) => {
            quiet(&settings)?;
            keys::create(&args, &settings)
        }
        Command::Predictions(PredictionsCommand::Export(args)) => {
            quiet(&settings)?;
            predictions::export(&args, &settings)
        }
        Command::Rollout(RolloutCommand::Report(args)) => {
            quiet(&settings)?;
            rollout::report(&args, &environment)
        }
        Command::Migrate(args) => {
            quiet(&settings)?;
            migrate::run(&args, &settings)
        }
        Command::Openapi(args) => Ok(openapi::run(&args)),
        Command::Config(ConfigCommand::Check(args)) => config::run(&args, &settings),
    }
}

/// Commands whose answer is their output log only what is wrong.
fn quiet(settings: &Config) -> anyhow::Result<()> {
    let log_level = "error".to_owned();
    let config = TelemetryConfig {
        log_level,
        ..settings.telemetry.clone()
    };
    crate::telemetry::init(&config, false)?;
    Ok(())
}

/// Prints a line to the standard output; a reader that has gone away is no failure.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
