//! From an upright picture to the tensor a model takes: colour, resize, crop, normalise, layout.
//!
//! Made once for each version by `models`, run for each picture by `classify`. Knows no graph.
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over lengths computed here"
)]

mod geometry;
mod values;

use std::borrow::Cow;

use self::geometry::{Placement, resized};
use self::values::Tables;
use super::jpeg::Shrink;
use super::resample::{Window, resize};
use super::{Header, Picture, VisionError, decode_scaled, spare};
use crate::domain::picture::{Color, Layout, PictureSpec, Resize};
use crate::domain::tensor::{Tensor, TensorData};

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

/// A [`PictureSpec`] made ready: checked, and with its tables computed.
pub struct Preprocessor {
    spec: PictureSpec,
    tables: Tables,
}

impl Preprocessor {
    /// Checks `spec` and computes its tables.
    ///
    /// # Errors
    /// When the spec contradicts itself or holds values that give no numbers.
    pub fn new(spec: &PictureSpec) -> Result<Self, SpecError> {
        check(spec)?;
        Ok(Self {
            spec: spec.clone(),
            tables: Tables::of(spec),
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
        let across = Placement::of(width, self.spec.width, self.box_side(true));
        let down = Placement::of(height, self.spec.height, self.box_side(false));
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
        let data = self.tables.look_up(&pixels, self.spec.layout);
        spare::give_back(pixels);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tensor::ElementType;

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
