//! `[store]`: the database.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[store]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://` and a file, or `postgres://` and a server.
    pub url: String,
    /// Connections that are open at the same time; for reports up to two more.
    pub max_connections: u32,
    /// How long the start keeps trying a database that is away.
    pub connect_timeout: Seconds,
    /// How long one call may take, waiting for a connection included.
    pub call_timeout: Seconds,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite://data/lensgate.db".to_owned(),
            max_connections: 10,
            connect_timeout: Seconds::new(30),
            call_timeout: Seconds::new(5),
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may carry a password.
        f.debug_struct("StoreConfig")
            .field("url", &self.without_password())
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .finish()
    }
}

/// The databases there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// A server.
    Postgres,
    /// A file.
    Sqlite,
}

const SHORTEST_CALL: Duration = Duration::from_millis(100);
const LONGEST_CALL: Duration = Duration::from_mins(10);
const LONGEST_START: Duration = Duration::from_hours(24);

impl StoreConfig {
    /// Which database the URL names; `None` where it names none that is served.
    #[must_use]
    pub fn database(&self) -> Option<Database> {
        match self.url.split_once("://") {
            Some(("sqlite", file)) if !file.is_empty() => Some(Database::Sqlite),
            Some(("postgres" | "postgresql", server)) if !server.is_empty() => {
                Some(Database::Postgres)
            }
            _ => None,
        }
    }

    /// The URL as it may be shown: without user and password, wherever in the URL they stand.
    #[must_use]
    pub fn without_password(&self) -> String {
        match (self.database(), self.url.split_once("://")) {
            (Some(Database::Sqlite), _) => self.url.clone(),
            (Some(Database::Postgres), Some((scheme, rest))) => {
                // A password that should have been escaped may hold any of `@`, `/` and `?`: all up to the last `@` goes.
                let (hidden, place) = match rest.rsplit_once('@') {
                    Some((_, place)) => ("***@", place),
                    None => ("", rest),
                };
                let (place, query) = place.split_once('?').unwrap_or((place, ""));
                let query = if query.contains("password") {
                    "?***".to_owned()
                } else if query.is_empty() {
                    String::new()
                } else {
                    format!("?{query}")
                };
                format!("{scheme}://{hidden}{place}{query}")
            }
            _ => "***".to_owned(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let in_memory = self.url.contains(":memory:") || self.url.contains("mode=memory");
        if self.database().is_none() || in_memory {
            return Err(bad(
                "store.url",
                "must be sqlite:// and a file, or postgres:// and a server",
            ));
        }
        if !(1..=1000).contains(&self.max_connections) {
            return Err(bad("store.max_connections", "must be 1 to 1000"));
        }
        if !(SHORTEST_CALL..=LONGEST_CALL).contains(&self.call_timeout.get()) {
            return Err(bad("store.call_timeout", "must be 100ms to 10m"));
        }
        if self.connect_timeout.get() > LONGEST_START {
            return Err(bad("store.connect_timeout", "must be 24h at most"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows() {
        for (url, shown) in [
            ("sqlite://data/a@b.db", "sqlite://data/a@b.db"),
            ("postgres://host/db", "postgres://host/db"),
            (
                "postgres://u:secret@host:5432/db",
                "postgres://***@host:5432/db",
            ),
            ("postgres://u:se@cr/et?x@host/db", "postgres://***@host/db"),
            (
                "postgresql://u:secret@host/db?sslmode=require",
                "postgresql://***@host/db?sslmode=require",
            ),
            (
                "postgres:///db?user=u&password=secret",
                "postgres:///db?***",
            ),
            ("postgres://host/db?x=secret@y", "postgres://***@y"),
            ("mysql://u:secret@host/db", "***"),
            ("secret", "***"),
        ] {
            let config = StoreConfig {
                url: url.to_owned(),
                ..StoreConfig::default()
            };
            assert_eq!(config.without_password(), shown, "{url}");
            assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let default = StoreConfig::default();
        assert_eq!(default.validate(), Ok(()));
        let of = |url: &str| StoreConfig {
            url: url.to_owned(),
            ..default.clone()
        };
        let connections = |max_connections| StoreConfig {
            max_connections,
            ..default.clone()
        };
        let calls = |text| StoreConfig {
            call_timeout: Seconds::parse(text).expect("a duration"),
            ..default.clone()
        };
        let starts = |text| StoreConfig {
            connect_timeout: Seconds::parse(text).expect("a duration"),
            ..default.clone()
        };
        for (config, key, allowed) in [
            (of("mysql://x"), "store.url", "sqlite://"),
            (of("sqlite://"), "store.url", "a file"),
            (of("sqlite://:memory:"), "store.url", "a file"),
            (of("sqlite://x?mode=memory"), "store.url", "a file"),
            (of("postgres://"), "store.url", "a server"),
            (of(""), "store.url", "a server"),
            (connections(0), "store.max_connections", "1 to 1000"),
            (connections(1001), "store.max_connections", "1 to 1000"),
            (calls("0"), "store.call_timeout", "100ms"),
            (calls("99ms"), "store.call_timeout", "100ms"),
            (calls("11m"), "store.call_timeout", "10m"),
            (starts("25h"), "store.connect_timeout", "24h"),
        ] {
            let error = config.validate().expect_err("refused").to_string();
            assert!(error.contains(key) && error.contains(allowed), "{error}");
        }
    }
}
