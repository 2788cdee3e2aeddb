//! The 8-bit pixels that reach a tensor are those of Pillow, for small pictures of every kind.
//!
//! Pictures and checksums lie in `tests/data/pixels`, made there by `make_reference.py`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails, and its switches are read from the environment"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lensgate::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate::domain::tensor::{ElementType, TensorData};
use lensgate::vision::{DecodeLimits, Picture, Preprocessor, VisionError, decode, read_header};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The limit that the fixtures' reference was made with.
pub(crate) const LIMITS: DecodeLimits = DecodeLimits {
    max_pixels: 40_000_000,
};

/// The folder of pictures and checksums.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pixels")
}

/// One of the files that `make_reference.py` writes.
pub(crate) fn reference(name: &str) -> Value {
    let text = std::fs::read_to_string(data().join(name)).expect("the reference is committed");
    serde_json::from_str(&text).expect("the reference is JSON")
}

/// The specs of a reference by name.
pub(crate) fn preprocessors(reference: &Value) -> BTreeMap<String, Preprocessor> {
    let specs = reference["specs"].as_object().expect("specs");
    let make = |spec: &Value| Preprocessor::new(&picture_spec(spec)).expect("a valid spec");
    specs
        .iter()
        .map(|(name, spec)| (name.clone(), make(spec)))
        .collect()
}

fn picture_spec(spec: &Value) -> PictureSpec {
    let number = |key: &str| u32::try_from(spec[key].as_u64().expect(key)).expect(key);
    let (a, b) = (number("a"), number("b"));
    let resize = match spec["kind"].as_str() {
        Some("shorter-side") => Resize::ShorterSide { to: a },
        Some("stretch") => Resize::Stretch {
            height: a,
            width: b,
        },
        Some("letterbox") => Resize::Letterbox {
            height: a,
            width: b,
        },
        other => panic!("unknown resize {other:?}"),
    };
    PictureSpec {
        layout: Layout::Nchw,
        element: ElementType::Float32,
        height: number("height"),
        width: number("width"),
        color: serde_json::from_value::<Color>(spec["color"].clone()).expect("a colour"),
        resize,
        center_crop: true,
        filter: serde_json::from_value::<Filter>(spec["filter"].clone()).expect("a filter"),
        scale: 1.0 / 255.0,
        mean: vec![],
        std: vec![],
        fast_decode: false,
    }
}

