//! The prediction log in PostgreSQL, filled with many rows: its days, and its indexes out of the way meanwhile.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

/// Drops the indexes that filters use; gives how the migration made them.
pub(crate) async fn drop_indexes(database: &mut PgConnection) -> Vec<String> {
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT indexname::text, indexdef::text FROM pg_indexes \
         WHERE tablename = 'predictions' AND indexname LIKE 'predictions\\_by\\_%'",
    )
    .fetch_all(&mut *database)
    .await
    .expect("indexes");
    for (name, _) in &indexes {
        run(database, format!("DROP INDEX {name}")).await;
    }
    let definitions = indexes.into_iter();
    definitions.map(|(_, definition)| definition).collect()
}

/// Makes them again, and has the planner know the table.
pub(crate) async fn make_indexes(database: &mut PgConnection, definitions: &[String]) {
    for definition in definitions {
        run(database, definition.replace(" ON ONLY ", " ON ")).await;
    }
    run(database, "ANALYZE predictions".to_owned()).await;
}

/// Makes the partitions of the days from `first` to `last`.
pub(crate) async fn make_days(
    database: &mut PgConnection,
    first: DateTime<Utc>,
    last: DateTime<Utc>,
) {
    let last = last.date_naive();
    for day in first
        .date_naive()
        .iter_days()
        .take_while(|day| *day <= last)
    {
        let (name, next) = (day.format("%Y%m%d"), day.succ_opt().expect("a day"));
        run(
            database,
            format!(
                "CREATE TABLE IF NOT EXISTS predictions_{name} PARTITION OF predictions \
                 FOR VALUES FROM ('{day}') TO ('{next}')"
            ),
        )
        .await;
    }
}

/// Runs a statement.
pub(crate) async fn run(database: &mut PgConnection, statement: String) {
    let done = database.execute(AssertSqlSafe(statement)).await;
    done.expect("a statement");
}
