//! Where settings come from: the file, `LENSGATE__…` variables (`…_FILE` reads a file) and `--set` flags.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, ConfigError, Secret, bad};

/// The variables that concern the gateway, as they were when it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
    ort_dylib_path: Option<PathBuf>,
    /// What a child process needs to find the same libraries and devices, and nothing that is secret.
    for_children: Vec<(String, String)>,
    program: Option<PathBuf>,
    /// The token of commands that call an admin plane.
    admin_token: Option<Secret>,
    /// The file that holds it.
    admin_token_file: Option<PathBuf>,
    /// What whoever speaks to a bucket finds its credentials by.
    for_buckets: Vec<(String, Secret)>,
    /// What every program that sends telemetry is told its collector by.
    for_collectors: Vec<(String, Secret)>,
}

/// Where commands that call an admin plane find their token; with `_FILE`, the file that holds it.
pub const ADMIN_TOKEN: &str = "LENSGATE_ADMIN_TOKEN";

/// Variables that decide which libraries and devices a process finds, by name or by the beginning of it.
const FOR_CHILDREN: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "CUDA_", "NVIDIA_"];

/// What the variables begin with by which programs find a bucket's credentials, region and server.
const FOR_BUCKETS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// What the variables begin with by which programs find their collector.
const FOR_COLLECTORS: &str = "OTEL_";

impl Environment {
    /// The process's own.
    #[must_use]
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        // The file may be replaced while it runs; what runs can still be started by this name.
        let itself = Path::new("/proc/self/exe");
        let program = if itself.exists() {
            Some(itself.to_path_buf())
        } else {
            std::env::current_exe().ok()
        };
        Self::from_pairs(pairs).with_program(program)
    }

    /// The program that tries models in a child process; without one they are opened untried.
    #[must_use]
    pub fn with_program(self, program: Option<PathBuf>) -> Self {
        Self { program, ..self }
    }

    /// The program that tries models in a child process.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// The environment of a child process that tries a model: no setting and no secret is in it.
    #[must_use]
    pub fn for_children(&self) -> &[(String, String)] {
        &self.for_children
    }

    /// Picks out the variables that concern the gateway.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut environment = Self::default();
        for (name, value) in pairs {
            let (name, value) = (name.into(), value.into());
            if name == "ORT_DYLIB_PATH" && !value.is_empty() {
                environment.ort_dylib_path = Some(PathBuf::from(&value));
                environment.for_children.push((name.clone(), value.clone()));
            }
            match name.strip_prefix(ADMIN_TOKEN) {
                Some("") if !value.is_empty() => {
                    environment.admin_token = Some(Secret::from(value.clone()));
                }
                Some("_FILE") => environment.admin_token_file = Some(PathBuf::from(&value)),
                _ => {}
            }
            let matters =
                |known: &str| name == known || (known.ends_with('_') && name.starts_with(known));
            if FOR_CHILDREN.into_iter().any(matters) {
                environment.for_children.push((name.clone(), value.clone()));
            }
            if FOR_BUCKETS.iter().any(|known| name.starts_with(known)) && !value.is_empty() {
                let value = Secret::from(value.clone());
                environment.for_buckets.push((name.clone(), value));
            }
            if name.starts_with(FOR_COLLECTORS) && !value.is_empty() {
                let value = Secret::from(value.clone());
                environment.for_collectors.push((name.clone(), value));
            }
            if name.starts_with(PREFIX) {
                environment.variables.push((name, value));
            }
        }
        environment.variables.sort();
        environment
    }

    /// The token of commands that call an admin plane, out of `file` where one is named.
    ///
    /// # Errors
    /// When a file that was named cannot be read.
    pub fn admin_token(&self, file: Option<&Path>) -> Result<Option<Secret>, ConfigError> {
        let (what, path) = match (file, &self.admin_token, &self.admin_token_file) {
            (Some(file), ..) => ("--token-file".to_owned(), file),
            (None, Some(token), _) => return Ok(Some(token.clone())),
            (None, None, Some(file)) => (format!("{ADMIN_TOKEN}_FILE"), file.as_path()),
            (None, None, None) => return Ok(None),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(Secret::from(text.trim().to_owned()))),
            Err(error) => Err(ConfigError::Unreadable {
                what,
                path: path.to_path_buf(),
                reason: error.to_string(),
            }),
        }
    }

    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and whatever else other programs speak to a bucket by.
    #[must_use]
    pub fn for_buckets(&self) -> &[(String, Secret)] {
        &self.for_buckets
    }

    /// A variable of OpenTelemetry's, `OTEL_…`, where it is set; its headers are secret.
    #[must_use]
    pub fn for_collectors(&self, name: &str) -> Option<&str> {
        let mut all = self.for_collectors.iter();
        all.find(|(own, _)| own == name)
            .map(|(_, value)| value.expose())
    }

    /// `ORT_DYLIB_PATH`, where other programs keep the path of ONNX Runtime.
    #[must_use]
    pub fn ort_dylib_path(&self) -> Option<&Path> {
        self.ort_dylib_path.as_deref()
    }
}

