//! Signals, and the order in which a gateway ends: not ready → no new requests → running ones done → threads joined.

use std::future::Future;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::classify::Phase;

/// Serves until `stop` is done, then ends in order. A second `hurry` cuts the waiting short.
pub async fn run_until_stopped(
    app: App,
    stop: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) {
    let (manager, classifier) = (Arc::clone(&app.manager), Arc::clone(&app.classifier));
    let server = app.config.server.clone();
    let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
    let serving = app.serve(closing.clone(), abort.clone());
    let ending = async {
        stop.await;
        tracing::info!(delay = %server.drain_delay, "stopping: not ready, still serving");
        classifier.enter(Phase::Leaving);
        tokio::select! {
            () = tokio::time::sleep(server.drain_delay.get()) => {}
            () = hurry => {}
        }
        tracing::info!("draining: running requests finish, new ones are refused");
        classifier.enter(Phase::Draining);
        closing.cancel();
        tokio::time::sleep(server.drain_timeout.get()).await;
        tracing::warn!("running requests did not finish in time");
        abort.cancel();
        // From here on only the listener's own end matters.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        () = ending => {}
    }
    if tokio::task::spawn_blocking(move || manager.stop())
        .await
        .is_err()
    {
        tracing::error!("the models could not be stopped");
    }
    tracing::info!("stopped");
}

/// Done at the first SIGTERM or SIGINT after the call.
///
/// # Errors
/// When the system lets no signal be watched.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
