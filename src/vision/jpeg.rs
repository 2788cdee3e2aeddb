//! JPEG to pixels: the one door to libjpeg-turbo (integer DCT, fancy upsampling, as Pillow uses it).
//!
//! Called by `vision` alone. A warning of the library is a verdict only where the data ends too early.

use turbojpeg::{Decompressor, Error, Image, PixelFormat, ScalingFactor};

use super::VisionError;
use super::format::Format;
use super::header::{Found, Header};
use super::jpeg_markers::{Frame, MarkerError, read_frame, tidied, up_to_end};
use super::picture::Picture;
use super::spare;

/// Whether a picture may be shrunk while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shrink {
    /// Every pixel is wanted.
    None,
    /// By 2, 4 or 8, as long as neither side (as stored) gets smaller than this.
    AtLeast { width: u32, height: u32 },
}

/// What the library writes where the data ends before the end marker, and where an end marker comes
/// before the last block (`JWRN_JPEG_EOF`, `JWRN_HIT_MARKER` of `jerror.h`).
const EARLY_END: [&str; 2] = [
    "Premature end of JPEG file",
    "premature end of data segment",
];

/// Beginnings of all that the library only remarks on (the `JWRN` messages of `jerror.h`): the picture
/// is decoded to its end all the same.
const REMARKS: [&str; 6] = [
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
    "Warning: ",
];

/// Reads what stands before the first scan.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let frame = frame(bytes)?;
    let rgb = if frame.components == 4 {
        7
    } else {
        frame.components as u64
    };
    Ok(Found {
        width: u32::from(frame.width),
        height: u32::from(frame.height),
        orientation: frame.orientation,
        bytes_per_pixel: rgb + frame.coefficient_bytes,
    })
}

/// The frame of a picture that is of a kind we decode.
fn frame(bytes: &[u8]) -> Result<Frame, VisionError> {
    let refuse = |reason: &str| Err(VisionError::undecodable(Format::Jpeg, reason));
    let frame = match read_frame(bytes) {
        Ok(frame) => frame,
        Err(MarkerError::Truncated) => {
            return Err(VisionError::Truncated {
                format: Format::Jpeg,
            });
        }
        Err(MarkerError::Invalid(reason)) => return refuse(reason),
    };
    match (frame.marker, frame.precision, frame.components) {
        (0xC3 | 0xC5..=0xC7 | 0xCB | 0xCD..=0xCF, _, _) => {
            refuse("lossless and hierarchical JPEG are not served")
        }
        (_, 8, 1 | 3 | 4) if frame.height == 0 => refuse("its header does not tell its height"),
        (_, 8, 1 | 3 | 4) => Ok(frame),
        (_, 8, _) => refuse("it has neither 1, 3 nor 4 components"),
        _ => refuse("only 8 bits a sample are served"),
    }
}

/// Decodes the pixels as stored, or shrunk.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    shrink: Shrink,
) -> Result<Picture, VisionError> {
    let frame = frame(bytes)?;
    let mut decoder = Decompressor::new().map_err(|e| broken(&e))?;
    if frame.is_progressive() {
        let limit = scan_limit(u64::from(header.width) * u64::from(header.height));
        decoder.set_scan_limit(limit).map_err(|e| broken(&e))?;
    }
    let scale = scaling(header, shrink);
    decoder.set_scaling_factor(scale).map_err(|e| broken(&e))?;
    // Where the last levels do not matter, colours are repeated rather than blended; a picture that is shrunk
    // by the library has none to blend.
    let fast = shrink != Shrink::None;
    decoder.set_fast_upsample(fast).map_err(|e| broken(&e))?;
    let width = scale.scale(usize::from(frame.width));
    let height = scale.scale(usize::from(frame.height));
    let format = match frame.components {
        1 => PixelFormat::GRAY,
        3 => PixelFormat::RGB,
        _ => PixelFormat::CMYK,
    };
    let pitch = width * format.size();
    let mut pixels = spare::take(pitch * height);
    let mut run = |data: &[u8], again: bool| {
        let found = decoder.read_header(data)?.scaled(scale);
        // The library writes each of its rows, unless it stumbles; what stood in memory is never shown.
        if again || (found.width, found.height) != (width, height) {
            pixels.fill(0);
        }
        let output = Image {
            pixels: pixels.as_mut_slice(),
            width,
            pitch,
            height,
            format,
        };
        decoder.decompress(data, output)
    };
    if let Err(first) = run(bytes, false) {
        settle(bytes, &first, run)?;
    }
    if frame.components == 4 {
        let inks = std::mem::take(&mut pixels);
        pixels = cmyk_to_rgb(&inks);
        spare::give_back(inks);
    }
    let channels = if frame.components == 1 { 1 } else { 3 };
    let side = |n: usize| u32::try_from(n).unwrap_or(0);
    Picture::new(side(width), side(height), channels, pixels)
        .ok_or_else(|| VisionError::undecodable(Format::Jpeg, "it has no pixels"))
}

