//! Settings: defaults < `config/lensgate.toml` < `LENSGATE__SECTION__KEY` < `--set key=value`, then validated.
//!
//! Read once by `cli`; every room gets its own section. The one place that reads the environment.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod admin;
mod archive;
mod backend;
mod bootstrap;
mod cache;
mod callbacks;
mod duration;
mod jobs;
mod limits;
mod live;
mod model_store;
mod predictions;
mod server;
mod sources;
mod store;
mod telemetry;

pub use admin::AdminConfig;
pub use archive::{ArchiveConfig, Images};
pub use backend::{BackendConfig, EXECUTION_PROVIDERS};
pub use bootstrap::{BootstrapConfig, Secret};
pub use cache::CacheConfig;
pub use callbacks::CallbacksConfig;
pub use duration::Seconds;
pub use jobs::JobsConfig;
pub use limits::LimitsConfig;
pub use live::{Live, Reloaded, Reloader};
pub use model_store::{ModelStoreConfig, ModelsPlace, Poll};
pub use predictions::PredictionsConfig;
pub use server::ServerConfig;
pub use sources::{ADMIN_TOKEN, Environment};
pub use store::{Database, StoreConfig};
pub(crate) use telemetry::header_pairs;
pub use telemetry::{LogFormat, OtlpProtocol, TelemetryConfig};

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "config/lensgate.toml";

/// All settings of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The model that `POST /v1/classify` asks.
    pub default_model: Option<String>,
    /// The data plane's listener.
    pub server: ServerConfig,
    /// The admin plane's listener.
    pub admin: AdminConfig,
    /// Where the models lie.
    pub model_store: ModelStoreConfig,
    /// The database.
    pub store: StoreConfig,
    /// What one request and all of them together may cost.
    pub limits: LimitsConfig,
    /// The result cache.
    pub cache: CacheConfig,
    /// What executes graphs.
    pub backend: BackendConfig,
    /// Logs, and where traces and metrics are sent.
    pub telemetry: TelemetryConfig,
    /// The prediction log.
    pub predictions: PredictionsConfig,
    /// The archive of pictures.
    pub archive: ArchiveConfig,
    /// Classifications that nobody waits for.
    pub jobs: JobsConfig,
    /// Callbacks.
    pub callbacks: CallbacksConfig,
    /// The first secrets.
    pub bootstrap: BootstrapConfig,
}

/// Why the settings cannot be used. Names the key, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("{what}: cannot read {path}: {reason}")]
    Unreadable {
        /// The flag or variable that named it.
        what: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file is no TOML, or a value has the wrong form.
    #[error("{origin}: {reason}")]
    Syntax {
        /// The file, or the variables.
        origin: String,
        /// What is wrong and where.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` (from {origin}); known keys: {known}")]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The file, variable or flag it came from.
        origin: String,
        /// The keys that exist.
        known: String,
    },
    /// A value that cannot be.
    #[error("`{key}` {reason}")]
    Value {
        /// The key.
        key: String,
        /// What is allowed.
        reason: String,
    },
}

impl ConfigError {
    /// The mistake without the name of any file: for who asks from another machine.
    #[must_use]
    pub fn without_places(&self) -> String {
        match self {
            Self::Unreadable { what, reason, .. } => format!("{what}: cannot be read: {reason}"),
            Self::Syntax { reason, .. } => format!("the settings have a mistake: {reason}"),
            Self::UnknownKey { key, .. } => format!("the settings have an unknown key `{key}`"),
            Self::Value { .. } => self.to_string(),
        }
    }
}

/// Where the settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; without it the default path is read where it exists.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Environment,
    /// `--set key=value`, in order.
    pub flags: Vec<String>,
}

