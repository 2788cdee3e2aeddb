//! ONNX Runtime, loaded at run time: the only door to the `ort` crate.
//!
//! `app` loads it once, `models` opens graphs with it, `engine` runs them. Reads no environment variable and no
//! configuration: what it needs is handed in. `ort/library.rs` finds and checks the library, `ort/session.rs` runs.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session as OrtGraph;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::{Backend, BackendError, OpenOptions, OrtStatus, Session};
use message::reason;

mod library;
mod message;
mod session;

pub use library::{LibrarySearch, check_library};

const NAME: &str = "ort";
const CPU: &str = "cpu";

/// The execution providers that a configuration may name, by their short names.
pub const PROVIDERS: [&str; 4] = ["tensorrt", "cuda", "openvino", CPU];

/// Whether `name` is one of [`PROVIDERS`].
#[must_use]
pub fn known_provider(name: &str) -> bool {
    PROVIDERS.contains(&name)
}

/// ONNX Runtime in this process. The library and its environment stay for ever: a process can have only one of each.
#[derive(Clone)]
pub struct OrtBackend {
    runtime: Runtime,
    /// Providers that failed, with the reason: each is said once, not once a model.
    said: Arc<Mutex<BTreeSet<String>>>,
}

/// What was loaded, and from where.
#[derive(Clone)]
struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: String,
}

/// The process's only environment. ONNX Runtime refuses a second one, even after the first was dropped.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Whether this processor has instructions that add products of 8 bits without a loss.
fn sums_8_bit_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni")
            || std::arch::is_x86_feature_detected!("avxvnni")
    }
    // Others' instructions for it keep all bits.
    #[cfg(not(target_arch = "x86_64"))]
    true
}

