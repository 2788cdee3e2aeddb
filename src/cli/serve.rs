//! `lensgate serve`.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::app::App;
use crate::config::{Config, Environment};
use crate::{api, lifecycle, telemetry};

pub(super) fn run(settings: Config, environment: &Environment) -> anyhow::Result<ExitCode> {
    telemetry::init(&settings.telemetry)?;
    let (before, after) = api::listener::raise_open_file_limit();
    tracing::debug!(before, after, "open-file limit");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    runtime.block_on(async {
        // Watched before anything is built, so that a signal during the start is not lost.
        let stop = lifecycle::stop_signal().context("signals cannot be watched")?;
        let hurry = lifecycle::stop_signal().context("signals cannot be watched")?;
        let store = settings.model_store.folder();
        let app = App::build(settings, environment).await.context("the gateway does not start")?;
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
        lifecycle::run_until_stopped(app, stop, hurry).await;
        Ok(ExitCode::SUCCESS)
    })
}
