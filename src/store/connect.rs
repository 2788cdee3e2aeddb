//! Opens a database: finds or makes it, brings it to this release's migrations, and holds connections to it.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgPool, Postgres, Sqlite,
    SqlitePool,
};

use super::error::is_busy;
use super::migrate::Migrated;
use super::sql_store::{Calls, PATIENCE, SqlStore};
use super::{Store, StoreError};
use crate::config::{Database, StoreConfig};

/// Pauses between two tries to reach a database that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Connections for what may take longer, beside those that the settings allow, and how long they stay open unused.
const PATIENT: u32 = 2;
const PATIENT_IDLE: Duration = Duration::from_mins(1);

/// How long a connection that was given back may take to say that it is usable.
const GIVEN_BACK: Duration = Duration::from_secs(2);

/// Opens the database that the settings name and migrates it. Where it is away, that is tried for `connect_timeout`;
/// later losses mend themselves.
///
/// # Errors
/// [`StoreError::Unavailable`] where it stays away, [`StoreError::Failed`] where it cannot be used: no such database, a wrong
/// password, a folder that cannot be written, migrations of a newer release.
pub async fn connect(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match config.database() {
        Some(Database::Postgres) => {
            let engine = migrate(config).await?.engine;
            let (most, limit) = (config.max_connections, config.call_timeout.get());
            let pool = postgres_pool(most, limit, postgres_options(config)?);
            let patient = patient_pool(postgres_options(config)?);
            Ok(Arc::new(SqlStore::<Postgres> {
                engine,
                readers: pool.clone(),
                writers: pool,
                patient,
                call_timeout: config.call_timeout.get(),
                calls: Calls::default(),
            }))
        }
        Some(Database::Sqlite) => {
            let engine = migrate(config).await?.engine;
            let options = sqlite_options(config)?;
            // One process writes through one connection, so that its writers wait in line instead of for a lock.
            let readers = config.max_connections.saturating_sub(1).max(1);
            let limit = config.call_timeout.get();
            let read_only = options.clone().pragma("query_only", "ON");
            Ok(Arc::new(SqlStore::<Sqlite> {
                engine,
                readers: sqlite_pool(readers, limit, read_only.clone()),
                writers: sqlite_pool(1, limit, options),
                patient: sqlite_pool(PATIENT, PATIENCE, read_only),
                call_timeout: limit,
                calls: Calls::default(),
            }))
        }
        None => Err(unknown(config)),
    }
}

/// Brings the database that the settings name to this release's migrations.
///
/// # Errors
/// As [`connect`].
pub async fn migrate(config: &StoreConfig) -> Result<Migrated, StoreError> {
    let end = Instant::now() + config.connect_timeout.get();
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = match config.database() {
            Some(Database::Postgres) => migrate_postgres(config).await,
            Some(Database::Sqlite) => migrate_sqlite(config).await,
            None => Err(unknown(config)),
        };
        match outcome {
            Err(StoreError::Unavailable(reason)) if Instant::now() + pause < end => {
                tracing::warn!(reason, store = %config.without_password(), "the database is away; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn unknown(config: &StoreConfig) -> StoreError {
    let url = config.without_password();
    StoreError::Failed(format!(
        "store.url is {url}, which names no database that is known"
    ))
}

fn unusable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("store.url cannot be used: {error}"))
}

/// Over a connection of its own: it may wait long for the lock, and it keeps the lock where it fails.
async fn migrate_postgres(config: &StoreConfig) -> Result<Migrated, StoreError> {
    let options = postgres_options(config)?;
    let limit = config.call_timeout.get();
    let Ok(connected) = tokio::time::timeout(limit, options.connect()).await else {
        return Err(StoreError::Unavailable(format!(
            "it took no connection within {} ms",
            limit.as_millis()
        )));
    };
    let mut connection = connected?;
    let migrated = SqlStore::<Postgres>::migrate(&mut connection).await?;
    // What fails here leaves nothing undone.
    let _ = tokio::time::timeout(limit, connection.close()).await;
    Ok(migrated)
}

async fn migrate_sqlite(config: &StoreConfig) -> Result<Migrated, StoreError> {
    // Counts in a new file alone: what old predictions took can be given back piece by piece.
    let options = sqlite_options(config)?.auto_vacuum(SqliteAutoVacuum::Incremental);
    make_file(options.get_filename()).await?;
    let mut connection = match options.connect().await {
        Ok(connection) => connection,
        Err(error) if is_busy(&error) => return Err(error.into()),
        // The file will not become another one by waiting.
        Err(error) => return Err(unusable(error)),
    };
    let migrated = SqlStore::<Sqlite>::migrate(&mut connection).await?;
    connection.close().await?;
    Ok(migrated)
}

/// Makes the database's file, and its folder, where they are missing: for its owner alone, as hashes of secrets lie in it.
async fn make_file(file: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| {
        StoreError::Failed(format!("{} cannot be made: {error}", file.display()))
    };
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    }
    // One that is there is not opened: to close it again would give up the locks that this process has on it.
    let mut new = tokio::fs::OpenOptions::new();
    match new
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn postgres_options(config: &StoreConfig) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(&config.url).map_err(unusable)?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("lensgate"),
    })
}

