//! Which format a picture has, told by its first bytes alone, never by a name or a content type.
//!
//! Called by `header`. Knows signatures, no decoder.

use std::fmt;

/// The formats that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive.
    Jpeg,
    /// PNG, of an APNG the default image.
    Png,
    /// WebP, lossy or lossless; the first frame.
    WebP,
    /// GIF, the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF, the first page.
    Tiff,
}

impl Format {
    /// The format of these bytes, or none of those that are served.
    #[must_use]
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        let riff = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 13, 10, 26, 10, ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            _ if riff => Some(Self::WebP),
            _ => None,
        }
    }

    /// The media type, e.g. `image/jpeg`.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
        }
    }

    /// The name on the wire and in logs, e.g. `jpeg`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }
}

/// The name for people, e.g. `JPEG`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}

/// What bytes of no served format look like, for the message of the refusal.
pub(super) fn guess_foreign(bytes: &[u8]) -> &'static str {
    if bytes.get(4..8) == Some(b"ftyp") {
        return match bytes.get(8..12) {
            Some(b"avif" | b"avis") => "AVIF",
            Some(b"heic" | b"heix" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => "HEIF",
            _ => "an MP4 or QuickTime file",
        };
    }
    let text = bytes.trim_ascii_start();
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(&[0xFF, 0x0A]) || begins(b"\0\0\0\x0cJXL ") {
        "JPEG XL"
    } else if begins(b"\0\0\0\x0cjP  ") || begins(&[0xFF, 0x4F, 0xFF, 0x51]) {
        "JPEG 2000"
    } else if begins(b"%PDF") {
        "PDF"
    } else if begins(&[0, 0, 1, 0]) || begins(&[0, 0, 2, 0]) {
        "ICO"
    } else if begins(b"8BPS") {
        "PSD"
    } else if begins(b"PK\x03\x04") {
        "a ZIP archive"
    } else if text.starts_with(b"<") {
        "SVG, XML or HTML"
    } else if text.starts_with(b"{") || text.starts_with(b"[") {
        "JSON"
    } else {
        "this kind of data"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let table: [(&[u8], Option<Format>); 10] = [
            (b"\xFF\xD8\xFF\xE0", Some(Format::Jpeg)),
            (b"\x89PNG\r\n\x1a\n", Some(Format::Png)),
            (b"GIF89a", Some(Format::Gif)),
            (b"GIF88a", None),
            (b"BM", Some(Format::Bmp)),
            (b"II*\0", Some(Format::Tiff)),
            (b"MM\0*", Some(Format::Tiff)),
            (b"RIFF\0\0\0\0WEBP", Some(Format::WebP)),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"", None),
        ];
        for (bytes, format) in table {
            assert_eq!(Format::sniff(bytes), format, "{bytes:?}");
        }
        assert_eq!(guess_foreign(b"\0\0\0\x1cftypavif"), "AVIF");
        assert_eq!(guess_foreign(b"  <svg>"), "SVG, XML or HTML");
    }
}
