//! BMP to pixels: all depths, bit fields, run lengths, both row orders, as Pillow's `BmpImagePlugin` reads them.
//!
//! Called by `vision` alone. Knows no library: the format is small.
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over rows of checked length"
)]

use std::borrow::Cow;

use super::VisionError;
use super::exif::{Endian, Orientation};
use super::format::Format;
use super::header::{Found, Header};
use super::picture::Picture;
use super::png::unpack;

const LITTLE: Endian = Endian { big: false };

/// How pixels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// As they are, masks for red, green and blue (unused with a palette).
    Plain([u32; 3]),
    RunLength8,
    RunLength4,
}

/// The headers of a bitmap.
struct Bitmap<'a> {
    width: u32,
    height: u32,
    top_down: bool,
    bits: u16,
    coding: Coding,
    /// Entries of blue, green, red and, where `entry` is 4, one more.
    palette: &'a [u8],
    entry: usize,
    /// Where the pixels begin.
    data: usize,
}

/// Reads the headers.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let bitmap = read_bitmap(bytes)?;
    let indices = u64::from(!matches!(bitmap.coding, Coding::Plain(_)));
    Ok(Found {
        width: bitmap.width,
        height: bitmap.height,
        orientation: Orientation::Upright,
        bytes_per_pixel: 3 + indices,
    })
}

fn read_bitmap(bytes: &[u8]) -> Result<Bitmap<'_>, VisionError> {
    let truncated = || VisionError::Truncated {
        format: Format::Bmp,
    };
    let refuse = |reason: &str| VisionError::undecodable(Format::Bmp, reason);
    let long = |at| LITTLE.u32(bytes, at).ok_or_else(truncated);
    let short = |at| LITTLE.u16(bytes, at).ok_or_else(truncated);
    let (mut data, size) = (to_usize(long(10)?), to_usize(long(14)?));
    let old = size == 12;
    if !matches!(size, 12 | 40 | 52 | 56 | 64 | 108 | 124) {
        return Err(refuse("its header is of an unknown version"));
    }
    let (width, tall) = if old {
        (u32::from(short(18)?), u32::from(short(20)?))
    } else {
        (long(18)?, long(22)?)
    };
    let bits = short(if old { 24 } else { 28 })?;
    let compression = if old { 0 } else { long(30)? };
    let colors = if old { 0 } else { to_usize(long(46)?) };
    let top_down = !old && tall >= 0xFF00_0000;
    let height = if top_down { tall.wrapping_neg() } else { tall };
    if width > 0x7FFF_FFFF || height > 0x7FFF_FFFF {
        return Err(refuse("its size is negative"));
    }
    let mut after = 14 + size;
    let coding = match (compression, bits) {
        (0, 16) => Coding::Plain([0x7C00, 0x3E0, 0x1F]),
        (0, 1 | 4 | 8 | 24 | 32) => Coding::Plain([0xFF_0000, 0xFF00, 0xFF]),
        (1, 8) => Coding::RunLength8,
        (2, 4) => Coding::RunLength4,
        (3, 16 | 24 | 32) => {
            let masks = [long(54)?, long(58)?, long(62)?];
            after = after.max(66);
            Coding::Plain(if masks == [0; 3] {
                [0xFF_0000, 0xFF00, 0xFF]
            } else {
                masks
            })
        }
        _ => return Err(refuse("its depth or compression is not served")),
    };
    let entry = if old { 3 } else { 4 };
    let mut palette: &[u8] = &[];
    if bits <= 8 {
        let all = 1_usize << bits;
        let count = if colors == 0 { all } else { colors };
        if count > 65_536 {
            return Err(refuse("its palette is too large"));
        }
        let stored = bytes.get(after..).unwrap_or_default();
        palette = stored.get(..entry * count.min(all)).unwrap_or(stored);
        after += entry * count;
    }
    if data == 0 || (bits <= 8 && data == 14 + size) {
        data = after;
    }
    Ok(Bitmap {
        width,
        height,
        top_down,
        bits,
        coding,
        palette,
        entry,
        data,
    })
}

/// A 32-bit length or offset; all platforms we build for hold it.
fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Decodes the pixels.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let truncated = || VisionError::Truncated {
        format: Format::Bmp,
    };
    let bitmap = read_bitmap(bytes)?;
    let (width, height) = (header.width as usize, header.height as usize);
    let (rows, bits) = match bitmap.coding {
        Coding::Plain(_) => {
            let stored = bytes.get(bitmap.data..).ok_or_else(truncated)?;
            (Cow::Borrowed(stored), usize::from(bitmap.bits))
        }
        Coding::RunLength8 | Coding::RunLength4 => {
            let indices = expand_runs(bytes, &bitmap, width, width * height);
            (Cow::Owned(indices.ok_or_else(truncated)?), 8)
        }
    };
    let packed = (width * bits).div_ceil(8);
    // Rows are padded to four bytes; those of the expanded runs are not, and the last need not be.
    let pitch = if matches!(rows, Cow::Owned(_)) {
        packed
    } else {
        packed.next_multiple_of(4)
    };
    if rows.len() < pitch * (height - 1) + packed {
        return Err(truncated());
    }
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let stored = if bitmap.top_down { y } else { height - 1 - y };
        push_row(
            &bitmap,
            &rows[stored * pitch..][..packed],
            bits,
            width,
            &mut pixels,
        );
    }
    Picture::new(header.width, header.height, 3, pixels)
        .ok_or_else(|| VisionError::undecodable(Format::Bmp, "its rows do not fit its header"))
}

