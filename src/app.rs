//! The composition root: builds every part from the settings and says which part gets which. Nobody knows it.

use std::ffi::{OsStr, OsString};
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
use crate::api::{self, DataPlane};
use crate::backend::ort::{LibrarySearch, OrtBackend};
use crate::backend::tract::TractBackend;
use crate::backend::{Backend, OrtStatus};
use crate::callbacks::{CallbackError, Outbox};
use crate::classify::{Classifier, ClassifierConfig, InflightBudget, Recorder};
use crate::config::{
    Config, ConfigError, Environment, Reloaded, Reloader, Secret, ServerConfig, Sources,
};
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::ids::ModelId;
use crate::domain::tenant::KeyId;
use crate::jobs::{DayQuota, Jobs, Parts};
use crate::model_store::{FolderStore, StoreEditor};
use crate::models::{
    Backends, Loader, LoaderConfig, ManagerError, ModelManager, NoticeConfig, Passed, Trial,
    TrialConfig,
};
use crate::predictions::{LogError, PredictionLog, Predictions};
use crate::store::{self, Store, StoreError};
use crate::telemetry;

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
    /// Predictions cannot be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to send callbacks with.
    #[error(transparent)]
    Callbacks(#[from] CallbackError),
    /// The models cannot be read.
    #[error(transparent)]
    Models(#[from] ManagerError),
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
    /// Serves until `stop` is cancelled and the running requests are done, or `abort` is cancelled.
    pub(crate) async fn serve(self, stop: CancellationToken, abort: CancellationToken) {
        self.listener.serve(self.routes, stop, abort).await;
    }
}

/// A gateway that is built and bound, but does not serve yet.
pub struct App {
    pub(crate) config: Config,
    pub(crate) manager: Arc<ModelManager>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) operations: Arc<Admin>,
    pub(crate) follower: Arc<Follower>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) predictions: Predictions,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) clock: Arc<dyn Clock>,
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
        let (listener, private) = bind(&config).await?;
        let store = open_store(&config).await?;
        let new_secrets = admin::fill(&*store, &first_secrets(&config), &*edges.clock)
            .await
            .map_err(AppError::First)?;
        let log = open_log(&config, &edges.clock)?;
        let access = Access::new(
            Arc::clone(&edges.clock),
            &AccessSettings::of(&config.server, &config.limits),
        );
        let (environment, settings) = (edges.environment.clone(), config.clone());
        // Reading the library takes a while: not on the runtime's threads.
        let (manager, editor) = blocking(move || models(&settings, &environment)).await?;
        let follower = Arc::new(Follower::new(
            Arc::clone(&store),
            Arc::clone(&access),
            Arc::clone(&manager),
            Arc::clone(&edges.clock),
        ));
        // Before the first model is loaded: what operators took out of service must not serve for a moment.
        let heard = follower.hear().await;
        heard.map_err(|source| store_error(&config, source))?;
        let starting = Arc::clone(&manager);
        blocking(move || starting.start()).await??;
        let reloader = Reloader::new(&config, edges.sources.clone());
        let recorder = log.clone().map(|log| Recorder::new(log, api::status_of));
        let settings = classifier_config(&config, &reloader);
        let classifier = Arc::new(Classifier::new(manager.catalog(), settings, recorder));
        let predictions = Predictions::new(Arc::clone(&store), log);
        let outbox = outbox(&config, &store, edges).await?;
        let jobs = Parts {
            store: Arc::clone(&store),
            classifier: Arc::clone(&classifier),
            outbox: Arc::clone(&outbox),
            quota: Arc::clone(&access) as Arc<dyn DayQuota>,
            clock: Arc::clone(&edges.clock),
            wording: api::worded,
        };
        let jobs = Arc::new(Jobs::new(jobs, config.jobs.clone()));
        let data = DataPlane {
            classifier: Arc::clone(&classifier),
            catalog: manager.catalog(),
            access: Arc::clone(&access),
            limits: reloader.limits(),
            predictions: predictions.clone(),
            jobs: Arc::clone(&jobs),
            required_models: ids(&config.server.required_models),
        };
        let settings = Arc::new(Settings {
            reloader,
            access: Arc::clone(&access),
            budget: classifier.budget().clone(),
        });
        let closing = CancellationToken::new();
        let operations = Arc::new(Admin::new(
            Arc::clone(&store),
            Arc::clone(&manager),
            editor,
            Arc::clone(&follower),
            predictions.clone(),
            Arc::clone(&outbox),
            Arc::clone(&settings) as Arc<dyn Reload>,
            Arc::clone(&edges.clock),
        ));
        let admin = AdminPlane {
            admin: Arc::clone(&operations),
            access,
            data: data.clone(),
            closing: closing.clone(),
        };
        Ok(Self {
            config,
            manager,
            classifier,
            operations,
            follower,
            outbox,
            store,
            settings,
            predictions,
            jobs,
            clock: Arc::clone(&edges.clock),
            data: Plane {
                listener,
                routes: api::data_routes(&data),
            },
            admin: Plane {
                listener: private,
                routes: api::admin::routes(&admin),
            },
            closing,
            new_secrets,
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
        Arc::clone(&self.settings)
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
        if let Err(error) = telemetry::set_level(&self.reloader.telemetry().load()) {
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

/// What sends callbacks. Reading the machine's certificates takes a moment.
async fn outbox(
    config: &Config,
    store: &Arc<dyn Store>,
    edges: &Edges,
) -> Result<Arc<Outbox>, AppError> {
    let (store, clock) = (Arc::clone(store), Arc::clone(&edges.clock));
    let settings = config.callbacks.clone();
    let outbox = blocking(move || Outbox::new(store, clock, &settings)).await?;
    Ok(Arc::new(outbox?))
}

/// The sockets of the data plane and of the admin plane, which speaks no TLS.
async fn bind(config: &Config) -> Result<(Listener, Listener), AppError> {
    let public = listener_config(&config.server);
    let private = ListenerConfig {
        tls: None,
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

/// The log of predictions, where the settings want one.
fn open_log(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<PredictionLog>>, AppError> {
    let settings = &config.predictions;
    let open = || PredictionLog::open(settings, Arc::clone(clock));
    Ok(settings.log.then(open).transpose()?)
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

/// The backends that this machine has; says once, plainly, when ONNX Runtime is not among them.
#[must_use]
pub fn backends(config: &Config, environment: &Environment) -> Backends {
    let search = LibrarySearch {
        configured: config.backend.ort_library.clone(),
        environment: environment
            .ort_dylib_path()
            .map(std::path::Path::to_path_buf),
        executable: std::env::current_exe().ok(),
        working_dir: std::env::current_dir().ok(),
    };
    let mut runtime = concat!("lensgate-", env!("CARGO_PKG_VERSION")).to_owned();
    let ort = match OrtBackend::load(&search) {
        Ok(ort) => {
            if let OrtStatus::Loaded { path, version } = ort.status() {
                tracing::info!(version, path = %path.display(), "onnx runtime loaded");
                runtime = format!("{runtime}/ort-{version}");
            }
            Ok(Arc::new(ort) as Arc<dyn Backend>)
        }
        Err(error) => {
            tracing::warn!(reason = %error, "onnx runtime is not there: serving on tract, which is slower");
            Err(error.to_string())
        }
    };
    Backends {
        ort,
        tract: Arc::new(TractBackend),
        runtime,
    }
}

/// Cores that this process may use; a container's CPU quota counts.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The loader with this machine's cores and the settings' limits.
#[must_use]
pub fn loader(config: &Config, backends: Backends) -> Loader {
    let loader = LoaderConfig {
        execution_providers: config.backend.execution_providers.clone(),
        cores: cores(),
        max_queue_wait: Duration::from_millis(config.limits.max_queue_ms),
        max_image_pixels: config.limits.max_image_pixels,
    };
    Loader::new(backends, loader)
}

/// The folder that the settings name.
#[must_use]
pub fn model_store(config: &Config) -> FolderStore {
    FolderStore::new(config.model_store.folder(), config.limits.max_model_bytes)
}

/// What loads models and what changes them, over one folder; what killed uploads have left there is gone then.
fn models(config: &Config, environment: &Environment) -> (Arc<ModelManager>, StoreEditor) {
    let quiet = Duration::from_millis(config.model_store.quiet_ms);
    let folder = model_store(config).quiet(quiet);
    let editor = StoreEditor::new(folder.clone());
    editor.sweep();
    let backends = backends(config, environment);
    let manager = manager(config, environment, backends, folder);
    (manager, editor)
}

fn manager(
    config: &Config,
    environment: &Environment,
    backends: Backends,
    store: FolderStore,
) -> Arc<ModelManager> {
    let settings = &config.model_store;
    let notice = NoticeConfig {
        events: settings.watch,
        scan_every: settings.scan_every(),
    };
    let trial = trial(config, environment, &backends);
    let loader = loader(config, backends);
    let loader = match trial {
        Some(trial) => loader.with_trial(trial),
        None => loader,
    };
    ModelManager::new(Arc::new(store), loader, notice)
}

/// How a new version is tried in a child process: this program, with the settings that a graph meets here.
fn trial(config: &Config, environment: &Environment, backends: &Backends) -> Option<Trial> {
    let settings = &config.model_store;
    let providers = config.backend.execution_providers.join(",");
    let mut arguments: Vec<OsString> = vec!["--config".into(), "/dev/null".into()];
    let mut set = |key: &str, value: &OsStr| {
        let mut setting = OsString::from(format!("{key}="));
        setting.push(value);
        arguments.extend([OsString::from("--set"), setting]);
    };
    set("backend.execution_providers", OsStr::new(&providers));
    if let Some(library) = &config.backend.ort_library {
        set("backend.ort_library", library.as_os_str());
    }
    for (key, value) in [
        ("limits.max_model_bytes", config.limits.max_model_bytes),
        ("limits.max_image_pixels", config.limits.max_image_pixels),
    ] {
        set(key, OsStr::new(&value.to_string()));
    }
    let file = &settings.trials_file;
    let file = (!file.as_os_str().is_empty()).then(|| file.clone());
    let Some(program) = environment.program() else {
        tracing::warn!(
            "this program does not know where it lies: new versions are opened without a trial"
        );
        return None;
    };
    let config = TrialConfig {
        program: program.to_path_buf(),
        arguments,
        environment: environment.for_children().to_vec(),
        memory: (settings.trial_max_bytes > 0).then_some(settings.trial_max_bytes),
        time: settings.trial_timeout.get(),
    };
    let on = format!("{}/{providers}", backends.runtime);
    Some(Trial::new(config, Passed::remembered(&on, file)))
}