const PREFIX: &str = "LENSGATE__";

/// The file as a table; without a name the default path, and an empty table where that does not exist.
pub(super) fn read_file(named: Option<&Path>, default: &Path) -> Result<Table, ConfigError> {
    let path = named.unwrap_or(default);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Table::new());
        }
        Err(error) => {
            return Err(ConfigError::Unreadable {
                what: "--config".to_owned(),
                path: path.to_path_buf(),
                reason: error.to_string(),
            });
        }
    };
    let origin = path.display().to_string();
    let table: Table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        origin: origin.clone(),
        reason: error.to_string().trim().to_owned(),
    })?;
    let keys = Keys::known();
    for key in keys_of(&table) {
        keys.require(&key, &origin)?;
    }
    Ok(table)
}

pub(super) fn overlay_environment(
    table: &mut Table,
    environment: &Environment,
) -> Result<(), ConfigError> {
    let keys = Keys::known();
    for (name, text) in &environment.variables {
        let key = name
            .trim_start_matches(PREFIX)
            .to_ascii_lowercase()
            .replace("__", ".");
        match key
            .strip_suffix("_file")
            .filter(|key| keys.find(key).is_some())
        {
            Some(key) => {
                let unreadable = |reason: String| ConfigError::Unreadable {
                    what: name.clone(),
                    path: PathBuf::from(text),
                    reason,
                };
                let plain = name.get(..name.len() - "_FILE".len()).unwrap_or_default();
                if environment
                    .variables
                    .iter()
                    .any(|(other, _)| other == plain)
                {
                    let reason = format!("{plain} is set too: only one of them may be");
                    return Err(unreadable(reason));
                }
                let read = std::fs::read_to_string(text);
                let read = read.map_err(|error| unreadable(error.to_string()))?;
                let value = read.trim_end_matches(['\r', '\n']);
                if value.is_empty() {
                    return Err(unreadable("it is empty".to_owned()));
                }
                set(table, &keys, key, value, name)?;
            }
            None => set(table, &keys, &key, text, name)?,
        }
    }
    Ok(())
}

pub(super) fn overlay_flags(table: &mut Table, flags: &[String]) -> Result<(), ConfigError> {
    let keys = Keys::known();
    for flag in flags {
        let Some((key, text)) = flag.split_once('=') else {
            return Err(bad(flag, "is no setting; --set takes key=value"));
        };
        set(table, &keys, key.trim(), text, "--set")?;
    }
    Ok(())
}

/// All keys with a value of their type, read off a configuration that has everything set.
struct Keys(Vec<(String, Value)>);

impl Keys {
    fn known() -> Self {
        let table = Table::try_from(Config::with_every_key()).unwrap_or_default();
        let keys = keys_of(&table);
        Self(
            keys.into_iter()
                .filter_map(|key| {
                    let value = get(&table, &key)?.clone();
                    Some((key, value))
                })
                .collect(),
        )
    }

    fn find(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value)
    }

    fn require(&self, key: &str, origin: &str) -> Result<&Value, ConfigError> {
        self.find(key).ok_or_else(|| ConfigError::UnknownKey {
            key: key.to_owned(),
            origin: origin.to_owned(),
            known: self
                .0
                .iter()
                .map(|(key, _)| key.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

fn keys_of(table: &Table) -> Vec<String> {
    table
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Table(inner) => keys_of(inner)
                .into_iter()
                .map(|key| format!("{name}.{key}"))
                .collect(),
            _ => vec![name.clone()],
        })
        .collect()
}

fn get<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
    }
}

/// Puts `text` at `key`, read as the type that the key has.
fn set(
    table: &mut Table,
    keys: &Keys,
    key: &str,
    text: &str,
    origin: &str,
) -> Result<(), ConfigError> {
    let value = match keys.require(key, origin)? {
        Value::Integer(_) => match text.trim().parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                return Err(bad(
                    key,
                    format!("is {text:?} ({origin}); it must be an integer"),
                ));
            }
        },
        Value::Float(_) => match text.trim().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                return Err(bad(
                    key,
                    format!("is {text:?} ({origin}); it must be a number"),
                ));
            }
        },
        // `model_store.poll` is a switch or a duration: what is no switch is left to its own reader.
        Value::Boolean(_) => match text.trim().parse() {
            Ok(switch) => Value::Boolean(switch),
            Err(_) if key == "model_store.poll" => Value::String(text.to_owned()),
            Err(_) => {
                return Err(bad(
                    key,
                    format!("is {text:?} ({origin}); it must be true or false"),
                ));
            }
        },
        Value::Array(_) => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
        ),
        _ => Value::String(text.to_owned()),
    };
    let mut inner = table;
    let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        let entry = inner
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        match entry {
            Value::Table(next) => inner = next,
            _ => return Err(bad(section, "is a section, not a value")),
        }
    }
    inner.insert(name.to_owned(), value);
    Ok(())
}
