//! Signals, and the order in which a gateway ends: not ready → no new requests → running ones done → threads joined.

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::classify::Phase;

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

/// Blocks of this size and more go back to the system as soon as they are freed.
const LARGE_BLOCK: i32 = 4 << 20;

/// Keeps the C allocator from hoarding. Left to itself, glibc raises the size from which blocks are mapped (and so given
/// back) with every large block that is freed: bodies and pixels then stay in its arenas, up to several times
/// `limits.max_inflight_bytes`. Smaller blocks are kept and reused, which spares the picture path its page faults: for
/// that the free end of each arena may be as large too, which would be 128 KiB where only the first is set.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the C library has no other door to its allocator"
)]
pub fn settle_memory() {
    let settled = [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD].map(|name| {
        // SAFETY: `mallopt` takes two integers and is called before any other thread exists.
        unsafe { libc::mallopt(name, LARGE_BLOCK) }
    });
    if settled.contains(&0) {
        tracing::debug!("the allocator keeps its own thresholds");
    }
}

/// Other C libraries give large blocks back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn settle_memory() {}
