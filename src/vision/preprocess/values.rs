//! What a pixel becomes: the tables of values, and their layout in the tensor.
//!
//! Called by `preprocess`. Computes in f32 step by step, as numpy does it.
#![expect(
    clippy::indexing_slicing,
    reason = "tables of 256 values, triples of pixels"
)]

use half::f16;

use crate::domain::picture::{Layout, PictureSpec};
use crate::domain::tensor::{ElementType, TensorData};

/// The tables of values that a pixel becomes, one a channel in the tensor's order.
pub(super) enum Tables {
    Float32(Vec<[f32; 256]>),
    Float16(Vec<[f16; 256]>),
    Uint8(Vec<[u8; 256]>),
    Int8(Vec<[i8; 256]>),
}

impl Tables {
    /// The tables of a spec that is known to hold together.
    pub(super) fn of(spec: &PictureSpec) -> Self {
        let channels = spec.color.channels();
        let floats: Vec<[f32; 256]> = (0..channels).map(|c| table(spec, c)).collect();
        match spec.element {
            ElementType::Float32 => Self::Float32(floats),
            ElementType::Float16 => {
                Self::Float16(floats.iter().map(|t| t.map(f16::from_f32)).collect())
            }
            ElementType::Uint8 => Self::Uint8(floats.iter().map(|t| t.map(to_u8)).collect()),
            ElementType::Int8 => Self::Int8(floats.iter().map(|t| t.map(to_i8)).collect()),
        }
    }

    /// Looks every pixel up and lays the values out as the tensor has them.
    pub(super) fn look_up(&self, pixels: &[u8], layout: Layout) -> TensorData {
        match self {
            Self::Float32(t) => TensorData::Float32(lay_out(pixels, t, layout)),
            Self::Float16(t) => TensorData::Float16(lay_out(pixels, t, layout)),
            Self::Uint8(t) => TensorData::Uint8(lay_out(pixels, t, layout)),
            Self::Int8(t) => TensorData::Int8(lay_out(pixels, t, layout)),
        }
    }
}

/// The values of `pixels`, whose channels are side by side.
fn lay_out<T: Copy>(pixels: &[u8], tables: &[[T; 256]], layout: Layout) -> Vec<T> {
    let at = |table: &[T; 256], pixel: u8| table[usize::from(pixel)];
    match (tables, layout) {
        ([table], _) => pixels.iter().map(|&p| at(table, p)).collect(),
        ([a, b, c], Layout::Nhwc) => {
            let triples = pixels.as_chunks::<3>().0.iter();
            triples
                .flat_map(|p| [at(a, p[0]), at(b, p[1]), at(c, p[2])])
                .collect()
        }
        (tables, _) => {
            let mut out = Vec::with_capacity(pixels.len());
            for (channel, table) in tables.iter().enumerate() {
                let triples = pixels.as_chunks::<3>().0.iter();
                out.extend(triples.map(|p| at(table, p[channel.min(2)])));
            }
            out
        }
    }
}

/// `(pixel * scale - mean) / std` for each pixel, every step rounded to f32 as numpy does it; a scale
/// of 1/255 is the division by 255 itself.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the tensor's arithmetic is f32"
)]
fn table(spec: &PictureSpec, channel: usize) -> [f32; 256] {
    let mean = spec.mean.get(channel).copied().unwrap_or(0.0) as f32;
    let std = spec.std.get(channel).copied().unwrap_or(1.0) as f32;
    let by_255 = (spec.scale * 255.0 - 1.0).abs() < 1e-6;
    let scale = spec.scale as f32;
    let mut pixel = 0.0_f32;
    std::array::from_fn(|_| {
        let scaled = if by_255 { pixel / 255.0 } else { pixel * scale };
        pixel += 1.0;
        (scaled - mean) / std
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates"
)]
fn to_u8(value: f32) -> u8 {
    value.round_ties_even() as u8
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
fn to_i8(value: f32) -> i8 {
    value.round_ties_even() as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::picture::{Color, Filter, Resize};

    fn spec() -> PictureSpec {
        PictureSpec {
            layout: Layout::Nchw,
            element: ElementType::Float32,
            height: 224,
            width: 224,
            color: Color::Rgb,
            resize: Resize::ShorterSide { to: 256 },
            center_crop: true,
            filter: Filter::Bilinear,
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            fast_decode: false,
        }
    }

    #[test]
    fn tables_are_computed_in_f32_step_by_step() {
        let mut spec = spec();
        let expected = ((200.0_f32 / 255.0) - 0.485_f32) / 0.229_f32;
        assert_eq!(table(&spec, 0)[200].to_bits(), expected.to_bits());
        spec.scale = 1.0 / 127.5;
        spec.mean = vec![1.0; 3];
        spec.std = vec![];
        let by_127 = 200.0 * 0.007_843_138_f32 - 1.0;
        assert_eq!(table(&spec, 2)[200].to_bits(), by_127.to_bits());
        assert_eq!(
            [to_u8(-1.0), to_u8(2.5), to_u8(3.5), to_u8(300.0)],
            [0, 2, 4, 255]
        );
        assert_eq!([to_i8(-300.0), to_i8(-0.5), to_i8(200.0)], [-128, 0, 127]);
    }

    #[test]
    fn planes_are_taken_apart() {
        let tables: Vec<[u8; 256]> = (0..3_u8)
            .map(|c| std::array::from_fn(|p| p.to_le_bytes()[0].wrapping_add(100 * c)))
            .collect();
        for len in [1_u8, 15, 16, 17, 40] {
            let pixels: Vec<u8> = (0..3 * len).collect();
            let planes = lay_out(&pixels, &tables, Layout::Nchw);
            let expected =
                (0..3_u8).flat_map(|c| (0..len).map(move |i| (3 * i + c).wrapping_add(100 * c)));
            assert_eq!(planes, expected.collect::<Vec<u8>>(), "{len}");
        }
    }
}
