//! `lensgate serve`.

use std::process::ExitCode;

use anyhow::Context as _;
use futures_util::StreamExt as _;

use crate::app::App;
use crate::backend::memory;
use crate::config::{Config, Environment};
use crate::{api, lifecycle, telemetry};

pub(super) fn run(settings: Config, environment: &Environment) -> anyhow::Result<ExitCode> {
    telemetry::init(&settings.telemetry)?;
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
        let store = settings.model_store.folder();
        let app = tokio::select! {
            built = App::build(settings, environment) => built.context("the gateway does not start")?,
            _ = signals.next() => {
                tracing::info!("stopped before it served");
                return Ok(ExitCode::SUCCESS);
            }
        };
        let address = app.data_addr();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %address,
            model_store = %store.display(),
            "lensgate serves; its API is described at /docs"
        );
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "this release has no API keys: whoever reaches the port may use it");
        }
        let nudging = lifecycle::nudge_on(hangups, app.manager());
        tokio::select! {
            () = lifecycle::run_until_stopped(app, signals) => {}
            () = async { nudging.await; std::future::pending::<()>().await } => {}
        }
        Ok(ExitCode::SUCCESS)
    });
    // What blocks a thread for ever (a model that never finishes loading) must not keep the process alive.
    runtime.shutdown_background();
    outcome
}
