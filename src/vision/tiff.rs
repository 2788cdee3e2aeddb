//! TIFF to pixels: the first page, any strips or tiles, its samples brought to 8-bit gray or RGB.
//!
//! Called by `vision` alone; the `tiff` crate reads the file. Palettes, which it does not read, are looked up here.

use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};

use super::VisionError;
use super::exif::{Endian, Orientation, xmp_orientation_value};
use super::format::Format;
use super::header::{Found, Header};
use super::picture::{Picture, without_ink};
use super::png::{gray16, unpack};

/// The tag of the interpretation, and the values we exchange.
const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u8 = 1;
const PALETTE: u32 = 3;
/// The largest value of one tag (a palette of 16 bits has 384 KiB).
const TAG_BYTES: usize = 4 << 20;

type File<'a> = Decoder<Cursor<&'a [u8]>>;

/// Opens the first page, holding the crate to `pixel_bytes` of pixels.
fn open(bytes: &[u8], pixel_bytes: usize) -> Result<File<'_>, VisionError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = pixel_bytes;
    limits.intermediate_buffer_size = pixel_bytes.saturating_add(1 << 20);
    limits.ifd_value_size = TAG_BYTES;
    if has_endless_tag(bytes) {
        return Err(VisionError::undecodable(
            Format::Tiff,
            "a tag has too many values",
        ));
    }
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(|e| refuse(&e))?;
    Ok(decoder.with_limits(limits))
}

/// Tags of numbers that the crate reads at once: bits, strips, palette, tiles, extra samples, sample format, JPEG tables.
const EAGER: [u16; 9] = [258, 273, 279, 320, 324, 325, 338, 339, 347];
/// Values of such a tag: a palette of 16 bits has 3 x 65536, a picture in strips one a row at most.
const EAGER_VALUES: u64 = 200_000;

/// Whether the first directory announces more values than a picture has. The crate takes its limits only after it has
/// read them, 32 bytes a value.
fn has_endless_tag(bytes: &[u8]) -> bool {
    let (endian, big) = match bytes {
        [b'I', b'I', version @ (42 | 43), 0, ..] => (Endian { big: false }, *version == 43),
        [b'M', b'M', 0, version @ (42 | 43), ..] => (Endian { big: true }, *version == 43),
        _ => return false,
    };
    let number = |at: usize| {
        let (first, second) = (
            endian.u32(bytes, at)?,
            endian.u32(bytes, at.checked_add(4)?)?,
        );
        let (high, low) = if endian.big {
            (first, second)
        } else {
            (second, first)
        };
        Some(u64::from(high) << 32 | u64::from(low))
    };
    let walk = || {
        // Where the directory begins, how many bytes tell its length, how many an entry has.
        let (start, counter, entry) = if big {
            (usize::try_from(number(8)?).ok()?, 8, 20)
        } else {
            (usize::try_from(endian.u32(bytes, 4)?).ok()?, 2, 12)
        };
        let first = start.checked_add(counter)?;
        let entries = bytes.get(first..)?.chunks_exact(entry);
        let announced = if big {
            usize::try_from(number(start)?).unwrap_or(usize::MAX)
        } else {
            usize::from(endian.u16(bytes, start)?)
        };
        entries.take(announced).enumerate().find_map(|(place, _)| {
            let at = first + place * entry;
            let count = if big {
                number(at + 4)?
            } else {
                u64::from(endian.u32(bytes, at + 4)?)
            };
            let tag = endian.u16(bytes, at)?;
            (EAGER.contains(&tag) && count > EAGER_VALUES).then_some(())
        })
    };
    walk().is_some()
}

/// Reads the tags of the first page.
pub(super) fn read_header(bytes: &[u8]) -> Result<Found, VisionError> {
    let mut file = open(bytes, TAG_BYTES)?;
    let (width, height) = file.dimensions().map_err(|e| refuse(&e))?;
    let mut number = |tag| file.find_tag_unsigned::<u32>(tag).ok().flatten();
    let samples = u64::from(number(Tag::SamplesPerPixel).unwrap_or(1));
    let said = number(Tag::Orientation);
    let bits = match file.find_tag_unsigned_vec::<u16>(Tag::BitsPerSample) {
        Ok(Some(all)) => u64::from(all.first().copied().unwrap_or(1)),
        _ => 1,
    };
    let mut xmp = || file.get_tag_u8_vec(Tag::Unknown(700)).ok();
    let value = said.or_else(|| xmp().as_deref().and_then(xmp_orientation_value));
    Ok(Found {
        width,
        height,
        orientation: value.map_or(Orientation::Upright, Orientation::from_exif),
        bytes_per_pixel: 2 * samples.saturating_mul(bits).div_ceil(8) + samples + 3,
    })
}

