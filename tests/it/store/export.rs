//! `lensgate predictions export`: what is in the database comes out, in each format, the newest first.

use std::path::Path;
use std::process::{Command, Output};

use chrono::SecondsFormat;
use lensgate::domain::prediction::Prediction;
use serde_json::{Value, json};
use uuid::Uuid;

use super::predictions::{prediction, refusal};
use super::{at, note, tenant};
use crate::fixture::data;
use crate::fixture::database::TestDatabase;

contract![
    every_row_comes_out_as_json,
    every_row_comes_out_as_csv,
    filters_leave_what_is_wanted,
    many_rows_come_out_once_each_and_in_order,
];

fn export(url: &str, arguments: &[&str]) -> Output {
    let config = data("empty.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lensgate"));
    command
        .args(["predictions", "export", "--config"])
        .arg(config)
        .args(arguments)
        .env("LENSGATE__STORE__URL", url);
    command.output().expect("the binary runs")
}

/// The day of all predictions here.
const DAY: [&str; 4] = ["--from", "2026-09-21", "--to", "2026-09-22"];

fn exported(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = export(&database.url, &[&DAY, arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "", "no progress where nobody looks");
    String::from_utf8(output.stdout).expect("text")
}

/// Rows that have everything, next to nothing, and what formats stumble over.
fn rows() -> Vec<Prediction> {
    let mut nasty = prediction(at(3_000_000), 3);
    let answer = nasty.answer.as_mut().expect("an answer");
    "=1+1, \"two\"\r\nlines; ä".clone_into(&mut answer.class);
    nasty.asked.client_request_id = Some("@SUM(A1)".to_owned());
    let mut second = prediction(at(3_000_000), 3);
    second.index = 1;
    second.asked.client_request_id = Some(String::new());
    vec![
        second,
        nasty,
        refusal(at(2_000_000), 2),
        prediction(at(1_000_000), 1),
    ]
}

/// A row by the table's names.
fn row(one: &Prediction) -> Value {
    let (by, picture) = (one.answered_by.as_ref(), one.picture.as_ref());
    let size = picture.and_then(|picture| picture.size);
    let text = |number: f32| {
        let text = serde_json::to_string(&number).expect("a number");
        serde_json::from_str::<Value>(&text).expect("a number")
    };
    let classes = one.answer.as_ref().map(|answer| {
        let class = |class: &lensgate::domain::prediction::PredictedClass| json!({"class": class.class, "index": class.index, "confidence": text(class.confidence)});
        answer.classes.iter().map(class).collect::<Vec<_>>()
    });
    json!({
        "day": one.day().to_string(),
        "request_id": one.asked.request_id.to_string(),
        "index": one.index,
        "tenant_id": one.asked.tenant.to_string(),
        "key_id": one.asked.key.to_string(),
        "model": one.model.to_string(),
        "version": by.map(|by| by.version.get()),
        "digest": by.map(|by| by.digest.to_string()),
        "arm": by.and_then(|by| by.arm.clone()),
        "picture_digest": picture.map(|picture| picture.digest.to_string()),
        "bytes": picture.map(|picture| picture.bytes),
        "format": picture.and_then(|picture| picture.format.clone()),
        "width": size.map(|(width, _)| width),
        "height": size.map(|(_, height)| height),
        "class": one.answer.as_ref().map(|answer| answer.class.clone()),
        "confidence": one.answer.as_ref().map(|answer| text(answer.confidence)),
        "classes": classes,
        "cached": one.cached,
        "decode_ms": one.timings.decode,
        "queue_ms": one.timings.queue,
        "inference_ms": one.timings.inference,
        "total_ms": one.timings.total,
        "status": one.status,
        "code": one.code,
        "trace_id": one.asked.trace_id,
        "client_request_id": one.asked.client_request_id,
        "at": one.at().to_rfc3339_opts(SecondsFormat::Micros, true),
    })
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The records of RFC 4180, each field with whether it was quoted.
fn records(text: &str) -> Vec<Vec<(String, bool)>> {
    let (mut records, mut record) = (Vec::new(), Vec::new());
    let (mut field, mut quoted, mut inside) = (String::new(), false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if inside && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => (inside, quoted) = (!inside, true),
            ',' if !inside => {
                record.push((std::mem::take(&mut field), std::mem::take(&mut quoted)));
            }
            '\r' if !inside => {
                assert_eq!(rest.next(), Some('\n'), "lines end as RFC 4180 says");
                record.push((std::mem::take(&mut field), std::mem::take(&mut quoted)));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    assert!(record.is_empty() && field.is_empty(), "the last line ends");
    records
}

async fn every_row_comes_out_as_json(database: &TestDatabase) {
    let store = database.store().await;
    store.add_predictions(&rows()).await.expect("added");
    let expected: Vec<Value> = rows().iter().map(row).collect();
    assert_eq!(lines(&exported(database, &[])), expected);
    let nothing = ["--from", "2026-09-20", "--to", "2026-09-21"];
    let nothing = export(&database.url, &nothing);
    assert!(nothing.status.success() && nothing.stdout.is_empty());
}

async fn every_row_comes_out_as_csv(database: &TestDatabase) {
    let store = database.store().await;
    store.add_predictions(&rows()).await.expect("added");
    let text = exported(database, &["--format", "csv"]);
    let mut records = records(&text).into_iter();
    let header: Vec<String> = records
        .next()
        .expect("a header")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let expected: Vec<Value> = rows().iter().map(row).collect();
    let names: Vec<&String> = expected[0].as_object().expect("an object").keys().collect();
    assert_eq!(header.iter().collect::<Vec<_>>(), names);
    let mut count = 0;
    for (record, expected) in records.zip(&expected) {
        assert_eq!(record.len(), header.len());
        for (name, (field, quoted)) in header.iter().zip(record) {
            let read = match &expected[name] {
                Value::Null => {
                    assert!(field.is_empty() && !quoted, "{name}");
                    Value::Null
                }
                Value::String(text) => {
                    let is_formula = text.starts_with(['=', '@']);
                    assert_eq!(field.starts_with('\''), is_formula, "{name}: {field}");
                    assert!(!field.is_empty() || quoted, "{name}");
                    Value::String(field.trim_start_matches('\'').to_owned())
                }
                _ => serde_json::from_str(&field).expect("as in JSON"),
            };
            assert_eq!(read, expected[name], "{name}");
        }
        count += 1;
    }
    assert_eq!(count, 4);
}

async fn filters_leave_what_is_wanted(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let mut rows: Vec<Prediction> = (0..6).map(|number| prediction(at(0), number)).collect();
    rows[1].asked.tenant = acme.id;
    rows[2].asked.key.0 = Uuid::from_u128(77);
    rows[3].model = "squeezenet".parse().expect("an id");
    rows[4].answered_by.as_mut().expect("a version").version = "3".parse().expect("a version");
    "8".clone_into(&mut rows[5].answer.as_mut().expect("an answer").class);
    store.add_predictions(&rows).await.expect("added");
    let (id, key) = (acme.id.to_string(), Uuid::from_u128(77).to_string());
    for (arguments, wanted) in [
        (&["--tenant", "acme"][..], &[1][..]),
        (&["--tenant", &id], &[1]),
        (&["--key", &key], &[2]),
        (&["--model", "squeezenet"], &[3]),
        (&["--version", "3"], &[4]),
        (&["--class", "8"], &[5]),
        (&["--class", "8", "--version", "3"], &[]),
        (&[], &[5, 4, 3, 2, 1, 0]),
    ] {
        let found = lines(&exported(database, arguments));
        let wanted: Vec<Value> = wanted
            .iter()
            .map(|&number: &usize| row(&rows[number]))
            .collect();
        assert_eq!(found, wanted, "{arguments:?}");
    }
    // One that is gone is told by its id alone.
    store
        .delete_tenant(acme.id, acme.version, &note())
        .await
        .expect("gone");
    assert_eq!(lines(&exported(database, &["--tenant", &id])).len(), 1);
    let unknown = export(&database.url, &[&DAY[..], &["--tenant", "acme"]].concat());
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("acme"));
}

async fn many_rows_come_out_once_each_and_in_order(database: &TestDatabase) {
    let store = database.store().await;
    let rows: Vec<Prediction> = (0..2500_u16)
        .rev()
        .map(|number| prediction(at(i64::from(number / 7) * 1000), number))
        .collect();
    store.add_predictions(&rows).await.expect("added");
    let found = lines(&exported(database, &[]));
    let ids = |found: &[Value]| -> Vec<String> {
        let id = |row: &Value| row["request_id"].as_str().expect("an id").to_owned();
        found.iter().map(id).collect()
    };
    let expected: Vec<String> = rows
        .iter()
        .map(|row| row.asked.request_id.to_string())
        .collect();
    assert_eq!(ids(&found), expected);
    let third = (at(3_000).to_rfc3339(), at(5_000).to_rfc3339());
    let between = export(&database.url, &["--from", &third.0, "--to", &third.1]);
    let between = lines(&String::from_utf8(between.stdout).expect("text"));
    assert_eq!(
        ids(&between),
        expected[expected.len() - 35..expected.len() - 21]
    );
}

#[tokio::test]
async fn a_file_is_in_place_once_it_is_whole() {
    let database = TestDatabase::sqlite();
    let store = database.store().await;
    store.add_predictions(&rows()).await.expect("added");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("predictions.jsonl");
    let name = file.to_str().expect("a path");
    assert_eq!(exported(&database, &["--output", name]), "");
    let written = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(written, exported(&database, &[]));
    let names = |folder: &Path| std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(names(folder.path()), 1);
    let nowhere = folder.path().join("nowhere/x");
    let nowhere = nowhere.to_str().expect("a path");
    let refused = export(&database.url, &[&DAY[..], &["--output", nowhere]].concat());
    assert_eq!(refused.status.code(), Some(1));
    let away = export(
        "postgres://nobody@127.0.0.1:1/none?connect_timeout=1",
        &[
            &DAY[..],
            &["--output", name, "--set", "store.connect_timeout=0"],
        ]
        .concat(),
    );
    assert_eq!(away.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), written);
}

#[test]
fn wrong_usage_is_said_with_exit_code_2() {
    for (arguments, word) in [
        (&["--from", "2026-09-21"][..], "--to"),
        (&["--from", "yesterday", "--to", "2026-09-21"], "2027-01-31"),
        (&["--from", "2026-09-21", "--to", "2026-09-21"], "before"),
        (
            &[
                "--from",
                "2026-09-21",
                "--to",
                "2026-09-22",
                "--format",
                "xml",
            ],
            "parquet",
        ),
        (
            &[
                "--from",
                "2026-09-21",
                "--to",
                "2026-09-22",
                "--model",
                "../x",
            ],
            "model",
        ),
        (
            &[
                "--from",
                "2026-09-21",
                "--to",
                "2026-09-22",
                "--format",
                "parquet",
            ],
            if cfg!(feature = "parquet") {
                "--output"
            } else {
                "--features parquet"
            },
        ),
    ] {
        let refused = export("sqlite:///nowhere/at/all.db", arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[cfg(feature = "parquet")]
mod as_parquet {
    use std::fs::File;

    use chrono::{NaiveDate, TimeDelta};
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::Field;

    use super::*;

    contract![every_row_comes_out_as_parquet];

    fn value(field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Str(text) => json!(text),
            Field::Bool(flag) => json!(flag),
            Field::Long(number) => json!(number),
            Field::Float(number) => {
                let text = serde_json::to_string(number).expect("a number");
                serde_json::from_str(&text).expect("a number")
            }
            Field::Double(number) => json!(number),
            Field::Date(days) => {
                let day = NaiveDate::default() + TimeDelta::days(i64::from(*days));
                json!(day.to_string())
            }
            Field::TimestampMicros(at) => {
                let at = chrono::DateTime::from_timestamp_micros(*at).expect("a time");
                json!(at.to_rfc3339_opts(SecondsFormat::Micros, true))
            }
            other => panic!("{other:?}"),
        }
    }

    fn read(file: &Path) -> (usize, Vec<Value>) {
        let file = File::open(file).expect("a file");
        let reader = SerializedFileReader::new(file).expect("Parquet");
        let rows = reader.get_row_iter(None).expect("rows").map(|row| {
            let row = row.expect("a row");
            let columns = row.get_column_iter();
            let mut object: serde_json::Map<String, Value> = columns
                .map(|(name, field)| (name.clone(), value(field)))
                .collect();
            // JSON inside.
            if let Some(Value::String(classes)) = object.get("classes") {
                let classes = serde_json::from_str(classes).expect("JSON");
                object.insert("classes".to_owned(), classes);
            }
            Value::Object(object)
        });
        (reader.num_row_groups(), rows.collect())
    }

    async fn every_row_comes_out_as_parquet(database: &TestDatabase) {
        let store = database.store().await;
        store.add_predictions(&rows()).await.expect("added");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("predictions.parquet");
        let name = file.to_str().expect("a path");
        exported(database, &["--format", "parquet", "--output", name]);
        let expected: Vec<Value> = rows().iter().map(row).collect();
        assert_eq!(read(&file), (1, expected));
        let many: Vec<Prediction> = (10..10_510_u16)
            .map(|number| prediction(at(4_000_000), number))
            .collect();
        store.add_predictions(&many).await.expect("added");
        exported(database, &["--format", "parquet", "--output", name]);
        let (groups, found) = read(&file);
        assert_eq!((groups, found.len()), (2, 10_504));
        assert_eq!(found[0], row(&many[10_499]));
        assert_eq!(found[10_503], row(&rows()[3]));
    }
}
