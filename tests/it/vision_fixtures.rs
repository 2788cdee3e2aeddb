//! The photographs and the nasty files of the fixtures folder: the pixels of Pillow, and the right refusals.
//!
//! Needs `LENSGATE_FIXTURES`; without it the tests say so and pass. Photographs are not committed, checksums are.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test stops where it fails, and its switches are read from the environment"
)]

use std::path::{Path, PathBuf};

use lensgate::vision::{Format, VisionError};

use crate::vision_pixels::{decoded, differences, preprocessors, reference};

fn fixtures() -> Option<PathBuf> {
    let folder = std::env::var_os("LENSGATE_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        println!("fixtures: NOT RUN (LENSGATE_FIXTURES is not set)");
    }
    folder
}

/// What Pillow decodes and we refuse, and why.
const REFUSED: [(&str, &str); 2] = [
    (
        "nasty/avif_heif/Pillow__icc_profile.avif",
        "AVIF is not a format we serve",
    ),
    (
        "nasty/tiff/image__clusterfuzz-testcase-minimized-fuzzer_script_tiff-5026894169374720.tif",
        "the JPEG inside claims 52502 rows for a page of 150, more than the decoder accepts",
    ),
];

#[test]
fn photographs_and_nasty_files_have_the_pixels_of_pillow() {
    let Some(folder) = fixtures() else { return };
    let reference = reference("fixtures.json");
    let preprocessors = preprocessors(&reference);
    let mut wrong = Vec::new();
    for (name, entry) in reference["files"].as_object().expect("files") {
        if REFUSED.iter().any(|(refused, _)| refused == name) {
            continue;
        }
        let picture = match std::fs::read(folder.join(name)).map(|bytes| decoded(&bytes)) {
            Ok(Ok(picture)) => picture,
            other => {
                wrong.push(format!("{name}: {other:?}"));
                continue;
            }
        };
        if let Some(thumb) = entry["thumb"].as_array() {
            // Lossy WebP: no decoder but libwebp owes libwebp's last bits.
            let spec = serde_json::json!({"specs": {"thumb": {
                "kind": "stretch", "a": 8, "b": 8, "height": 8, "width": 8,
                "filter": "bilinear", "color": "rgb"
            }}});
            let pixels = crate::vision_pixels::preprocessors(&spec)["thumb"].pixels(&picture);
            let far = pixels.iter().zip(thumb).any(|(&pixel, expected)| {
                expected
                    .as_u64()
                    .is_none_or(|expected| u64::from(pixel).abs_diff(expected) > 2)
            });
            if far || pixels.len() != thumb.len() {
                wrong.push(format!("{name}: more than 2 levels away"));
            }
        } else {
            let found = differences(&picture, entry, &preprocessors);
            wrong.extend(found.iter().map(|what| format!("{name}: {what}")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ from Pillow:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// How a picture ends, in the words of the API.
fn class(result: &Result<(), VisionError>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(VisionError::Empty) => "400",
        Err(VisionError::UnsupportedFormat { .. }) => "415",
        Err(VisionError::TooManyPixels { .. }) => "422 too large",
        Err(VisionError::Undecodable { .. }) => "422 broken",
        Err(VisionError::Truncated { .. }) => "422 truncated",
    }
}

/// The nasty files that are not simply served.
const NASTY: [(&str, &str); 8] = [
    ("avif_heif/Pillow__icc_profile.avif", "415"),
    ("bombs/png_20000x20000_rgb.png", "422 too large"),
    (
        "claims_huge/image-gif__issue-101-infinite-empty-loop.gif",
        "422 too large",
    ),
    (
        "jpeg_broken/jpeg-decoder__jpeg_lossless_sel1.jpg",
        "422 broken",
    ),
    ("not_image/jpeg_magic_then_random.jpg", "422 truncated"),
    ("png_broken/zune-image__xd3n2c08.png", "422 broken"),
    (
        "tiff/image__clusterfuzz-testcase-minimized-fuzzer_script_tiff-5026894169374720.tif",
        "422 broken",
    ),
    // Only its end marker is missing: all rows are there.
    ("truncated/jpeg_no_eoi.jpg", "ok"),
];

#[test]
fn nasty_files_end_as_the_table_says() {
    let Some(folder) = fixtures() else { return };
    let nasty = folder.join("nasty");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files(&nasty) {
        let name = path
            .strip_prefix(&nasty)
            .expect("below")
            .to_string_lossy()
            .into_owned();
        let expected = NASTY
            .iter()
            .find(|(file, _)| *file == name)
            .map_or("ok", |(_, end)| end);
        let bytes = std::fs::read(&path).expect("readable");
        let result = decoded(&bytes).map(|_| ());
        let message = result.as_ref().err().map(ToString::to_string);
        if class(&result) != expected {
            wrong.push(format!("{name}: {message:?}, expected {expected}"));
        }
        seen += 1;
    }
    assert!(seen >= NASTY.len(), "only {seen} nasty files were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_photograph_cut_anywhere_is_truncated() {
    let Some(folder) = fixtures() else { return };
    for name in [
        "images/tennis.jpg",
        "images/coffee.png",
        "images/kayak.webp",
    ] {
        let bytes = std::fs::read(folder.join(name)).expect(name);
        for percent in [2, 25, 60, 95] {
            let cut = bytes.get(..bytes.len() * percent / 100).expect("shorter");
            let end = decoded(cut).map(|_| ());
            assert!(
                matches!(end, Err(VisionError::Truncated { .. })),
                "{name} at {percent} %: {end:?}"
            );
        }
    }
    let webp = std::fs::read(folder.join("images/kayak.webp")).expect("readable");
    assert_eq!(Format::sniff(&webp), Some(Format::WebP));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}
