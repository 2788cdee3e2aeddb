//! WebP to pixels: the first frame, alpha dropped.
//!
//! Called by `vision` alone; the `image-webp` crate decodes. The RIFF chunks are read here for the header.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::VisionError;
use super::exif::{self, Endian, Orientation};
use super::format::Format;
use super::header::{Found, Header};
use super::picture::Picture;

const LITTLE: Endian = Endian { big: false };

/// The chunks of the file, in order: kind and body; a body that is cut off is as long as it is.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 12;
    std::iter::from_fn(move || {
        let kind = bytes.get(at..at + 4)?;
        let len = usize::try_from(LITTLE.u32(bytes, at + 4)?).ok()?;
        let begin = at + 8;
        let end = begin.checked_add(len)?;
        at = end.checked_add(len % 2)?;
        let body = bytes.get(begin..end).or_else(|| bytes.get(begin..))?;
        Some((kind, body))
    })
}

/// Reads size and orientation out of the chunks.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let truncated = || VisionError::Truncated {
        format: Format::WebP,
    };
    let (mut size, mut exif, mut xmp) = (None, None, None);
    let mut per_pixel = 0;
    for (kind, body) in chunks(bytes).take(4096) {
        match kind {
            b"VP8X" if size.is_none() => {
                let three_bytes = |at| LITTLE.u32(body, at).map(|v| (v & 0xFF_FFFF) + 1);
                // Twelve bytes hold both sides: the second is read from one byte before, shifted.
                size = three_bytes(4).zip(LITTLE.u32(body, 6).map(|v| (v >> 8) + 1));
                let animated = body.first().is_some_and(|flags| flags & 2 != 0);
                per_pixel = if animated { 16 } else { 12 };
            }
            b"VP8 " if size.is_none() => {
                let fourteen_bits = |at| LITTLE.u16(body, at).map(|v| u32::from(v & 0x3FFF));
                size = fourteen_bits(6).zip(fourteen_bits(8));
                per_pixel = 5;
            }
            b"VP8L" if size.is_none() => {
                let bits = LITTLE.u32(body, 1);
                size = bits.map(|b| ((b & 0x3FFF) + 1, (b >> 14 & 0x3FFF) + 1));
                per_pixel = 8;
            }
            b"EXIF" => exif = Some(body),
            b"XMP " => xmp = Some(body),
            _ => {}
        }
    }
    let (width, height) = size.ok_or_else(truncated)?;
    let orientation: Orientation = exif::orientation(exif, xmp);
    Ok(Found {
        width,
        height,
        orientation,
        bytes_per_pixel: per_pixel + 3,
    })
}

/// Decodes the first frame as stored.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| refuse(&e))?;
    decoder.set_memory_limit(16 << 20);
    if decoder.is_animated() {
        // As Pillow: the canvas is transparent black, whatever the file recommends.
        decoder
            .set_background_color([0; 4])
            .map_err(|e| refuse(&e))?;
    }
    let broken = || VisionError::undecodable(Format::WebP, "its frame does not fit its header");
    if decoder.dimensions() != (header.width, header.height) {
        return Err(broken());
    }
    let size = decoder.output_buffer_size().ok_or_else(broken)?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(|e| refuse(&e))?;
    if decoder.has_alpha() {
        pixels = pixels
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|&[r, g, b, _]| [r, g, b])
            .collect();
    }
    Picture::new(header.width, header.height, 3, pixels).ok_or_else(broken)
}

/// The refusal of what the `image-webp` crate cannot read.
fn refuse(error: &DecodingError) -> VisionError {
    match error {
        DecodingError::IoError(_) | DecodingError::BitStreamError => VisionError::Truncated {
            format: Format::WebP,
        },
        other => VisionError::undecodable(Format::WebP, other.to_string()),
    }
}
