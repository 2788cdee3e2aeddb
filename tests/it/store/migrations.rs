//! Migrations: the same tables in both databases, applied once whoever starts first, and none of a newer release.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lensgate::config::StoreConfig;
use lensgate::store::{self, StoreError};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, SqliteConnection,
};

use super::{note, tenant};
use crate::fixture::database::TestDatabase;
use crate::fixture::{data, postgres};

contract![
    what_was_applied_is_not_applied_again,
    replicas_that_start_together_migrate_once,
    processes_that_start_together_migrate_once,
    the_command_says_what_it_applied,
    migrations_of_a_newer_release_are_refused,
    migrations_that_were_edited_are_refused,
];

/// A database in which there is nothing yet, of the same kind as `database`.
async fn empty(database: &TestDatabase) -> StoreConfig {
    let url = if database.is_sqlite() {
        database.url.clone()
    } else {
        postgres::server()
            .empty_database(&postgres::new_name())
            .await
    };
    StoreConfig {
        url,
        ..database.config()
    }
}

/// Runs statements beside the store.
async fn execute(url: &str, statements: &'static str) {
    if url.starts_with("sqlite:") {
        let mut connection = SqliteConnection::connect(url).await.expect("a file");
        connection.execute(statements).await.expect("statements");
        connection.close().await.expect("an end");
    } else {
        let mut connection = PgConnection::connect(url).await.expect("a server");
        connection.execute(statements).await.expect("statements");
        connection.close().await.expect("an end");
    }
}

async fn what_was_applied_is_not_applied_again(database: &TestDatabase) {
    let config = empty(database).await;
    let first = store::migrate(&config).await.expect("migrated");
    assert!(!first.applied.is_empty());
    assert_eq!(first.applied[0].number, 1);
    assert_eq!(first.applied[0].name, "tenants keys and operators");
    assert_eq!(first.applied.last().map(|last| last.number), Some(first.at));
    let store = store::connect(&config).await.expect("a store");
    assert_eq!(store.engine(), first.engine);
    store
        .create_tenant(&tenant("acme"), &note())
        .await
        .expect("made");
    let second = store::migrate(&config).await.expect("migrated");
    assert_eq!((second.applied, second.at), (vec![], first.at));
    assert_eq!(store.revision().await, Ok(1), "what was there is there");
}

async fn replicas_that_start_together_migrate_once(database: &TestDatabase) {
    for _ in 0..3 {
        let database = if database.is_sqlite() {
            &TestDatabase::sqlite()
        } else {
            database
        };
        let config = empty(database).await;
        let mut replicas = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let config = config.clone();
            replicas.spawn(async move { store::migrate(&config).await });
        }
        let outcomes = replicas.join_all().await;
        let applied: Vec<usize> = outcomes
            .iter()
            .map(|outcome| outcome.as_ref().expect("migrated").applied.len())
            .collect();
        assert_eq!(
            applied.iter().filter(|&&count| count > 0).count(),
            1,
            "{applied:?}"
        );
        let store = store::connect(&config).await.expect("a store");
        assert_eq!(store.revision().await, Ok(0));
    }
}

/// `lensgate migrate --json` over a database.
fn command(config: &StoreConfig) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
    command
        .args([
            "migrate",
            "--config",
            data("empty.toml").to_str().expect("a path"),
        ])
        .args(["--set", &format!("store.url={}", config.url)]);
    command
}

async fn processes_that_start_together_migrate_once(database: &TestDatabase) {
    let config = empty(database).await;
    let mut processes = Vec::new();
    for _ in 0..4 {
        let mut command = command(&config);
        command.arg("--json").stdout(std::process::Stdio::piped());
        processes.push(command.spawn().expect("a process"));
    }
    let mut applied = Vec::new();
    for process in processes {
        let output = process.wait_with_output().expect("an end");
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        applied.push(said["applied"].as_array().expect("a list").len());
    }
    assert_eq!(
        applied.iter().filter(|&&count| count > 0).count(),
        1,
        "{applied:?}"
    );
    let store = store::connect(&config).await.expect("a store");
    assert_eq!(store.revision().await, Ok(0));
}

