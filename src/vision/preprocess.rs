//! From an upright picture to the tensor a model takes: colour, resize, crop, normalise, layout.
//!
//! Made once for each version by `models`, run for each picture by `classify`. Knows no graph.
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over lengths computed here"
)]

use std::borrow::Cow;

use half::f16;

use super::jpeg::Shrink;
use super::resample::{Window, resize};
use super::{Header, Picture, VisionError, decode_scaled};
use crate::domain::picture::{Color, Layout, PictureSpec, Resize};
use crate::domain::tensor::{ElementType, Tensor, TensorData};

/// The longest side of a tensor and of a resize that is accepted.
const MAX_SIDE: u32 = 16_384;

/// A picture spec that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A size is 0 or absurdly large.
    #[error("a size of {0} pixels is not between 1 and {MAX_SIDE}")]
    Size(u32),
    /// `mean` or `std` has another number of values than the tensor has channels.
    #[error("`{name}` has {len} values, the tensor has {channels} channels")]
    Channels {
        /// Which of the two.
        name: &'static str,
        /// How many values it has.
        len: usize,
        /// How many it needs.
        channels: usize,
    },
    /// `scale`, `mean` or `std` has a value that gives no finite number.
    #[error("`{0}` must be finite, and not 0 for `std`")]
    Value(&'static str),
    /// There is no crop and the resize does not give the tensor's size.
    #[error("without a crop the resize must give the tensor's size itself")]
    NoCrop,
}

/// The tables of values that a pixel becomes, one a channel in the tensor's order.
enum Tables {
    Float32(Vec<[f32; 256]>),
    Float16(Vec<[f16; 256]>),
    Uint8(Vec<[u8; 256]>),
    Int8(Vec<[i8; 256]>),
}

/// A [`PictureSpec`] made ready: checked, and with its tables computed.
pub struct Preprocessor {
    spec: PictureSpec,
    tables: Tables,
}

/// Where the resized picture lies in the tensor, for one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    /// First pixel of the resized picture that is kept.
    from: usize,
    /// Where it goes.
    to: usize,
    /// How many are kept.
    len: usize,
}

impl Preprocessor {
    /// Checks `spec` and computes its tables.
    ///
    /// # Errors
    /// When the spec contradicts itself or holds values that give no numbers.
    pub fn new(spec: &PictureSpec) -> Result<Self, SpecError> {
        check(spec)?;
        let channels = spec.color.channels();
        let floats: Vec<[f32; 256]> = (0..channels).map(|c| table(spec, c)).collect();
        let tables = match spec.element {
            ElementType::Float32 => Tables::Float32(floats),
            ElementType::Float16 => {
                Tables::Float16(floats.iter().map(|t| t.map(f16::from_f32)).collect())
            }
            ElementType::Uint8 => Tables::Uint8(floats.iter().map(|t| t.map(to_u8)).collect()),
            ElementType::Int8 => Tables::Int8(floats.iter().map(|t| t.map(to_i8)).collect()),
        };
        Ok(Self {
            spec: spec.clone(),
            tables,
        })
    }

    /// Decodes a picture for this spec: as [`super::decode`], or, where the spec says `fast_decode`,
    /// with a JPEG shrunk by 2, 4 or 8 while it is decoded, as long as it stays at least as large as
    /// the resize makes it.
    ///
    /// # Errors
    /// As [`super::decode`].
    pub fn decode_for(&self, bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
        let shrink = if self.spec.fast_decode {
            let upright = header.upright_size();
            let target = resized(&self.spec.resize, upright.0, upright.1);
            let turned = header.orientation.swaps_sides();
            let (width, height) = if turned { (target.1, target.0) } else { target };
            Shrink::AtLeast { width, height }
        } else {
            Shrink::None
        };
        decode_scaled(bytes, header, shrink)
    }

    /// The 8-bit pixels that reach the tensor: `height * width * channels` bytes, the channels of a
    /// pixel side by side in the tensor's order, whatever its layout.
    #[must_use]
    pub fn pixels(&self, picture: &Picture) -> Vec<u8> {
        let gray = self.spec.color == Color::Gray;
        let colored = if gray {
            luma(picture)
        } else {
            Cow::Borrowed(picture)
        };
        let (width, height) = resized(&self.spec.resize, colored.width(), colored.height());
        let across = Self::place(width, self.spec.width, self.box_side(true));
        let down = Self::place(height, self.spec.height, self.box_side(false));
        let window = Window {
            columns: across.from..across.from + across.len,
            rows: down.from..down.from + down.len,
        };
        let size = (width as usize, height as usize);
        let kept = if across.len == 0 || down.len == 0 {
            Vec::new()
        } else {
            resize(&colored, size, &window, self.spec.filter)
        };
        self.compose(kept, usize::from(colored.channels()), across, down)
    }

