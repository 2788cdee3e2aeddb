//! GIF to pixels: the first frame on its screen, as Pillow composes it (the `GIF89a` specification).
//!
//! Called by `vision` alone. The blocks are read here, `weezl` undoes the LZW.
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over a frame checked against its screen"
)]

use std::ops::Range;

use weezl::decode::Decoder;
use weezl::{BitOrder, LzwStatus};

use super::VisionError;
use super::exif::{Endian, Orientation};
use super::format::Format;
use super::header::{Found, Header};
use super::picture::Picture;

const LITTLE: Endian = Endian { big: false };

/// The first frame and what it needs.
struct Frame<'a> {
    screen: (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    palette: Option<&'a [u8]>,
    transparent: Option<u8>,
    interlaced: bool,
    code_size: u8,
    /// Sub-blocks of LZW data.
    data: &'a [u8],
}

/// Reads the blocks up to the first frame.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let frame = read_frame(bytes)?;
    Ok(Found {
        width: u32::try_from(frame.screen.0).unwrap_or(u32::MAX),
        height: u32::try_from(frame.screen.1).unwrap_or(u32::MAX),
        orientation: Orientation::Upright,
        bytes_per_pixel: 1 + 1 + 3,
    })
}

fn read_frame(bytes: &[u8]) -> Result<Frame<'_>, VisionError> {
    let truncated = || VisionError::Truncated {
        format: Format::Gif,
    };
    let screen = bytes.get(6..13).ok_or_else(truncated)?;
    let mut at = 13;
    let mut global = None;
    if screen[4] & 128 != 0 {
        let len = 6 << (screen[4] & 7);
        global = Some(bytes.get(at..at + len).ok_or_else(truncated)?);
        at += len;
    }
    let mut transparent = None;
    loop {
        let kind = *bytes.get(at).ok_or_else(truncated)?;
        at += 1;
        match kind {
            b'!' => {
                let label = *bytes.get(at).ok_or_else(truncated)?;
                at += 1;
                if label == 0xF9
                    && let Some([4..=255, flags, _, _, index]) = bytes.get(at..at + 5)
                    && flags & 1 != 0
                {
                    transparent = Some(*index);
                }
                at = skip_blocks(bytes, at).ok_or_else(truncated)?;
            }
            b',' => break,
            b';' => return Err(VisionError::undecodable(Format::Gif, "it has no picture")),
            _ => {}
        }
    }
    let place = bytes.get(at..at + 9).ok_or_else(truncated)?;
    at += 9;
    let field = |index| usize::from(LITTLE.u16(place, index).unwrap_or(0));
    let (left, top, width, height) = (field(0), field(2), field(4), field(6));
    let mut palette = global;
    if place[8] & 128 != 0 {
        let len = 6 << (place[8] & 7);
        palette = Some(bytes.get(at..at + len).ok_or_else(truncated)?);
        at += len;
    }
    let screen_side = |index| usize::from(LITTLE.u16(screen, index).unwrap_or(0));
    Ok(Frame {
        screen: (
            screen_side(0).max(left + width),
            screen_side(2).max(top + height),
        ),
        columns: left..left + width,
        rows: top..top + height,
        palette,
        transparent,
        interlaced: place[8] & 64 != 0,
        code_size: *bytes.get(at).ok_or_else(truncated)?,
        data: bytes.get(at + 1..).unwrap_or_default(),
    })
}

/// Where the sub-blocks that begin at `at` end.
fn skip_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at);
        }
    }
}

