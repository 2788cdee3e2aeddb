//! The marker segments of a JPEG (ITU T.81, Annex B): its frame header, its EXIF, where it ends.
//!
//! Called by `jpeg` with bytes from anybody. Reads only; decodes no pixel and knows no library.

use super::exif::{self, Orientation};

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP0: u8 = 0xE0;
const APP1: u8 = 0xE1;
const APP14: u8 = 0xEE;

/// One component of the frame header.
#[derive(Clone, Copy, Debug)]
struct Component {
    across: u8,
    down: u8,
}

/// What stands before the first scan.
pub(super) struct Frame {
    /// Columns.
    pub width: u16,
    /// Rows; 0 means that they are defined after the first scan, which is not served.
    pub height: u16,
    /// Bits of a sample.
    pub precision: u8,
    /// The frame's own marker, 0xC0 to 0xCF.
    pub marker: u8,
    /// How many components there are.
    pub components: usize,
    /// Bytes a pixel of the coefficient arrays that a picture of several scans needs; 0 with one scan.
    pub coefficient_bytes: u64,
    /// From EXIF, else XMP.
    pub orientation: Orientation,
}

impl Frame {
    /// Whether the picture comes in refining scans.
    pub(super) fn is_progressive(&self) -> bool {
        matches!(self.marker, 0xC2 | 0xCA)
    }
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkerError {
    /// The bytes end first.
    Truncated,
    /// The segments contradict themselves.
    Invalid(&'static str),
}

/// A marker and the body of its segment (empty for markers that stand alone).
struct Segment<'a> {
    marker: u8,
    body: &'a [u8],
}

/// Walks over the segments of a JPEG.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// A walk that begins after the first marker.
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// The next segment; bytes that belong to none are skipped, as libjpeg does. `None` where the bytes
    /// end before the segment does.
    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.iter().position(|&b| b == 0xFF)?;
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.iter().position(|&b| b != 0xFF)?;
            let marker = *self.bytes.get(self.at)?;
            self.at += 1;
            match marker {
                0 => {}
                0x01 | 0xD0..=0xD9 => return Some(Segment { marker, body: &[] }),
                _ => {
                    let length = self.bytes.get(self.at..)?.first_chunk::<2>()?;
                    let length = usize::from(u16::from_be_bytes(*length)).max(2);
                    let body = self.bytes.get(self.at + 2..self.at + length)?;
                    self.at += length;
                    return Some(Segment { marker, body });
                }
            }
        }
    }

    /// Steps over the data of a scan, to the next marker that does not belong to it.
    fn skip_scan(&mut self) {
        while let Some(rest) = self.bytes.get(self.at..) {
            let Some(next) = rest.iter().position(|&b| b == 0xFF) else {
                break;
            };
            self.at += next;
            match self.bytes.get(self.at + 1) {
                Some(0 | 0xD0..=0xD7) => self.at += 2,
                Some(0xFF) => self.at += 1,
                _ => return,
            }
        }
        self.at = self.bytes.len();
    }
}

/// Reads everything before the first scan.
pub(super) fn read_frame(bytes: &[u8]) -> Result<Frame, MarkerError> {
    let mut walk = Walk::new(bytes);
    let (mut exif, mut xmp, mut frame) = (None, None, None);
    loop {
        let Segment { marker, body } = walk.next().ok_or(MarkerError::Truncated)?;
        match marker {
            SOI => return Err(MarkerError::Invalid("it begins twice")),
            EOI => return Err(MarkerError::Invalid("it ends without a picture")),
            APP1 if body.starts_with(b"Exif\0") && exif.is_none() => exif = body.get(6..),
            APP1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => xmp = Some(body),
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                if frame.is_some() {
                    return Err(MarkerError::Invalid("it has two frame headers"));
                }
                frame = Some((marker, body));
            }
            SOS => {
                let Some((marker, header)) = frame else {
                    return Err(MarkerError::Invalid("it has no frame header"));
                };
                let scanned = usize::from(body.first().copied().unwrap_or(0));
                let orientation = exif::orientation(exif, xmp);
                return parse_frame(marker, header, scanned, orientation);
            }
            _ => {}
        }
    }
}

