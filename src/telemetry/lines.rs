//! A line of the log: what an event says, and in which request it happened. JSON for programs, or words for people.
//!
//! The request's facts come from the task that the event happens in, not from `tracing` spans; what the event says itself wins.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::trace::{Facts, facts};

/// One JSON object a line: `timestamp`, `level`, what the event says, the request's facts, `target`.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut now = String::new();
        SystemTime.format_time(&mut Writer::new(&mut now))?;
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), now.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        event.record(&mut Said(&mut line));
        if let Some(facts) = facts() {
            facts.each(|name, value| {
                line.entry(name).or_insert(value);
            });
        }
        line.entry("target")
            .or_insert_with(|| event.metadata().target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

impl Facts {
    fn each(self, mut tell: impl FnMut(&'static str, Value)) {
        let texts = [
            ("request_id", self.request_id),
            ("trace_id", self.trace_id),
            ("tenant", self.tenant.map(|tenant| (*tenant).to_owned())),
            ("model", self.model.map(|model| model.to_string())),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                tell(name, value.into());
            }
        }
        if let Some(version) = self.version {
            tell("version", version.get().into());
        }
    }
}

/// An event's fields, into the line.
struct Said<'a>(&'a mut Map<String, Value>);

impl Said<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Said<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    // Durations' milliseconds are so wide.
    fn record_u128(&mut self, field: &Field, value: u128) {
        match u64::try_from(value) {
            Ok(value) => self.put(field, value),
            Err(_) => self.put(field, value.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// An event's fields as `tracing` writes them for people, and the request's behind them.
#[derive(Debug, Default)]
pub(super) struct WithFacts(DefaultFields);

impl<'writer> FormatFields<'writer> for WithFacts {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let Some(facts) = facts() else {
            return self.0.format_fields(writer, fields);
        };
        let mut said = Names::default();
        fields.record(&mut said);
        self.0.format_fields(writer.by_ref(), fields)?;
        let mut outcome = Ok(());
        facts.each(|name, value| {
            if outcome.is_ok() && !said.0.contains(&name) {
                outcome = match value {
                    Value::String(text) => write!(writer, " {name}={text}"),
                    value => write!(writer, " {name}={value}"),
                };
            }
        });
        outcome
    }
}

/// Which fields there are.
#[derive(Default)]
struct Names(Vec<&'static str>);

impl Visit for Names {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        self.0.push(field.name());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use http::{HeaderMap, Method, Uri, Version, uri::Scheme};
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::super::trace::{self, Head, Request};
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("kept").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("kept").clone()).expect("text")
        }
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn happen() -> uuid::Uuid {
        let id = uuid::Uuid::now_v7();
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("traceparent"),
            parent.parse().expect("a value"),
        )]);
        let request = Request::begin(&Head {
            id,
            method: &Method::GET,
            uri: &Uri::from_static("/x"),
            headers: &headers,
            version: Version::HTTP_11,
            scheme: &Scheme::HTTP,
            remote: ([127, 0, 0, 1], 1).into(),
        });
        let work = request.run(async {
            trace::tenant(&Arc::from("t\"1"));
            trace::model(&"digits".parse().expect("an id"));
            trace::version("2".parse().expect("a number"));
            tracing::info!(answer = 42, took_ms = 7_u128, ok = true, "it \"happens\"");
            tracing::info!(model = "other", "again");
        });
        futures_util::FutureExt::now_or_never(work).expect("it waits for nothing");
        tracing::info!("outside");
        id
    }

    #[test]
    fn a_line_of_json_has_the_requests_facts_unless_it_has_its_own() {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt::layer().with_writer(kept.clone());
        let subscriber = tracing_subscriber::registry().with(lines.event_format(JsonLines).boxed());
        let id = tracing::subscriber::with_default(subscriber, happen);
        let text = kept.text();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let first = &lines[0];
        assert_eq!(first["message"], "it \"happens\"");
        assert_eq!((&first["answer"], &first["ok"]), (&42.into(), &true.into()));
        assert_eq!(first["took_ms"], 7);
        assert_eq!(first["request_id"], id.to_string());
        assert_eq!(first["trace_id"], TRACE);
        assert_eq!(first["tenant"], "t\"1");
        assert_eq!(
            (&first["model"], &first["version"]),
            (&"digits".into(), &2.into())
        );
        assert_eq!(first["level"], "INFO");
        assert!(
            first["timestamp"]
                .as_str()
                .is_some_and(|at| at.ends_with('Z'))
        );
        assert!(
            first["target"]
                .as_str()
                .is_some_and(|at| at.starts_with("lensgate"))
        );
        assert_eq!(lines[1]["model"], "other");
        assert!(lines[2].get("request_id").is_none());
    }

    #[test]
    fn a_line_for_people_has_them_at_its_end() {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(WithFacts::default())
            .with_ansi(false)
            .with_writer(kept.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        let id = tracing::subscriber::with_default(subscriber, happen);
        let text = kept.text();
        let mut lines = text.lines();
        let end = format!(" request_id={id} trace_id={TRACE} tenant=t\"1 model=digits version=2");
        assert!(
            lines.next().is_some_and(|line| line.ends_with(&end)),
            "{text}"
        );
        let second = lines.next().expect("a line");
        assert_eq!(second.matches("model=").count(), 1, "{second}");
        assert!(lines.next().is_some_and(|line| line.ends_with("outside")));
    }
}