impl Config {
    /// Reads, merges and validates the settings.
    ///
    /// # Errors
    /// On an unknown key or a bad value, by name.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut table = sources::read_file(sources.file.as_deref(), Path::new(DEFAULT_PATH))?;
        sources::overlay_environment(&mut table, &sources.environment)?;
        sources::overlay_flags(&mut table, &sources.flags)?;
        let config: Self =
            table
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Syntax {
                    origin: "configuration".to_owned(),
                    reason: error.to_string().trim().replace('\n', " "),
                })?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.server.validate()?;
        self.limits.validate()?;
        self.cache.validate()?;
        self.model_store.validate()?;
        self.backend.validate()?;
        self.telemetry.validate()?;
        self.admin.validate()?;
        self.store.validate()?;
        self.predictions.validate()?;
        self.archive.validate()?;
        self.jobs.validate()?;
        self.callbacks.validate()?;
        self.bootstrap.validate()?;
        for (key, id) in self
            .default_model
            .iter()
            .map(|id| ("default_model", id))
            .chain(
                self.server
                    .required_models
                    .iter()
                    .map(|id| ("server.required_models", id)),
            )
        {
            if let Err(error) = id.parse::<crate::domain::ids::ModelId>() {
                return Err(bad(key, format!("is {id:?}; {error}")));
            }
        }
        Ok(())
    }

    /// Every key set to something, so that names and types of all keys can be read off.
    #[must_use]
    pub fn with_every_key() -> Self {
        let some = || Some(String::new());
        let path = || Some(PathBuf::new());
        let mut config = Self {
            default_model: some(),
            ..Self::default()
        };
        config.server.tls_cert = path();
        config.server.tls_key = path();
        config.backend.ort_library = path();
        config.archive.images = some();
        config.archive.s3_endpoint = some();
        config.archive.s3_region = some();
        config.model_store.s3_endpoint = some();
        config.model_store.s3_region = some();
        config.bootstrap.api_key = Some(Secret::default());
        config.bootstrap.admin_token = Some(Secret::default());
        config
    }
}

