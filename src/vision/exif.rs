//! The orientation of a picture, read out of EXIF (a small TIFF) or XMP.
//!
//! Called by the header readers with bytes from anybody: bounded, and anything garbled counts as none.

/// How the stored pixels must be turned to stand upright.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// 1, or nothing said: as stored.
    #[default]
    Upright,
    /// 2: mirrored left to right.
    MirrorColumns,
    /// 3: turned by 180 degrees.
    Turn180,
    /// 4: mirrored top to bottom.
    MirrorRows,
    /// 5: rows and columns exchanged.
    Transpose,
    /// 6: turned by 90 degrees clockwise.
    Clockwise,
    /// 7: rows and columns exchanged along the other diagonal.
    Transverse,
    /// 8: turned by 90 degrees counter-clockwise.
    CounterClockwise,
}

impl Orientation {
    /// The meaning of the EXIF value; what is not 1 to 8 counts as upright.
    #[must_use]
    pub fn from_exif(value: u32) -> Self {
        match value {
            2 => Self::MirrorColumns,
            3 => Self::Turn180,
            4 => Self::MirrorRows,
            5 => Self::Transpose,
            6 => Self::Clockwise,
            7 => Self::Transverse,
            8 => Self::CounterClockwise,
            _ => Self::Upright,
        }
    }

    /// Whether rows become columns.
    #[must_use]
    pub fn swaps_sides(self) -> bool {
        matches!(
            self,
            Self::Transpose | Self::Clockwise | Self::Transverse | Self::CounterClockwise
        )
    }
}

/// Reads integers of a known byte order out of a slice; past its end there is nothing.
#[derive(Clone, Copy)]
pub(super) struct Endian {
    /// Whether the most significant byte comes first.
    pub big: bool,
}

impl Endian {
    /// The 16-bit integer at `at`.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let raw = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big {
            u16::from_be_bytes(raw)
        } else {
            u16::from_le_bytes(raw)
        })
    }

    /// The 32-bit integer at `at`.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let raw = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big {
            u32::from_be_bytes(raw)
        } else {
            u32::from_le_bytes(raw)
        })
    }
}

/// The tag of the orientation (TIFF 6, EXIF 2.3).
const ORIENTATION: u16 = 0x0112;

/// The value of the orientation in a block of EXIF, with or without its `Exif\0\0`; `None` where the
/// block does not hold one that can be read.
pub(super) fn orientation_value(block: &[u8]) -> Option<u32> {
    let mut tiff = block;
    while let Some(rest) = tiff.strip_prefix(b"Exif\0\0") {
        tiff = rest;
    }
    let endian = match tiff {
        [b'I', b'I', 42, 0, ..] => Endian { big: false },
        [b'M', b'M', 0, 42, ..] => Endian { big: true },
        _ => return None,
    };
    let directory = usize::try_from(endian.u32(tiff, 4)?).ok()?;
    let entries = usize::from(endian.u16(tiff, directory)?);
    // The last entry of a tag wins, as in Pillow.
    let mut found = None;
    for entry in 0..entries {
        let at = directory + 2 + entry * 12;
        let Some(tag) = endian.u16(tiff, at) else {
            break;
        };
        if tag != ORIENTATION || endian.u32(tiff, at + 4) != Some(1) {
            continue;
        }
        found = match endian.u16(tiff, at + 2) {
            Some(3 | 8) => endian.u16(tiff, at + 8).map(u32::from),
            Some(4 | 9) => endian.u32(tiff, at + 8),
            _ => found,
        };
    }
    found
}

/// The value of `tiff:Orientation` in a block of XMP, one digit, written as attribute or as element.
pub(super) fn xmp_orientation_value(xmp: &[u8]) -> Option<u32> {
    let name = b"tiff:Orientation";
    let mut rest = xmp;
    while let Some(at) = rest.windows(name.len()).position(|window| window == name) {
        rest = rest.get(at + name.len()..)?;
        match rest {
            [b'=', b'"', digit @ b'0'..=b'9', b'"', ..] | [b'>', digit @ b'0'..=b'9', b'<', ..] => {
                return Some(u32::from(digit - b'0'));
            }
            _ => {}
        }
    }
    None
}

/// The orientation that EXIF says, else XMP, else upright.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif.and_then(orientation_value)
        .or_else(|| xmp.and_then(xmp_orientation_value))
        .map_or(Orientation::Upright, Orientation::from_exif)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(big: bool, kind: u16, count: u32, value: u32) -> Vec<u8> {
        let w16 = |v: u16| {
            if big {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let w32 = |v: u32| {
            if big {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let mut out = if big {
            b"MM\0*".to_vec()
        } else {
            b"II*\0".to_vec()
        };
        out.extend(w32(8));
        out.extend(w16(1));
        out.extend(w16(ORIENTATION));
        out.extend(w16(kind));
        out.extend(w32(count));
        if kind == 3 {
            #[expect(clippy::cast_possible_truncation, reason = "test values are small")]
            out.extend(w16(value as u16));
            out.extend([0, 0]);
        } else {
            out.extend(w32(value));
        }
        out
    }

    #[test]
    fn values_are_read_in_both_byte_orders_and_types() {
        for big in [false, true] {
            for kind in [3, 4] {
                for value in [0, 1, 6, 8, 255] {
                    assert_eq!(orientation_value(&block(big, kind, 1, value)), Some(value));
                }
            }
        }
        let with_prefix = [b"Exif\0\0".as_slice(), &block(true, 3, 1, 6)].concat();
        assert_eq!(
            orientation(Some(&with_prefix), None),
            Orientation::Clockwise
        );
    }

    #[test]
    fn garbled_blocks_count_as_none() {
        let good = block(false, 3, 1, 6);
        for cut in 0..18 {
            assert_eq!(orientation_value(good.get(..cut).unwrap_or_default()), None);
        }
        assert_eq!(orientation_value(&block(false, 3, 2, 6)), None);
        assert_eq!(orientation_value(&block(false, 7, 1, 6)), None);
        assert_eq!(orientation_value(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(Orientation::from_exif(255), Orientation::Upright);
    }

    #[test]
    fn xmp_is_read_where_exif_says_nothing() {
        assert_eq!(
            xmp_orientation_value(br#"<a tiff:Orientation="6"/>"#),
            Some(6)
        );
        assert_eq!(
            xmp_orientation_value(b"<tiff:Orientation>3</tiff:Orientation>"),
            Some(3)
        );
        assert_eq!(
            xmp_orientation_value(b"tiff:Orientation=tiff:Orientation"),
            None
        );
        let exif = block(false, 3, 1, 1);
        let xmp = br#"tiff:Orientation="6""#;
        assert_eq!(orientation(Some(&exif), Some(xmp)), Orientation::Upright);
        assert_eq!(orientation(None, Some(xmp)), Orientation::Clockwise);
    }
}
