//! Names of things: model ids, version numbers, aliases, digests. A value of these types is valid by construction.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a model: `[a-z0-9][a-z0-9._-]{0,63}`. It is also the name of its folder, so it can never leave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(String);

/// A string that is no model id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a model id is 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit")]
pub struct InvalidModelId;

impl ModelId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelId {
    type Err = InvalidModelId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let starts_well = bytes.first().is_some_and(|&byte| plain(byte));
        let goes_on_well = bytes
            .iter()
            .all(|&byte| plain(byte) || b"._-".contains(&byte));
        if bytes.len() <= 64 && starts_well && goes_on_well {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidModelId)
        }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a version: a positive integer, also the name of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionNumber(NonZeroU64);

/// A string that is no version number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is a positive integer without leading zeros")]
pub struct InvalidVersion;

impl VersionNumber {
    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for VersionNumber {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `007` and `+7` are other folder names than `7`: only the canonical form is a version.
        if text.starts_with(['0', '+']) {
            return Err(InvalidVersion);
        }
        text.parse().map(Self).map_err(|_| InvalidVersion)
    }
}

impl From<NonZeroU64> for VersionNumber {
    fn from(number: NonZeroU64) -> Self {
        Self(number)
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A movable name of a version: `[a-z][a-z0-9._-]{0,63}`. It begins with a letter, so it is never taken for a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(String);

/// A string that is no alias.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an alias is 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter")]
pub struct InvalidAlias;

impl Alias {
    /// The alias as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let goes_on_well = text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
        });
        let starts_well = text.starts_with(|first: char| first.is_ascii_lowercase());
        if text.len() <= 64 && starts_well && goes_on_well {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidAlias)
        }
    }
}

impl TryFrom<String> for Alias {
    type Error = InvalidAlias;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> Self {
        alias.0
    }
}

impl Borrow<str> for Alias {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A string that is no SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits, with or without `sha256:` before them")]
pub struct InvalidDigest;

impl Digest {
    /// The digest made of these 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or(InvalidDigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidDigest)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids_follow_their_grammar() {
        let longest = "a".repeat(64);
        for good in ["digits", "0", "squeezenet1.1-int8", "a_b", longest.as_str()] {
            assert_eq!(
                good.parse::<ModelId>().map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
        let too_long = "a".repeat(65);
        for bad in [
            "", ".", "..", ".a", "-a", "_a", "A", "a/b", "a\\b", "a\0", "ä", "a b", &too_long,
        ] {
            assert_eq!(bad.parse::<ModelId>(), Err(InvalidModelId), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_canonical_positive_integers() {
        assert_eq!(
            "12".parse::<VersionNumber>().map(VersionNumber::get),
            Ok(12)
        );
        for bad in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1.0",
            "stable",
            "99999999999999999999",
        ] {
            assert_eq!(bad.parse::<VersionNumber>(), Err(InvalidVersion), "{bad:?}");
        }
    }

    #[test]
    fn an_alias_is_never_a_number() {
        let longest = "a".repeat(64);
        for good in ["stable", "a", "v1", "blue-green_2.0", longest.as_str()] {
            let alias = good.parse::<Alias>().expect(good);
            assert_eq!(alias.as_str(), good);
            assert!(good.parse::<VersionNumber>().is_err());
        }
        let too_long = "a".repeat(65);
        for bad in [
            "", "1", "1st", "-a", ".a", "_a", "A", "a b", "a/b", "a\0", "ä", "stäble", &too_long,
        ] {
            assert_eq!(bad.parse::<Alias>(), Err(InvalidAlias), "{bad:?}");
        }
    }

    #[test]
    fn a_digest_is_written_with_its_algorithm_and_read_with_or_without() {
        let digest = Digest::from_bytes(std::array::from_fn(|at| {
            u8::try_from(at * 7).unwrap_or(0xff)
        }));
        let text = digest.to_string();
        assert!(text.starts_with("sha256:00070e15"), "{text}");
        let bare = text.trim_start_matches("sha256:");
        for good in [&text, bare, &bare.to_uppercase()] {
            assert_eq!(good.parse(), Ok(digest), "{good}");
        }
        let long = format!("{bare}0");
        for bad in [
            "",
            "sha256:",
            &bare[1..],
            &long,
            &bare.replace('0', "g"),
            "md5:00",
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(InvalidDigest), "{bad}");
        }
        assert_eq!("ä".repeat(32).parse::<Digest>(), Err(InvalidDigest));
    }
}
