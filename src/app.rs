//! The composition root: builds every part from the settings and says which part gets which. Nobody knows it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use poem::Response;
use poem::endpoint::BoxEndpoint;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, AccessSettings};
use crate::admin::{self, Admin, AdminError, FirstSecrets, Follower, NewSecrets, Reload};
use crate::api::admin::AdminPlane;
use crate::api::listener::{Listener, ListenerConfig, ListenerError, TlsConfig};
use crate::api::{self, DataPlane, Readiness};
use crate::callbacks::{CallbackError, Outbox};
use crate::classify::{Classifier, ClassifierConfig, InflightBudget, Recorder};
use crate::config::{
    Config, ConfigError, Environment, Reloaded, Reloader, Secret, ServerConfig, Sources,
};
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::ids::ModelId;
use crate::domain::tenant::KeyId;
use crate::jobs::{self, DayQuota, Jobs};
use crate::model_store::{RemoteError, RemoteStore, StoreEditor};
use crate::models::{ManagerError, ModelManager};
use crate::predictions::{Archive, ArchiveError, LogError, PredictionLog, Predictions};
use crate::store::{self, Store, StoreError};
use crate::telemetry;
use crate::telemetry::metrics::{Metrics, Source};
use crate::telemetry::otlp::{OtlpError, Sender, Target};

mod models;