/// Appends one row as RGB.
fn push_row(bitmap: &Bitmap<'_>, row: &[u8], bits: usize, width: usize, out: &mut Vec<u8>) {
    let masks = match bitmap.coding {
        Coding::Plain(masks) => masks,
        _ => [0; 3],
    };
    let fields = masks.map(Field::new);
    match bits {
        16 => {
            let values = row
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&p| u32::from(u16::from_le_bytes(p)));
            out.extend(values.flat_map(|value| fields.map(|field| field.of(value))));
        }
        24 => out.extend(
            row.as_chunks::<3>()
                .0
                .iter()
                .flat_map(|&[b, g, r]| [r, g, b]),
        ),
        32 => {
            let values = row
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&p| u32::from_le_bytes(p));
            out.extend(values.flat_map(|value| fields.map(|field| field.of(value))));
        }
        _ => {
            let look_up = |index: u8| {
                let at = usize::from(index) * bitmap.entry;
                bitmap
                    .palette
                    .get(at..at + 3)
                    .map_or([0; 3], |c| [c[2], c[1], c[0]])
            };
            out.extend(unpack(row, bits, width).flat_map(look_up));
        }
    }
}

/// One colour inside a pixel.
#[derive(Clone, Copy)]
struct Field {
    shift: u32,
    largest: u32,
}

impl Field {
    fn new(mask: u32) -> Self {
        let shift = mask.trailing_zeros().min(31);
        Self {
            shift,
            largest: mask >> shift,
        }
    }

    /// The colour in a pixel, brought to 0..=255 and rounded down as Pillow's `unpackBGR15` does.
    fn of(self, pixel: u32) -> u8 {
        let value = u64::from((pixel >> self.shift) & self.largest);
        let scaled = (value * 255)
            .checked_div(u64::from(self.largest))
            .unwrap_or(0);
        u8::try_from(scaled).unwrap_or(u8::MAX)
    }
}

/// Expands run lengths to one index a pixel; `None` where they end before the last row.
fn expand_runs(bytes: &[u8], bitmap: &Bitmap<'_>, width: usize, wanted: usize) -> Option<Vec<u8>> {
    let four = bitmap.coding == Coding::RunLength4;
    let mut out: Vec<u8> = Vec::with_capacity(wanted);
    let (mut at, mut x) = (bitmap.data, 0);
    while out.len() < wanted {
        let &[count, value] = bytes.get(at..at + 2)?.first_chunk()?;
        at += 2;
        match (count, value) {
            (0, 0) => {
                out.resize(out.len().next_multiple_of(width).min(wanted), 0);
                x = 0;
            }
            (0, 1) => return None,
            (0, 2) => {
                let &[right, up] = bytes.get(at..at + 2)?.first_chunk()?;
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                out.resize((out.len() + skipped).min(wanted), 0);
                x = out.len() % width;
            }
            (0, literal) => {
                let literal = usize::from(literal);
                let taken = literal.min(wanted - out.len());
                let stored = if four { taken.div_ceil(2) } else { taken };
                let row = bytes.get(at..at + stored)?;
                out.extend(unpack(row, if four { 4 } else { 8 }, taken));
                at += stored;
                at += at % 2;
                x += literal;
            }
            (run, value) => {
                let taken = usize::from(run)
                    .min(width.saturating_sub(x))
                    .min(wanted - out.len());
                let pair = if four {
                    [value >> 4, value & 15]
                } else {
                    [value; 2]
                };
                out.extend(pair.into_iter().cycle().take(taken));
                x += taken;
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_brought_to_the_full_range() {
        assert_eq!(Field::new(0x7C00).of(0x7C00), 255);
        assert_eq!(Field::new(0x7C00).of(20 << 10), 164);
        assert_eq!(Field::new(0xFF00).of(0x1234), 0x12);
        assert_eq!(Field::new(0).of(0x1234), 0);
        assert_eq!(Field::new(u32::MAX).of(u32::MAX), 255);
    }

    #[test]
    fn runs_literals_and_ends_of_line_are_expanded() {
        let bitmap = |coding| Bitmap {
            width: 4,
            height: 2,
            top_down: false,
            bits: 8,
            coding,
            palette: &[],
            entry: 4,
            data: 0,
        };
        let eight = bitmap(Coding::RunLength8);
        let runs = [3, 7, 0, 0, 0, 3, 1, 2, 3, 0, 9, 8];
        assert_eq!(
            expand_runs(&runs, &eight, 4, 8),
            Some(vec![7, 7, 7, 0, 1, 2, 3, 8])
        );
        assert_eq!(expand_runs(&[3, 7, 0, 1], &eight, 4, 8), None);
        let four = bitmap(Coding::RunLength4);
        assert_eq!(
            expand_runs(&[3, 0x12, 1, 0x30], &four, 4, 4),
            Some(vec![1, 2, 1, 3])
        );
    }
}
