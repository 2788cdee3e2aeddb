//! The eye: bytes to pixels (decode), pixels to a tensor (preprocess), outputs to top-k (postprocess).
//!
//! Called by `classify`, `models` and the command line. Pure functions: no I/O, no async, no HTTP, no graph.

mod bmp;
mod exif;
mod format;
mod gif;
mod header;
mod jpeg;
mod jpeg_markers;
mod kernels;
mod picture;
mod png;
mod postprocess;
mod preprocess;
mod resample;
mod spare;
mod tiff;
mod webp;
mod weights;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use exif::Orientation;
pub use format::Format;
pub use header::{DecodeLimits, Header, known_format, read_header};
pub use picture::Picture;
pub use postprocess::{scores, top_k};
pub use preprocess::{Preprocessor, SpecError};

/// Why a picture is refused. Messages are meant for the caller who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VisionError {
    /// There is not one byte.
    #[error("the picture is empty")]
    Empty,
    /// The bytes are not of a format that is served.
    #[error("{found} is not served; send JPEG, PNG, WebP, GIF, BMP or TIFF")]
    UnsupportedFormat {
        /// What the bytes look like, e.g. `AVIF`.
        found: &'static str,
    },
    /// The header announces more pixels than the limit; nothing was decoded.
    #[error("the picture has {width} x {height} pixels, at most {limit} in all are allowed")]
    TooManyPixels {
        /// Columns as stored.
        width: u64,
        /// Rows as stored.
        height: u64,
        /// The largest product of the two.
        limit: u64,
    },
    /// The picture is broken, or of a kind that is not served.
    #[error("the {format} cannot be decoded: {reason}")]
    Undecodable {
        /// The format that the first bytes tell.
        format: Format,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes end before the picture is complete.
    #[error("the {format} ends before its last row")]
    Truncated {
        /// The format that the first bytes tell.
        format: Format,
    },
}

impl VisionError {
    /// An [`VisionError::Undecodable`]; the reason is cut to one short line of printable characters.
    pub(crate) fn undecodable(format: Format, reason: impl AsRef<str>) -> Self {
        let clean = reason
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c });
        Self::Undecodable {
            format,
            reason: clean.take(200).collect(),
        }
    }
}

/// Decodes the picture that `header` was read from: upright, 8 bits, gray or RGB.
///
/// Alpha is dropped, palettes are resolved, 16 bits become 8, CMYK becomes RGB, all as Pillow does it.
///
/// # Errors
/// When the picture is broken, cut off, or of a kind that is not served.
pub fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    decode_scaled(bytes, header, jpeg::Shrink::None)
}

/// [`decode`], where a JPEG may be shrunk while it is decoded.
fn decode_scaled(
    bytes: &[u8],
    header: &Header,
    shrink: jpeg::Shrink,
) -> Result<Picture, VisionError> {
    let format = header.format;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg::decode(bytes, header, shrink),
        Format::Png => png::decode(bytes, header),
        Format::WebP => webp::decode(bytes, header),
        Format::Gif => gif::decode(bytes, header),
        Format::Bmp => bmp::decode(bytes, header),
        Format::Tiff => tiff::decode(bytes, header),
    }));
    // A decoder that panics is a bug of that decoder: the picture is refused, the gateway goes on.
    let stored = decoded.unwrap_or_else(|_| {
        Err(VisionError::undecodable(
            format,
            "the decoder gave up on it",
        ))
    })?;
    Ok(stored.upright(header.orientation))
}
