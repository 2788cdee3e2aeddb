//! Signals, and the order in which a gateway ends: not ready → no new requests → running ones done → threads joined.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Reload as _;
use crate::app::{App, Background, Settings};
use crate::classify::{Classifier, Phase};
use crate::config::PredictionsConfig;
use crate::domain::clock::Clock;
use crate::domain::feedback::Subject;
use crate::models::ModelManager;
use crate::predictions::{FeedbackJoiner, PredictionWriter, Retention};
use crate::store::Store;
use crate::telemetry::metrics::{self, Metrics};

/// Serves until the first of `signals`, then ends in order; the second cuts the waiting short. The admin plane and what
/// follows the store serve until the data plane has ended: operators can watch, and what was used is still told.
pub async fn run_until_stopped(app: App, signals: impl Stream<Item = ()>) {
    let mut signals = pin!(signals);
    let App {
        config,
        manager,
        classifier,
        store,
        background,
        data,
        admin,
        closing: events,
        ..
    } = app;
    let operations = Arc::clone(&background.operations);
    let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
    let leaving = CancellationToken::new();
    let (last, tasks) = (CancellationToken::new(), TaskTracker::new());
    begin(background, &config.predictions, &tasks, &leaving, &last);
    tasks.spawn(admin.serve(last.clone(), abort.clone()));
    let server = config.server;
    let serving = data.serve(closing.clone(), abort.clone());
    let ending = async {
        next(&mut signals).await;
        tracing::info!(delay = %server.drain_delay, "stopping: not ready, still serving");
        classifier.enter(Phase::Leaving);
        leaving.cancel();
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
    events.cancel();
    last.cancel();
    tasks.close();
    let rest = async {
        tasks.wait().await;
        operations.rest().await;
    };
    let ended = tokio::time::timeout(TO_END_THE_REST, rest).await;
    if ended.is_err() {
        abort.cancel();
        tracing::warn!("the admin plane or the database did not end in time");
    }
    let stopping = tokio::task::spawn_blocking(move || manager.stop());
    let (stopped, closed) = tokio::join!(
        stopping,
        tokio::time::timeout(TO_END_THE_REST, store.close())
    );
    if stopped.is_err() {
        tracing::error!("the models could not be stopped");
    }
    if closed.is_err() {
        tracing::warn!("the database's connections did not close in time");
    }
    tracing::info!("stopped");
}

/// Begins what goes on beside the requests, until `stop`: no more answers are given then. From `leaving` on, no job begins.
fn begin(
    background: Background,
    config: &PredictionsConfig,
    tasks: &TaskTracker,
    leaving: &CancellationToken,
    stop: &CancellationToken,
) {
    let Background {
        operations,
        follower,
        outbox,
        jobs,
        settings,
        predictions,
        classifier,
        store,
        clock,
        metrics,
        bucket,
        collector,
    } = background;
    if let Some(bucket) = bucket {
        tasks.spawn(bucket.run(stop.clone()));
    }
    if let Some((sender, interval)) = collector {
        let metrics = Arc::clone(&metrics);
        tasks.spawn(metrics::push(metrics, sender, interval, stop.clone()));
    }
    tasks.spawn(follower.follow(stop.clone()));
    tasks.spawn(Arc::clone(&operations).announce_versions(stop.clone()));
    tasks.spawn(Arc::clone(&operations).tell_tenants(stop.clone()));
    tasks.spawn(operations.decide_canaries(stop.clone()));
    tasks.spawn(Arc::clone(&outbox).work(stop.clone()));
    tasks.spawn(outbox.prune(stop.clone()));
    tasks.spawn(Arc::clone(&jobs).work(leaving.clone(), stop.clone()));
    tasks.spawn(jobs.prune(stop.clone()));
    tasks.spawn(watch_settings(settings, stop.clone()));
    let days = config.retention_days;
    let retention = Retention::new(Arc::clone(&store), Arc::clone(&clock), days);
    tasks.spawn(retention.run(stop.clone()));
    let (labels, by_clock) = (Arc::clone(&store), Arc::clone(&clock));
    let joiner = (labels, by_clock, metrics);
    tasks.spawn(join_labels(classifier, joiner, stop.clone()));
    if let Some(archive) = predictions.archive() {
        let (archive, store) = (Arc::clone(archive), Arc::clone(&store));
        let stop = stop.clone();
        tasks.spawn(async move { archive.run(store, stop).await });
    }
    if let Some(log) = predictions.log() {
        let writer = PredictionWriter::new(Arc::clone(log), store, clock, days);
        tasks.spawn(writer.run(stop.clone()));
    }
}

/// How often it is asked whether the models of the start have come out.
const SETTLED_YET: Duration = Duration::from_millis(500);

/// Joins labels that came before their predictions, once it is known which labels the models have, until `stop`.
async fn join_labels(
    classifier: Arc<Classifier>,
    (store, clock, metrics): (Arc<dyn Store>, Arc<dyn Clock>, Arc<Metrics>),
    stop: CancellationToken,
) {
    while !classifier.is_settled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SETTLED_YET) => {}
        }
    }
    let is_label = move |one: &Subject, label: &str| {
        let by = one.answered_by.as_ref()?;
        classifier.has_label(&one.model, by, label)
    };
    let joiner = FeedbackJoiner::new(store, clock, is_label).with_metrics(metrics);
    joiner.run(stop).await;
}

/// How long the admin plane, the last words to the database and its connections may take.
const TO_END_THE_REST: Duration = Duration::from_secs(2);

/// The next signal; never, where there will be none.
async fn next(signals: &mut Pin<&mut impl Stream<Item = ()>>) {
    if signals.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// A SIGHUP is an explicit nudge: the settings are read anew, and every model is looked at now. Ends when the process does.
pub async fn nudge_on(mut hangup: Signal, manager: Arc<ModelManager>, settings: Arc<Settings>) {
    while hangup.recv().await.is_some() {
        tracing::info!("hangup: the settings are read anew and every model is looked at");
        manager.rescan();
        reload(&settings).await;
    }
}

/// What became of it is in the log.
async fn reload(settings: &Arc<Settings>) {
    let settings = Arc::clone(settings);
    let reloaded = tokio::task::spawn_blocking(move || settings.reload()).await;
    if reloaded.is_err() {
        tracing::error!("the settings were not read to their end");
    }
}

/// How often it is looked whether the settings' file changed. It may lie behind a link that is switched, as in
/// Kubernetes, and it is small: a look is cheaper than a watch that misses that.
const LOOK_AT_SETTINGS_EVERY: Duration = Duration::from_secs(1);

/// Reads the settings anew whenever their file changes, until `stop`.
async fn watch_settings(settings: Arc<Settings>, stop: CancellationToken) {
    let file = settings.file();
    let mut known = tokio::fs::read(&file).await.ok();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_AT_SETTINGS_EVERY) => {}
        }
        let now = tokio::fs::read(&file).await.ok();
        // A file that is gone is being replaced, or missed at the next start.
        if now.is_some() && now != known {
            known = now;
            reload(&settings).await;
        }
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