/// Decides about a picture that the library stumbled over: decodes it again where that can help.
fn settle(
    bytes: &[u8],
    first: &Error,
    mut run: impl FnMut(&[u8], bool) -> Result<(), Error>,
) -> Result<(), VisionError> {
    if !is_remark(first) {
        return Err(broken(first));
    }
    // The wrapper stops at a remark about the header and leaves the pixels alone, so the header is
    // tidied; a missing end marker is put there, so that what is remarked on then is the data itself.
    let truncated = VisionError::Truncated {
        format: Format::Jpeg,
    };
    let mut whole = tidied(bytes).ok_or_else(|| truncated.clone())?;
    let has_end = match up_to_end(&whole).map(<[u8]>::len) {
        Some(len) => {
            whole.truncate(len);
            true
        }
        None => false,
    };
    if !has_end {
        whole.extend([0xFF, 0xD9]);
    }
    match run(&whole, true) {
        Ok(()) => Ok(()),
        Err(error) if !is_remark(&error) => Err(broken(&error)),
        Err(_) if has_end => Ok(()),
        Err(error) if EARLY_END.iter().any(|end| error.to_string().contains(end)) => Err(truncated),
        // Damaged and without its end: whether rows are missing cannot be told.
        Err(_) => Err(truncated),
    }
}

/// How many scans are decoded: ten is what encoders write and some hundred what a hand-written script
/// can use; the work of all scans together is held to what 64 scans of 32 megapixels cost.
fn scan_limit(pixels: u64) -> u32 {
    const WORK: u64 = 64 * 32_000_000;
    u32::try_from((WORK / pixels.max(1)).clamp(64, 1000)).unwrap_or(64)
}

/// The strongest shrinking that keeps both sides.
fn scaling(header: &Header, shrink: Shrink) -> ScalingFactor {
    let Shrink::AtLeast { width, height } = shrink else {
        return ScalingFactor::ONE;
    };
    let keeps = |factor: &ScalingFactor| {
        factor.scale(header.width as usize) >= width as usize
            && factor.scale(header.height as usize) >= height as usize
    };
    [
        ScalingFactor::ONE_EIGHTH,
        ScalingFactor::ONE_QUARTER,
        ScalingFactor::ONE_HALF,
    ]
    .into_iter()
    .find(keeps)
    .unwrap_or(ScalingFactor::ONE)
}

/// Inverts CMYK as Pillow always does for JPEG, then converts it by `cmyk2rgb` of Pillow's `Convert.c`.
fn cmyk_to_rgb(pixels: &[u8]) -> Vec<u8> {
    let convert = |&[c, m, y, k]: &[u8; 4]| {
        // Inverted, 255 - K is what is stored as K, and so for the others.
        [c, m, y].map(|ink| super::picture::without_ink(k, 255 - ink))
    };
    pixels.as_chunks::<4>().0.iter().flat_map(convert).collect()
}

fn is_remark(error: &Error) -> bool {
    match error {
        Error::TurboJpegError(text) => REMARKS.iter().any(|begin| text.starts_with(begin)),
        _ => false,
    }
}

/// The refusal of a picture that the library cannot decode; only its own messages are passed on.
fn broken(error: &Error) -> VisionError {
    let reason = match error {
        Error::TurboJpegError(text) => text.as_str(),
        _ => "the data is not valid",
    };
    VisionError::undecodable(Format::Jpeg, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::Orientation;

    fn header(width: u32, height: u32) -> Header {
        let orientation = Orientation::Upright;
        Header {
            format: Format::Jpeg,
            width,
            height,
            orientation,
            working_bytes: 0,
        }
    }

    #[test]
    fn a_picture_is_shrunk_no_further_than_asked() {
        let factor = |w, h| {
            scaling(
                &header(1280, 960),
                Shrink::AtLeast {
                    width: w,
                    height: h,
                },
            )
        };
        assert_eq!(factor(341, 256), ScalingFactor::ONE_HALF);
        assert_eq!(factor(320, 240), ScalingFactor::ONE_QUARTER);
        assert_eq!(factor(100, 100), ScalingFactor::ONE_EIGHTH);
        assert_eq!(factor(641, 480), ScalingFactor::ONE);
        assert_eq!(
            scaling(&header(9999, 9999), Shrink::None),
            ScalingFactor::ONE
        );
    }

    #[test]
    fn scans_are_limited_by_their_work() {
        assert_eq!(scan_limit(1), 1000);
        assert_eq!(scan_limit(40_000_000), 64);
        assert_eq!(scan_limit(8_000_000), 256);
    }

    #[test]
    fn cmyk_is_converted_as_pillow_does() {
        assert_eq!(cmyk_to_rgb(&[255, 255, 255, 255]), [255, 255, 255]);
        assert_eq!(cmyk_to_rgb(&[0, 128, 255, 255]), [0, 128, 255]);
        assert_eq!(cmyk_to_rgb(&[255, 255, 255, 0]), [0, 0, 0]);
    }
}