impl OrtBackend {
    /// Loads the library that `search` finds; a second call returns what the first one loaded. No file is opened as
    /// a library before [`check_library`] has passed it.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] with what was tried and why it did not do.
    pub fn load(search: &LibrarySearch) -> Result<Self, BackendError> {
        let unavailable = |reason| BackendError::Unavailable {
            backend: NAME,
            reason,
        };
        let candidates = search.candidates().map_err(unavailable)?;
        let mut reasons = Vec::new();
        for path in candidates {
            match check_library(&path).and_then(|()| load_once(&path)) {
                Ok(runtime) => {
                    return Ok(Self {
                        runtime,
                        said: Arc::default(),
                    });
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(unavailable(reasons.join("; ")))
    }

    /// The library's file and version.
    #[must_use]
    pub fn status(&self) -> OrtStatus {
        OrtStatus::Loaded {
            path: self.runtime.path.clone(),
            version: self.runtime.version.clone(),
        }
    }

    /// A builder with everything set but the providers.
    fn builder(&self, options: &OpenOptions) -> Result<SessionBuilder, ort::Error> {
        let builder = OrtGraph::builder(&self.runtime.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads.max(1))?
            .with_inter_threads(1)?
            .with_intra_op_spinning(options.spinning)?
            // Whatever spins stops when the session's last run ends.
            .with_config_entry("session.force_spinning_stop", "1")?
            .with_inter_op_spinning(false)?;
        if sums_8_bit_exactly() {
            return Ok(builder);
        }
        // Without it the sums of 8-bit products overflow: other classes win. It costs what 8 bits are there for.
        Ok(builder.with_precise_qmm()?)
    }

    /// Opens the graph with as many of the wanted providers as work. One that cannot be registered is left out; when
    /// the graph does not open with those that could, the first of them is left out too, down to the bare CPU.
    fn open_graph(
        &self,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<(OrtGraph, Vec<String>), ort::Error> {
        // Left to itself the runtime maps these files for as long as the session lives: whoever then copies a new
        // version over them changes the weights under a running graph, and ends the process where the file gets shorter.
        let read =
            |(name, path): &(String, PathBuf)| Ok((name.clone(), std::fs::read(path)?.into()));
        let external: Vec<(String, Arc<[u8]>)> = options
            .external
            .iter()
            .map(read)
            .collect::<std::io::Result<_>>()
            .map_err(|error| ort::Error::new(format!("external data: {error}")))?;
        let mut wanted = wanted_providers(&options.execution_providers);
        let mut failed = Vec::new();
        loop {
            let mut builder = self.builder(options)?;
            wanted.retain(|name| match register(name, &mut builder) {
                Ok(()) => true,
                Err(reason) => {
                    failed.push((*name, reason));
                    false
                }
            });
            for (name, content) in &external {
                builder =
                    builder.with_external_initializer_file_in_memory(name, Arc::clone(content))?;
            }
            match builder.commit_from_file(path) {
                Ok(graph) => {
                    self.say_failed(&failed);
                    let used = wanted.into_iter().chain([CPU]).map(str::to_owned).collect();
                    return Ok((graph, used));
                }
                // The CPU alone cannot open it: the graph is to blame, not the providers.
                Err(error) if wanted.is_empty() => return Err(error),
                Err(error) => failed.push((wanted.remove(0), error.to_string())),
            }
        }
    }

    fn say_failed(&self, failed: &[(&str, String)]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for (provider, text) in failed {
            let reason = reason(text, None);
            if said.insert(format!("{provider}: {reason}")) {
                tracing::warn!(
                    provider,
                    reason,
                    "execution provider skipped, using the next one"
                );
            }
        }
    }
}

impl Backend for OrtBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Arc<dyn Session>, BackendError> {
        let failed = |text: &str| BackendError::Open {
            backend: NAME,
            reason: reason(text, Some(path)),
        };
        // The crate panics on a few graphs that it does not expect (inputs of exotic types).
        let opened = catch_unwind(AssertUnwindSafe(|| self.open_graph(path, options)));
        let (graph, providers) = opened
            .map_err(|_| failed("the graph has inputs or outputs of an unexpected kind"))?
            .map_err(|error| failed(&error.to_string()))?;
        Ok(Arc::new(session::OrtSession::new(graph, providers)))
    }
}

/// Loads `path` and makes the environment, unless both exist already.
fn load_once(path: &Path) -> Result<Runtime, String> {
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = slot.as_ref() {
        if runtime.path != path {
            let (loaded, asked) = (runtime.path.display(), path.display());
            tracing::debug!(%loaded, %asked, "ONNX Runtime is loaded already and stays");
        }
        return Ok(runtime.clone());
    }
    let made = catch_unwind(|| -> Result<Environment, String> {
        let builder = ort::init_from(path).map_err(|error| load_reason(&error))?;
        let environment = builder
            .with_name("lensgate")
            .with_telemetry(false)
            .with_logger(Arc::new(log_line))
            .build()
            .map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    });
    let environment = made
        .unwrap_or_else(|_| Err("it does not behave like ONNX Runtime".to_owned()))
        .map_err(|reason| format!("{} cannot be used: {reason}", path.display()))?;
    let runtime = Runtime {
        environment,
        path: path.to_path_buf(),
        version: library::version_of(path),
    };
    Ok(slot.insert(runtime).clone())
}

/// Why the library could not be loaded, in words an operator can act on.
fn load_reason(error: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError as E;
    match error {
        E::Dlopen { error, .. } => error.to_string(),
        E::MissingApi { .. } => "it is some other library (no OrtGetApiBase in it)".to_owned(),
        E::InvalidVersionString => "it does not say its version".to_owned(),
        E::BadVersion { version_str, .. } => {
            let least = ort::MINOR_VERSION;
            format!("it is version {version_str}, but 1.{least} or later is needed")
        }
    }
}

/// The wanted names without repetition, up to the CPU, which comes last anyway.
fn wanted_providers(names: &[String]) -> Vec<&'static str> {
    let mut wanted = Vec::new();
    for name in names.iter().take_while(|name| *name != CPU) {
        match PROVIDERS.iter().find(|known| *known == name) {
            Some(known) if !wanted.contains(known) => wanted.push(*known),
            Some(_) => {}
            None => tracing::warn!(provider = name, "unknown execution provider ignored"),
        }
    }
    wanted
}

/// Registers one provider with a session to be.
fn register(name: &str, builder: &mut SessionBuilder) -> Result<(), String> {
    let provider: ExecutionProviderDispatch = match name {
        "tensorrt" => ep::TensorRT::default().build(),
        "cuda" => ep::CUDA::default().build(),
        "openvino" => ep::OpenVINO::default().build(),
        _ => return Err("unknown".to_owned()),
    };
    provider
        .register(builder)
        .map_err(|error| error.to_string())
}

/// ONNX Runtime's own log lines. What matters comes back as an error too, so they are worth little.
fn log_line(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => {
            tracing::trace!(target: "onnxruntime", category, place, "{message}");
        }
        LogLevel::Warning => tracing::debug!(target: "onnxruntime", category, place, "{message}"),
        LogLevel::Error => tracing::info!(target: "onnxruntime", category, place, "{message}"),
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, place, "{message}"),
    }
}