/// Decodes the first page as stored.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Picture, VisionError> {
    let broken = |reason: &str| VisionError::undecodable(Format::Tiff, reason);
    let limit = usize::try_from(header.working_bytes)
        .unwrap_or(usize::MAX)
        .max(TAG_BYTES);
    let palette = read_palette(&mut open(bytes, TAG_BYTES)?);
    let readable = if palette.is_some() {
        as_gray(bytes)
    } else {
        Cow::Borrowed(bytes)
    };
    let mut file = open(&readable, limit)?;
    let color = file.colortype().map_err(|e| refuse(&e))?;
    let associated = file
        .find_tag_unsigned_vec::<u16>(Tag::ExtraSamples)
        .is_ok_and(|extra| extra.is_some_and(|e| e.first() == Some(&1)));
    let mut data = DecodingResult::U8(Vec::new());
    let layout = file
        .read_image_to_buffer(&mut data)
        .map_err(|e| refuse(&e))?;
    let (width, height) = (header.width as usize, header.height as usize);
    let gray = matches!(color, ColorType::Gray(_)) && palette.is_none();
    let samples =
        to_bytes(data, gray).ok_or_else(|| broken("its samples are of no served type"))?;
    let samples = interleaved(samples, &layout, width * height)
        .ok_or_else(|| broken("its planes do not fit its header"))?;
    let (channels, pixels) = match (color, palette) {
        (ColorType::Gray(bits @ (1 | 2 | 4 | 8)), Some(palette)) => {
            let look_up = |i: u8| palette.get(usize::from(i)).copied().unwrap_or_default();
            let indices = unpacked(&samples, usize::from(bits), width);
            (3, indices.flat_map(look_up).collect())
        }
        (ColorType::Gray(bits @ (1 | 2 | 4)), None) => {
            let factor = 255 / ((1 << bits) - 1);
            (
                1,
                unpacked(&samples, usize::from(bits), width)
                    .map(|v| v * factor)
                    .collect(),
            )
        }
        (ColorType::Gray(_), None) => (1, samples),
        (ColorType::RGB(8 | 16), _) => (3, samples),
        (ColorType::RGBA(8 | 16), _) => (3, without_alpha(&samples, associated)),
        (ColorType::CMYK(8 | 16), _) => (3, from_cmyk(&samples)),
        (
            ColorType::Multiband {
                bit_depth: 8,
                num_samples: 2,
            },
            None,
        ) => (
            1,
            samples
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&[gray, _]| gray)
                .collect(),
        ),
        _ => return Err(broken("its colour type is not served")),
    };
    Picture::new(header.width, header.height, channels, pixels)
        .ok_or_else(|| broken("its rows do not fit its header"))
}

/// The palette of the page, if its pixels are indices: reds, greens and blues of 16 bits, of which
/// Pillow keeps the high byte.
fn read_palette(file: &mut File<'_>) -> Option<Vec<[u8; 3]>> {
    if file
        .find_tag_unsigned::<u32>(Tag::PhotometricInterpretation)
        .ok()??
        != PALETTE
    {
        return None;
    }
    let map = file.find_tag_unsigned_vec::<u16>(Tag::ColorMap).ok()??;
    let high = |value: &u16| value.to_be_bytes()[0];
    let (reds, rest) = map.split_at_checked(map.len() / 3)?;
    let (greens, blues) = rest.split_at_checked(map.len() / 3)?;
    let colors = reds.iter().zip(greens).zip(blues);
    Some(
        colors
            .map(|((r, g), b)| [high(r), high(g), high(b)])
            .collect(),
    )
}

/// The same file with the indices of its first page declared to be gray.
fn as_gray(bytes: &[u8]) -> Cow<'_, [u8]> {
    let endian = Endian {
        big: bytes.starts_with(b"MM"),
    };
    let patched = || {
        let directory = usize::try_from(endian.u32(bytes, 4)?).ok()?;
        let entries = usize::from(endian.u16(bytes, directory)?);
        let all = (0..entries).map(|entry| directory + 2 + 12 * entry);
        let at = all
            .into_iter()
            .find(|&at| endian.u16(bytes, at) == Some(PHOTOMETRIC))?;
        let mut copy = bytes.to_vec();
        *copy.get_mut(if endian.big { at + 9 } else { at + 8 })? = BLACK_IS_ZERO;
        Some(copy)
    };
    patched().map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// Samples as bytes: of 16 bits the high one (gray is scaled), wider ones are clipped as Pillow's
