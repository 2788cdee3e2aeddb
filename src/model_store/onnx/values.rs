//! The messages that describe tensors: their contents, types, shapes, and where their data lies.
//!
//! Called by `parse` within its walk. Knows nothing of nodes and graphs.

use std::io::{Read, Seek};

use super::parse::Walk;
use super::tensor::{Content, SMALL, Scalar};
use super::wire::{Field, Span, Value};
use super::{Dim, GraphTensor, OnnxError};

/// A `TensorProto`, as far as it is kept.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) scalar: Option<Scalar>,
}

/// The `external_data` of a `TensorProto`.
#[derive(Default)]
struct External {
    location: Option<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl<R: Read + Seek> Walk<R> {
    /// `SparseTensorProto`: `values` 1, whose name is the tensor's, `indices` 2.
    pub(super) fn sparse(&mut self, span: Span) -> Result<String, OnnxError> {
        let mut name = String::new();
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) => name = self.tensor(inner)?.name,
                (2, Value::Span(inner)) => {
                    self.tensor(inner)?;
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        Ok(name)
    }

    /// `TensorProto`: `data_type` 2, `name` 8, `external_data` 13, `data_location` 14 (1 is
    /// `EXTERNAL`), and its content, which `content` reads.
    pub(super) fn tensor(&mut self, span: Span) -> Result<Tensor, OnnxError> {
        let (mut name, mut content) = (String::new(), Content::default());
        let (mut external, mut is_external) = (External::default(), false);
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (2, Value::Varint(kind)) => content.data_type = small_int(kind),
                (8, Value::Span(inner)) => name = self.wire.string(inner)?,
                (13, Value::Span(inner)) => self.external_entry(inner, &mut external)?,
                (14, Value::Varint(location)) => is_external = location == 1,
                _ => self.content(field, &mut content)?,
            }
            self.wire.leave(field)?;
        }
        if is_external {
            self.external(external)?;
            content.partial = true;
        }
        Ok(Tensor {
            name,
            scalar: content.scalar(),
        })
    }

    /// `TensorProto`'s `float_data` 4, `int32_data` 5, `int64_data` 7 (packed or not) and
    /// `raw_data` 9, where they are small.
    fn content(&mut self, field: Field, content: &mut Content) -> Result<(), OnnxError> {
        let full = content.floats.len().max(content.ints.len()) >= SMALL;
        match (field.number, field.value) {
            (4, Value::Fixed32(_)) | (5 | 7, Value::Varint(_)) if full => content.partial = true,
            (4, Value::Fixed32(bits)) => content.floats.push(f32::from_bits(bits)),
            (5 | 7, Value::Varint(int)) => content.ints.push(int.cast_signed()),
            (4 | 5 | 7 | 9, Value::Span(inner))
                if full || !usize::try_from(inner.len()).is_ok_and(|len| len <= SMALL) =>
            {
                content.partial = true;
            }
            (4, Value::Span(inner)) => {
                while self.wire.has_more(inner) {
                    content
                        .floats
                        .push(f32::from_bits(self.wire.fixed32(inner)?));
                }
            }
            (5 | 7, Value::Span(inner)) => {
                while self.wire.has_more(inner) {
                    content.ints.push(self.wire.varint(inner)?.cast_signed());
                }
            }
            (9, Value::Span(inner)) => content.raw = self.wire.bytes(inner)?,
            _ => {}
        }
        Ok(())
    }

    /// `StringStringEntryProto`: `key` 1, `value` 2.
    fn external_entry(&mut self, span: Span, external: &mut External) -> Result<(), OnnxError> {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) => key = self.wire.string(inner)?,
                (2, Value::Span(inner)) => value = self.wire.strict_string(inner)?,
                _ => {}
            }
            self.wire.leave(field)?;
        }
        match key.as_str() {
            "location" => external.location = Some(value),
            "offset" => external.offset = Some(value),
            "length" => external.length = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn external(&mut self, external: External) -> Result<(), OnnxError> {
        let location = external.location.unwrap_or_default();
        let number = |text: Option<String>| text.map(|text| text.parse::<u64>()).transpose();
        let (Ok(offset), Ok(length)) = (number(external.offset), number(external.length)) else {
            return Err(OnnxError::external(
                &location,
                "its offset or length is no number",
            ));
        };
        let needed = offset
            .unwrap_or(0)
            .checked_add(length.unwrap_or(1))
            .ok_or_else(|| OnnxError::external(&location, "its offset and length overflow"))?;
        if let Some(known) = self.needed.get_mut(&location) {
            *known = needed.max(*known);
        } else {
            self.keep(&[&location])?;
            self.needed.insert(location, needed);
        }
        Ok(())
    }

    /// `ValueInfoProto`: `name` 1, `type` 2; `TypeProto`: `tensor_type` 1.
    pub(super) fn value_info(&mut self, span: Span) -> Result<GraphTensor, OnnxError> {
        let mut tensor = GraphTensor {
            name: String::new(),
            element: 0,
            shape: None,
        };
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) => tensor.name = self.wire.string(inner)?,
                (2, Value::Span(inner)) => {
                    while let Some(kind) = self.wire.next(inner)? {
                        if let (1, Value::Span(inner)) = (kind.number, kind.value) {
                            self.tensor_type(inner, &mut tensor)?;
                        }
                        self.wire.leave(kind)?;
                    }
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        self.keep(&[&tensor.name, ""])?;
        Ok(tensor)
    }

    /// `TypeProto.Tensor`: `elem_type` 1, `shape` 2; `TensorShapeProto`: `dim` 1.
    fn tensor_type(&mut self, span: Span, tensor: &mut GraphTensor) -> Result<(), OnnxError> {
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Varint(kind)) => tensor.element = small_int(kind),
                (2, Value::Span(inner)) => {
                    let shape = tensor.shape.get_or_insert_default();
                    while let Some(axis) = self.wire.next(inner)? {
                        if let (1, Value::Span(inner)) = (axis.number, axis.value) {
                            let dim = self.dim(inner)?;
                            shape.push(dim);
                        }
                        self.wire.leave(axis)?;
                    }
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        Ok(())
    }

    /// `TensorShapeProto.Dimension`: `dim_value` 1, `dim_param` 2.
    fn dim(&mut self, span: Span) -> Result<Dim, OnnxError> {
        let mut dim = Dim::Unknown;
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Varint(extent)) => {
                    let extent = extent.cast_signed();
                    dim = if extent < 0 {
                        Dim::Unknown
                    } else {
                        Dim::Fixed(extent)
                    };
                }
                (2, Value::Span(inner)) if inner.len() > 0 => {
                    dim = Dim::Named(self.wire.string(inner)?);
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        self.keep(&[if let Dim::Named(name) = &dim {
            name
        } else {
            ""
        }])?;
        Ok(dim)
    }
}

fn small_int(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(0)
}
