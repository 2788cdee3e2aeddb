//! Where a picture goes: the size it is resized to and which part of that the tensor shows.
//!
//! Called by `preprocess`. Numbers only, rounded as torchvision and Pillow round them; knows no pixel.

use crate::domain::picture::Resize;

/// Where the resized picture lies in the tensor, for one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// First pixel of the resized picture that is kept.
    pub from: usize,
    /// Where it goes.
    pub to: usize,
    /// How many are kept.
    pub len: usize,
}

impl Placement {
    /// Where `resized` pixels of an axis go in an output of `output`: centred in the letterbox, then
    /// cropped or padded as torchvision's `center_crop` does.
    pub(super) fn of(resized: u32, output: u32, letterbox: Option<u32>) -> Self {
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
        Self {
            from: side(from),
            to: side(to),
            len: side(len),
        }
    }
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

/// The size, width first, to which a picture of `width` x `height` is resized.
pub(super) fn resized(resize: &Resize, width: u32, height: u32) -> (u32, u32) {
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
            let at = Placement::of(resized, output, None);
            (at.from, at.to, at.len)
        };
        assert_eq!(place(341, 224), (58, 0, 224));
        assert_eq!(place(227, 224), (2, 0, 224));
        assert_eq!(place(225, 224), (0, 0, 224));
        assert_eq!(place(221, 224), (0, 1, 221));
        let boxed = Placement::of(168, 224, Some(224));
        assert_eq!((boxed.from, boxed.to, boxed.len), (0, 28, 168));
    }
}