fn postgres_pool(connections: u32, limit: Duration, options: PgConnectOptions) -> PgPool {
    let settings = limited_to(limit);
    watched(connections, limit)
        .after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(settings).await.map(|_| ()) })
        })
        .connect_lazy_with(options)
}

/// Connections for what may take longer.
fn patient_pool(mut options: PgConnectOptions) -> PgPool {
    // They may be slow: that is no news for the log. Traces still hear of them.
    if let Ok(off) = "off".parse() {
        options = options.log_slow_statements(off, PATIENCE);
    }
    // To compile a statement that runs for a moment takes longer than it saves.
    let settings = format!("{}; SET jit = off", limited_to(PATIENCE));
    watched(PATIENT, PATIENCE)
        .acquire_slow_threshold(PATIENCE)
        .idle_timeout(PATIENT_IDLE)
        .after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move {
                connection.execute(settings).await?;
                // What nobody waits for any more ends before its time, where the server's system can tell that; not every one can.
                let _ = connection
                    .execute("SET client_connection_check_interval = '1s'")
                    .await;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

/// What nobody waits for any more ends on the server too, and a replica that is cut off in a change gives up its lock.
/// Set by a statement: connection poolers refuse it among the connection's options.
fn limited_to(limit: Duration) -> String {
    format!(
        "SET statement_timeout = {0}; SET idle_in_transaction_session_timeout = {0}",
        limit.as_millis()
    )
}

/// A pool whose connections are looked at when they come back.
fn watched(connections: u32, limit: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(limit)
        // A call that was cut off gives its connection back in the middle of an answer. The pool would wait for the rest
        // of it without end, and every call would cost it a connection.
        .after_release(|connection, _| {
            Box::pin(async move {
                match tokio::time::timeout(GIVEN_BACK, connection.ping()).await {
                    Ok(answer) => answer.map(|()| true),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            })
        })
}

fn sqlite_options(config: &StoreConfig) -> Result<SqliteConnectOptions, StoreError> {
    Ok(SqliteConnectOptions::from_str(&config.url)
        .map_err(unusable)?
        .journal_mode(SqliteJournalMode::Wal)
        // A key that was revoked stays so when the power fails.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Another process may write too: what it holds up is said to hold up, before the call is cut off.
        .busy_timeout(config.call_timeout.get() * 3 / 4)
        .thread_name(|number| format!("sqlite-{number}")))
}

fn sqlite_pool(connections: u32, limit: Duration, options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(limit)
        // A file does not hang up.
        .test_before_acquire(false)
        .max_lifetime(None)
        .connect_lazy_with(options)
}