/// conversion to 8 bits does.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255"
)]
fn to_bytes(data: DecodingResult, gray: bool) -> Option<Vec<u8>> {
    match data {
        DecodingResult::U8(v) => Some(v),
        DecodingResult::U16(v) if gray => Some(v.into_iter().map(gray16).collect()),
        DecodingResult::U16(v) => Some(v.into_iter().map(|s| s.to_be_bytes()[0]).collect()),
        DecodingResult::I8(v) => Some(v.into_iter().map(i8::cast_unsigned).collect()),
        DecodingResult::I16(v) if gray => {
            Some(v.into_iter().map(|s| s.clamp(0, 255) as u8).collect())
        }
        DecodingResult::U32(v) if gray => Some(
            v.into_iter()
                .map(|s| s.cast_signed().clamp(0, 255) as u8)
                .collect(),
        ),
        DecodingResult::I32(v) if gray => {
            Some(v.into_iter().map(|s| s.clamp(0, 255) as u8).collect())
        }
        // `as` gives 0 for what is no number.
        DecodingResult::F32(v) if gray => Some(v.into_iter().map(|s| s as u8).collect()),
        _ => None,
    }
}

/// Puts the samples of a pixel side by side where they are stored in planes.
fn interleaved(
    samples: Vec<u8>,
    layout: &BufferLayoutPreference,
    pixels: usize,
) -> Option<Vec<u8>> {
    if layout.planes <= 1 {
        return Some(samples);
    }
    let planes: Vec<&[u8]> = samples.chunks_exact(pixels).collect();
    if planes.len() != layout.planes {
        return None;
    }
    let pixel = |i: usize| {
        planes
            .iter()
            .map(move |plane| plane.get(i).copied().unwrap_or(0))
    };
    Some((0..pixels).flat_map(pixel).collect())
}

/// The values of rows that are packed to whole bytes.
fn unpacked(samples: &[u8], bits: usize, width: usize) -> impl Iterator<Item = u8> + '_ {
    let pitch = (width * bits).div_ceil(8).max(1);
    samples
        .chunks_exact(pitch)
        .flat_map(move |row| unpack(row, bits, width))
}

/// Drops alpha; colours that were multiplied by it are divided again (`unpackRGBa` of Pillow's `Unpack.c`).
fn without_alpha(samples: &[u8], associated: bool) -> Vec<u8> {
    let divide = |color: u8, alpha: u8| {
        let whole = u16::from(color) * 255;
        u8::try_from(whole.checked_div(u16::from(alpha)).unwrap_or(0)).unwrap_or(u8::MAX)
    };
    let plain = |&[r, g, b, a]: &[u8; 4]| {
        if associated {
            [r, g, b].map(|color| divide(color, a))
        } else {
            [r, g, b]
        }
    };
    samples.as_chunks::<4>().0.iter().flat_map(plain).collect()
}

/// Converts CMYK as Pillow's `cmyk2rgb` does.
fn from_cmyk(samples: &[u8]) -> Vec<u8> {
    let convert = |&[c, m, y, k]: &[u8; 4]| [c, m, y].map(|ink| without_ink(255 - k, ink));
    samples
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(convert)
        .collect()
}

/// The refusal of what the `tiff` crate cannot read.
fn refuse(error: &TiffError) -> VisionError {
    match error {
        TiffError::IoError(_) => VisionError::Truncated {
            format: Format::Tiff,
        },
        TiffError::LimitsExceeded | TiffError::IntSizeError => {
            VisionError::undecodable(Format::Tiff, "its strips or tags are too large")
        }
        other => VisionError::undecodable(Format::Tiff, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_millions_of_values_is_seen_before_the_crate_reads_it() {
        let classic = |tag: u16, count: u32| {
            let mut file = b"II\x2a\0\x08\0\0\0\x01\0".to_vec();
            file.extend_from_slice(&tag.to_le_bytes());
            file.extend_from_slice(&1_u16.to_le_bytes());
            file.extend_from_slice(&count.to_le_bytes());
            file.extend_from_slice(&[0; 4]);
            file
        };
        assert!(has_endless_tag(&classic(273, 8_000_000)));
        assert!(!has_endless_tag(&classic(273, 1000)));
        assert!(
            !has_endless_tag(&classic(34_675, 8_000_000)),
            "a colour profile may be long"
        );
        let mut big = b"MM\0\x2b\0\x08\0\0".to_vec();
        big.extend_from_slice(&16_u64.to_be_bytes());
        big.extend_from_slice(&1_u64.to_be_bytes());
        big.extend_from_slice(&279_u16.to_be_bytes());
        big.extend_from_slice(&1_u16.to_be_bytes());
        big.extend_from_slice(&8_000_000_u64.to_be_bytes());
        big.extend_from_slice(&[0; 8]);
        assert!(has_endless_tag(&big));
        for cut in 0..big.len() {
            has_endless_tag(&big[..cut]);
        }
    }
}
