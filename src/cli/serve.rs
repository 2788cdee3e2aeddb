//! `lensgate serve`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;

use crate::admin::NewSecrets;
use crate::app::{App, Edges};
use crate::backend::memory;
use crate::config::{Config, Sources};
use crate::telemetry::otlp::Target;
use crate::{api, lifecycle, telemetry};

/// How long the last traces may take to the collector.
const TO_SEND_THE_LAST: Duration = Duration::from_secs(2);

pub(super) fn run(settings: Config, sources: Sources) -> anyhow::Result<ExitCode> {
    let collector = Target::of(&settings.telemetry, &sources.environment)?;
    telemetry::init(&settings.telemetry, collector.is_some())?;
    memory::settle();
    let (before, after) = api::listener::raise_open_file_limit();
    tracing::debug!(before, after, "open-file limit");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    let outcome = runtime.block_on(async {
        // Watched before anything is built, so that a signal during the start is not lost.
        let signals = lifecycle::stop_signals().context("signals cannot be watched")?;
        let mut signals = std::pin::pin!(signals);
        let hangups = lifecycle::hangup_signals().context("signals cannot be watched")?;
        let send = |target| telemetry::send_traces(&settings.telemetry, target);
        let exporting = collector.as_ref().map(send).transpose()?;
        let store = settings.model_store.folder();
        let edges = Edges::of(sources);
        let mut app = tokio::select! {
            built = App::build(settings, &edges) => built.context("the gateway does not start")?,
            _ = signals.next() => {
                tracing::info!("stopped before it served");
                return Ok(ExitCode::SUCCESS);
            }
        };
        let (address, admin) = (app.data_addr(), app.admin_addr());
        if let Some(secrets) = app.take_new_secrets() {
            show(secrets);
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %address,
            %admin,
            model_store = %store.display(),
            "lensgate serves; its API is described at /docs"
        );
        if !admin.ip().is_loopback() {
            tracing::warn!(%admin, "the admin plane can be reached from other machines, without TLS of its own");
        }
        let nudging = lifecycle::nudge_on(hangups, app.manager(), app.settings());
        tokio::select! {
            () = lifecycle::run_until_stopped(app, signals) => {}
            () = async { nudging.await; std::future::pending::<()>().await } => {}
        }
        if let Some(exporting) = exporting {
            exporting.end(TO_SEND_THE_LAST).await;
        }
        Ok(ExitCode::SUCCESS)
    });
    // What blocks a thread for ever (a model that never finishes loading) must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

/// Shows the first secrets, on the standard output and not in the log: they are kept nowhere.
fn show(secrets: NewSecrets) {
    let NewSecrets {
        api_key,
        admin_token,
    } = secrets;
    for (name, secret) in [("API key    ", api_key), ("admin token", admin_token)] {
        if let Some(secret) = secret {
            super::say(format_args!("{name} (shown this once): {secret}"));
        }
    }
}
