//! The preprocessing that the common model families publish, as one table.
//!
//! | preset | color | resize | filter | scale | mean | std | as published by |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | `torchvision` | rgb | shorter side to size / 0.875, crop | bilinear | 1/255 | 0.485 0.456 0.406 | 0.229 0.224 0.225 | torchvision's ImageNet weights (`ImageClassification` transform) |
//! | `keras-tf` | rgb | stretch to size | nearest | 1/127.5 | 1 | 1 | `keras.applications` mode `tf`, `keras.utils.load_img` |
//! | `keras-caffe` | bgr | stretch to size | nearest | 1 | 103.939 116.779 123.68 | 1 | `keras.applications` mode `caffe`, `load_img` |
//! | `keras-raw` | rgb | stretch to size | nearest | 1 | 0 | 1 | models with their own rescaling inside, `load_img` |

use serde::Deserialize;

use super::picture::{Color, Filter};

/// A family of models whose preprocessing is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// torchvision's ImageNet weights.
    Torchvision,
    /// Keras models fed with -1..1.
    KerasTf,
    /// Keras models fed with BGR minus the ImageNet mean.
    KerasCaffe,
    /// Keras models fed with 0..255.
    KerasRaw,
}

/// How the manifest words the resize, before sizes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeMode {
    /// To the size, proportions ignored.
    Stretch,
    /// Shorter side first, then a crop.
    ShorterSide,
    /// Whole picture inside, the rest 0.
    Letterbox,
}

/// What a preset sets; explicit keys of the manifest win over each of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PresetValues {
    /// Channels and their order.
    pub color: Color,
    /// The resize.
    pub resize: ResizeMode,
    /// The filter.
    pub filter: Filter,
    /// Factor of the pixel.
    pub scale: f64,
    /// Subtracted, in the tensor's channel order.
    pub mean: [f64; 3],
    /// Divided by, in the tensor's channel order.
    pub std: [f64; 3],
}

impl Preset {
    /// The preset's row of the table above.
    #[must_use]
    pub fn values(self) -> PresetValues {
        let keras = PresetValues {
            color: Color::Rgb,
            resize: ResizeMode::Stretch,
            filter: Filter::Nearest,
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        match self {
            Self::Torchvision => PresetValues {
                color: Color::Rgb,
                resize: ResizeMode::ShorterSide,
                filter: Filter::Bilinear,
                scale: 1.0 / 255.0,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
            Self::KerasTf => PresetValues {
                scale: 1.0 / 127.5,
                mean: [1.0; 3],
                ..keras
            },
            Self::KerasCaffe => PresetValues {
                color: Color::Bgr,
                mean: [103.939, 116.779, 123.68],
                ..keras
            },
            Self::KerasRaw => keras,
        }
    }
}
