//! The one implementation of the store, for both databases: its connections, how it reads and how it changes something.
//!
//! The aggregates' files beside this one hold the statements. `trait_gen` repeats each impl for the two drivers.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Database, Pool, Postgres, Sqlite, Transaction, query, query_scalar};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::StoreError;
use crate::domain::operator::AuditEntry;
use crate::telemetry::metrics::Counter;
use crate::telemetry::trace::statements;

/// Rows that one statement writes: with a handful of values each far below what either database takes.
pub(super) const AT_ONCE: usize = 1000;

/// How long a call may take that reads much, waiting for a connection included.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Where the two databases speak differently.
pub(super) trait Dialect: Database {
    /// What the database is called.
    const ENGINE: &'static str;
    /// Gives its version.
    const VERSION: &'static str;
    /// Begins a transaction that writes.
    const WRITE: &'static str;
    /// Begins a transaction that reads from one snapshot.
    const READ: &'static str;
    /// What it is called in traces.
    const SYSTEM: &'static str;
    /// Whether there are connections for writing alone.
    const WRITES_APART: bool;
}

impl Dialect for Postgres {
    const ENGINE: &'static str = "PostgreSQL";
    const VERSION: &'static str = "SELECT current_setting('server_version')";
    const WRITE: &'static str = "BEGIN";
    const READ: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
    const SYSTEM: &'static str = "postgresql";
    const WRITES_APART: bool = false;
}

impl Dialect for Sqlite {
    const ENGINE: &'static str = "SQLite";
    const VERSION: &'static str = "SELECT sqlite_version()";
    // A transaction that begins to write later would fail, and not wait, where another process wrote meanwhile.
    const WRITE: &'static str = "BEGIN IMMEDIATE";
    const READ: &'static str = "BEGIN";
    const SYSTEM: &'static str = "sqlite";
    const WRITES_APART: bool = true;
}

/// The store over one of the two databases.
#[derive(Debug)]
pub(super) struct SqlStore<Db: Database> {
    /// What the database is, for people.
    pub(super) engine: String,
    /// Connections for reading.
    pub(super) readers: Pool<Db>,
    /// Connections for writing; one alone on SQLite, the readers' own on PostgreSQL.
    pub(super) writers: Pool<Db>,
    /// Connections for what may take longer: few, so that it holds up nobody else.
    pub(super) patient: Pool<Db>,
    /// How long one call may take.
    pub(super) call_timeout: Duration,
    /// What became of calls.
    pub(super) calls: Calls,
}

/// Calls since the start.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) done: Counter,
    pub(super) failed: Counter,
}

impl Calls {
    /// Counts what became of a call. What the caller asked in vain is an answer.
    fn note<T>(&self, outcome: &Result<T, StoreError>) {
        match outcome {
            Err(StoreError::Unavailable(_) | StoreError::Failed(_)) => self.failed.one(),
            _ => self.done.one(),
        }
    }
}

impl<Db: Dialect> SqlStore<Db> {
    /// A call within its time; what is cut off here is rolled back.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let outcome = within(self.call_timeout, Db::SYSTEM, Box::pin(call)).await;
        self.calls.note(&outcome);
        outcome
    }

    /// A call over [`Self::patient`] within the time that such a call may take.
    pub(super) async fn patiently<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let outcome = within(PATIENCE, Db::SYSTEM, Box::pin(call)).await;
        self.calls.note(&outcome);
        outcome
    }

    /// The connections for writing, where they are others than those for reading.
    pub(super) fn own_writers(&self) -> Option<&Pool<Db>> {
        Db::WRITES_APART.then_some(&self.writers)
    }
}

/// The call is boxed: what is around it is compiled once for each kind of answer, not for each of some 200 calls and databases.
async fn within<T>(
    limit: Duration,
    system: &'static str,
    call: BoxFuture<'_, Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, statements(system, call)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable(format!(
            "it gave no answer within {} ms",
            limit.as_millis()
        ))),
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Begins a change that other replicas hear of. Whoever began before commits before, or never: the revision's row is
    /// locked until then.
    pub(super) async fn change(&self) -> Result<Change<Db>, StoreError> {
        let mut tx = self.writers.begin_with(Db::WRITE).await?;
        let revision =
            query_scalar("UPDATE revision SET value = value + 1 WHERE id = 1 RETURNING value")
                .fetch_one(&mut *tx)
                .await?;
        Ok(Change { tx, revision })
    }

    /// Begins a write that nobody hears of. It waits for changes, and they for it, so that no two transactions ever hold
    /// rows that the other wants.
    pub(super) async fn note(&self) -> Result<Transaction<'static, Db>, StoreError> {
        let mut tx = self.writers.begin_with(Db::WRITE).await?;
        query("UPDATE revision SET value = value WHERE id = 1")
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// Begins to read from one snapshot.
    pub(super) async fn snapshot(&self) -> Result<Transaction<'static, Db>, StoreError> {
        Ok(self.readers.begin_with(Db::READ).await?)
    }
}

/// A change under way: all of it is in force at [`Self::commit`], or none.
pub(super) struct Change<Db: Database> {
    /// What it is written in.
    pub(super) tx: Transaction<'static, Db>,
    /// The revision that it makes.
    pub(super) revision: i64,
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl Change<Db> {
    /// Remembers that something is gone.
    pub(super) async fn bury(&mut self, kind: Kind, id: Uuid) -> Result<(), StoreError> {
        query("INSERT INTO tombstones (kind, id, revision) VALUES ($1, $2, $3)")
            .bind(kind.as_str())
            .bind(id)
            .bind(self.revision)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Puts the change in force together with its audit entry.
    pub(super) async fn commit(mut self, audit: &AuditEntry) -> Result<(), StoreError> {
        SqlStore::<Db>::append(&mut self.tx, audit).await?;
        Ok(self.tx.commit().await?)
    }

    /// Leaves everything as it was.
    pub(super) async fn abandon(self) -> Result<(), StoreError> {
        Ok(self.tx.rollback().await?)
    }
}

/// What a tombstone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tenant,
    Key,
    Token,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Tenant, Self::Key, Self::Token];

    /// The kind of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name in the database.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Token => "token",
        }
    }
}
