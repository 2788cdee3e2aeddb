//! A decoded picture and how it is turned upright.
//!
//! Made by the decoders, read by `preprocess`. Knows no format.
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over lengths checked at construction"
)]

use super::exif::Orientation;
use super::spare;

/// Side of the squares in which rows and columns are exchanged, so that both stay in the cache.
const SIDE: usize = 32;

/// Pixels of 8 bits, rows from top to bottom, the channels of a pixel side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    channels: u8,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of 1 (gray) or 3 (RGB) channels over its `height * width * channels` bytes; `None`
    /// where a side is 0 or the number of bytes is another.
    #[must_use]
    pub fn new(width: u32, height: u32, channels: u8, pixels: Vec<u8>) -> Option<Self> {
        let wanted = u64::from(width) * u64::from(height) * u64::from(channels);
        let fits = wanted > 0 && u64::try_from(pixels.len()) == Ok(wanted);
        (fits && matches!(channels, 1 | 3)).then_some(Self {
            width,
            height,
            channels,
            pixels,
        })
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// 1 for gray, 3 for RGB.
    #[must_use]
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// `height * width * channels` bytes.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The picture as it is meant to be seen.
    pub(super) fn upright(self, orientation: Orientation) -> Self {
        if self.channels == 3 {
            self.turned::<3>(orientation)
        } else {
            self.turned::<1>(orientation)
        }
    }

    fn turned<const C: usize>(mut self, orientation: Orientation) -> Self {
        let columns = self.width as usize;
        let (pixels, _) = self.pixels.as_chunks_mut::<C>();
        match orientation {
            Orientation::Upright => return self,
            Orientation::MirrorColumns => {
                pixels.chunks_exact_mut(columns).for_each(<[_]>::reverse);
                return self;
            }
            Orientation::Turn180 => {
                pixels.reverse();
                return self;
            }
            Orientation::MirrorRows => {
                pixels.reverse();
                pixels.chunks_exact_mut(columns).for_each(<[_]>::reverse);
                return self;
            }
            _ => {}
        }
        let from_bottom = matches!(
            orientation,
            Orientation::Clockwise | Orientation::Transverse
        );
        let from_right = matches!(
            orientation,
            Orientation::CounterClockwise | Orientation::Transverse
        );
        let source: &[[u8; C]] = pixels;
        let rows = self.height as usize;
        let mut out = spare::take(source.len() * C);
        let (turned, _) = out.as_chunks_mut::<C>();
        for top in (0..columns).step_by(SIDE) {
            for left in (0..rows).step_by(SIDE) {
                for y in top..(top + SIDE).min(columns) {
                    let column = if from_right { columns - 1 - y } else { y };
                    for x in left..(left + SIDE).min(rows) {
                        let row = if from_bottom { rows - 1 - x } else { x };
                        turned[y * rows + x] = source[row * columns + column];
                    }
                }
            }
        }
        Self {
            width: self.height,
            height: self.width,
            channels: self.channels,
            pixels: out,
        }
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        spare::give_back(std::mem::take(&mut self.pixels));
    }
}

/// Pillow's conversion of one ink over black (`cmyk2rgb` of `Convert.c`): `paper` is 255 less the black,
/// and `paper * ink / 255`, rounded as `MULDIV255` does, is taken from it.
pub(super) fn without_ink(paper: u8, ink: u8) -> u8 {
    let product = u16::from(paper) * u16::from(ink);
    let rounded = u32::from(product) + 128;
    let covered = ((rounded >> 8) + rounded) >> 8;
    paper.saturating_sub(u8::try_from(covered).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_orientation_turns_as_exif_defines_it() {
        // 1 2 3
        // 4 5 6
        let table: [(u32, u32, [u8; 6]); 8] = [
            (1, 3, [1, 2, 3, 4, 5, 6]),
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [4, 1, 5, 2, 6, 3]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [3, 6, 2, 5, 1, 4]),
        ];
        for (value, width, expected) in table {
            let orientation = Orientation::from_exif(value);
            let gray =
                Picture::new(3, 2, 1, vec![1, 2, 3, 4, 5, 6]).map(|p| p.upright(orientation));
            assert_eq!(
                gray,
                Picture::new(width, 6 / width, 1, expected.to_vec()),
                "{value}"
            );
            let triple = |v: &[u8]| v.iter().flat_map(|&p| [p, 0, p]).collect::<Vec<u8>>();
            let rgb =
                Picture::new(3, 2, 3, triple(&[1, 2, 3, 4, 5, 6])).map(|p| p.upright(orientation));
            assert_eq!(
                rgb,
                Picture::new(width, 6 / width, 3, triple(&expected)),
                "{value}"
            );
        }
    }

    #[test]
    fn sizes_are_held() {
        assert!(Picture::new(2, 2, 3, vec![0; 11]).is_none());
        assert!(Picture::new(0, 2, 3, vec![]).is_none());
        assert!(Picture::new(1, 1, 2, vec![0; 2]).is_none());
    }
}