use models::{Models, cores, models};
pub use models::{backends, loader, model_store};

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A plane's address cannot be used.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The database cannot be used.
    #[error("the database {url} cannot be used: {source}")]
    Store {
        /// Which, without its password.
        url: String,
        /// Why.
        source: StoreError,
    },
    /// The empty database could not be filled.
    #[error("the first key and token could not be made: {}", .0.cause().unwrap_or_default())]
    First(AdminError),
    /// The collector cannot be spoken to as the settings say.
    #[error(transparent)]
    Collector(#[from] OtlpError),
    /// Predictions cannot be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to send callbacks with.
    #[error(transparent)]
    Callbacks(#[from] CallbackError),
    /// Pictures cannot be kept.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The models cannot be read.
    #[error(transparent)]
    Models(#[from] ManagerError),
    /// The bucket of models cannot be used, and none was ever brought from it.
    #[error(transparent)]
    Bucket(#[from] RemoteError),
    /// The start was interrupted.
    #[error("the start was interrupted")]
    Interrupted,
}

/// What a gateway takes from outside: the process's environment, where its settings come from, and the time.
#[derive(Clone)]
pub struct Edges {
    /// The process's environment.
    pub environment: Environment,
    /// Where the settings were read, and are read anew.
    pub sources: Sources,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Edges {
    /// The machine's time, and these sources with their environment.
    #[must_use]
    pub fn of(sources: Sources) -> Self {
        Self {
            environment: sources.environment.clone(),
            sources,
            clock: Arc::new(SystemClock),
        }
    }
}

/// One plane: its socket and its routes.
pub(crate) struct Plane {
    listener: Listener,
    routes: BoxEndpoint<'static, Response>,
}

impl Plane {
    fn of(listener: Listener, routes: BoxEndpoint<'static, Response>) -> Self {
        Self { listener, routes }
    }

    /// Serves until `stop` is cancelled and the running requests are done, or `abort` is cancelled.
    pub(crate) async fn serve(self, stop: CancellationToken, abort: CancellationToken) {
        self.listener.serve(self.routes, stop, abort).await;
    }
}

/// What goes on beside the requests, from the start to the end.
pub(crate) struct Background {
    pub(crate) operations: Arc<Admin>,
    pub(crate) follower: Arc<Follower>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) predictions: Predictions,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where the models' folder is filled from, if it is.
    pub(crate) bucket: Option<RemoteStore>,
    /// Where metrics are sent, and how often.
    pub(crate) collector: Option<(Sender, Duration)>,
}

/// What the planes are put on.
struct Core {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    access: Arc<Access>,
    predictions: Predictions,
    manager: Arc<ModelManager>,
    editor: StoreEditor,
    bucket: Option<RemoteStore>,
    follower: Arc<Follower>,
    reloader: Reloader,
    classifier: Arc<Classifier>,
    outbox: Arc<Outbox>,
    new_secrets: Option<NewSecrets>,
}

impl Core {
    /// Opens the database, finds the runtime, starts to load the models.
    async fn open(config: &Config, edges: &Edges, metrics: Arc<Metrics>) -> Result<Self, AppError> {
        let store = open_store(config).await?;
        let predictions = predictions(config, edges, &store).await?;
        let predictions = predictions.with_metrics(Arc::clone(&metrics));
        let access = AccessSettings {
            metrics: Arc::clone(&metrics),
            ..AccessSettings::of(&config.server, &config.limits)
        };
        let access = Access::new(Arc::clone(&edges.clock), &access);
        let (settings, outside) = (config.clone(), edges.clone());
        let counted = Arc::clone(&metrics);
        // Reading the library takes a while: not on the runtime's threads.
        let Models {
            manager,
            editor,
            bucket,
        } = blocking(move || models(&settings, &outside, counted)).await??;
        let follower = Follower::new(
            Arc::clone(&store),
            Arc::clone(&access),
            Arc::clone(&manager),
            Arc::clone(&edges.clock),
        );
        let follower = follower.with_bucket(bucket.clone());
        let follower = listening(config, follower).await?;
        if let Some(bucket) = &bucket {
            bucket.begin().await?;
        }
        let starting = Arc::clone(&manager);
        blocking(move || starting.start()).await??;
        let reloader = Reloader::new(config, edges.sources.clone());
        let settings = classifier_config(config, &reloader);
        let recorder = recorder(&predictions);
        let classifier = Arc::new(Classifier::new(manager.catalog(), settings, recorder));
        let outbox = outbox(config, &store, edges, &metrics).await?;
        // The last that can fail: secrets that are made and not shown would be lost.
        let new_secrets = admin::fill(&*store, &first_secrets(config), &*edges.clock)
            .await
            .map_err(AppError::First)?;
        let caught_up = follower.catch_up().await;
        caught_up.map_err(|source| store_error(config, source))?;
        Ok(Self {
            metrics,
            store,
            access,
            predictions,
            manager,
            editor,
            bucket,
            follower,
            reloader,
            classifier,
            outbox,
            new_secrets,
        })
    }

    /// What carries out what nobody waits for.
    fn jobs(&self, config: &Config, edges: &Edges) -> Arc<Jobs> {
        Arc::new(Jobs::new(
            jobs::Parts {
                store: Arc::clone(&self.store),
                classifier: Arc::clone(&self.classifier),
                outbox: Arc::clone(&self.outbox),
                quota: Arc::clone(&self.access) as Arc<dyn DayQuota>,
                clock: Arc::clone(&edges.clock),
                wording: api::worded,
                metrics: Arc::clone(&self.metrics),
            },
            config.jobs.clone(),
        ))
    }

    /// Whoever knows how things stand is asked for metrics.
    fn ask_for_metrics(&self) {
        let sources: [Arc<dyn Source>; 3] = [
            Arc::clone(&self.manager) as _,
            Arc::clone(&self.access) as _,
            Arc::clone(&self.classifier) as _,
        ];
        for source in &sources {
            self.metrics.ask(source);
        }
    }
}

/// A gateway that is built and bound, but does not serve yet.
pub struct App {
    pub(crate) config: Config,
    pub(crate) manager: Arc<ModelManager>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) background: Background,
    pub(crate) data: Plane,
    pub(crate) admin: Plane,
    /// Ends what streams for ever on the admin plane.
    pub(crate) closing: CancellationToken,
    new_secrets: Option<NewSecrets>,
}

impl App {
    /// Builds the gateway: binds its ports, opens the database, finds the runtime, starts to load the models.
    ///
    /// # Errors
    /// When a port cannot be bound, or the database or the model store cannot be used.
    pub async fn build(config: Config, edges: &Edges) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::default());
        let collector = collector(&config, edges)?;
        let (listener, private) = bind(&config, &metrics).await?;
        let core = Core::open(&config, edges, metrics).await?;
        core.ask_for_metrics();
        let jobs = core.jobs(&config, edges);
        let data = DataPlane {
            classifier: Arc::clone(&core.classifier),
            catalog: core.manager.catalog(),
            access: Arc::clone(&core.access),
            limits: core.reloader.limits(),
            predictions: core.predictions.clone(),
            jobs: Arc::clone(&jobs),
            clock: Arc::clone(&edges.clock),
            readiness: Arc::new(Readiness::new(
                Arc::clone(&core.classifier),
                core.manager.catalog(),
                ids(&config.server.required_models),
            )),
        };
        let settings = Arc::new(Settings {
            reloader: core.reloader,
            access: Arc::clone(&core.access),
            budget: core.classifier.budget().clone(),
        });
        let closing = CancellationToken::new();
        let operations = Arc::new(Admin::new(admin::Parts {
            store: Arc::clone(&core.store),
            manager: Arc::clone(&core.manager),
            editor: core.editor,
            follower: Arc::clone(&core.follower),
            predictions: core.predictions.clone(),
            outbox: Arc::clone(&core.outbox),
            tally: core.classifier.tally(),
            metrics: Arc::clone(&core.metrics),
            settings: Arc::clone(&settings) as Arc<dyn Reload>,
            clock: Arc::clone(&edges.clock),
        }));
        let metrics = core.metrics;
        metrics.ask(&(Arc::clone(&operations) as Arc<dyn Source>));
        metrics.ask(&(Arc::clone(&data.readiness) as Arc<dyn Source>));
        let admin = AdminPlane {
            admin: Arc::clone(&operations),
            access: core.access,
            data: data.clone(),
            closing: closing.clone(),
        };
        Ok(Self {
            config,
            manager: core.manager,
            classifier: Arc::clone(&core.classifier),
            store: Arc::clone(&core.store),
            background: Background {
                operations,
                follower: core.follower,
                outbox: core.outbox,
                jobs,
                settings,
                predictions: core.predictions,
                classifier: core.classifier,
                store: core.store,
                clock: Arc::clone(&edges.clock),
                metrics,
                bucket: core.bucket,
                collector,
            },
            data: Plane::of(listener, api::data_routes(&data)),
            admin: Plane::of(private, api::admin::routes(&admin)),
            closing,
            new_secrets: core.new_secrets,
        })
    }

    /// What loads the models; for nudges from outside.
    #[must_use]
    pub fn manager(&self) -> Arc<ModelManager> {
        Arc::clone(&self.manager)
    }

    /// The settings that may change while it runs.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.background.settings)
    }

    /// Where the data plane listens; the real port where 0 was asked for.
    #[must_use]
    pub fn data_addr(&self) -> SocketAddr {
        self.data.listener.local_addr()
    }

    /// Where the admin plane listens; the real port where 0 was asked for.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.listener.local_addr()
    }

    /// The secrets of the first start, to be shown once; gone from here then.
    pub fn take_new_secrets(&mut self) -> Option<NewSecrets> {
        self.new_secrets.take()
    }
}

