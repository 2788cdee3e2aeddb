//! The columns of an export: those of the table, in its order, each with its type and where it comes from.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, Utc};

use crate::domain::prediction::{PredictedClass, Prediction};

/// A column.
pub(super) struct Column {
    pub(super) name: &'static str,
    #[cfg(feature = "parquet")]
    pub(super) kind: Kind,
    /// Whether every prediction has it.
    #[cfg(feature = "parquet")]
    pub(super) is_required: bool,
    pub(super) of: for<'a> fn(&'a Prediction) -> Cell<'a>,
}

/// What a column holds: formats without types need not know.
#[cfg(feature = "parquet")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Day,
    Time,
    Text,
    /// Not below 0.
    Integer,
    /// With the 24 bits that the model gave.
    Single,
    Double,
    Flag,
    Classes,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Nothing,
    Day(NaiveDate),
    Time(DateTime<Utc>),
    Text(Cow<'a, str>),
    Integer(u64),
    Single(f32),
    Double(f64),
    Flag(bool),
    Classes(&'a [PredictedClass]),
}

impl<'a> Cell<'a> {
    fn shown(value: &impl ToString) -> Self {
        Self::Text(Cow::Owned(value.to_string()))
    }

    fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    fn or_nothing(cell: Option<Self>) -> Self {
        cell.unwrap_or(Self::Nothing)
    }
}

macro_rules! columns {
    ($($kind:ident $need:ident $name:literal $of:expr;)*) => {
        /// All columns.
        pub(super) const COLUMNS: &[Column] = &[$(Column {
            name: $name,
            #[cfg(feature = "parquet")]
            kind: Kind::$kind,
            #[cfg(feature = "parquet")]
            is_required: columns!($need),
            of: $of,
        }),*];
    };
    (required) => { true };
    (optional) => { false };
}

columns! {
    Day required "day" |p| Cell::Day(p.day());
    Text required "request_id" |p| Cell::shown(&p.asked.request_id);
    Integer required "index" |p| Cell::Integer(p.index.into());
    Text required "tenant_id" |p| Cell::shown(&p.asked.tenant);
    Text required "key_id" |p| Cell::shown(&p.asked.key);
    Text required "model" |p| Cell::text(p.model.as_str());
    Integer optional "version" |p| {
        Cell::or_nothing(p.answered_by.as_ref().map(|by| Cell::Integer(by.version.get())))
    };
    Text optional "digest" |p| {
        Cell::or_nothing(p.answered_by.as_ref().map(|by| Cell::shown(&by.digest)))
    };
    Text optional "arm" |p| {
        let arm = p.answered_by.as_ref().and_then(|by| by.arm.as_deref());
        Cell::or_nothing(arm.map(Cell::text))
    };
    Text optional "picture_digest" |p| {
        Cell::or_nothing(p.picture.as_ref().map(|picture| Cell::shown(&picture.digest)))
    };
    Integer optional "bytes" |p| {
        Cell::or_nothing(p.picture.as_ref().map(|picture| Cell::Integer(picture.bytes)))
    };
    Text optional "format" |p| {
        let format = p.picture.as_ref().and_then(|picture| picture.format.as_deref());
        Cell::or_nothing(format.map(Cell::text))
    };
    Integer optional "width" |p| {
        let size = p.picture.as_ref().and_then(|picture| picture.size);
        Cell::or_nothing(size.map(|(width, _)| Cell::Integer(width.into())))
    };
    Integer optional "height" |p| {
        let size = p.picture.as_ref().and_then(|picture| picture.size);
        Cell::or_nothing(size.map(|(_, height)| Cell::Integer(height.into())))
    };
    Text optional "class" |p| {
        Cell::or_nothing(p.answer.as_ref().map(|answer| Cell::text(&answer.class)))
    };
    Single optional "confidence" |p| {
        Cell::or_nothing(p.answer.as_ref().map(|answer| Cell::Single(answer.confidence)))
    };
    Classes optional "classes" |p| {
        Cell::or_nothing(p.answer.as_ref().map(|answer| Cell::Classes(&answer.classes)))
    };
    Flag required "cached" |p| Cell::Flag(p.cached);
    Double required "decode_ms" |p| Cell::Double(p.timings.decode);
    Double required "queue_ms" |p| Cell::Double(p.timings.queue);
    Double required "inference_ms" |p| Cell::Double(p.timings.inference);
    Double required "total_ms" |p| Cell::Double(p.timings.total);
    Integer required "status" |p| Cell::Integer(p.status.into());
    Text optional "code" |p| Cell::or_nothing(p.code.as_deref().map(Cell::text));
    Text optional "trace_id" |p| Cell::or_nothing(p.asked.trace_id.as_deref().map(Cell::text));
    Text optional "client_request_id" |p| {
        Cell::or_nothing(p.asked.client_request_id.as_deref().map(Cell::text))
    };
    Time required "at" |p| Cell::Time(p.at());
}
