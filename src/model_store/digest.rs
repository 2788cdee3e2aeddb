//! SHA-256 of files and of what a version is made of.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::domain::ids::Digest;

/// SHA-256 of a file, read in pieces.
pub(super) fn of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0_u8; 1 << 18];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            read => hasher.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

/// SHA-256 over named parts, each with its length, so that no two lists of parts look alike.
#[derive(Default)]
pub(super) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(super) fn part(&mut self, name: &str, content: &[u8]) {
        for bytes in [name.as_bytes(), content] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}
