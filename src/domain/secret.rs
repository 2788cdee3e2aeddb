//! Secrets that are handed out: how they are made, told from typing mistakes, and kept as a hash alone.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Random bytes of a secret.
pub const ENTROPY_BYTES: usize = 32;

/// What a secret opens; told by its prefix, so that secret scanners find it wherever it leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// An API key, `lg_…`.
    ApiKey,
    /// An admin token, `lga_…`.
    AdminToken,
}

impl SecretKind {
    /// The prefix, with its underscore.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "lg_",
            Self::AdminToken => "lga_",
        }
    }
}

/// Base 62 digits of 256 bits.
const RANDOM_DIGITS: usize = 43;
/// Base 62 digits of a CRC-32.
const CHECK_DIGITS: usize = 6;
/// Characters that are shown of a secret, so that people can tell theirs apart.
const HINT: usize = 8;

/// A new secret of 256 random bits: prefix, 43 base-62 digits, and 6 more that are the CRC-32 (ISO-HDLC) of all before
/// them, as the well-known code forges do it: a scanner can tell a real one from a look-alike without asking anybody.
#[must_use]
pub fn compose(kind: SecretKind, random: [u8; ENTROPY_BYTES]) -> String {
    let mut text = kind.prefix().to_owned();
    text.push_str(&base62(&random, RANDOM_DIGITS));
    let check = crc32fast::hash(text.as_bytes());
    text.push_str(&base62(&check.to_be_bytes(), CHECK_DIGITS));
    text
}

/// Whether a text has the form of one of our secrets and its check digits fit.
#[must_use]
pub fn is_well_formed(kind: SecretKind, text: &str) -> bool {
    let Some(random) = text.strip_prefix(kind.prefix()) else {
        return false;
    };
    if random.len() != RANDOM_DIGITS + CHECK_DIGITS
        || !random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return false;
    }
    let (body, check) = text.split_at(text.len() - CHECK_DIGITS);
    base62(
        &crc32fast::hash(body.as_bytes()).to_be_bytes(),
        CHECK_DIGITS,
    ) == check
}

/// The first characters, for people; nothing where so much of a short secret would say too much.
#[must_use]
pub fn hint(secret: &str) -> String {
    if secret.chars().count() < 4 * HINT {
        return String::new();
    }
    secret.chars().take(HINT).chain(['…']).collect()
}

/// Big-endian bytes in base 62, at least `digits` long.
fn base62(bytes: &[u8], digits: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = bytes.to_vec();
    let mut text = Vec::with_capacity(digits);
    while number.iter().any(|&byte| byte != 0) || text.len() < digits {
        let mut rest: usize = 0;
        for byte in &mut number {
            let value = rest * 256 + usize::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            rest = value % 62;
        }
        text.push(ALPHABET.get(rest).copied().unwrap_or(b'0'));
    }
    text.reverse();
    text.into_iter().map(char::from).collect()
}

/// The SHA-256 of a secret: all that is kept of it. A plain hash is enough, as there are 256 random bits behind it.
#[derive(Clone, Copy, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret as it was presented.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The hash that these bytes are.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In constant time: how long it takes tells nothing of where two hashes differ.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for SecretHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// A hash is no secret, but nobody needs it in a log.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_a_fixed_form_and_checks_itself() {
        for (kind, prefix) in [
            (SecretKind::ApiKey, "lg_"),
            (SecretKind::AdminToken, "lga_"),
        ] {
            for random in [
                [0; 32],
                [255; 32],
                std::array::from_fn(|i| u8::try_from(i).expect("small")),
            ] {
                let secret = compose(kind, random);
                assert!(secret.starts_with(prefix));
                assert_eq!(secret.len(), prefix.len() + 49);
                assert!(is_well_formed(kind, &secret), "{secret}");
            }
        }
        let secret = compose(SecretKind::ApiKey, [7; 32]);
        for at in 0..secret.len() {
            let mut other = secret.clone().into_bytes();
            other[at] = if other[at] == b'x' { b'y' } else { b'x' };
            let other = String::from_utf8(other).expect("ASCII");
            assert!(!is_well_formed(SecretKind::ApiKey, &other), "{other}");
        }
        assert!(!is_well_formed(SecretKind::AdminToken, &secret));
        assert!(!is_well_formed(SecretKind::ApiKey, "lg_"));
    }

    #[test]
    fn base_62_is_the_number_in_another_base() {
        assert_eq!(base62(&[0], 1), "0");
        assert_eq!(base62(&[61], 1), "z");
        assert_eq!(base62(&[62], 1), "10");
        assert_eq!(base62(&[1, 0], 1), "48");
        assert_eq!(base62(&[0, 1], 3), "001");
    }

    #[test]
    fn a_hint_says_little_and_nothing_of_a_short_secret() {
        assert_eq!(hint(&compose(SecretKind::ApiKey, [0; 32])), "lg_00000…");
        assert_eq!(hint("sixteen letters."), "");
    }

    #[test]
    fn a_hash_compares_and_does_not_show() {
        assert_eq!(SecretHash::of("a"), SecretHash::of("a"));
        assert_ne!(SecretHash::of("a"), SecretHash::of("b"));
        assert_eq!(format!("{:?}", SecretHash::of("a")), "SecretHash(…)");
    }
}