/// The settings that may change, and whom a change concerns.
pub struct Settings {
    reloader: Reloader,
    access: Arc<Access>,
    budget: InflightBudget,
}

impl Settings {
    /// The file that the settings are read from.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.reloader.file()
    }
}

impl Reload for Settings {
    fn reload(&self) -> Result<Reloaded, ConfigError> {
        let reloaded = self.reloader.reload().inspect_err(|error| {
            tracing::error!(%error, "the settings were read anew and cannot be used: all stays as it was");
        })?;
        let limits = self.reloader.limits().load();
        self.budget.set_limit(limits.max_inflight_bytes);
        self.access
            .limit_attempts(limits.unauthenticated_per_minute);
        if let Err(error) = telemetry::set(&self.reloader.telemetry().load()) {
            tracing::error!(%error, "the log's level stays as it was");
        }
        if !reloaded.changed.is_empty() {
            tracing::info!(keys = reloaded.changed.join(", "), "settings changed");
        }
        if !reloaded.needs_restart.is_empty() {
            tracing::warn!(
                keys = reloaded.needs_restart.join(", "),
                "settings changed that need a restart: the old ones stay in force"
            );
        }
        Ok(reloaded)
    }
}

impl DayQuota for Access {
    fn give_back(&self, key: KeyId, day: NaiveDate, pictures: u32) {
        Self::give_back(self, key, day, pictures);
    }
}

/// Where metrics are sent, where the settings or the environment name a collector.
fn collector(config: &Config, edges: &Edges) -> Result<Option<(Sender, Duration)>, AppError> {
    let settings = &config.telemetry;
    let Some(target) = Target::of(settings, &edges.environment)? else {
        return Ok(None);
    };
    Ok(Some((
        Sender::new(&target)?,
        settings.metrics_interval.get(),
    )))
}