/// Decodes the first frame onto its screen.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let frame = read_frame(bytes)?;
    let broken = |reason: &str| VisionError::undecodable(Format::Gif, reason);
    if frame.screen != (header.width as usize, header.height as usize) {
        return Err(broken("it does not fit its header"));
    }
    // Pillow fills the screen with the transparent colour, or with index 0.
    let background = frame.transparent.unwrap_or(0);
    let mut indices = vec![background; frame.screen.0 * frame.screen.1];
    let width = frame.columns.len();
    let coded = inflate(&frame)?;
    let order = row_order(frame.rows.len(), frame.interlaced);
    for (line, row) in coded.chunks_exact(width.max(1)).zip(order) {
        let at = (frame.rows.start + row) * frame.screen.0 + frame.columns.start;
        indices[at..at + width].copy_from_slice(line);
    }
    let (channels, pixels) = colors(indices, frame.palette);
    Picture::new(header.width, header.height, channels, pixels)
        .ok_or_else(|| broken("it has no pixels"))
}

/// Undoes the LZW of the frame: exactly as many indices as it has pixels.
fn inflate(frame: &Frame<'_>) -> Result<Vec<u8>, VisionError> {
    let broken = |reason: &str| VisionError::undecodable(Format::Gif, reason);
    if !(1..=8).contains(&frame.code_size) {
        return Err(broken("its code size is not between 1 and 8"));
    }
    let mut out = vec![0; frame.columns.len() * frame.rows.len()];
    let mut filled = 0;
    let mut decoder = Decoder::new(BitOrder::Lsb, frame.code_size);
    let mut rest = frame.data;
    while filled < out.len() {
        let Some((&len, after)) = rest.split_first() else {
            break;
        };
        let Some((mut block, after)) = after.split_at_checked(usize::from(len)) else {
            break;
        };
        if len == 0 {
            break;
        }
        rest = after;
        while !block.is_empty() && filled < out.len() {
            let step = decoder.decode_bytes(block, &mut out[filled..]);
            filled += step.consumed_out;
            block = &block[step.consumed_in..];
            match step.status {
                Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
                Ok(LzwStatus::Ok | LzwStatus::NoProgress) => break,
                Ok(LzwStatus::Done) => {
                    rest = &[];
                    break;
                }
                Err(_) => return Err(broken("its LZW codes are not valid")),
            }
        }
    }
    // What the last codes still hold is written without further input.
    while filled < out.len() {
        let step = decoder.decode_bytes(&[], &mut out[filled..]);
        filled += step.consumed_out;
        if step.consumed_out == 0 {
            return Err(VisionError::Truncated {
                format: Format::Gif,
            });
        }
    }
    Ok(out)
}

/// The rows of a frame in the order in which they are stored.
fn row_order(height: usize, interlaced: bool) -> Box<dyn Iterator<Item = usize>> {
    if interlaced {
        let passes = [(0, 8), (4, 8), (2, 4), (1, 2)];
        Box::new(
            passes
                .into_iter()
                .flat_map(move |(from, step)| (from..height).step_by(step)),
        )
    } else {
        Box::new(0..height)
    }
}

/// Looks the indices up. Without a palette, or where the palette is a plain ramp, the index is the gray.
fn colors(indices: Vec<u8>, palette: Option<&[u8]>) -> (u8, Vec<u8>) {
    let entries = palette.unwrap_or_default().as_chunks::<3>().0;
    let ramp = entries
        .iter()
        .zip(0_u8..)
        .all(|(&[r, g, b], i)| r == i && g == i && b == i);
    if ramp {
        return (1, indices);
    }
    let look_up = |i: u8| entries.get(usize::from(i)).copied().unwrap_or_default();
    (3, indices.into_iter().flat_map(look_up).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interlaced_rows_come_in_four_passes() {
        assert_eq!(row_order(5, true).collect::<Vec<_>>(), [0, 4, 2, 1, 3]);
        assert_eq!(
            row_order(10, true).collect::<Vec<_>>(),
            [0, 8, 4, 2, 6, 1, 3, 5, 7, 9]
        );
    }

    #[test]
    fn a_ramp_is_gray_and_missing_entries_are_black() {
        assert_eq!(
            colors(vec![0, 9], Some(&[0, 0, 0, 1, 1, 1])),
            (1, vec![0, 9])
        );
        assert_eq!(
            colors(vec![0, 9], Some(&[5, 0, 0])),
            (3, vec![5, 0, 0, 0, 0, 0])
        );
    }
}
