//! Settings that may change while the gateway runs: read anew, compared, put in force; what cannot change is said by name.
//! One of the two doors to arc-swap.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use toml::{Table, Value};

use super::{Config, ConfigError, DEFAULT_PATH, LimitsConfig, Sources, TelemetryConfig};

/// A section that may change; cheap to clone, and all clones change together.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Live<T> {
    /// A section as it is at the start.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The section as it is now; whoever needs it twice for one request keeps it.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    fn set(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

/// Keys that are put in force without a restart; all others need one.
const LIVE: [&str; 10] = [
    "limits.max_image_bytes",
    "limits.max_image_pixels",
    "limits.max_batch_images",
    "limits.max_inflight_bytes",
    "limits.timeout_ms",
    "limits.unauthenticated_per_minute",
    "telemetry.log_level",
    "telemetry.trace_ratio",
    "telemetry.trace_slow",
    "default_model",
];

/// What reading the settings anew brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that are in force with a new value.
    pub changed: Vec<String>,
    /// Keys with a new value that needs a restart.
    pub needs_restart: Vec<String>,
}

/// Reads the settings anew and puts in force what may change.
pub struct Reloader {
    sources: Sources,
    in_force: Mutex<Config>,
    limits: Live<LimitsConfig>,
    default_model: Live<Option<String>>,
    telemetry: Live<TelemetryConfig>,
}

impl Reloader {
    /// A reloader of settings that were read from `sources`.
    #[must_use]
    pub fn new(config: &Config, sources: Sources) -> Self {
        Self {
            sources,
            limits: Live::new(config.limits.clone()),
            default_model: Live::new(config.default_model.clone()),
            telemetry: Live::new(config.telemetry.clone()),
            in_force: Mutex::new(config.clone()),
        }
    }

    /// `[limits]` as it is in force.
    #[must_use]
    pub fn limits(&self) -> Live<LimitsConfig> {
        self.limits.clone()
    }

    /// `default_model` as it is in force.
    #[must_use]
    pub fn default_model(&self) -> Live<Option<String>> {
        self.default_model.clone()
    }

    /// `[telemetry]` as it is in force.
    #[must_use]
    pub fn telemetry(&self) -> Live<TelemetryConfig> {
        self.telemetry.clone()
    }

    /// The file that the settings are read from.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let named = self.sources.file.clone();
        named.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }

    /// Reads the settings anew: file, the variables' files and flags. Blocks.
    ///
    /// # Errors
    /// On an unknown key or a bad value, by name; then all stays as it is.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        let read = Config::load(&self.sources)?;
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = differences(&in_force, &read);
        let (changed, needs_restart): (Vec<String>, Vec<String>) = changed
            .into_iter()
            .partition(|key| LIVE.contains(&key.as_str()));
        let mut next = in_force.clone();
        next.default_model.clone_from(&read.default_model);
        next.telemetry
            .log_level
            .clone_from(&read.telemetry.log_level);
        next.telemetry.trace_ratio = read.telemetry.trace_ratio;
        next.telemetry.trace_slow = read.telemetry.trace_slow;
        next.limits = LimitsConfig {
            // These are baked into what was loaded.
            max_queue_ms: in_force.limits.max_queue_ms,
            max_model_bytes: in_force.limits.max_model_bytes,
            ..read.limits
        };
        self.limits.set(next.limits.clone());
        self.default_model.set(next.default_model.clone());
        self.telemetry.set(next.telemetry.clone());
        *in_force = next;
        Ok(Reloaded {
            changed,
            needs_restart,
        })
    }
}

/// The keys whose values differ.
fn differences(before: &Config, after: &Config) -> Vec<String> {
    let (before, after) = (flat(before), flat(after));
    let keys = before.keys().chain(after.keys());
    let mut keys: Vec<&String> = keys
        .filter(|key| before.get(*key) != after.get(*key))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().cloned().collect()
}

fn flat(config: &Config) -> BTreeMap<String, Value> {
    fn walk(table: &Table, prefix: &str, out: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            match value {
                Value::Table(inner) => walk(inner, &format!("{prefix}{name}."), out),
                _ => {
                    out.insert(format!("{prefix}{name}"), value.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    if let Ok(table) = Table::try_from(config) {
        walk(&table, "", &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn reloader(text: &str) -> (tempfile::TempDir, Reloader) {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("lensgate.toml");
        std::fs::write(&file, text).expect("a file");
        let sources = Sources {
            file: Some(file),
            environment: Environment::default(),
            flags: Vec::new(),
        };
        let config = Config::load(&sources).expect("settings");
        (dir, Reloader::new(&config, sources))
    }

    #[test]
    fn what_may_change_does_and_the_rest_is_named() {
        let (dir, reloader) = reloader("[limits]\nmax_batch_images = 4\n");
        let limits = reloader.limits();
        assert_eq!(limits.load().max_batch_images, 4);
        assert_eq!(
            reloader.reload(),
            Ok(Reloaded::default()),
            "nothing changed"
        );
        let text = "[limits]\nmax_batch_images = 8\nmax_queue_ms = 5\n[server]\nlisten = \"127.0.0.1:1\"\n";
        std::fs::write(dir.path().join("lensgate.toml"), text).expect("a file");
        let outcome = reloader.reload().expect("settings");
        assert_eq!(outcome.changed, ["limits.max_batch_images"]);
        assert_eq!(
            outcome.needs_restart,
            ["limits.max_queue_ms", "server.listen"]
        );
        assert_eq!(limits.load().max_batch_images, 8);
        assert_eq!(limits.load().max_queue_ms, 2000, "as it is in force");
    }

    #[test]
    fn a_mistake_leaves_all_as_it_is() {
        let (dir, reloader) = reloader("[limits]\nmax_batch_images = 4\n");
        let text = "[limits]\nmax_batch_images = 0\n";
        std::fs::write(dir.path().join("lensgate.toml"), text).expect("a file");
        assert!(reloader.reload().is_err());
        assert_eq!(reloader.limits().load().max_batch_images, 4);
    }

    #[test]
    fn every_live_key_is_a_key() {
        let known = flat(&Config::with_every_key());
        for key in LIVE {
            assert!(known.contains_key(key), "{key}");
        }
    }
}
