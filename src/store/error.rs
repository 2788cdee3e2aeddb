//! What the database's failures mean to the callers of the store.

use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use super::StoreError;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let away = match &error {
            Error::Io(_)
            | Error::Tls(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed
            // What came over the wire is no database's answer: a connection that broke off, or something in between.
            | Error::Protocol(_) => true,
            Error::Database(answer) => is_away(&**answer),
            _ => false,
        };
        // These texts name no URL: they are what the system, the server and the file's library say.
        let reason = error.to_string();
        let is_refused = error.as_database_error().is_some_and(refuses_a_value);
        if away {
            Self::Unavailable(reason)
        } else if is_refused {
            Self::Invalid(reason)
        } else {
            Self::Failed(reason)
        }
    }
}

/// What it means that the database refuses a row: there `is` one already, or what it refers to is `missing`.
pub(super) fn refusal(error: Error, is: &'static str, missing: &'static str) -> StoreError {
    match error.as_database_error() {
        Some(answer) if answer.is_unique_violation() => StoreError::Conflict(is),
        Some(answer) if answer.is_foreign_key_violation() => StoreError::NotFound(missing),
        _ => error.into(),
    }
}

/// Whether the database answered that it cannot serve now, and may serve the same later.
fn is_away(answer: &(dyn DatabaseError + 'static)) -> bool {
    match answer.try_downcast_ref::<PgDatabaseError>() {
        Some(answer) => is_away_on_postgres(answer.code()),
        None => answer
            .code()
            .and_then(|code| code.parse().ok())
            .is_some_and(is_away_on_sqlite),
    }
}

/// Whether the database answered that it takes no such value, whenever it is asked.
fn refuses_a_value(answer: &(dyn DatabaseError + 'static)) -> bool {
    let code = answer.code();
    let code = code.as_deref().unwrap_or_default();
    if answer.try_downcast_ref::<PgDatabaseError>().is_some() {
        is_value_refused_by_postgres(code)
    } else {
        let code = code.parse::<u32>().unwrap_or_default();
        matches!(code & 0xff, TOO_BIG | CONSTRAINT | MISMATCH)
    }
}

/// A data exception, an integrity constraint, or more than a program limit allows (an index row that is too large).
fn is_value_refused_by_postgres(code: &str) -> bool {
    matches!(code.get(..2), Some("22" | "23" | "54"))
}

/// Whether another process has the database's file locked.
pub(super) fn is_busy(error: &Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    let code = code.and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, BUSY | LOCKED))
}

/// SQLite's result codes, of which the low byte is the kind.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READ_ONLY: u32 = 8;
const IO: u32 = 10;
const FULL: u32 = 13;
const CANNOT_OPEN: u32 = 14;
const TOO_BIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;

/// By SQLSTATE, see PostgreSQL's appendix of error codes.
fn is_away_on_postgres(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    match class {
        // Connection; insufficient resources (connections, disk, memory); shut down, cancelled by a timeout; system error.
        "08" | "53" | "57" | "58" => true,
        // Serialisation failure and deadlock; idle in a transaction for too long; a standby; a lock not to be had in time.
        _ => matches!(code, "40001" | "40P01" | "25P03" | "25006" | "55P03"),
    }
}

fn is_away_on_sqlite(code: u32) -> bool {
    matches!(
        code & 0xff,
        BUSY | LOCKED | READ_ONLY | IO | FULL | CANNOT_OPEN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for (code, away) in [
            ("57P01", true),
            ("57014", true),
            ("53300", true),
            ("08006", true),
            ("40P01", true),
            ("23505", false),
            ("42P01", false),
            ("28P01", false),
            ("3D000", false),
            ("", false),
        ] {
            assert_eq!(is_away_on_postgres(code), away, "{code}");
        }
        for (code, away) in [
            (5, true),
            (517, true),
            (13, true),
            (266, true),
            (11, false),
            (26, false),
            (2067, false),
        ] {
            assert_eq!(is_away_on_sqlite(code), away, "{code}");
        }
        for (code, refused) in [
            ("22P05", true),
            ("54000", true),
            ("57014", false),
            ("", false),
        ] {
            assert_eq!(is_value_refused_by_postgres(code), refused, "{code}");
        }
        let error = StoreError::from(Error::PoolTimedOut);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        let error = StoreError::from(Error::RowNotFound);
        assert!(matches!(error, StoreError::Failed(_)), "{error}");
    }
}
