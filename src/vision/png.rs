//! PNG to pixels: colour types and depths brought to 8-bit gray or RGB as Pillow does it.
//!
//! Called by `vision` alone. The chunks before the pixels are checked here, the `png` crate inflates.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::VisionError;
use super::exif;
use super::format::Format;
use super::header::{Found, Header};
use super::picture::Picture;

const SIGNATURE_LEN: usize = 8;
/// Room for what the `png` crate keeps beside the pixels (its chunks are not kept).
const CRATE_BYTES: usize = 16 << 20;

/// What the chunks say.
struct Chunks<'a> {
    header: [u8; 13],
    palette: Option<&'a [u8]>,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
    raw_profile: Option<Vec<u8>>,
}

/// Reads the chunks and checks those that the pixels hang on.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let chunks = read_chunks(bytes)?;
    let [
        w3,
        w2,
        w1,
        w0,
        h3,
        h2,
        h1,
        h0,
        depth,
        color,
        _,
        _,
        interlace,
    ] = chunks.header;
    let refuse = |reason: &str| Err(VisionError::undecodable(Format::Png, reason));
    let samples: u64 = match (color, depth) {
        (0 | 3, 1 | 2 | 4 | 8) | (0, 16) => 1,
        (2, 8 | 16) => 3,
        (4, 8 | 16) => 2,
        (6, 8 | 16) => 4,
        _ => return refuse("its colour type and bit depth do not go together"),
    };
    if interlace > 1 {
        return refuse("its interlace method is unknown");
    }
    let raw = samples * if depth == 16 { 2 } else { 1 };
    Ok(Found {
        width: u32::from_be_bytes([w3, w2, w1, w0]),
        height: u32::from_be_bytes([h3, h2, h1, h0]),
        orientation: exif::orientation(chunks.exif.or(chunks.raw_profile.as_deref()), chunks.xmp),
        bytes_per_pixel: raw + if samples == 1 && color == 0 { 1 } else { 3 },
    })
}

/// Walks over the chunks; after the pixels begin, what is cut off or garbled ends the walk quietly.
fn read_chunks(bytes: &[u8]) -> Result<Chunks<'_>, VisionError> {
    let truncated = || VisionError::Truncated {
        format: Format::Png,
    };
    let broken = |reason: &str| VisionError::undecodable(Format::Png, reason);
    let (kind, header, crc, mut at) = chunk(bytes, SIGNATURE_LEN).ok_or_else(truncated)?;
    let header: [u8; 13] = match header.try_into() {
        Ok(header) if kind == b"IHDR" => header,
        _ => return Err(broken("it does not begin with its header")),
    };
    if crc != crc32(*kind, &header) {
        return Err(broken("the checksum of its header is wrong"));
    }
    let mut chunks = Chunks {
        header,
        palette: None,
        exif: None,
        xmp: None,
        raw_profile: None,
    };
    let mut has_pixels = false;
    while let Some((kind, body, crc, next)) = chunk(bytes, at) {
        match kind {
            b"PLTE" if !has_pixels && chunks.palette.is_none() => {
                if crc != crc32(*kind, body.get(..768).unwrap_or(body)) {
                    return Err(broken("the checksum of its palette is wrong"));
                }
                chunks.palette = Some(body);
            }
            b"IDAT" => has_pixels = true,
            b"eXIf" => chunks.exif = Some(body),
            b"iTXt" => {
                chunks.xmp = body.strip_prefix(b"XML:com.adobe.xmp\0\0").or(chunks.xmp);
            }
            b"tEXt" => {
                let profile = body.strip_prefix(b"Raw profile type exif\0");
                chunks.raw_profile = profile.map(unhex).or(chunks.raw_profile);
            }
            b"IEND" => break,
            _ => {}
        }
        at = next;
    }
    let cut_idat = bytes.get(at + 4..at + 8) == Some(b"IDAT");
    if has_pixels || cut_idat {
        Ok(chunks)
    } else {
        Err(truncated())
    }
}

/// The chunk at `at`: its kind, its body, its checksum, and where the next begins.
fn chunk(bytes: &[u8], at: usize) -> Option<(&[u8; 4], &[u8], u32, usize)> {
    let rest = bytes.get(at..)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(length)?;
    let crc = rest.first_chunk::<4>()?;
    Some((kind, body, u32::from_be_bytes(*crc), at + length + 12))
}

