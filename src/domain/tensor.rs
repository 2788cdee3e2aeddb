//! Tensors as they travel between the rooms: a shape and one flat, row-major buffer.
//!
//! Made by `vision`, run by `backend`, read back by `vision`. Knows no graph and no runtime.

use std::fmt;

use half::f16;

/// The element types that a classifier's input or output may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 binary32.
    Float32,
    /// IEEE 754 binary16.
    Float16,
    /// Unsigned 8-bit integer.
    Uint8,
    /// Signed 8-bit integer.
    Int8,
}

impl ElementType {
    /// Whether values are rounded and saturated when they are written.
    #[must_use]
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Uint8 | Self::Int8)
    }

    /// The name used on the wire and in messages, e.g. `float32`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The values of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    Float32(Vec<f32>),
    /// 16-bit floats.
    Float16(Vec<f16>),
    /// Unsigned bytes.
    Uint8(Vec<u8>),
    /// Signed bytes.
    Int8(Vec<i8>),
}

impl TensorData {
    /// `len` zeros of `element`.
    #[must_use]
    pub fn zeros(element: ElementType, len: usize) -> Self {
        match element {
            ElementType::Float32 => Self::Float32(vec![0.0; len]),
            ElementType::Float16 => Self::Float16(vec![f16::ZERO; len]),
            ElementType::Uint8 => Self::Uint8(vec![0; len]),
            ElementType::Int8 => Self::Int8(vec![0; len]),
        }
    }

    /// The element type of the values.
    #[must_use]
    pub fn element(&self) -> ElementType {
        match self {
            Self::Float32(_) => ElementType::Float32,
            Self::Float16(_) => ElementType::Float16,
            Self::Uint8(_) => ElementType::Uint8,
            Self::Int8(_) => ElementType::Int8,
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float32(v) => v.len(),
            Self::Float16(v) => v.len(),
            Self::Uint8(v) => v.len(),
            Self::Int8(v) => v.len(),
        }
    }

    /// Whether there is no value at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A shape and its values. The product of the shape equals the number of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: TensorData,
}

/// A shape that does not hold as many values as were given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tensor of shape {shape:?} cannot hold {len} values")]
pub struct ShapeError {
    /// The shape that was asked for.
    pub shape: Vec<usize>,
    /// The number of values that were given.
    pub len: usize,
}

impl Tensor {
    /// A tensor of `shape` over `data`.
    ///
    /// # Errors
    /// When the product of `shape` is not the number of values.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Result<Self, ShapeError> {
        let wanted = shape
            .iter()
            .try_fold(1_usize, |product, &n| product.checked_mul(n));
        if wanted == Some(data.len()) {
            Ok(Self { shape, data })
        } else {
            Err(ShapeError {
                shape,
                len: data.len(),
            })
        }
    }

    /// The extent of each axis, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    #[must_use]
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// Gives the values away.
    #[must_use]
    pub fn into_data(self) -> TensorData {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_hold_exactly_its_values() {
        assert!(Tensor::new(vec![2, 3], TensorData::Uint8(vec![0; 6])).is_ok());
        assert!(Tensor::new(vec![2, 3], TensorData::Uint8(vec![0; 5])).is_err());
        assert!(Tensor::new(vec![usize::MAX, 2], TensorData::Uint8(vec![0; 2])).is_err());
        assert!(Tensor::new(vec![], TensorData::Float32(vec![1.0])).is_ok());
    }
}
