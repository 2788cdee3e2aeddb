//! The database's spans: sqlx tells of every statement by an event of `tracing`; here it becomes a step of whatever asked for it.
//!
//! SQLite's statements run on a thread of the driver's own, which takes the asking task's `tracing` span with it: that is the one
//! such span there is, and only where a trace is noted. Values never appear: sqlx binds them, and its events have none.

use std::fmt;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tracing::field::{Field, Visit};
use tracing::instrument::Instrumented;
use tracing::span::{Attributes, Id};
use tracing::{Event, Instrument as _, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::super::otlp::text;
use super::{Current, More, Step, here, is_noted};

/// The target of the one span, and of sqlx's events, by its parts.
const OURS: &str = "lensgate::statements";
const SQLX: [&str; 2] = ["sqlx", "query"];

/// Calls of a database: what it is asked for within becomes steps of whatever asks. `system` is its name among OpenTelemetry's.
pub fn statements<F: Future>(system: &'static str, call: F) -> Instrumented<F> {
    call.instrument(if is_noted() {
        tracing::debug_span!(target: OURS, "statements", system)
    } else {
        Span::none()
    })
}

/// The layer that turns the events into steps.
#[derive(Debug)]
pub(in crate::telemetry) struct Statements;

impl Statements {
    /// Whether it wants to hear of something of this target.
    pub(in crate::telemetry) fn hears(target: &str) -> bool {
        target == OURS || target.split("::").eq(SQLX)
    }
}

/// Who asks, and which database.
struct Asking {
    current: Current,
    system: String,
}

impl<S> Layer<S> for Statements
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(current) = here(Current::clone)
            && let Some(span) = context.span(id)
        {
            let mut told = Told::default();
            attributes.record(&mut told);
            let system = told.system;
            span.extensions_mut().insert(Asking { current, system });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let ended = Instant::now();
        let Some(span) = context.event_span(event) else {
            return;
        };
        let extensions = span.extensions();
        let Some(asking) = extensions.get::<Asking>() else {
            return;
        };
        let mut told = Told::default();
        event.record(&mut told);
        let Some(notes) = &asking.current.scope.notes else {
            return;
        };
        let step = told.step(&asking.system, ended);
        notes.list().push(step, &asking.current);
    }
}

/// The fields that matter.
#[derive(Default)]
struct Told {
    system: String,
    summary: String,
    statement: String,
    elapsed: Duration,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "system" => value.clone_into(&mut self.system),
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.elapsed = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Told {
    fn step(&self, system: &str, ended: Instant) -> Step {
        // A statement of few words is told in the summary alone.
        let sql = match self.statement.trim() {
            "" => self.summary.as_str(),
            statement => statement,
        };
        let (operation, table) = said(sql);
        let name = match &table {
            Some(table) => format!("{operation} {table}"),
            None => operation.clone(),
        };
        let mut attributes = vec![
            text("db.system.name", system),
            text("db.operation.name", operation),
            text("db.query.summary", name.as_str()),
        ];
        attributes.extend(table.map(|table| text("db.collection.name", table)));
        Step {
            name: name.into(),
            began: ended.checked_sub(self.elapsed).unwrap_or(ended),
            ended,
            picture: 0,
            more: Some(Box::new(More {
                kind: SpanKind::Client,
                attributes,
                link: None,
            })),
        }
    }
}

/// What a statement does, and with which table: its first word, and the first name after `FROM`, `INTO`, `UPDATE` or `TABLE`.
fn said(sql: &str) -> (String, Option<String>) {
    let mut words = sql.split_whitespace();
    let mut operation = words.next().unwrap_or("SQL").trim_end_matches(';');
    if operation.eq_ignore_ascii_case("WITH") {
        // What comes before the change is only what it is made from.
        let changes = ["INSERT", "UPDATE", "DELETE"];
        let mut main = words.clone();
        operation = "SELECT";
        if let Some(change) = main.find(|word| changes.contains(word)) {
            (operation, words) = (change, main);
        }
    }
    let operation = operation.to_ascii_uppercase();
    let is_name = |word: &&str| {
        let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !word.is_empty() && word.bytes().all(name)
    };
    let named = |word: &str| {
        let word = word.split(['(', ')', ',', ';']).next().unwrap_or_default();
        Some(word.trim_matches('"'))
            .filter(is_name)
            .map(str::to_owned)
    };
    if operation == "UPDATE" {
        return (operation, words.next().and_then(named));
    }
    let before = ["FROM", "INTO", "TABLE"];
    while let Some(word) = words.next() {
        if before.iter().any(|known| word.eq_ignore_ascii_case(known)) {
            // `FROM (SELECT …`: the table comes later.
            if let Some(table) = words.next().and_then(named) {
                return (operation, Some(table));
            }
        }
    }
    (operation, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_by_what_it_does_and_to_what() {
        for (sql, operation, table) in [
            (
                "SELECT id, x FROM jobs WHERE id = $1",
                "SELECT",
                Some("jobs"),
            ),
            ("select 1", "SELECT", None),
            ("INSERT INTO jobs (id) VALUES ($1)", "INSERT", Some("jobs")),
            (
                "UPDATE revision SET value = value",
                "UPDATE",
                Some("revision"),
            ),
            (
                "DELETE FROM \"job_keys\" WHERE a = 'from x'",
                "DELETE",
                Some("job_keys"),
            ),
            (
                "SELECT COUNT(*) FROM (SELECT 1 FROM told WHERE a)",
                "SELECT",
                Some("told"),
            ),
            (
                "WITH a AS (SELECT x FROM b) INSERT INTO c SELECT x FROM a",
                "INSERT",
                Some("c"),
            ),
            (
                "WITH a AS (SELECT x FROM b) SELECT x FROM a",
                "SELECT",
                Some("b"),
            ),
            ("BEGIN IMMEDIATE", "BEGIN", None),
            ("COMMIT;", "COMMIT", None),
            ("", "SQL", None),
        ] {
            let (does, to) = said(sql);
            assert_eq!((does.as_str(), to.as_deref()), (operation, table), "{sql}");
        }
    }
}
