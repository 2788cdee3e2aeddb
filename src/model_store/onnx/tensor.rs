//! The one value that a small constant tensor holds: a quantisation's scale or zero point.
//!
//! Called by `parse`. Knows the element types of ONNX, nothing of graphs or files.

/// A constant whose elements are all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    /// Of the types `FLOAT`, `FLOAT16`, `BFLOAT16`.
    Float(f32),
    /// Of an integer type, where it fits.
    Int(i32),
}

/// The most bytes (or elements) of a tensor that are looked at.
pub(super) const SMALL: usize = 64;

/// What was read of a `TensorProto`'s content, up to [`SMALL`] of each.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) data_type: i32,
    pub(super) raw: Vec<u8>,
    pub(super) floats: Vec<f32>,
    pub(super) ints: Vec<i64>,
    /// Some of the content was left out for its size.
    pub(super) partial: bool,
}

impl Content {
    /// The value, where all elements are the same one.
    pub(super) fn scalar(&self) -> Option<Scalar> {
        if self.partial {
            return None;
        }
        let int = |value: i64| i32::try_from(value).ok().map(Scalar::Int);
        let float = |value: f32| Some(Scalar::Float(value));
        let raw = self.raw.as_slice();
        let (twos, fours, eights) = (
            raw.as_chunks::<2>().0,
            raw.as_chunks::<4>().0,
            raw.as_chunks::<8>().0,
        );
        let from_raw = match self.data_type {
            1 => uniform(fours.iter().map(|b| float(f32::from_le_bytes(*b)))),
            2 => uniform(raw.iter().map(|b| int(i64::from(*b)))),
            3 => uniform(raw.iter().map(|b| int(i64::from(b.cast_signed())))),
            4 => uniform(twos.iter().map(|b| int(i64::from(u16::from_le_bytes(*b))))),
            5 => uniform(twos.iter().map(|b| int(i64::from(i16::from_le_bytes(*b))))),
            6 => uniform(fours.iter().map(|b| int(i64::from(i32::from_le_bytes(*b))))),
            7 => uniform(eights.iter().map(|b| int(i64::from_le_bytes(*b)))),
            10 => uniform(twos.iter().map(|b| float(half(u16::from_le_bytes(*b))))),
            16 => uniform(twos.iter().map(|b| float(brain(u16::from_le_bytes(*b))))),
            _ => None,
        };
        from_raw.or_else(|| match self.data_type {
            1 => uniform(self.floats.iter().map(|value| float(*value))),
            2..=7 => uniform(self.ints.iter().map(|value| int(*value))),
            10 => uniform(
                self.ints
                    .iter()
                    .map(|v| u16::try_from(*v).ok().map(half).and_then(float)),
            ),
            16 => uniform(
                self.ints
                    .iter()
                    .map(|v| u16::try_from(*v).ok().map(brain).and_then(float)),
            ),
            _ => None,
        })
    }
}

fn uniform(mut values: impl Iterator<Item = Option<Scalar>>) -> Option<Scalar> {
    let first = values.next()??;
    values.all(|value| value == Some(first)).then_some(first)
}

/// IEEE 754 binary16, by its bits.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1F);
    let fraction = u32::from(bits & 0x3FF) << 13;
    match exponent {
        0 => {
            let tiny = f32::from(bits & 0x3FF) / 16_777_216.0;
            if sign == 0 { tiny } else { -tiny }
        }
        0x1F => f32::from_bits(sign | 0x7F80_0000 | fraction),
        _ => f32::from_bits(sign | exponent.saturating_add(112) << 23 | fraction),
    }
}

/// The upper half of an IEEE 754 binary32.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
