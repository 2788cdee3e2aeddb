//! Models, as the settings want them: the backends of this machine, the loader, the trial in a child process, the folder.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use super::Edges;
use crate::backend::ort::{LibrarySearch, OrtBackend};
use crate::backend::tract::TractBackend;
use crate::backend::{Backend, OrtStatus};
use crate::config::{Config, Environment, ModelsPlace};
use crate::model_store::{FolderStore, ModelStore, RemoteError, RemoteStore, StoreEditor};
use crate::models::{
    Backends, Loader, LoaderConfig, ModelManager, NoticeConfig, Passed, Trial, TrialConfig,
};
use crate::telemetry::metrics::Metrics;

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
pub(super) fn cores() -> usize {
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

/// What has to do with models, over one folder.
pub(super) struct Models {
    pub(super) manager: Arc<ModelManager>,
    pub(super) editor: StoreEditor,
    /// Where the folder is filled from, if it is.
    pub(super) bucket: Option<RemoteStore>,
}

/// What loads models and what changes them; what killed uploads have left in their folder is gone then.
///
/// # Errors
/// When the settings name a bucket that can never be used, or its cache is another process's.
pub(super) fn models(
    config: &Config,
    edges: &Edges,
    metrics: Arc<Metrics>,
) -> Result<Models, RemoteError> {
    let quiet = Duration::from_millis(config.model_store.quiet_ms);
    let limit = config.limits.max_model_bytes;
    let (environment, clock) = (&edges.environment, Arc::clone(&edges.clock));
    let bucket = match config.model_store.place() {
        ModelsPlace::Folder(_) => None,
        ModelsPlace::Bucket { url, cache } => {
            let place = (url.as_str(), cache.as_path());
            let settings = &config.model_store;
            Some(RemoteStore::open(
                place,
                settings,
                environment,
                limit,
                clock,
            )?)
        }
    };
    let (store, editor): (Arc<dyn ModelStore>, _) = if let Some(bucket) = &bucket {
        let editor = StoreEditor::new(bucket.folder()).of_bucket(bucket.clone());
        (Arc::new(bucket.clone()), editor)
    } else {
        let folder = model_store(config).quiet(quiet);
        (Arc::new(folder.clone()), StoreEditor::new(folder))
    };
    editor.sweep();
    let backends = backends(config, environment);
    let manager = manager(config, environment, (backends, metrics), store);
    Ok(Models {
        manager,
        editor,
        bucket,
    })
}

fn manager(
    config: &Config,
    environment: &Environment,
    (backends, metrics): (Backends, Arc<Metrics>),
    store: Arc<dyn ModelStore>,
) -> Arc<ModelManager> {
    let settings = &config.model_store;
    let of_bucket = matches!(settings.place(), ModelsPlace::Bucket { .. });
    let notice = NoticeConfig {
        // What is brought from a bucket is always told.
        events: settings.watch || of_bucket,
        scan_every: settings.scan_every(),
    };
    let trial = trial(config, environment, &backends);
    let loader = loader(config, backends).with_metrics(metrics);
    let loader = match trial {
        Some(trial) => loader.with_trial(trial),
        None => loader,
    };
    ModelManager::new(store, loader, notice)
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