async fn the_command_says_what_it_applied(database: &TestDatabase) {
    let config = empty(database).await;
    let run = || {
        let output = command(&config).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let engine = if database.is_sqlite() {
        "SQLite 3."
    } else {
        "PostgreSQL 1"
    };
    let first = run();
    assert!(first.starts_with(engine), "{first}");
    assert!(
        first.contains("  0001  tenants keys and operators\n"),
        "{first}"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let last = std::fs::read_dir(folder).expect("migrations").count();
    assert!(
        first.ends_with(&format!("applied; the database is at migration {last}\n")),
        "{first}"
    );
    let second = run();
    assert!(
        second.ends_with(&format!(
            "nothing to apply; the database is at migration {last}\n"
        )),
        "{second}"
    );
    assert!(
        !second.contains("lensgate@"),
        "a user is no one's business: {second}"
    );
}

async fn migrations_of_a_newer_release_are_refused(database: &TestDatabase) {
    let config = empty(database).await;
    store::migrate(&config).await.expect("migrated");
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 SELECT 9999, 'of a newer release', success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1";
    execute(&config.url, newer).await;
    let Err(error) = store::connect(&config).await else {
        panic!("it was opened");
    };
    assert!(matches!(error, StoreError::Failed(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("9999") && text.contains("newer lensgate"),
        "{text}"
    );
    // The next try meets no lock that the first left behind.
    let output = command(&config).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains("newer lensgate"), "{text}");
}

async fn migrations_that_were_edited_are_refused(database: &TestDatabase) {
    let config = empty(database).await;
    store::migrate(&config).await.expect("migrated");
    let edit = if database.is_sqlite() {
        "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1"
    } else {
        "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1"
    };
    execute(&config.url, edit).await;
    let Err(error) = store::migrate(&config).await else {
        panic!("it was migrated");
    };
    assert!(
        error
            .to_string()
            .contains("migration 1 was applied with another text"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables_and_columns() {
    let (file, server) = (TestDatabase::sqlite(), TestDatabase::postgres().await);
    file.store().await.ping().await.expect("a sign of life");
    let mut sqlite = SqliteConnection::connect(&file.url).await.expect("a file");
    let mut postgres = PgConnection::connect(&server.url).await.expect("a server");

    // Table, column, type, and whether it must be there.
    let mut on_sqlite = BTreeSet::new();
    let mut tables = BTreeSet::new();
    for table in sqlite
        .fetch_all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'")
        .await
        .expect("tables")
    {
        let table: String = table.get("name");
        let columns = AssertSqlSafe(format!("PRAGMA table_info({table})"));
        for column in sqlite.fetch_all(columns).await.expect("columns") {
            let (name, kind): (String, String) = (column.get("name"), column.get("type"));
            let needed: bool = column.get("notnull");
            on_sqlite.insert((table.clone(), name, kind, needed));
        }
        tables.insert(table);
    }
    let mut on_postgres = BTreeSet::new();
    for column in postgres
        .fetch_all(
            "SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'NO' AS needed \
             FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name NOT LIKE '\\_sqlx%'",
        )
        .await
        .expect("columns")
    {
        let native: String = column.get("data_type");
        let kind = match native.as_str() {
            "uuid" | "bytea" => "BLOB",
            "timestamp with time zone" | "date" | "text" => "TEXT",
            "bigint" | "boolean" => "INTEGER",
            "double precision" => "REAL",
            other => panic!("{other} is no type of migrations/README.md"),
        };
        on_postgres.insert((
            column.get("table_name"),
            column.get("column_name"),
            kind.to_owned(),
            column.get("needed"),
        ));
    }
    assert!(tables.len() >= 9, "{tables:?}");
    assert_eq!(on_sqlite, on_postgres);
}

#[test]
fn migrations_have_the_same_names() {
    let names = |folder: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("migrations")
            .join(folder);
        let files = std::fs::read_dir(folder).expect("a folder");
        files
            .map(|file| file.expect("a file").file_name())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names("postgres"), names("sqlite"));
    assert!(!names("sqlite").is_empty());
}
