//! Signals, and the order in which a gateway ends: not ready → no new requests → running ones done → threads joined.

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::classify::Phase;
use crate::models::ModelManager;

/// Serves until the first of `signals`, then ends in order; the second cuts the waiting short.
pub async fn run_until_stopped(app: App, signals: impl Stream<Item = ()>) {
    let mut signals = pin!(signals);
    let (manager, classifier) = (Arc::clone(&app.manager), Arc::clone(&app.classifier));
    let server = app.config.server.clone();
    let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
    let serving = app.serve(closing.clone(), abort.clone());
    let ending = async {
        next(&mut signals).await;
        tracing::info!(delay = %server.drain_delay, "stopping: not ready, still serving");
        classifier.enter(Phase::Leaving);
        tokio::select! {
            () = tokio::time::sleep(server.drain_delay.get()) => {}
            () = next(&mut signals) => {}
        }
        tracing::info!("draining: running requests finish, new ones are refused");
        classifier.enter(Phase::Draining);
        closing.cancel();
        tokio::time::sleep(server.time_to_finish()).await;
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

/// The next signal; never, where there will be none.
async fn next(signals: &mut Pin<&mut impl Stream<Item = ()>>) {
    if signals.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// A SIGHUP is an explicit nudge: every model is looked at now. Ends when the process does.
pub async fn nudge_on(mut hangup: Signal, manager: Arc<ModelManager>) {
    while hangup.recv().await.is_some() {
        tracing::info!("hangup: every model is looked at");
        manager.rescan();
    }
}

/// Every SIGHUP after the call.
///
/// # Errors
/// When the system lets no signal be watched.
pub fn hangup_signals() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Every SIGTERM and SIGINT after the call.
///
/// # Errors
/// When the system lets no signal be watched.
pub fn stop_signals() -> std::io::Result<impl Stream<Item = ()>> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    Ok(futures_util::stream::unfold(
        (terminate, interrupt),
        |(mut terminate, mut interrupt)| async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Some(((), (terminate, interrupt)))
        },
    ))
}