    /// The tensor of a picture, of shape `[1, C, H, W]` or `[1, H, W, C]`.
    #[must_use]
    pub fn tensor(&self, picture: &Picture) -> Tensor {
        let pixels = self.pixels(picture);
        let data = match &self.tables {
            Tables::Float32(t) => TensorData::Float32(self.lay_out(&pixels, t)),
            Tables::Float16(t) => TensorData::Float16(self.lay_out(&pixels, t)),
            Tables::Uint8(t) => TensorData::Uint8(self.lay_out(&pixels, t)),
            Tables::Int8(t) => TensorData::Int8(self.lay_out(&pixels, t)),
        };
        Tensor::new(self.shape(), data).unwrap_or_else(|_| self.zeros())
    }

    /// A tensor of zeros of this shape and type, as a warm-up takes it.
    #[must_use]
    pub fn zeros(&self) -> Tensor {
        let shape = self.shape();
        let data = TensorData::zeros(self.spec.element, shape.iter().product());
        match Tensor::new(shape, data) {
            Ok(tensor) => tensor,
            Err(_) => unreachable!("as many zeros as the shape holds"),
        }
    }

    /// The shape of the tensor, a batch of one.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        let (height, width) = (self.spec.height as usize, self.spec.width as usize);
        let channels = self.spec.color.channels();
        match self.spec.layout {
            Layout::Nchw => vec![1, channels, height, width],
            Layout::Nhwc => vec![1, height, width, channels],
        }
    }

    /// The side of the letterbox, where there is one.
    fn box_side(&self, across: bool) -> Option<u32> {
        match self.spec.resize {
            Resize::Letterbox { height, width } => Some(if across { width } else { height }),
            _ => None,
        }
    }

    /// Where `resized` pixels of an axis go in an output of `output`: centred in the letterbox, then
    /// cropped or padded as torchvision's `center_crop` does.
    fn place(resized: u32, output: u32, letterbox: Option<u32>) -> Placement {
        let canvas = letterbox.unwrap_or(resized);
        let inside = half_to_even(i64::from(canvas) - i64::from(resized));
        let room = i64::from(output) - i64::from(canvas);
        let shift = if room >= 0 {
            room / 2
        } else {
            -half_to_even(-room)
        };
        let at = inside + shift;
        let from = (-at).max(0);
        let to = at.max(0);
        let len = (i64::from(resized) - from)
            .min(i64::from(output) - to)
            .max(0);
        let side = |value: i64| usize::try_from(value).unwrap_or(0);
        Placement {
            from: side(from),
            to: side(to),
            len: side(len),
        }
    }

    /// Puts the kept pixels into the frame, in the tensor's channels; what they do not cover is 0.
    fn compose(
        &self,
        kept: Vec<u8>,
        channels: usize,
        across: Placement,
        down: Placement,
    ) -> Vec<u8> {
        let (width, height) = (self.spec.width as usize, self.spec.height as usize);
        let wanted = self.spec.color.channels();
        let mut kept = if channels == 1 && wanted == 3 {
            kept.iter().flat_map(|&p| [p; 3]).collect()
        } else {
            kept
        };
        if self.spec.color == Color::Bgr {
            kept.as_chunks_mut::<3>()
                .0
                .iter_mut()
                .for_each(|pixel| pixel.swap(0, 2));
        }
        if across.len == width && down.len == height {
            return kept;
        }
        let mut out = vec![0; width * height * wanted];
        if across.len > 0 {
            let lines = out.chunks_exact_mut(width * wanted).skip(down.to);
            for (line, row) in lines.zip(kept.chunks_exact(across.len * wanted)) {
                line[across.to * wanted..][..row.len()].copy_from_slice(row);
            }
        }
        out
    }

    /// Looks every pixel up and lays the values out as the tensor has them.
    fn lay_out<T: Copy + Default>(&self, pixels: &[u8], tables: &[[T; 256]]) -> Vec<T> {
        let at = |table: &[T; 256], pixel: u8| table[usize::from(pixel)];
        match (tables, self.spec.layout) {
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
}

fn check(spec: &PictureSpec) -> Result<(), SpecError> {
    let (height, width) = (spec.height, spec.width);
    let resized = match spec.resize {
        Resize::Stretch { height, width } | Resize::Letterbox { height, width } => (height, width),
        Resize::ShorterSide { to } => (to, to),
    };
    for side in [height, width, resized.0, resized.1] {
        if side == 0 || side > MAX_SIDE {
            return Err(SpecError::Size(side));
        }
    }
    let shorter = matches!(spec.resize, Resize::ShorterSide { .. });
    if !spec.center_crop && (shorter || resized != (height, width)) {
        return Err(SpecError::NoCrop);
    }
    let channels = spec.color.channels();
    for (name, values) in [("mean", &spec.mean), ("std", &spec.std)] {
        if !values.is_empty() && values.len() != channels {
            return Err(SpecError::Channels {
                name,
                len: values.len(),
                channels,
            });
        }
        if values
            .iter()
            .any(|v| !v.is_finite() || (name == "std" && *v == 0.0))
        {
            return Err(SpecError::Value(name));
        }
    }
    if spec.scale.is_finite() {
        Ok(())
    } else {
        Err(SpecError::Value("scale"))
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

/// Half of a number of pixels that is not negative, rounded half to even as Python's `round` does.
fn half_to_even(twice: i64) -> i64 {
    let down = twice / 2;
    if twice % 2 == 0 {
        down
    } else {
        down + down % 2
    }
}

/// Pillow's `L`: `(19595 R + 38470 G + 7471 B + 32768) >> 16`.
fn luma(picture: &Picture) -> Cow<'_, Picture> {
    if picture.channels() == 1 {
        return Cow::Borrowed(picture);
    }
    let weigh = |p: &[u8; 3]| {
        let [r, g, b] = p.map(u32::from);
        let sum = (19_595 * r + 38_470 * g + 7_471 * b + 32_768) >> 16;
        sum.to_le_bytes()[0]
    };
    let gray = picture
        .pixels()
        .as_chunks::<3>()
        .0
        .iter()
        .map(weigh)
        .collect();
    Picture::new(picture.width(), picture.height(), 1, gray)
        .map_or(Cow::Borrowed(picture), Cow::Owned)
}

/// The size, width first, to which a picture of `width` x `height` is resized.
fn resized(resize: &Resize, width: u32, height: u32) -> (u32, u32) {
    match *resize {
        Resize::Stretch { height, width } => (width, height),
        Resize::ShorterSide { to } => {
            let (short, long) = (width.min(height), width.max(height));
            let other = u64::from(to) * u64::from(long) / u64::from(short.max(1));
            let other = u32::try_from(other).unwrap_or(u32::MAX);
            if width <= height {
                (to, other)
            } else {
                (other, to)
            }
        }
        Resize::Letterbox {
            height: box_height,
            width: box_width,
        } => contain((width, height), (box_width, box_height)),
    }
}

/// `ImageOps.contain`: in 64-bit floats, rounded half to even; a side may become 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most the box"
)]
#[expect(clippy::float_cmp, reason = "as Pillow compares them")]
fn contain((width, height): (u32, u32), (box_width, box_height): (u32, u32)) -> (u32, u32) {
    let (w, h) = (f64::from(width), f64::from(height));
    let (bw, bh) = (f64::from(box_width), f64::from(box_height));
    let ratio = w / h;
    let wanted = bw / bh;
    if ratio == wanted {
        (box_width, box_height)
    } else if ratio > wanted {
        (box_width, (h / w * bw).round_ties_even() as u32)
    } else {
        ((w / h * bh).round_ties_even() as u32, box_height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resize: Resize) -> PictureSpec {
        PictureSpec {
            layout: Layout::Nchw,
            element: ElementType::Float32,
            height: 224,
            width: 224,
            color: Color::Rgb,
            resize,
            center_crop: true,
            filter: crate::domain::picture::Filter::Bilinear,
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            fast_decode: false,
        }
    }

    #[test]
    fn sizes_are_those_of_torchvision_and_pillow() {
        let shorter = Resize::ShorterSide { to: 256 };
        assert_eq!(resized(&shorter, 500, 375), (341, 256));
        assert_eq!(resized(&shorter, 375, 500), (256, 341));
        assert_eq!(resized(&shorter, 256, 300), (256, 300));
        assert_eq!(resized(&shorter, 8000, 1), (2_048_000, 256));
        let letterbox = Resize::Letterbox {
            height: 224,
            width: 224,
        };
        assert_eq!(resized(&letterbox, 500, 375), (224, 168));
        assert_eq!(resized(&letterbox, 8000, 1), (224, 0));
    }

    #[test]
    fn crops_and_pads_round_as_torchvision_does() {
        let place = |resized, output| {
            let at = Preprocessor::place(resized, output, None);
            (at.from, at.to, at.len)
        };
        assert_eq!(place(341, 224), (58, 0, 224));
        assert_eq!(place(227, 224), (2, 0, 224));
        assert_eq!(place(225, 224), (0, 0, 224));
        assert_eq!(place(221, 224), (0, 1, 221));
        let boxed = Preprocessor::place(168, 224, Some(224));
        assert_eq!((boxed.from, boxed.to, boxed.len), (0, 28, 168));
    }

    #[test]
    fn tables_are_computed_in_f32_step_by_step() {
        let mut spec = spec(Resize::ShorterSide { to: 256 });
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
    fn specs_that_contradict_themselves_are_refused() {
        let refused = |spec: &PictureSpec| Preprocessor::new(spec).err();
        let good = spec(Resize::ShorterSide { to: 256 });
        assert_eq!(refused(&good), None);
        let no_crop = PictureSpec {
            center_crop: false,
            ..good.clone()
        };
        assert_eq!(refused(&no_crop), Some(SpecError::NoCrop));
        let empty = PictureSpec {
            width: 0,
            ..good.clone()
        };
        assert_eq!(refused(&empty), Some(SpecError::Size(0)));
        let two = PictureSpec {
            mean: vec![0.0; 2],
            ..good.clone()
        };
        let channels = SpecError::Channels {
            name: "mean",
            len: 2,
            channels: 3,
        };
        assert_eq!(refused(&two), Some(channels));
        let zero = PictureSpec {
            std: vec![1.0, 0.0, 1.0],
            ..good
        };
        assert_eq!(refused(&zero), Some(SpecError::Value("std")));
    }
}
