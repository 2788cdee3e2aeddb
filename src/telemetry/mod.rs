//! Logs, set up once by the command line; everybody writes through `tracing`. Metrics. Traces, and the collector for both.

use std::sync::{Arc, OnceLock};

use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, TelemetryConfig};

mod lines;
pub mod metrics;
pub mod otlp;
pub mod trace;

use lines::{JsonLines, WithFacts};
use otlp::{Exporting, OtlpError, Outcomes, Sender, Target};
use trace::{Statements, upkeep_layer};

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

/// Starts logging to the standard error stream. `traces` says whether there will be traces too: [`send_traces`] begins them.
///
/// # Errors
/// On a level that is none, or when logging was set up before.
pub fn init(config: &TelemetryConfig, traces: bool) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    // Lines have the request's facts; `tracing` spans of libraries are none of them.
    let events = filter_fn(|metadata| !metadata.is_span());
    let filter = filter.and(events.with_max_level_hint(LevelFilter::TRACE));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Pretty => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let lines = lines.fmt_fields(WithFacts::default()).with_ansi(colours);
            lines.with_filter(filter).boxed()
        }
        LogFormat::Json => lines.event_format(JsonLines).with_filter(filter).boxed(),
    };
    let statements = traces.then(|| {
        let heard = filter_fn(|metadata| Statements::hears(metadata.target()));
        Statements.with_filter(heard.with_max_level_hint(LevelFilter::DEBUG))
    });
    let outcome = tracing_subscriber::registry()
        .with(lines)
        .with(statements)
        .with(traces.then(upkeep_layer))
        .try_init();
    outcome.map_err(|_| TelemetryError::Twice)?;
    FILTER.set(handle).map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Notes traces from now on, and sends those that are kept to a collector. Once in a process, inside its runtime; the
/// answer sends what is left, at the end.
///
/// # Errors
/// When there is nothing to send with.
pub fn send_traces(config: &TelemetryConfig, target: &Target) -> Result<Exporting, OtlpError> {
    let (queue, exporting) = otlp::begin(Sender::new(target)?, target.place());
    trace::begin(config, queue);
    tracing::info!(collector = target.place(), "traces are sent");
    Ok(exporting)
}

/// What became of spans; `None` where there is no collector.
#[must_use]
pub fn span_outcomes() -> Option<&'static Arc<Outcomes>> {
    trace::outcomes()
}

/// Puts another level, and other rules about which traces are kept, in force. Does nothing where neither was set up here, as
/// in tests.
///
/// # Errors
/// On a level that is none; then all stays as it was.
pub fn set(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = filter(config)?;
    trace::set(config);
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
