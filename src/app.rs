//! The composition root: builds every part from the settings and says which part gets which. Nobody knows it.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use poem::Response;
use poem::endpoint::BoxEndpoint;
use tokio_util::sync::CancellationToken;

use crate::api::listener::{Listener, ListenerConfig, ListenerError, TlsConfig};
use crate::api::{self, DataPlane};
use crate::backend::ort::{LibrarySearch, OrtBackend};
use crate::backend::tract::TractBackend;
use crate::backend::{Backend, OrtStatus};
use crate::classify::{Classifier, ClassifierConfig};
use crate::config::{Config, Environment, ServerConfig};
use crate::domain::ids::ModelId;
use crate::model_store::FolderStore;
use crate::models::{
    Backends, Loader, LoaderConfig, ManagerError, ModelManager, NoticeConfig, Passed, Trial,
    TrialConfig,
};

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data plane's address cannot be used.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The models cannot be read.
    #[error(transparent)]
    Models(#[from] ManagerError),
    /// The start was interrupted.
    #[error("the start was interrupted")]
    Interrupted,
}

/// A gateway that is built and bound, but does not serve yet.
pub struct App {
    pub(crate) config: Config,
    pub(crate) manager: Arc<ModelManager>,
    pub(crate) classifier: Arc<Classifier>,
    listener: Listener,
    routes: BoxEndpoint<'static, Response>,
}

impl App {
    /// Builds the gateway: binds the port, finds the runtime, starts to load the models.
    ///
    /// # Errors
    /// When the port cannot be bound or the model store cannot be read.
    pub async fn build(config: Config, environment: &Environment) -> Result<Self, AppError> {
        let listener =
            Listener::bind(&config.server.listen, listener_config(&config.server)).await?;
        let environment = environment.clone();
        let settings = config.clone();
        // Reading the library and hashing the models take a while: not on the runtime's threads.
        let manager = tokio::task::spawn_blocking(move || {
            let backends = backends(&settings, &environment);
            let manager = manager(&settings, &environment, backends);
            manager.start().map(|()| manager)
        })
        .await
        .map_err(|_| AppError::Interrupted)??;
        let classifier = Arc::new(Classifier::new(
            manager.catalog(),
            classifier_config(&config),
        ));
        let plane = DataPlane {
            classifier: Arc::clone(&classifier),
            catalog: manager.catalog(),
            limits: config.limits.clone(),
            required_models: ids(&config.server.required_models),
        };
        let routes = api::data_routes(&plane);
        Ok(Self {
            config,
            manager,
            classifier,
            listener,
            routes,
        })
    }

    /// What loads the models; for nudges from outside.
    #[must_use]
    pub fn manager(&self) -> Arc<ModelManager> {
        Arc::clone(&self.manager)
    }

    /// Where the data plane listens; the real port where 0 was asked for.
    #[must_use]
    pub fn data_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled and the running requests are done, or `abort` is cancelled.
    pub(crate) async fn serve(self, stop: CancellationToken, abort: CancellationToken) {
        self.listener.serve(self.routes, stop, abort).await;
    }
}

/// The ids among `names`; the configuration has refused everything else.
fn ids(names: &[String]) -> Vec<ModelId> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// The classifier's part of the settings.
#[must_use]
pub fn classifier_config(config: &Config) -> ClassifierConfig {
    ClassifierConfig {
        default_model: config.default_model.as_ref().and_then(|id| id.parse().ok()),
        max_image_pixels: config.limits.max_image_pixels,
        max_inflight_bytes: config.limits.max_inflight_bytes,
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
        timeout: Duration::from_millis(config.limits.timeout_ms),
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

fn manager(config: &Config, environment: &Environment, backends: Backends) -> Arc<ModelManager> {
    let settings = &config.model_store;
    let store = model_store(config).quiet(Duration::from_millis(settings.quiet_ms));
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