/// What sends callbacks. Reading the machine's certificates takes a moment.
async fn outbox(
    config: &Config,
    store: &Arc<dyn Store>,
    edges: &Edges,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Outbox>, AppError> {
    let (store, clock) = (Arc::clone(store), Arc::clone(&edges.clock));
    let (settings, metrics) = (config.callbacks.clone(), Arc::clone(metrics));
    let outbox = blocking(move || Outbox::new(store, clock, &settings, metrics)).await?;
    Ok(Arc::new(outbox?))
}

/// The sockets of the data plane and of the admin plane, which speaks no TLS.
async fn bind(config: &Config, metrics: &Metrics) -> Result<(Listener, Listener), AppError> {
    let public = ListenerConfig {
        series: Arc::clone(&metrics.data),
        ..listener_config(&config.server)
    };
    let private = ListenerConfig {
        tls: None,
        series: Arc::clone(&metrics.admin),
        ..listener_config(&config.server)
    };
    Ok((
        Listener::bind(&config.server.listen, public).await?,
        Listener::bind(&config.admin.listen, private).await?,
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AppError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| AppError::Interrupted)
}

/// Opens the database that the settings name, and brings its tables up to date.
///
/// # Errors
/// When it cannot be reached or is not ours.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, AppError> {
    let opened = store::connect(&config.store).await;
    opened.map_err(|source| store_error(config, source))
}

fn store_error(config: &Config, source: StoreError) -> AppError {
    AppError::Store {
        url: config.store.without_password(),
        source,
    }
}

/// The log of predictions and the archive of their pictures, where the settings want them.
async fn predictions(
    config: &Config,
    edges: &Edges,
    store: &Arc<dyn Store>,
) -> Result<Predictions, AppError> {
    let settings = &config.predictions;
    let open = || PredictionLog::open(settings, Arc::clone(&edges.clock));
    let log = settings.log.then(open).transpose()?;
    let archive = open_archive(config, edges).await?;
    Ok(Predictions::new(Arc::clone(store), log).with_archive(archive))
}

/// What records answers; nothing where they are not logged.
fn recorder(predictions: &Predictions) -> Option<Recorder> {
    let log = predictions.log().cloned()?;
    let archive = predictions.archive().cloned();
    Some(Recorder::new(log, archive, api::status_of))
}

/// The archive of pictures, where the settings want one.
async fn open_archive(config: &Config, edges: &Edges) -> Result<Option<Arc<Archive>>, AppError> {
    let (settings, edges) = (config.archive.clone(), edges.clone());
    let open = move || Archive::open(&settings, &edges.environment, edges.clock);
    Ok(blocking(open).await??.map(Arc::new))
}

/// The follower, with all that there is heard of the store: before the first model is loaded, as what operators took out of
/// service must not serve for a moment.
async fn listening(config: &Config, follower: Follower) -> Result<Arc<Follower>, AppError> {
    let heard = follower.hear().await;
    heard.map_err(|source| store_error(config, source))?;
    Ok(Arc::new(follower))
}

/// The secrets that the settings give.
fn first_secrets(config: &Config) -> FirstSecrets {
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    FirstSecrets {
        api_key: text(&config.bootstrap.api_key),
        admin_token: text(&config.bootstrap.admin_token),
    }
}

/// The ids among `names`; the configuration has refused everything else.
fn ids(names: &[String]) -> Vec<ModelId> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// The classifier's part of the settings.
#[must_use]
pub fn classifier_config(config: &Config, live: &Reloader) -> ClassifierConfig {
    ClassifierConfig {
        default_model: live.default_model(),
        limits: live.limits(),
        // Twice the cores: while one half runs, the other waits right behind it.
        batch_width: cores() * 2,
        cache: config.cache.clone(),
    }
}

fn listener_config(server: &ServerConfig) -> ListenerConfig {
    ListenerConfig {
        max_connections: server.max_connections,
        header_timeout: server.header_timeout.get(),
        body_idle_timeout: server.body_timeout.get(),
        idle_timeout: server.idle_timeout.get(),
        tls: server
            .tls_cert
            .clone()
            .zip(server.tls_key.clone())
            .map(|(cert, key)| TlsConfig { cert, key }),
        ..ListenerConfig::default()
    }
}
