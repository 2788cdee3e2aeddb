//! Logs: set up once by the command line. Everybody writes through `tracing`. And metrics.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetryConfig};

pub mod metrics;
pub mod otlp;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none.
    #[error("`telemetry.log_level` is {level:?}: {reason}")]
    Level {
        /// What was configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was set up before.
    #[error("logging was set up twice")]
    Twice,
}

/// Through which the level changes while the process runs; there once logging was set up.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging to the standard error stream.
///
/// # Errors
/// On a level that is none, or when logging was set up before.
pub fn init(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let outcome = match config.log_format {
        LogFormat::Pretty => registry.with(lines.with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    outcome.map_err(|_| TelemetryError::Twice)?;
    FILTER.set(handle).map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Puts another level in force. Does nothing where logging was not set up here, as in tests.
///
/// # Errors
/// On a level that is none; then the old one stays.
pub fn set_level(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = filter(config)?;
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter)
    {
        tracing::error!(%error, "the log's level could not be changed");
    }
    Ok(())
}

fn filter(config: &TelemetryConfig) -> Result<EnvFilter, TelemetryError> {
    // A plain level is ours: what the runtime tells of itself at `info` is noise to an operator.
    let directives = if config.log_level.contains(['=', ',']) {
        config.log_level.clone()
    } else {
        format!("{},ort=warn,sqlx=warn", config.log_level)
    };
    EnvFilter::try_new(directives).map_err(|error| TelemetryError::Level {
        level: config.log_level.clone(),
        reason: error.to_string(),
    })
}

/// A panic is one line of the log like any other; whoever caught it goes on.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let reason = panic.payload_as_str().unwrap_or("it gave no reason");
    tracing::error!(thread = thread.name(), location, reason, "panic");
}
