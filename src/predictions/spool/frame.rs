//! How a record lies in a segment: its length, a checksum over length and content, the content. What does not fit that is
//! told apart: a record that was damaged where it lies, and an end that was never written whole.

/// Bytes before a record's content: length and checksum, little-endian.
const HEAD: usize = 8;

/// Bytes of the largest record; a length beyond it is none.
pub(in crate::predictions) const LARGEST: usize = 1 << 20;

/// Bytes of the largest frame.
pub(super) const LARGEST_FRAME: u64 = (HEAD + LARGEST) as u64;

/// CRC-32 over the length and the content, so that neither can change alone.
fn checksum(length: [u8; 4], content: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(content);
    hasher.finalize().to_le_bytes()
}

/// Appends a record; `false`, and nothing appended, where it is larger than [`LARGEST`] or empty.
pub(super) fn append(buffer: &mut Vec<u8>, content: &[u8]) -> bool {
    if content.is_empty() || content.len() > LARGEST {
        return false;
    }
    let Ok(length) = u32::try_from(content.len()) else {
        return false;
    };
    let length = length.to_le_bytes();
    buffer.extend_from_slice(&length);
    buffer.extend_from_slice(&checksum(length, content));
    buffer.extend_from_slice(content);
    true
}

/// What lies at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A record.
    Whole(&'a [u8]),
    /// What was a record once.
    Damaged,
}

/// Walks over the frames of some bytes.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    nonsense: bool,
}

impl<'a> Frames<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            nonsense: false,
        }
    }

    /// How many bytes have been walked over.
    pub(super) fn walked(&self) -> usize {
        self.at
    }

    /// Whether what comes next is no frame, however many bytes follow.
    pub(super) fn is_nonsense(&self) -> bool {
        self.nonsense
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (head, rest) = self.bytes.get(self.at..)?.split_at_checked(HEAD)?;
        let (length, sum) = head.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        if size == 0 || size > LARGEST {
            self.nonsense = true;
            return None;
        }
        let content = rest.get(..size)?;
        self.at += HEAD + size;
        Some(if checksum(*length, content) == sum {
            Frame::Whole(content)
        } else {
            Frame::Damaged
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for content in [&b"one"[..], b"two and more", b"3"] {
            assert!(append(&mut bytes, content));
        }
        bytes
    }

    #[test]
    fn what_was_appended_is_walked_over() {
        let bytes = three();
        let mut frames = Frames::of(&bytes);
        let found: Vec<Frame<'_>> = frames.by_ref().collect();
        let wanted = [&b"one"[..], b"two and more", b"3"].map(Frame::Whole);
        assert_eq!(found, wanted);
        assert_eq!(frames.walked(), bytes.len());
        let mut none = Vec::new();
        assert!(!append(&mut none, b"") && !append(&mut none, &vec![0; LARGEST + 1]));
        assert!(none.is_empty());
    }

    #[test]
    fn wherever_it_ends_the_whole_records_are_found() {
        let bytes = three();
        for end in 0..bytes.len() {
            let mut frames = Frames::of(&bytes[..end]);
            let whole = frames
                .by_ref()
                .filter(|frame| *frame != Frame::Damaged)
                .count();
            let ends = [11, 31, 40];
            assert_eq!(whole, ends.iter().filter(|&&e| e <= end).count(), "{end}");
            assert!(frames.walked() <= end && !frames.is_nonsense(), "{end}");
        }
    }

    #[test]
    fn no_changed_byte_goes_unseen() {
        let bytes = three();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let found: Vec<Frame<'_>> = Frames::of(&changed).collect();
                let wanted: Vec<Frame<'_>> = Frames::of(&bytes).collect();
                assert_ne!(found, wanted, "byte {at}, bit {bit}");
                for frame in found {
                    assert!(
                        frame == Frame::Damaged || wanted.contains(&frame),
                        "{frame:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn zeroes_are_nonsense() {
        let mut bytes = three();
        bytes.extend_from_slice(&[0; 64]);
        let mut frames = Frames::of(&bytes);
        assert_eq!(frames.by_ref().count(), 3);
        assert!(frames.is_nonsense());
        assert_eq!(frames.walked(), bytes.len() - 64);
    }
}