fn bad(key: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
        Config::load(&Sources {
            file: None,
            environment: Environment::from_pairs(variables.iter().copied()),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        })
    }

    #[test]
    fn variables_are_read_by_the_type_of_their_key() {
        let config = load(
            &[
                ("LENSGATE__SERVER__LISTEN", "127.0.0.1:0"),
                ("LENSGATE__LIMITS__MAX_IMAGE_BYTES", "1024"),
                ("LENSGATE__SERVER__REQUIRED_MODELS", "digits, mnist"),
                ("LENSGATE__CALLBACKS__ALLOW_PRIVATE", "true"),
                ("LENSGATE__SERVER__DRAIN_DELAY", "0"),
                ("LENSGATE__DEFAULT_MODEL", "digits"),
                ("LENSGATE__MODEL_STORE__POLL", "2s"),
                ("LENSGATE__ARCHIVE__SAMPLE", "0.25"),
                ("LENSGATE__ARCHIVE__RETENTION", "7d"),
                ("LENSGATE_FIXTURES", "not ours"),
                ("PATH", "/bin"),
            ],
            &["limits.max_image_bytes=2048"],
        )
        .expect("a configuration");
        assert_eq!(config.server.listen, "127.0.0.1:0");
        assert_eq!(
            config.limits.max_image_bytes, 2048,
            "a flag wins over a variable"
        );
        assert_eq!(config.server.required_models, ["digits", "mnist"]);
        assert!(config.callbacks.allow_private);
        assert!((config.archive.sample - 0.25).abs() < f64::EPSILON);
        assert_eq!(config.archive.retention, Seconds::new(7 * 24 * 3600));
        assert!(config.server.drain_delay.get().is_zero());
        assert_eq!(config.default_model.as_deref(), Some("digits"));
        assert_eq!(
            config.model_store.poll.interval(),
            Some(std::time::Duration::from_secs(2))
        );
    }

    #[test]
    fn mistakes_name_the_key_and_what_is_allowed() {
        for (variables, flags, words) in [
            (
                &[("LENSGATE__SERVER__LISTN", "x")][..],
                &[][..],
                ["server.listn", "server.listen"],
            ),
            (
                &[("LENSGATE__LIMITS__MAX_IMAGE_BYTES", "many")],
                &[],
                ["max_image_bytes", "integer"],
            ),
            (
                &[("LENSGATE__SERVER__LISTEN", "8080")],
                &[],
                ["server.listen", "address:port"],
            ),
            (
                &[],
                &["limits.max_batch_images=0"],
                ["limits.max_batch_images", "at least 1"],
            ),
            (
                &[],
                &["backend.execution_providers=gpu"],
                ["execution_providers", "cuda"],
            ),
            (&[], &["jobs.lease=10ms"], ["jobs.lease", "1s"]),
            (&[], &["jobs.max_attempts=0"], ["jobs.max_attempts", "1 to"]),
            (&[], &["cache.size=1"], ["cache.size", "cache.max_bytes"]),
            (&[], &["cache.ttl_s=0"], ["cache.ttl_s", "cache.max_bytes"]),
            (&[], &["nonsense"], ["nonsense", "key=value"]),
            (
                &[("LENSGATE__BOOTSTRAP__API_KEY", "short")],
                &[],
                ["bootstrap.api_key", "16"],
            ),
            (
                &[],
                &["server.trusted_proxies=foo"],
                ["server.trusted_proxies", "10.0.0.0/8"],
            ),
            (
                &[],
                &["telemetry.log_level=loud"],
                ["telemetry.log_level", "debug"],
            ),
            (
                &[],
                &["admin.listen=nonsense"],
                ["admin.listen", "address:port"],
            ),
            (
                &[],
                &["predictions.spool_max_bytes=1"],
                ["predictions.spool_max_bytes", "at least"],
            ),
            (
                &[],
                &["archive.images=ftp://x"],
                ["archive.images", "s3://"],
            ),
            (&[], &["archive.sample=all"], ["archive.sample", "number"]),
            (
                &[("LENSGATE__STORE__URL", "mysql://x")],
                &[],
                ["store.url", "sqlite://"],
            ),
        ] {
            let error = load(variables, flags).expect_err("refused").to_string();
            for word in words {
                assert!(
                    error.contains(word),
                    "{variables:?} {flags:?} gave {error:?}"
                );
            }
        }
    }

    #[test]
    fn mistakes_about_the_collector_name_the_key() {
        for (flag, words) in [
            (
                "telemetry.trace_ratio=1.5",
                ["telemetry.trace_ratio", "0 to 1"],
            ),
            (
                "telemetry.otlp_endpoint=collector:4317",
                ["telemetry.otlp_endpoint", "http://"],
            ),
            ("telemetry.otlp_protocol=json", ["otlp_protocol", "grpc"]),
        ] {
            let error = load(&[], &[flag]).expect_err("refused").to_string();
            for word in words {
                assert!(error.contains(word), "{flag} gave {error:?}");
            }
        }
    }

    #[test]
    fn a_secret_may_lie_in_a_file_and_never_shows() {
        let file = std::env::temp_dir().join(format!("lensgate-secret-{}", std::process::id()));
        std::fs::write(&file, "sixteen characters or more\n").expect("a file");
        let name = file.to_string_lossy().into_owned();
        let config = load(&[("LENSGATE__BOOTSTRAP__API_KEY_FILE", &name)], &[]);
        std::fs::remove_file(&file).expect("removed");
        let config = config.expect("a configuration");
        let key = config.bootstrap.api_key.as_ref().expect("a key");
        assert_eq!(key.expose(), "sixteen characters or more");
        assert!(!format!("{config:?}").contains("sixteen"));
        assert!(
            load(
                &[("LENSGATE__BOOTSTRAP__API_KEY_FILE", "/nowhere/at/all")],
                &[]
            )
            .is_err()
        );
        let both = [
            ("LENSGATE__BOOTSTRAP__API_KEY", "another one of sixteen"),
            ("LENSGATE__BOOTSTRAP__API_KEY_FILE", "/dev/null"),
        ];
        let error = load(&both, &[]).expect_err("two values").to_string();
        assert!(error.contains("is set too"), "{error}");
        let error = load(&both[1..], &[]).expect_err("no value").to_string();
        assert!(
            error.contains("API_KEY_FILE") && error.contains("empty"),
            "{error}"
        );
    }
}
