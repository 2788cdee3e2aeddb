//! What a file is that is no model, by its first bytes: operators copy the wrong file, or its pointer.
//!
//! Called by `parse` before the walk. Knows only beginnings.

/// The formats that are met in place of an ONNX file: where, which bytes, what to say.
const FORMATS: [(usize, &[u8], &str); 7] = [
    (
        0,
        b"version https://git-lfs",
        "it is a Git LFS pointer; fetch the file itself (git lfs pull)",
    ),
    (
        0,
        b"PK\x03\x04",
        "it is a zip archive, as PyTorch and Keras write them; export it to ONNX",
    ),
    (
        0,
        b"\x89HDF",
        "it is an HDF5 file, as Keras writes them; export it to ONNX",
    ),
    (0, b"\x1F\x8B", "it is compressed with gzip; unpack it"),
    (
        4,
        b"TFL3",
        "it is a TensorFlow Lite model; convert it to ONNX",
    ),
    (
        4,
        b"ORTM",
        "it is a model in ONNX Runtime's own format; take the ONNX file it was made from",
    ),
    (
        0,
        b"<",
        "it is a page of markup, perhaps what a failed download left",
    ),
];

/// What the file is, where its first bytes say that it is something else.
pub(super) fn other_format(head: &[u8]) -> Option<&'static str> {
    let known = FORMATS
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, reason)) = known {
        return Some(reason);
    }
    let head = head.get(..512).unwrap_or(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Cut within a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(head.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    (!text.is_empty() && text.chars().all(is_text)).then_some("it is a text file")
}