/// The CRC of a chunk (PNG, Annex D), bit by bit: for short chunks.
fn crc32(kind: [u8; 4], body: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in kind.iter().chain(body) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// The bytes of a raw profile: a line break, its name, its length, then hexadecimal digits.
fn unhex(text: &[u8]) -> Vec<u8> {
    let lines = text.splitn(4, |&b| b == b'\n').nth(3).unwrap_or_default();
    let digit = |b: &u8| {
        char::from(*b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let digits: Vec<u8> = lines.iter().take(1 << 16).filter_map(digit).collect();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| high << 4 | low)
        .collect()
}

/// Decodes the pixels as stored.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let chunks = read_chunks(bytes)?;
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CRATE_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // As Pillow: checksums of the pixels' chunks are not held against a picture that inflates.
    decoder.ignore_checksums(true);
    let mut reader = decoder.read_info().map_err(|e| refuse(&e))?;
    let size = reader.output_buffer_size().unwrap_or(0);
    let limit = u64::from(header.width) * u64::from(header.height) * 8;
    if size as u64 > limit {
        return Err(VisionError::undecodable(
            Format::Png,
            "its rows are too long",
        ));
    }
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(|e| refuse(&e))?;
    raw.truncate(frame.buffer_size());
    let same_size = (frame.width, frame.height) == (header.width, header.height);
    let (channels, pixels) = to_8_bits(
        raw,
        frame.line_size,
        (frame.color_type, frame.bit_depth),
        header.width as usize,
        chunks.palette.unwrap_or_default(),
    );
    Picture::new(header.width, header.height, channels, pixels)
        .filter(|_| same_size)
        .ok_or_else(|| VisionError::undecodable(Format::Png, "its rows do not fit its header"))
}

/// Brings rows of any colour type and depth to gray or RGB of 8 bits.
fn to_8_bits(
    raw: Vec<u8>,
    pitch: usize,
    (color, depth): (ColorType, BitDepth),
    width: usize,
    palette: &[u8],
) -> (u8, Vec<u8>) {
    match (color, depth) {
        (ColorType::Grayscale | ColorType::Rgb, BitDepth::Eight) => {
            (if color == ColorType::Rgb { 3 } else { 1 }, raw)
        }
        // Pillow drops the low byte of RGB, and scales gray to the full range.
        (ColorType::Rgb, _) => (3, raw.as_chunks::<2>().0.iter().map(|s| s[0]).collect()),
        (ColorType::Grayscale, BitDepth::Sixteen) => (
            1,
            raw.as_chunks::<2>()
                .0
                .iter()
                .map(|s| gray16(u16::from_be_bytes(*s)))
                .collect(),
        ),
        (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => {
            (1, raw.as_chunks::<4>().0.iter().map(|s| s[0]).collect())
        }
        (ColorType::GrayscaleAlpha, _) => {
            (1, raw.as_chunks::<2>().0.iter().map(|s| s[0]).collect())
        }
        (ColorType::Rgba, BitDepth::Sixteen) => (
            3,
            raw.as_chunks::<8>()
                .0
                .iter()
                .flat_map(|s| [s[0], s[2], s[4]])
                .collect(),
        ),
        (ColorType::Rgba, _) => (
            3,
            raw.as_chunks::<4>()
                .0
                .iter()
                .flat_map(|s| [s[0], s[1], s[2]])
                .collect(),
        ),
        (ColorType::Grayscale | ColorType::Indexed, _) => {
            let bits = depth as usize;
            let indices = raw
                .chunks_exact(pitch.max(1))
                .flat_map(|row| unpack(row, bits, width));
            if color == ColorType::Grayscale {
                let factor = match bits {
                    1 => 255,
                    2 => 85,
                    _ => 17,
                };
                return (1, indices.map(|v| v * factor).collect());
            }
            let colors = palette.as_chunks::<3>().0;
            let look_up = |i: u8| colors.get(usize::from(i)).copied().unwrap_or_default();
            (3, indices.flat_map(look_up).collect())
        }
    }
}

/// 16 bits of gray in 8: divided by 257 and rounded to the nearest.
pub(super) fn gray16(value: u16) -> u8 {
    u8::try_from((u32::from(value) + 128) / 257).unwrap_or(u8::MAX)
}

/// The first `width` values of `bits` bits each of a row, the highest bits first.
pub(super) fn unpack(row: &[u8], bits: usize, width: usize) -> impl Iterator<Item = u8> + '_ {
    let per_byte = 8 / bits.clamp(1, 8);
    let mask = u8::try_from((1_u16 << bits.clamp(1, 8)) - 1).unwrap_or(u8::MAX);
    let split = move |&byte: &u8| {
        (0..per_byte).map(move |i| (byte >> (8 - bits.clamp(1, 8) * (i + 1))) & mask)
    };
    row.iter().flat_map(split).take(width)
}

/// The refusal of what the `png` crate cannot read.
fn refuse(error: &DecodingError) -> VisionError {
    let text = match error {
        DecodingError::IoError(_) => {
            return VisionError::Truncated {
                format: Format::Png,
            };
        }
        DecodingError::LimitsExceeded => "its chunks are too large".to_owned(),
        other => other.to_string(),
    };
    if text.contains("No more image data") || text.contains("no more image data") {
        return VisionError::Truncated {
            format: Format::Png,
        };
    }
    VisionError::undecodable(Format::Png, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_unpacked_highest_first() {
        assert_eq!(unpack(&[0b1010_0000], 1, 3).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(
            unpack(&[0b11_01_10_00, 0xFF], 2, 5).collect::<Vec<_>>(),
            [3, 1, 2, 0, 3]
        );
        assert_eq!(unpack(&[0x4F], 4, 2).collect::<Vec<_>>(), [4, 15]);
        assert_eq!(unpack(&[7, 9], 8, 2).collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32(*b"IEND", b""), 0xAE42_6082);
    }

    #[test]
    fn raw_profiles_are_hexadecimal() {
        assert_eq!(unhex(b"\nexif\n      3\n4a4B\n00"), [0x4A, 0x4B, 0]);
        assert_eq!(unhex(b"garbage"), b"");
    }
}
