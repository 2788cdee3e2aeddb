//! How a picture becomes a tensor, fully resolved: what `vision` executes.
//!
//! Made by `domain::manifest` from what `model.toml` says and what the graph says. Pure data.

use serde::{Deserialize, Serialize};

use super::tensor::ElementType;

/// Where the channels lie in the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Layout {
    /// Batch, channel, row, column: planes one after the other.
    Nchw,
    /// Batch, row, column, channel: channels of a pixel side by side.
    Nhwc,
}

/// The channels of the tensor and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel: Pillow's `L` of the RGB picture.
    Gray,
}

impl Color {
    /// How many channels the tensor has.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// The resampling filter, each as Pillow defines it (antialiased when shrinking, but for nearest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The pixel under the centre; no antialiasing.
    Nearest,
    /// Triangle, support 1.
    Bilinear,
    /// Cubic with a = -0.5, support 2.
    Bicubic,
    /// Lanczos with a = 3.
    Lanczos,
}

/// How the picture is brought near the size of the tensor, sizes in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// To exactly this size, whatever the proportions were.
    Stretch {
        /// Rows after the resize.
        height: u32,
        /// Columns after the resize.
        width: u32,
    },
    /// The shorter side becomes this long, the other `floor(long * to / short)`.
    ShorterSide {
        /// The shorter side after the resize.
        to: u32,
    },
    /// As large as fits into this box with the proportions kept, centred, the rest 0 (Pillow's `ImageOps.pad`).
    Letterbox {
        /// Rows of the box.
        height: u32,
        /// Columns of the box.
        width: u32,
    },
}

/// The whole way from pixels to a tensor of shape `[1, C, H, W]` or `[1, H, W, C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureSpec {
    /// Where the channels lie.
    pub layout: Layout,
    /// The tensor's element type.
    pub element: ElementType,
    /// Rows of the tensor.
    pub height: u32,
    /// Columns of the tensor.
    pub width: u32,
    /// Channels and their order.
    pub color: Color,
    /// The resize before the crop.
    pub resize: Resize,
    /// Whether a centred `height` x `width` is cut out after the resize (where the resized picture is
    /// smaller, it is padded with 0 as torchvision's `center_crop` does). Without a crop the resize gives that size itself.
    pub center_crop: bool,
    /// The resampling filter.
    pub filter: Filter,
    /// Factor of the 8-bit pixel.
    pub scale: f64,
    /// Subtracted after the scale, one a channel in the tensor's order.
    pub mean: Vec<f64>,
    /// Divided by after the mean, one a channel in the tensor's order.
    pub std: Vec<f64>,
    /// Whether exactness may be traded for speed.
    pub fast_decode: bool,
}
