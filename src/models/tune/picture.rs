//! The picture that is classified again and again: one that is given, one of the model's own, or a gray ramp.
//!
//! Called by the command line. What it finds has been classified once, so that no measurement fails over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model_store::Candidate;
use crate::models::examine::{Opened, ramp};
use crate::vision::{DecodeLimits, Picture};

/// A picture as it comes from a client.
#[derive(Clone, Debug)]
pub struct TunePicture {
    /// The encoded bytes.
    pub bytes: Arc<[u8]>,
    /// What may be decoded.
    pub limits: DecodeLimits,
    /// Where it comes from, for people.
    pub origin: String,
}

/// Which picture is wanted.
#[derive(Clone, Copy, Debug)]
pub enum PictureChoice<'a> {
    /// The bytes of a file, and its name for people.
    Given(&'a [u8], &'a Path),
    /// A golden picture of the version, else one of the model's `samples`, else a ramp of the input's size.
    OfTheModel,
}

impl TunePicture {
    /// The picture that `choice` means for this version.
    ///
    /// # Errors
    /// With the reason, where a given picture cannot be classified.
    pub fn find(
        choice: PictureChoice<'_>,
        candidate: &Candidate,
        opened: &Opened,
        limits: DecodeLimits,
    ) -> Result<Self, String> {
        let of = |bytes: Vec<u8>, origin: String| {
            let tried = opened.top_classes(&bytes, &limits, 1);
            tried.map_err(|error| error.to_string())?;
            Ok(Self {
                bytes: bytes.into(),
                limits,
                origin,
            })
        };
        if let PictureChoice::Given(bytes, name) = choice {
            return of(bytes.to_vec(), name.display().to_string());
        }
        let golden = candidate.golden.iter().map(|(_, path)| path.clone());
        let mut own = golden.chain(samples(candidate));
        let found = own.find_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            of(std::fs::read(&path).ok()?, name).ok()
        });
        let spec = &opened.input.spec;
        match found {
            Some(found) => Ok(found),
            None => of(
                bitmap(&ramp(spec.width, spec.height)?),
                format!("a gray ramp of {}x{}", spec.width, spec.height),
            ),
        }
    }
}

/// The files of the model's `samples`, by name.
fn samples(candidate: &Candidate) -> Vec<PathBuf> {
    let dir = candidate.root().join(candidate.model.as_str());
    let entries = std::fs::read_dir(dir.join("samples")).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    files.sort();
    // The first that can be classified is taken; of strange files not all are tried.
    files.truncate(16);
    files
}

/// The picture as an uncompressed BMP of 24 bits: a file that every decoder reads, and that costs next to nothing.
fn bitmap(picture: &Picture) -> Vec<u8> {
    const HEADERS: u32 = 14 + 40;
    let row = usize::try_from(picture.width()).unwrap_or(0) * usize::from(picture.channels());
    let padding = row.next_multiple_of(4) - row;
    let rows: Vec<u8> = picture
        .pixels()
        .chunks_exact(row.max(1))
        .rev()
        .flat_map(|row| {
            let bgr = row.chunks_exact(3).flat_map(|pixel| pixel.iter().rev());
            bgr.copied().chain(std::iter::repeat_n(0, padding))
        })
        .collect();
    let bytes = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    [
        b"BM".to_vec(),
        words(&[HEADERS.saturating_add(bytes), 0, HEADERS]),
        // One plane of 24 bits, uncompressed.
        words(&[40, picture.width(), picture.height(), 1 | 24 << 16, 0]),
        words(&[bytes, 0, 0, 0, 0]),
        rows,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision;

    #[test]
    fn the_ramp_comes_back_as_it_was() {
        // Widths with and without padding; colours, which a ramp has not, must not be swapped.
        for width in [1, 3, 4, 7] {
            let pixels: Vec<u8> = (0..width * 5 * 3)
                .map(|at| u8::try_from(at).expect("small"))
                .collect();
            let picture = Picture::new(width, 5, 3, pixels).expect("a picture");
            let bytes = bitmap(&picture);
            let limits = DecodeLimits { max_pixels: 1000 };
            let header = vision::read_header(&bytes, &limits).expect("a header");
            let decoded = vision::decode(&bytes, &header).expect("a picture");
            assert_eq!(decoded, picture, "width {width}");
        }
    }
}
