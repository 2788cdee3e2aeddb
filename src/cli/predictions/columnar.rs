//! Predictions as a Parquet file: what pandas, Polars, DuckDB and Spark read. The only door to the `parquet` crate.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use chrono::NaiveDate;
use parquet::basic::Compression;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use super::columns::{COLUMNS, Cell, Column, Kind};
use super::{Out, Sink};
use crate::domain::prediction::Prediction;

/// Rows of a group: they are held until it is written, column by column.
const GROUP: usize = 10_000;

/// A Parquet file that is being written.
pub(super) struct Parquet {
    file: SerializedFileWriter<Out>,
    group: Vec<Prediction>,
}

impl Parquet {
    pub(super) fn begin(out: Out) -> anyhow::Result<Self> {
        let schema = Arc::new(parse_message_type(&schema())?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("lensgate ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        Ok(Self {
            file: SerializedFileWriter::new(out, schema, Arc::new(properties))?,
            group: Vec::new(),
        })
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        let rows = std::mem::take(&mut self.group);
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for column in COLUMNS {
            let writer = group.next_column()?;
            let mut writer = writer.context("the file has fewer columns than were announced")?;
            write_column(&mut writer, column, &rows)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }
}

impl Sink for Parquet {
    fn write(&mut self, page: Vec<Prediction>) -> anyhow::Result<()> {
        self.group.extend(page);
        if self.group.len() >= GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.write_group()?;
        let mut out = self.file.into_inner()?;
        out.flush().context("the export cannot be written")
    }
}

/// The columns in the words of the format's specification.
fn schema() -> String {
    let columns = COLUMNS.iter().map(|column| {
        let need = if column.is_required {
            "required"
        } else {
            "optional"
        };
        let (physical, logical) = match column.kind {
            Kind::Day => ("int32", " (DATE)"),
            Kind::Time => ("int64", " (TIMESTAMP(MICROS,true))"),
            Kind::Text => ("binary", " (STRING)"),
            Kind::Classes => ("binary", " (JSON)"),
            Kind::Integer => ("int64", ""),
            Kind::Single => ("float", ""),
            Kind::Double => ("double", ""),
            Kind::Flag => ("boolean", ""),
        };
        format!("{need} {physical} {}{logical};", column.name)
    });
    format!("message predictions {{ {} }}", columns.collect::<String>())
}

fn write_column(
    writer: &mut SerializedColumnWriter<'_>,
    column: &Column,
    rows: &[Prediction],
) -> anyhow::Result<()> {
    let cells = rows.iter().map(|row| (column.of)(row));
    match column.kind {
        Kind::Day => write::<Int32Type>(writer, cells, |cell| match cell {
            Cell::Day(day) => i32::try_from((day - NaiveDate::default()).num_days()).ok(),
            _ => None,
        }),
        Kind::Time => write::<Int64Type>(writer, cells, |cell| match cell {
            Cell::Time(at) => Some(at.timestamp_micros()),
            _ => None,
        }),
        Kind::Integer => write::<Int64Type>(writer, cells, |cell| match cell {
            // Signed, as what reads it likes it best; nothing here comes near the bound.
            Cell::Integer(number) => Some(i64::try_from(number).unwrap_or(i64::MAX)),
            _ => None,
        }),
        Kind::Single => write::<FloatType>(writer, cells, |cell| match cell {
            Cell::Single(number) => Some(number),
            _ => None,
        }),
        Kind::Double => write::<DoubleType>(writer, cells, |cell| match cell {
            Cell::Double(number) => Some(number),
            _ => None,
        }),
        Kind::Flag => write::<BoolType>(writer, cells, |cell| match cell {
            Cell::Flag(flag) => Some(flag),
            _ => None,
        }),
        Kind::Text | Kind::Classes => write::<ByteArrayType>(writer, cells, |cell| match cell {
            Cell::Text(text) => Some(ByteArray::from(text.into_owned().into_bytes())),
            Cell::Classes(classes) => serde_json::to_vec(classes).ok().map(ByteArray::from),
            _ => None,
        }),
    }
    .with_context(|| format!("the column {} cannot be written", column.name))
}

fn write<'a, T: DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    cells: impl Iterator<Item = Cell<'a>>,
    value: impl Fn(Cell<'a>) -> Option<T::T>,
) -> anyhow::Result<()> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    for cell in cells {
        let is_nothing = cell == Cell::Nothing;
        match value(cell) {
            Some(value) => {
                values.push(value);
                levels.push(1);
            }
            None if is_nothing => levels.push(0),
            None => bail!("a value has another type than its column"),
        }
    }
    writer
        .typed::<T>()
        .write_batch(&values, Some(&levels), None)?;
    Ok(())
}
