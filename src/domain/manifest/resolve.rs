//! `[input]` against the graph: what the manifest leaves out is read from the graph, the preset or the defaults.

use super::{CropMode, MAX_SIDE, Manifest, ManifestError, PerChannel, ResizeTo, refuse};
use crate::domain::graph::InputFacts;
use crate::domain::picture::{Color, Filter, PictureSpec, Resize};
use crate::domain::preset::{Preset, PresetValues, ResizeMode};

impl Manifest {
    /// Resolves `[input]` against the graph: what is left out is read from the graph, the preset or the defaults.
    ///
    /// # Errors
    /// When a key contradicts the graph or another key, or the graph's input is no picture.
    pub fn picture_spec(&self, facts: &InputFacts) -> Result<PictureSpec, ManifestError> {
        let input = &self.input;
        let axes = facts.axes(input.layout)?;
        let preset = input.preset.map(Preset::values);
        let color = input
            .color
            .or(preset.map(|p| p.color))
            .unwrap_or(match axes.channels {
                Some(1) => Color::Gray,
                _ => Color::Rgb,
            });
        if let Some(channels) = axes.channels.filter(|&n| n != color.channels()) {
            return refuse(
                "input.color",
                format!(
                    "needs {} channels, the graph takes {channels}",
                    color.channels()
                ),
            );
        }
        let (height, width) = self.size((axes.height, axes.width))?;
        let (resize, center_crop) = self.resize(preset, height, width)?;
        let default_scale = if facts.element.is_integer() {
            1.0
        } else {
            1.0 / 255.0
        };
        let scale = input
            .scale
            .or(preset.map(|p| p.scale))
            .unwrap_or(default_scale);
        let channels = color.channels();
        let preset_or = |values: Option<[f64; 3]>, fallback: f64| match values {
            Some(values) if channels == 3 => values.to_vec(),
            Some(values) => vec![values.iter().sum::<f64>() / 3.0; channels],
            None => vec![fallback; channels],
        };
        Ok(PictureSpec {
            layout: axes.layout,
            element: facts.element,
            height,
            width,
            color,
            resize,
            center_crop,
            filter: input
                .filter
                .or(preset.map(|p| p.filter))
                .unwrap_or(Filter::Bilinear),
            scale,
            mean: per_channel("input.mean", input.mean.as_ref(), channels)?
                .unwrap_or_else(|| preset_or(preset.map(|p| p.mean), 0.0)),
            std: per_channel("input.std", input.std.as_ref(), channels)?
                .unwrap_or_else(|| preset_or(preset.map(|p| p.std), 1.0)),
            fast_decode: input.fast_decode,
        })
    }

    /// The tensor's rows and columns: the graph's where it fixes them, else the manifest's, else 224.
    fn size(&self, graph: (Option<usize>, Option<usize>)) -> Result<(u32, u32), ManifestError> {
        let one = |fixed: Option<usize>, asked: Option<u32>| match (fixed, asked) {
            (Some(fixed), asked) => {
                let side = u32::try_from(fixed)
                    .ok()
                    .filter(|&s| s > 0 && s <= MAX_SIDE);
                match side {
                    Some(side) if asked.is_none_or(|asked| asked == side) => Ok(side),
                    Some(side) => refuse(
                        "input.size",
                        format!(
                            "says {}, the graph is fixed at {side}",
                            asked.unwrap_or_default()
                        ),
                    ),
                    None => refuse("input.size", format!("the graph asks for {fixed} pixels")),
                }
            }
            (None, asked) => Ok(asked.unwrap_or(224)),
        };
        let asked = self.input.size;
        Ok((
            one(graph.0, asked.map(|[h, _]| h))?,
            one(graph.1, asked.map(|[_, w]| w))?,
        ))
    }

    fn resize(
        &self,
        preset: Option<PresetValues>,
        height: u32,
        width: u32,
    ) -> Result<(Resize, bool), ManifestError> {
        let mode = self
            .input
            .resize
            .or(preset.map(|p| p.resize))
            .unwrap_or(ResizeMode::ShorterSide);
        let center_crop = self.input.crop != Some(CropMode::None);
        let both = match self.input.resize_to {
            Some(ResizeTo::Side(side)) => [side, side],
            Some(ResizeTo::Both(both)) => both,
            None => [height, width],
        };
        if !center_crop && mode != ResizeMode::ShorterSide && both != [height, width] {
            return refuse(
                "input.resize_to",
                format!("must be [{height}, {width}], the tensor's size, when crop is none"),
            );
        }
        let resize = match mode {
            ResizeMode::Stretch => Resize::Stretch {
                height: both[0],
                width: both[1],
            },
            ResizeMode::Letterbox => Resize::Letterbox {
                height: both[0],
                width: both[1],
            },
            ResizeMode::ShorterSide if !center_crop => {
                return refuse(
                    "input.crop",
                    "none leaves the size to the picture; use resize = \"stretch\" or \"letterbox\" with it",
                );
            }
            ResizeMode::ShorterSide => Resize::ShorterSide {
                to: match self.input.resize_to {
                    Some(ResizeTo::Side(side)) => side,
                    Some(ResizeTo::Both([h, w])) if h == w => h,
                    Some(ResizeTo::Both(_)) => {
                        return refuse("input.resize_to", "is one number for shorter-side");
                    }
                    // 8/7 is 1 / 0.875; integers, so that no platform rounds otherwise.
                    None => (height.max(width) * 16 + 7) / 14,
                },
            },
        };
        Ok((resize, center_crop))
    }
}

fn per_channel(
    key: &'static str,
    values: Option<&PerChannel>,
    channels: usize,
) -> Result<Option<Vec<f64>>, ManifestError> {
    let values = match values {
        None => return Ok(None),
        Some(PerChannel::One(one)) => vec![*one; channels],
        Some(PerChannel::Each(each)) => match each.as_slice() {
            [one] => vec![*one; channels],
            each => each.to_vec(),
        },
    };
    if values.len() != channels {
        return refuse(
            key,
            format!("has {} numbers for {channels} channels", values.len()),
        );
    }
    if values.iter().any(|value| !value.is_finite()) {
        return refuse(key, "must be finite");
    }
    Ok(Some(values))
}