/// Header, then pixels.
pub(crate) fn decoded(bytes: &[u8]) -> Result<Picture, VisionError> {
    let header = read_header(bytes, &LIMITS)?;
    let picture = decode(bytes, &header)?;
    assert_eq!((picture.width(), picture.height()), header.upright_size());
    Ok(picture)
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("a nibble");
    hash.iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// What differs between a picture and its entry in a reference, empty where nothing does.
pub(crate) fn differences(
    picture: &Picture,
    entry: &Value,
    preprocessors: &BTreeMap<String, Preprocessor>,
) -> Vec<String> {
    let mut out = Vec::new();
    if entry["size"] != serde_json::json!([picture.width(), picture.height()]) {
        out.push(format!("size {}x{}", picture.width(), picture.height()));
    }
    let rgb: Vec<u8> = match picture.channels() {
        1 => picture
            .pixels()
            .iter()
            .flat_map(|&gray| [gray; 3])
            .collect(),
        _ => picture.pixels().to_vec(),
    };
    if entry["decoded"] != digest(&rgb) {
        out.push("decoded".to_owned());
    }
    for (name, preprocessor) in preprocessors {
        if entry["pixels"][name] != digest(&preprocessor.pixels(picture)) {
            out.push(name.clone());
        }
    }
    out
}

#[test]
fn pixels_are_those_of_pillow() {
    let reference = reference("reference.json");
    let preprocessors = preprocessors(&reference);
    let files = reference["files"].as_object().expect("files");
    assert!(files.len() > 60, "the reference is not complete");
    let mut wrong = Vec::new();
    for (name, entry) in files {
        let bytes = std::fs::read(data().join(name)).expect(name);
        match decoded(&bytes) {
            Ok(picture) => {
                let found = differences(&picture, entry, &preprocessors);
                wrong.extend(found.iter().map(|what| format!("{name}: {what}")));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ from Pillow:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn one_wrong_pixel_is_noticed() {
    let reference = reference("reference.json");
    let name = "png_rgb.png";
    let picture = decoded(&std::fs::read(data().join(name)).expect(name)).expect(name);
    let mut pixels = picture.pixels().to_vec();
    let middle = pixels.len() / 2;
    pixels[middle] ^= 1;
    let changed = Picture::new(picture.width(), picture.height(), 3, pixels).expect("a picture");
    let found = differences(
        &changed,
        &reference["files"][name],
        &preprocessors(&reference),
    );
    assert!(found.contains(&"decoded".to_owned()), "{found:?}");
}

#[test]
fn every_layout_and_element_type_holds_the_same_pixels() {
    let bytes = std::fs::read(data().join("jpeg_420.jpg")).expect("committed");
    let picture = decoded(&bytes).expect("a picture");
    for color in [Color::Rgb, Color::Bgr, Color::Gray] {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for element in [
                ElementType::Float32,
                ElementType::Float16,
                ElementType::Uint8,
                ElementType::Int8,
            ] {
                check_tensor(&picture, color, layout, element);
            }
        }
    }
}

/// A spec that gives `pixel - 128`, or the pixel itself for unsigned bytes.
fn check_tensor(picture: &Picture, color: Color, layout: Layout, element: ElementType) {
    let unsigned = element == ElementType::Uint8;
    let channels = color.channels();
    let spec = PictureSpec {
        layout,
        element,
        height: 24,
        width: 32,
        color,
        resize: Resize::Stretch {
            height: 24,
            width: 32,
        },
        center_crop: false,
        filter: Filter::Bilinear,
        scale: 1.0,
        mean: vec![if unsigned { 0.0 } else { 128.0 }; channels],
        std: vec![],
        fast_decode: false,
    };
    let preprocessor = Preprocessor::new(&spec).expect("a valid spec");
    let pixels = preprocessor.pixels(picture);
    let tensor = preprocessor.tensor(picture);
    let values: Vec<i32> = match tensor.data() {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers")]
        TensorData::Float32(v) => v.iter().map(|&x| x as i32).collect(),
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers")]
        TensorData::Float16(v) => v.iter().map(|x| x.to_f32() as i32).collect(),
        TensorData::Uint8(v) => v.iter().map(|&x| i32::from(x)).collect(),
        TensorData::Int8(v) => v.iter().map(|&x| i32::from(x)).collect(),
    };
    let planes = layout == Layout::Nchw;
    let shape = if planes {
        [1, channels, 24, 32]
    } else {
        [1, 24, 32, channels]
    };
    assert_eq!(tensor.shape(), shape);
    for (index, &pixel) in pixels.iter().enumerate() {
        let at = if planes {
            index % channels * 24 * 32 + index / channels
        } else {
            index
        };
        let expected = i32::from(pixel) - if unsigned { 0 } else { 128 };
        assert_eq!(
            values[at], expected,
            "{color:?} {layout:?} {element:?} {index}"
        );
    }
}

#[test]
fn fast_decode_stays_close_and_keeps_the_size() {
    let bytes = std::fs::read(data().join("jpeg_420.jpg")).expect("committed");
    let header = read_header(&bytes, &LIMITS).expect("a header");
    let mut spec = picture_spec(&serde_json::json!({
        "kind": "shorter-side", "a": 100, "b": 0, "height": 88, "width": 88,
        "filter": "bilinear", "color": "rgb"
    }));
    let exact = Preprocessor::new(&spec).expect("a valid spec");
    spec.fast_decode = true;
    let fast = Preprocessor::new(&spec).expect("a valid spec");
    let shrunk = fast.decode_for(&bytes, &header).expect("a picture");
    assert_eq!((shrunk.width(), shrunk.height()), (150, 101));
    let whole = exact.decode_for(&bytes, &header).expect("a picture");
    let (a, b) = (exact.pixels(&whole), fast.pixels(&shrunk));
    assert_eq!(a.len(), b.len());
    let sum = difference(&a, &b);
    assert!(
        sum < 20 * u32::try_from(a.len()).expect("small"),
        "mean difference too large: {sum}"
    );
}

#[test]
fn fast_decode_repeats_colours_where_it_cannot_shrink() {
    let Some(fixtures) = crate::fixture::fixtures() else {
        return;
    };
    let bytes = crate::fixture::read(fixtures.join("images/cat_meow.jpg"));
    let header = read_header(&bytes, &LIMITS).expect("a header");
    let mut spec = picture_spec(&serde_json::json!({
        "kind": "shorter-side", "a": 600, "b": 0, "height": 588, "width": 588,
        "filter": "bilinear", "color": "rgb"
    }));
    for (to, crop) in [(600, 588), (256, 224)] {
        spec.resize = Resize::ShorterSide { to };
        (spec.height, spec.width) = (crop, crop);
        let [a, b] = [false, true].map(|fast_decode| {
            spec.fast_decode = fast_decode;
            let preprocessor = Preprocessor::new(&spec).expect("a valid spec");
            let picture = preprocessor.decode_for(&bytes, &header).expect("a picture");
            preprocessor.pixels(&picture)
        });
        let worst = a.iter().zip(&b).map(|(x, y)| x.abs_diff(*y)).max();
        let len = u32::try_from(a.len()).expect("small");
        let sum = difference(&a, &b);
        assert!(sum > 0 && sum < len, "{to}: a level on average, {sum}");
        assert!(worst < Some(16), "{to}: {worst:?}");
    }
}

/// How far two pictures are apart, all bytes together.
fn difference(a: &[u8], b: &[u8]) -> u32 {
    assert_eq!(a.len(), b.len());
    let bytes = a.iter().zip(b);
    bytes.map(|(x, y)| u32::from(x.abs_diff(*y))).sum()
}
