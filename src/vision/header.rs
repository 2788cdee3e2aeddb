//! What the first bytes of a picture say: format, size, orientation, and what decoding it will cost.
//!
//! Called before anything is decoded or allocated. Each format reads its own header; the limit is held here.

use super::exif::Orientation;
use super::format::{Format, guess_foreign};
use super::{VisionError, bmp, gif, jpeg, png, tiff, webp};

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The largest product of width and height, checked before anything is decoded.
    pub max_pixels: u64,
}

/// What the header of a picture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Told by the bytes.
    pub format: Format,
    /// Columns as stored.
    pub width: u32,
    /// Rows as stored.
    pub height: u32,
    /// How the stored pixels are turned after decoding.
    pub orientation: Orientation,
    /// Estimate of the bytes that decoding takes at its peak: pixels, their turned copy, and the
    /// decoder's own buffers.
    pub working_bytes: u64,
}

impl Header {
    /// Width and height after the orientation.
    #[must_use]
    pub fn upright_size(&self) -> (u32, u32) {
        if self.orientation.swaps_sides() {
            (self.height, self.width)
        } else {
            (self.width, self.height)
        }
    }
}

/// What a format's own header reader finds; `bytes_per_pixel` counts the decoded pixels and every
/// buffer of the decoder that grows with them.
pub(super) struct Found {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    pub bytes_per_pixel: u64,
}

/// Room for tables, windows and rows, which do not grow with the picture's area.
const FIXED_BYTES: u64 = 256 * 1024;

/// Tells the format of a picture by its first bytes.
///
/// # Errors
/// When there is no picture, or its format is not served.
pub fn known_format(bytes: &[u8]) -> Result<Format, VisionError> {
    if bytes.is_empty() {
        return Err(VisionError::Empty);
    }
    Format::sniff(bytes).ok_or_else(|| VisionError::UnsupportedFormat {
        found: guess_foreign(bytes),
    })
}

/// Reads the header of a picture and holds it against the limit. Nothing is decoded.
///
/// # Errors
/// When there is no picture, its format is not served, its header is broken or cut off, or it
/// announces too many pixels.
pub fn read_header(bytes: &[u8], limits: &DecodeLimits) -> Result<Header, VisionError> {
    let format = known_format(bytes)?;
    let found = match format {
        Format::Jpeg => jpeg::read_header(bytes),
        Format::Png => png::read_header(bytes),
        Format::WebP => webp::read_header(bytes),
        Format::Gif => gif::read_header(bytes),
        Format::Bmp => bmp::read_header(bytes),
        Format::Tiff => tiff::read_header(bytes),
    }?;
    let pixels = u64::from(found.width) * u64::from(found.height);
    if pixels == 0 {
        return Err(VisionError::undecodable(format, "it has no pixels"));
    }
    if pixels > limits.max_pixels {
        return Err(VisionError::TooManyPixels {
            width: u64::from(found.width),
            height: u64::from(found.height),
            limit: limits.max_pixels,
        });
    }
    let turned = if found.orientation.swaps_sides() {
        3
    } else {
        0
    };
    let working_bytes = pixels
        .saturating_mul(found.bytes_per_pixel + turned)
        .saturating_add(FIXED_BYTES + 64 * u64::from(found.width));
    Ok(Header {
        format,
        width: found.width,
        height: found.height,
        orientation: found.orientation,
        working_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_refused_with_its_reason() {
        let limits = DecodeLimits { max_pixels: 100 };
        assert_eq!(read_header(b"", &limits), Err(VisionError::Empty));
        assert_eq!(
            read_header(b"{\"a\": 1}", &limits),
            Err(VisionError::UnsupportedFormat { found: "JSON" })
        );
        let gif = b"GIF89a\x0b\0\x0a\0\0\0\0,\0\0\0\0\x0b\0\x0a\0\0\x02\x02";
        assert_eq!(
            read_header(gif, &limits),
            Err(VisionError::TooManyPixels {
                width: 11,
                height: 10,
                limit: 100
            })
        );
        assert!(read_header(gif, &DecodeLimits { max_pixels: 110 }).is_ok());
    }
}
