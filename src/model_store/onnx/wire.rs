//! The protobuf wire format, read forwards with seeks over what nobody asked for.
//!
//! Called by `parse` alone. Knows no message of ONNX, and never reads a payload that is not asked for.

use std::io::{BufRead, BufReader, Read, Seek};

use super::OnnxError;

/// The longest string that is read into memory; a longer name is an attack or another format.
pub(super) const MAX_STRING: u64 = 64 * 1024;

/// A stretch of the file that holds one message or one payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    end: u64,
    /// Where this is the whole file: what runs beyond its end may still come.
    whole_file: bool,
}

impl Span {
    /// How many bytes lie in the stretch.
    pub(super) fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    fn overrun(self) -> OnnxError {
        if self.whole_file {
            OnnxError::Truncated
        } else {
            not_onnx(format!(
                "a message inside it is cut short at byte {}",
                self.end
            ))
        }
    }
}

/// What a field holds, by its wire type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// Wire type 0: integers, enums, booleans.
    Varint(u64),
    /// Wire type 1: eight bytes, which no field read here has.
    Fixed64,
    /// Wire type 2: strings, bytes, messages and packed arrays, not yet read.
    Span(Span),
    /// Wire type 5: four bytes, little-endian.
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
    end: u64,
}

/// The reader: a position in the file, and how many fields may still come.
pub(super) struct Wire<R> {
    reader: BufReader<R>,
    position: u64,
    len: u64,
    fields_left: u64,
}

impl<R: Read + Seek> Wire<R> {
    /// Reads `reader`, which holds `len` bytes and stands at the first of them.
    pub(super) fn new(reader: R, len: u64, max_fields: u64) -> Self {
        Self {
            reader: BufReader::new(reader),
            position: 0,
            len,
            fields_left: max_fields,
        }
    }

    /// The whole file as one message.
    pub(super) fn whole(&self) -> Span {
        Span {
            start: 0,
            end: self.len,
            whole_file: true,
        }
    }

    /// The bytes that come next, as far as they are at hand; at least one unless the file is over.
    pub(super) fn peek(&mut self) -> Result<&[u8], OnnxError> {
        Ok(self.reader.fill_buf()?)
    }

    /// The next field of the message in `span`; `None` at its end.
    ///
    /// The payload of the field before must have been read, or passed over with [`Wire::leave`].
    pub(super) fn next(&mut self, span: Span) -> Result<Option<Field>, OnnxError> {
        if self.position >= span.end {
            return Ok(None);
        }
        self.fields_left = self
            .fields_left
            .checked_sub(1)
            .ok_or_else(|| not_onnx("it has more fields than any model".to_owned()))?;
        let at = self.position;
        let tag = self.varint(span)?;
        let number = tag >> 3;
        if number == 0 || number > 0x1FFF_FFFF {
            return Err(not_onnx(format!("byte {at} begins no protobuf field")));
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(span)?),
            1 => {
                self.skip(8, span)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint(span)?;
                let start = self.position;
                let end = start.checked_add(len).filter(|end| *end <= span.end);
                let end = end.ok_or_else(|| span.overrun())?;
                Value::Span(Span {
                    start,
                    end,
                    whole_file: false,
                })
            }
            5 => Value::Fixed32(self.fixed32(span)?),
            kind => {
                return Err(not_onnx(format!(
                    "byte {at} has the wire type {kind}, unused in ONNX"
                )));
            }
        };
        let end = if let Value::Span(inner) = value {
            inner.end
        } else {
            self.position
        };
        Ok(Some(Field { number, value, end }))
    }

    /// Passes over what is left of a field's payload.
    pub(super) fn leave(&mut self, field: Field) -> Result<(), OnnxError> {
        let left = field.end.saturating_sub(self.position);
        self.seek_over(left)
    }

    /// One varint of at most ten bytes within `span`.
    pub(super) fn varint(&mut self, span: Span) -> Result<u64, OnnxError> {
        let at = self.position;
        let mut value = 0_u64;
        for shift in (0..64_u32).step_by(7) {
            let byte = self.byte(span)?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(not_onnx(format!("the number at byte {at} has no end")))
    }

    /// Four bytes, little-endian, within `span`.
    pub(super) fn fixed32(&mut self, span: Span) -> Result<u32, OnnxError> {
        let mut bytes = [0_u8; 4];
        for byte in &mut bytes {
            *byte = self.byte(span)?;
        }
        Ok(u32::from_le_bytes(bytes))
    }

    /// Whether a packed array in `span` has more to read.
    pub(super) fn has_more(&self, span: Span) -> bool {
        self.position < span.end
    }

    /// A payload of at most [`MAX_STRING`] bytes, read whole.
    pub(super) fn bytes(&mut self, span: Span) -> Result<Vec<u8>, OnnxError> {
        if span.len() > MAX_STRING {
            let (len, at) = (span.len(), span.start);
            return Err(not_onnx(format!(
                "the name at byte {at} is {len} bytes long"
            )));
        }
        let mut bytes = Vec::new();
        self.reader
            .by_ref()
            .take(span.len())
            .read_to_end(&mut bytes)?;
        self.position = span.end;
        if u64::try_from(bytes.len()) == Ok(span.len()) {
            Ok(bytes)
        } else {
            Err(OnnxError::Truncated)
        }
    }

    /// A string of at most [`MAX_STRING`] bytes, which must be UTF-8.
    pub(super) fn strict_string(&mut self, span: Span) -> Result<String, OnnxError> {
        String::from_utf8(self.bytes(span)?)
            .map_err(|_| not_onnx(format!("the string at byte {} is not UTF-8", span.start)))
    }

    /// A string of at most [`MAX_STRING`] bytes; what is not UTF-8 (exporters differ) is replaced.
    pub(super) fn string(&mut self, span: Span) -> Result<String, OnnxError> {
        Ok(String::from_utf8(self.bytes(span)?)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn byte(&mut self, span: Span) -> Result<u8, OnnxError> {
        if self.position >= span.end {
            return Err(span.overrun());
        }
        let byte = *self
            .reader
            .fill_buf()?
            .first()
            .ok_or(OnnxError::Truncated)?;
        self.reader.consume(1);
        self.position = self.position.saturating_add(1);
        Ok(byte)
    }

    fn skip(&mut self, count: u64, span: Span) -> Result<(), OnnxError> {
        if count > span.end.saturating_sub(self.position) {
            return Err(span.overrun());
        }
        self.seek_over(count)
    }

    fn seek_over(&mut self, count: u64) -> Result<(), OnnxError> {
        let offset = i64::try_from(count).map_err(|_| OnnxError::Truncated)?;
        if offset > 0 {
            self.reader.seek_relative(offset)?;
            self.position = self.position.saturating_add(count);
        }
        Ok(())
    }
}

/// The refusal of a file for `reason`.
pub(super) fn not_onnx(reason: String) -> OnnxError {
    OnnxError::NotOnnx { reason }
}
