//! Predictions as lines: JSON objects, or comma-separated values after RFC 4180.

use std::io::Write as _;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};

use super::columns::{COLUMNS, Cell};
use super::{Out, Sink};
use crate::domain::prediction::Prediction;

/// What a failure to write is called.
const UNWRITTEN: &str = "the export cannot be written";

/// A JSON object a line; the names are those of the table, and what there is none of is `null`.
pub(super) struct Jsonl(Out);

impl Jsonl {
    pub(super) fn new(out: Out) -> Self {
        Self(out)
    }
}

impl Sink for Jsonl {
    fn write(&mut self, page: Vec<Prediction>) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for prediction in &page {
            line.clear();
            for (number, column) in COLUMNS.iter().enumerate() {
                line.push(if number == 0 { b'{' } else { b',' });
                serde_json::to_writer(&mut line, column.name)?;
                line.push(b':');
                write_json(&mut line, &(column.of)(prediction))?;
            }
            line.extend_from_slice(b"}\n");
            self.0.write_all(&line).context(UNWRITTEN)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.0.flush().context(UNWRITTEN)
    }
}

fn write_json(out: &mut Vec<u8>, cell: &Cell<'_>) -> serde_json::Result<()> {
    match cell {
        Cell::Nothing => serde_json::to_writer(out, &()),
        Cell::Day(day) => serde_json::to_writer(out, &day.to_string()),
        Cell::Time(at) => serde_json::to_writer(out, &time(*at)),
        Cell::Text(text) => serde_json::to_writer(out, text),
        Cell::Integer(number) => serde_json::to_writer(out, number),
        Cell::Single(number) => serde_json::to_writer(out, number),
        Cell::Double(number) => serde_json::to_writer(out, number),
        Cell::Flag(flag) => serde_json::to_writer(out, flag),
        Cell::Classes(classes) => serde_json::to_writer(out, classes),
    }
}

/// Comma-separated values with a header. What there is none of is empty, an empty text is `""`. Text that a spreadsheet would
/// run as a formula has a `'` before it, as it may come from a client; the other formats have it as it is.
pub(super) struct Csv(Out);

impl Csv {
    /// Writes the header.
    pub(super) fn begin(mut out: Out) -> anyhow::Result<Self> {
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        write!(out, "{}\r\n", names.join(",")).context(UNWRITTEN)?;
        Ok(Self(out))
    }
}

impl Sink for Csv {
    fn write(&mut self, page: Vec<Prediction>) -> anyhow::Result<()> {
        let mut line = String::new();
        for prediction in &page {
            line.clear();
            for (number, column) in COLUMNS.iter().enumerate() {
                if number > 0 {
                    line.push(',');
                }
                write_csv(&mut line, &(column.of)(prediction))?;
            }
            line.push_str("\r\n");
            self.0.write_all(line.as_bytes()).context(UNWRITTEN)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.0.flush().context(UNWRITTEN)
    }
}

fn write_csv(line: &mut String, cell: &Cell<'_>) -> serde_json::Result<()> {
    match cell {
        Cell::Nothing => {}
        Cell::Day(day) => line.push_str(&day.to_string()),
        Cell::Time(at) => line.push_str(&time(*at)),
        Cell::Text(text) => write_text(line, text),
        Cell::Integer(number) => line.push_str(&number.to_string()),
        // As JSON has them: a number that is very small is not written out.
        Cell::Single(number) => line.push_str(&serde_json::to_string(number)?),
        Cell::Double(number) => line.push_str(&serde_json::to_string(number)?),
        Cell::Flag(flag) => line.push_str(if *flag { "true" } else { "false" }),
        Cell::Classes(classes) => write_text(line, &serde_json::to_string(classes)?),
    }
    Ok(())
}

fn write_text(line: &mut String, text: &str) {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_quoted = text.is_empty() || text.contains(['"', ',', '\r', '\n']);
    if is_quoted {
        line.push('"');
    }
    if is_formula {
        line.push('\'');
    }
    if is_quoted {
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
}

/// A time as the admin plane shows it.
fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn a_field_is_quoted_where_it_must_be_and_is_never_a_formula() {
        for (text, written) in [
            ("7", "7"),
            ("", "\"\""),
            ("tabby, tabby cat", "\"tabby, tabby cat\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("-5 °C", "'-5 °C"),
            ("+\"a\"", "\"'+\"\"a\"\"\""),
            ("\tx", "'\tx"),
            ("\rx", "\"'\rx\""),
            ("a=b", "a=b"),
        ] {
            let mut line = String::new();
            write_csv(&mut line, &Cell::Text(Cow::Borrowed(text))).expect("written");
            assert_eq!(line, written, "{text:?}");
        }
        let mut line = String::new();
        write_csv(&mut line, &Cell::Nothing).expect("written");
        write_csv(&mut line, &Cell::Single(1.2e-7)).expect("written");
        assert_eq!(line, "1.2e-7");
    }
}
