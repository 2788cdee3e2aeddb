//! Bytes from anybody: no panic, no endless work, no memory beyond what the header admits.
//!
//! A seeded mutator over the small pictures of `tests/data/pixels`; a failure names its seed and file.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops where it fails, and its switches are read from the environment"
)]

use std::time::{Duration, Instant};

use lensgate::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate::domain::tensor::ElementType;
use lensgate::vision::{DecodeLimits, Preprocessor, decode, read_header};

use crate::vision_pixels::data;

/// A small generator (Knuth's multiplier): the same numbers everywhere.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % n.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(data()).expect("committed") {
        let path = entry.expect("an entry").path();
        let kind = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if ["jpg", "png", "gif", "bmp", "tif", "webp"].contains(&kind) {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            out.push((name, std::fs::read(&path).expect("readable")));
        }
    }
    out.sort();
    out
}

/// Changes a few bytes, cuts, doubles or crosses parts of two pictures.
fn mutate(bytes: &[u8], other: &[u8], random: &mut Seeded) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(out.len());
        match random.below(8) {
            0 => out.truncate(at.max(4)),
            1 => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                out.splice(at..at, other[from..to].iter().copied());
            }
            2 => {
                let to = (at + random.below(32)).min(out.len());
                out.drain(at..to);
            }
            // Lengths and sizes stand near the beginning.
            3 => {
                let at = random.below(out.len().min(64));
                out[at] = random.byte();
            }
            4 => out[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            5 => out[at] ^= 1 << random.below(8),
            _ => out[at] = random.byte(),
        }
        if out.is_empty() {
            out.push(0);
        }
    }
    out
}

#[test]
fn mutated_pictures_never_panic_nor_stall() {
    let limits = DecodeLimits {
        max_pixels: 1_000_000,
    };
    let spec = PictureSpec {
        layout: Layout::Nchw,
        element: ElementType::Float32,
        height: 32,
        width: 32,
        color: Color::Rgb,
        resize: Resize::ShorterSide { to: 36 },
        center_crop: true,
        filter: Filter::Bilinear,
        scale: 1.0 / 255.0,
        mean: vec![],
        std: vec![],
        fast_decode: true,
    };
    let preprocessor = Preprocessor::new(&spec).expect("a valid spec");
    let rounds: usize = std::env::var("LENSGATE_MUTATIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40);
    let seeds = seeds();
    let mut random = Seeded(20_260_101);
    let mut served = 0_usize;
    for round in 0..rounds {
        for (name, bytes) in &seeds {
            let (_, other) = &seeds[random.below(seeds.len())];
            let mutated = mutate(bytes, other, &mut random);
            let begin = Instant::now();
            if let Ok(header) = read_header(&mutated, &limits) {
                assert!(u64::from(header.width) * u64::from(header.height) <= limits.max_pixels);
                if let Ok(picture) = decode(&mutated, &header) {
                    let _ = preprocessor.tensor(&picture);
                    served += 1;
                }
                let _ = preprocessor.decode_for(&mutated, &header);
            }
            let took = begin.elapsed();
            assert!(
                took < Duration::from_secs(10),
                "{name} in round {round} took {took:?}"
            );
        }
    }
    assert!(
        served > 0,
        "no mutated picture was decodable: the mutator is too rough"
    );
}

#[test]
fn a_jpeg_cut_anywhere_is_refused() {
    use lensgate::vision::VisionError;
    for name in [
        "jpeg_420.jpg",
        "jpeg_progressive.jpg",
        "jpeg_restarts.jpg",
        "jpeg_gray.jpg",
    ] {
        let bytes = std::fs::read(data().join(name)).expect("committed");
        for tenth in 1..10 {
            let cut = &bytes[..bytes.len() * tenth / 10];
            let end = read_header(
                cut,
                &DecodeLimits {
                    max_pixels: 1_000_000,
                },
            )
            .and_then(|header| decode(cut, &header));
            assert!(
                matches!(end, Err(VisionError::Truncated { .. })),
                "{name} {tenth}: {end:?}"
            );
        }
        let whole = read_header(
            &bytes,
            &DecodeLimits {
                max_pixels: 1_000_000,
            },
        )
        .expect(name);
        let without_end = &bytes[..bytes.len() - 2];
        assert_eq!(
            decode(without_end, &whole),
            decode(&bytes, &whole),
            "{name}"
        );
    }
}