/// Reads a frame header (B.2.2).
fn parse_frame(
    marker: u8,
    header: &[u8],
    scanned: usize,
    orientation: Orientation,
) -> Result<Frame, MarkerError> {
    let short = MarkerError::Invalid("its frame header is too short");
    let (&[precision, h1, h0, w1, w0, count], rest) =
        header.split_first_chunk::<6>().ok_or(short)?;
    let components: Vec<Component> = rest
        .as_chunks::<3>()
        .0
        .iter()
        .take(usize::from(count))
        .map(|[_, sampling, _]| Component {
            across: sampling >> 4,
            down: sampling & 15,
        })
        .collect();
    if components.len() != usize::from(count) || components.is_empty() {
        return Err(short);
    }
    if components
        .iter()
        .any(|c| !(1..=4).contains(&c.across) || !(1..=4).contains(&c.down))
    {
        return Err(MarkerError::Invalid(
            "its sampling factors are not between 1 and 4",
        ));
    }
    let mut frame = Frame {
        width: u16::from_be_bytes([w1, w0]),
        height: u16::from_be_bytes([h1, h0]),
        precision,
        marker,
        components: components.len(),
        coefficient_bytes: 0,
        orientation,
    };
    if frame.is_progressive() || scanned < components.len() {
        let area = |across: u8, down: u8| u64::from(across) * u64::from(down);
        let largest = area(
            components.iter().map(|c| c.across).max().unwrap_or(1),
            components.iter().map(|c| c.down).max().unwrap_or(1),
        );
        let all: u64 = components.iter().map(|c| area(c.across, c.down)).sum();
        frame.coefficient_bytes = (2 * all).div_ceil(largest);
    }
    Ok(frame)
}

/// The bytes up to and with the end-of-image marker that follows the first scan, or `None` where there
/// is no such marker. Segments are stepped over, so the end of a thumbnail inside one does not count.
pub(super) fn up_to_end(bytes: &[u8]) -> Option<&[u8]> {
    let mut walk = Walk::new(bytes);
    let mut scanned = false;
    loop {
        match walk.next()?.marker {
            EOI if scanned => return bytes.get(..walk.at),
            SOS => {
                scanned = true;
                walk.skip_scan();
            }
            _ => {}
        }
    }
}

/// The picture once more with a header that libjpeg has nothing to remark about: without what stands
/// between segments, and with the JFIF version and the Adobe transform put right as libjpeg takes them.
pub(super) fn tidied(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut walk = Walk::new(bytes);
    let mut out = vec![0xFF, SOI];
    let mut components = 3;
    loop {
        let Segment { marker, body } = walk.next()?;
        let mut body = body.to_vec();
        match marker {
            0x01 | 0xD0..=0xD9 => continue,
            APP0 if body.starts_with(b"JFIF\0") => {
                body.get_mut(5).into_iter().for_each(|major| *major = 1);
            }
            APP14 if body.starts_with(b"Adobe") => {
                let unknown = if components == 4 { 2 } else { 1 };
                body.get_mut(11)
                    .filter(|t| **t > 2)
                    .into_iter()
                    .for_each(|t| *t = unknown);
            }
            0xE0..=0xEF | 0xFE => continue,
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                components = body.get(5).copied().unwrap_or(3);
            }
            _ => {}
        }
        out.extend([0xFF, marker]);
        out.extend(u16::try_from(body.len() + 2).ok()?.to_be_bytes());
        out.extend(body);
        if marker == SOS {
            out.extend_from_slice(bytes.get(walk.at..)?);
            return Some(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of `width` 3, `height` 2, then one scan of two bytes.
    fn jpeg(extra: &[u8]) -> Vec<u8> {
        let mut out = vec![0xFF, SOI];
        out.extend_from_slice(extra);
        out.extend(b"\xFF\xC0\0\x0b\x08\0\x02\0\x03\x01\x01\x11\0\xFF\xDA\0\x08\x01\x01\0\0\x3f\0");
        out.extend([0x12, 0xFF, 0x00, 0xFF, 0xD0, 0x34]);
        out
    }

    #[test]
    fn the_frame_is_found_behind_junk_and_thumbnails() {
        let thumbnail = b"\xFF\xE1\0\x0aExif\0\0\xFF\xD9";
        for extra in [b"".as_slice(), b"\0\0junk\xFF\xFF", thumbnail] {
            let frame = read_frame(&jpeg(extra)).ok().unwrap();
            assert_eq!((frame.width, frame.height, frame.components), (3, 2, 1));
            assert_eq!(frame.coefficient_bytes, 0);
        }
    }

    #[test]
    fn only_an_end_after_the_scan_counts() {
        let mut bytes = jpeg(b"\xFF\xE1\0\x0aExif\0\0\xFF\xD9");
        assert_eq!(up_to_end(&bytes), None);
        let len = bytes.len() + 2;
        bytes.extend([0xFF, EOI, 1, 2, 3]);
        assert_eq!(up_to_end(&bytes).map(<[u8]>::len), Some(len));
    }

    #[test]
    fn cut_headers_are_truncated() {
        let bytes = jpeg(b"");
        for cut in 2..21 {
            let error = read_frame(bytes.get(..cut).unwrap()).err();
            assert_eq!(error, Some(MarkerError::Truncated), "{cut}");
        }
    }

    #[test]
    fn tidying_drops_what_is_between_segments() {
        assert_eq!(tidied(&jpeg(b"junk\xFF\xFE\0\x03x")), Some(jpeg(b"")));
        let wrong = jpeg(b"\xFF\xEE\0\x0eAdobe\0\x64\0\0\0\0\x07");
        let right = jpeg(b"\xFF\xEE\0\x0eAdobe\0\x64\0\0\0\0\x01");
        assert_eq!(tidied(&wrong), Some(right));
    }
}
