//! Migrations: compiled into the program, run at every start under a lock, so that of several starts one does the work.

use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType};
use sqlx::{
    Connection as _, Database, PgConnection, Postgres, SqlSafeStr as _, Sqlite, SqliteConnection,
    query_scalar,
};
use trait_gen::trait_gen;

use super::StoreError;
use super::sql_store::{Dialect as _, SqlStore};

/// Where sqlx keeps what was applied.
const TABLE: &str = "_sqlx_migrations";

/// What migrating may take, waiting for another replica that migrates included.
const LONGEST: Duration = Duration::from_mins(10);

/// A migration in the words of both databases.
struct Embedded {
    file: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

/// Migrations by their files' name, which both folders share.
macro_rules! embedded {
    ($($file:literal),+ $(,)?) => {
        [$(Embedded {
            file: $file,
            postgres: include_str!(concat!("../../migrations/postgres/", $file, ".sql")),
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file, ".sql")),
        }),+]
    };
}

/// All migrations, in order.
const MIGRATIONS: [Embedded; 9] = embedded![
    "0001_tenants_keys_and_operators",
    "0002_predictions",
    "0003_callbacks",
    "0004_jobs",
    "0005_results_and_their_requests",
    "0006_rollouts",
    "0007_feedback",
    "0008_canaries_and_comparisons",
    "0009_traces",
];

impl Embedded {
    /// `0001_some_words` is the migration 1, "some words".
    fn number_and_name(&self) -> (i64, String) {
        let (number, name) = self.file.split_once('_').unwrap_or((self.file, ""));
        (number.parse().unwrap_or_default(), name.replace('_', " "))
    }
}

/// The migrations in the words of one database.
fn migrations(text: impl Fn(&Embedded) -> &'static str) -> Vec<Migration> {
    let migrations = MIGRATIONS.iter().map(|embedded| {
        let (number, name) = embedded.number_and_name();
        let text = text(embedded).into_sql_str();
        Migration::new(number, name.into(), MigrationType::Simple, text, false)
    });
    migrations.collect()
}

/// What a database is, and what was done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// What it is, for people: `PostgreSQL 15.18`.
    pub engine: String,
    /// What was applied just now, in order; nothing where all of it was there.
    pub applied: Vec<AppliedMigration>,
    /// The number of its last migration.
    pub at: i64,
}

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its number.
    pub number: i64,
    /// Its name.
    pub name: String,
}

impl SqlStore<Postgres> {
    /// Applies what is missing. A connection on which this failed may hold the lock: it must not be used any more.
    pub(super) async fn migrate(connection: &mut PgConnection) -> Result<Migrated, StoreError> {
        in_time(async {
            connection.lock().await?;
            let migrated =
                Self::apply_missing(connection, &migrations(|text| text.postgres)).await?;
            connection.unlock().await?;
            Ok(migrated)
        })
        .await
    }
}

impl SqlStore<Sqlite> {
    /// Applies what is missing.
    pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<Migrated, StoreError> {
        in_time(async {
            // The driver's lock is none here: all of it is one transaction, for which other processes wait.
            let mut tx = connection.begin_with(Sqlite::WRITE).await?;
            let migrated = Self::apply_missing(&mut tx, &migrations(|text| text.sqlite)).await?;
            tx.commit().await?;
            Ok(migrated)
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Applies what is missing, in order, each in one transaction with the record of it. The steps are those of sqlx's
    /// `Migrator`, whose own `run` gives neither what it applied nor a future that may change threads.
    async fn apply_missing(
        connection: &mut <Db as Database>::Connection,
        migrations: &[Migration],
    ) -> Result<Migrated, StoreError> {
        connection.ensure_migrations_table(TABLE).await?;
        let known = connection.list_applied_migrations(TABLE).await?;
        for known in &known {
            let own = migrations.iter().find(|own| own.version == known.version);
            let own = own.ok_or(MigrateError::VersionMissing(known.version))?;
            if own.checksum != known.checksum {
                return Err(MigrateError::VersionMismatch(known.version).into());
            }
        }
        let mut applied = Vec::new();
        for migration in migrations {
            if known.iter().any(|known| known.version == migration.version) {
                continue;
            }
            connection.apply(TABLE, migration).await?;
            applied.push(AppliedMigration {
                number: migration.version,
                name: migration.description.to_string(),
            });
        }
        let version: String = query_scalar(Db::VERSION).fetch_one(connection).await?;
        // PostgreSQL's goes on with who packaged it.
        let (name, version) = (Db::ENGINE, version.split(' ').next().unwrap_or_default());
        Ok(Migrated {
            engine: format!("{name} {version}"),
            applied,
            at: last(),
        })
    }
}

async fn in_time<T>(
    migrating: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(LONGEST, migrating).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable(format!(
            "the migrations did not end within {} s",
            LONGEST.as_secs()
        ))),
    }
}

/// The number of the last migration that this program knows.
fn last() -> i64 {
    let numbers = MIGRATIONS
        .iter()
        .map(|embedded| embedded.number_and_name().0);
    numbers.max().unwrap_or_default()
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, number) => match Self::from(error) {
                Self::Unavailable(reason) => {
                    Self::Unavailable(format!("migration {number}: {reason}"))
                }
                Self::Failed(reason) => Self::Failed(format!("migration {number}: {reason}")),
                other => other,
            },
            MigrateError::VersionMissing(number) => Self::Failed(format!(
                "migration {number} was applied by a newer lensgate; this one knows migrations up to {}",
                last()
            )),
            MigrateError::VersionMismatch(number) => Self::Failed(format!(
                "migration {number} was applied with another text than this lensgate has"
            )),
            other => Self::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap() {
        for (number, embedded) in (1..).zip(&MIGRATIONS) {
            let (own, name) = embedded.number_and_name();
            assert_eq!(own, number, "{}", embedded.file);
            assert!(!name.is_empty(), "{}", embedded.file);
        }
        assert_eq!(usize::try_from(last()), Ok(MIGRATIONS.len()));
    }

    #[test]
    fn every_file_is_embedded() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        for folder in ["postgres", "sqlite"] {
            let files = std::fs::read_dir(root.join(folder)).expect("a folder");
            let mut files: Vec<String> = files
                .map(|file| {
                    file.expect("a file")
                        .file_name()
                        .to_string_lossy()
                        .into_owned()
                })
                .collect();
            files.sort();
            let embedded: Vec<String> = MIGRATIONS
                .iter()
                .map(|one| format!("{}.sql", one.file))
                .collect();
            assert_eq!(files, embedded, "{folder}");
        }
    }
}
