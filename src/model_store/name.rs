//! The names of files that come with an upload: relative, below the version's folder whatever a client writes.
//!
//! Pure. Called by `upload` and by who takes names off the wire.

use std::fmt;
use std::str::FromStr;

/// A path below a version's folder that leads nowhere else: one to eight parts, joined by `/`, none of them hidden, of
/// letters, digits, spaces and `._-+=@,()`. It is none of the names that have a meaning of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

/// Why a text is no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Too long.
    #[error("a file's name has 1 to {MAX_BYTES} bytes and at most {MAX_PARTS} parts")]
    Length,
    /// It leads elsewhere, or could.
    #[error(
        "a file's name is a relative path without empty parts, `.` or `..`, and no part of it begins with a dot"
    )]
    Path,
    /// A character that could mean something else to somebody.
    #[error(
        "a file's name has letters, digits, spaces and ._-+=@,() alone, and `/` between its parts"
    )]
    Character,
    /// It has a part of its own in the upload.
    #[error(
        "this name has a meaning of its own: `model`, `manifest` and `labels` are fields, version.json is Lensgate's"
    )]
    Reserved,
}

const MAX_BYTES: usize = 255;
const MAX_PARTS: usize = 8;

/// What a version's files are called that have a meaning of their own.
pub(super) const MODEL: &str = "model.onnx";
pub(super) const MANIFEST: &str = "model.toml";
pub(super) const LABELS: &str = "labels.txt";
/// What a bucket calls the list of a version's files.
pub(super) const SHEET: &str = "version.json";

impl FileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        if text.is_empty() || text.len() > MAX_BYTES || parts.len() > MAX_PARTS {
            return Err(InvalidName::Length);
        }
        // Also `.`, `..`, what is hidden, and what an absolute path begins with.
        if parts
            .iter()
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(InvalidName::Path);
        }
        let plain = |c: char| c == '/' || c.is_alphanumeric() || " ._-+=@,()".contains(c);
        let padded = |part: &&str| part.starts_with(' ') || part.ends_with([' ', '.']);
        if !text.chars().all(plain) || parts.iter().any(padded) {
            return Err(InvalidName::Character);
        }
        // Also where the disk does not tell capitals from small letters.
        let is = |reserved: &str| text.eq_ignore_ascii_case(reserved);
        if [MODEL, MANIFEST, LABELS, SHEET].into_iter().any(is) {
            return Err(InvalidName::Reserved);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use super::*;

    #[test]
    fn what_a_version_may_bring_along() {
        for good in [
            "7.png",
            "samples/7.png",
            "model.onnx.data",
            "weights.bin",
            "sub/model.onnx",
            "Bild 7 (gut).jpg",
            "Übung/é.png",
            "a/b/c/d/e/f/g/h",
            &"a".repeat(255),
        ] {
            assert_eq!(
                good.parse::<FileName>().map(|n| n.to_string()),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for (bad, why) in [
            ("", InvalidName::Length),
            (&*"a".repeat(256), InvalidName::Length),
            ("a/b/c/d/e/f/g/h/i", InvalidName::Length),
            ("/etc/passwd", InvalidName::Path),
            ("..", InvalidName::Path),
            (".", InvalidName::Path),
            ("../x", InvalidName::Path),
            ("a/../x", InvalidName::Path),
            ("a/./x", InvalidName::Path),
            ("a//x", InvalidName::Path),
            ("a/", InvalidName::Path),
            (".hidden", InvalidName::Path),
            ("a/.uploads/x", InvalidName::Path),
            ("..%2f..%2fx", InvalidName::Path),
            ("a%2f..%2fx", InvalidName::Character),
            ("a%2e%2e", InvalidName::Character),
            ("a\\..\\x", InvalidName::Character),
            ("C:\\x", InvalidName::Character),
            ("c:x", InvalidName::Character),
            ("a\0b", InvalidName::Character),
            ("a\nb", InvalidName::Character),
            ("a\u{202e}b", InvalidName::Character),
            ("a\u{2215}b", InvalidName::Character),
            ("x/*/_ORT_MEM_ADDR_/*", InvalidName::Character),
            ("$(reboot)", InvalidName::Character),
            ("a /b", InvalidName::Character),
            ("a./b", InvalidName::Character),
            (" a", InvalidName::Character),
            ("model.onnx", InvalidName::Reserved),
            ("Model.ONNX", InvalidName::Reserved),
            ("model.toml", InvalidName::Reserved),
            ("labels.txt", InvalidName::Reserved),
        ] {
            assert_eq!(bad.parse::<FileName>(), Err(why), "{bad:?}");
        }
    }

    /// A generator of our own, so that a failure can be met again.
    fn xorshift(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn whatever_is_taken_stays_below_the_folder() {
        const PIECES: [&str; 24] = [
            "a",
            "B",
            "7",
            "ü",
            ".",
            "..",
            "/",
            "//",
            "\\",
            "\0",
            "%2f",
            "%2e",
            "%00",
            " ",
            "~",
            "*",
            "\u{ff0f}",
            "\u{2024}",
            "model.onnx",
            "labels.txt",
            ".uploads",
            "\r\n",
            "C:",
            "()",
        ];
        let (mut state, mut taken) = (0x9e37_79b9_7f4a_7c15, 0_u32);
        for _ in 0..200_000 {
            let length = xorshift(&mut state) % 8;
            let text: String = (0..length)
                .map(|_| {
                    let at = xorshift(&mut state) % PIECES.len() as u64;
                    PIECES[usize::try_from(at).expect("small")]
                })
                .collect();
            let Ok(name) = text.parse::<FileName>() else {
                continue;
            };
            taken += 1;
            let path = Path::new(name.as_str());
            assert!(
                path.components()
                    .all(|part| matches!(part, Component::Normal(_))),
                "{text:?}"
            );
            let root = Path::new("/store/digits/3");
            assert!(root.join(path).starts_with(root), "{text:?}");
            assert!(
                !text.contains(['\0', '\\', '%']) && !text.contains("/."),
                "{text:?}"
            );
            assert_eq!(
                path.to_str(),
                Some(text.as_str()),
                "it is written as it is named"
            );
        }
        assert!(
            taken > 1000,
            "{taken} names were taken: the generator makes too few good ones"
        );
    }
}
