//! What the picture path costs on one thread: exact and `fast_decode`, against turbojpeg with `fast_image_resize`, whose
//! results are a few levels off. Side by side in one run, round by round, so that a busy machine harms all alike.
//!
//! `make bench`, or `cargo bench --bench picture -- [rounds]`.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a benchmark ends it"
)]

#[path = "../tests/it/fixture/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it than a benchmark does")]
mod fixture;
mod photo;

use std::hint::black_box;
use std::time::Instant;

use fast_image_resize as fir;
use lensgate::backend::memory;
use lensgate::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate::domain::tensor::ElementType;
use lensgate::vision;
use photo::median;

/// Rows and columns of the JPEGs.
const SIZES: [(u32, u32); 2] = [(375, 500), (960, 1280)];
/// The preset of torchvision.
const SHORTER: u32 = 256;
const CROP: u32 = 224;
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

const LIMITS: vision::DecodeLimits = vision::DecodeLimits {
    max_pixels: 50_000_000,
};

/// Milliseconds of the steps: decode; the tensor; resize and crop, which are part of it; the whole with all that is freed.
type Steps = [f64; 4];

fn main() {
    // As the gateway does it at its start.
    memory::settle();
    // `cargo bench` adds --bench.
    let given = std::env::args().skip(1).find(|a| a != "--bench");
    let rounds = given.and_then(|text| text.parse().ok()).unwrap_or(200_u32);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let photo = fixture::read(fixtures.join("images/cat_meow.jpg"));
    println!("1 thread, {rounds} rounds; milliseconds, median (minimum)");
    println!("| JPEG | path | decode | tensor | of it resize, crop | whole | whole / crates |");
    println!("|{}", " --- |".repeat(7));
    for (height, width) in SIZES {
        table(
            &photo::jpeg(&photo, height, width),
            rounds,
            &format!("{width}x{height}"),
        );
    }
}

/// Measures all paths with one JPEG and prints their rows.
fn table(jpeg: &[u8], rounds: u32, size: &str) {
    let ours = [false, true].map(|fast| vision::Preprocessor::new(&spec(fast)).expect("a spec"));
    let mut crates = Crates::default();
    let mut took: [Vec<Steps>; 3] = Default::default();
    for _ in 0..rounds {
        for (ours, took) in ours.iter().zip(&mut took) {
            took.push(lensgate(jpeg, ours));
        }
        took[2].push(crates.run(jpeg));
    }
    let names = ["exact", "fast_decode", "turbojpeg, fast_image_resize"];
    for (name, steps) in names.iter().zip(&took) {
        let cell = |step: usize| {
            let least = steps.iter().map(|s| s[step]).fold(f64::INFINITY, f64::min);
            format!("{:.3} ({least:.3})", median(steps.iter().map(|s| s[step])))
        };
        // Ratios round by round, then their median: a slow moment of the machine is in both.
        let ratio = median(steps.iter().zip(&took[2]).map(|(a, b)| a[3] / b[3]));
        let cells = [0, 1, 2, 3].map(cell).join(" | ");
        println!("| {size} | {name} | {cells} | {ratio:.2} |");
    }
}

/// One picture through the gateway's path.
fn lensgate(jpeg: &[u8], preprocessor: &vision::Preprocessor) -> Steps {
    let begin = Instant::now();
    let header = vision::read_header(jpeg, &LIMITS).expect("a header");
    let picture = preprocessor.decode_for(jpeg, &header).expect("a picture");
    let decode = ms(begin);
    let then = Instant::now();
    let tensor = preprocessor.tensor(&picture);
    let values = ms(then);
    black_box(&tensor);
    drop((picture, tensor));
    let whole = ms(begin);
    // Once more outside of the whole, for a part of it.
    let picture = preprocessor.decode_for(jpeg, &header).expect("a picture");
    let then = Instant::now();
    black_box(preprocessor.pixels(&picture));
    let resize = ms(then);
    [decode, values, resize, whole]
}

/// Milliseconds since `then`.
fn ms(then: Instant) -> f64 {
    then.elapsed().as_secs_f64() * 1e3
}

/// The crates, with the memory that they let their caller keep.
#[derive(Default)]
struct Crates {
    resizer: fir::Resizer,
    pixels: Vec<u8>,
}

impl Crates {
    fn run(&mut self, jpeg: &[u8]) -> Steps {
        let begin = Instant::now();
        let mut library = turbojpeg::Decompressor::new().expect("a decoder");
        let header = library.read_header(jpeg).expect("a header");
        let (width, height) = (header.width, header.height);
        self.pixels.resize(width * height * 3, 0);
        let image = turbojpeg::Image {
            pixels: self.pixels.as_mut_slice(),
            width,
            pitch: width * 3,
            height,
            format: turbojpeg::PixelFormat::RGB,
        };
        library.decompress(jpeg, image).expect("pixels");
        let decode = ms(begin);
        let then = Instant::now();
        let resized = self.resize(side(width), side(height));
        let resize = ms(then);
        let tensor = normalised(&resized);
        let values = ms(then);
        black_box(&tensor);
        drop((library, resized, tensor));
        [decode, values, resize, ms(begin)]
    }

    fn resize(&mut self, width: u32, height: u32) -> fir::images::Image<'static> {
        let short = width.min(height);
        let (wide, high) = (SHORTER * width / short, SHORTER * height / short);
        let kind = fir::PixelType::U8x3;
        let source = fir::images::ImageRef::new(width, height, &self.pixels, kind).expect("pixels");
        let mut resized = fir::images::Image::new(wide, high, kind);
        let bilinear = fir::ResizeAlg::Convolution(fir::FilterType::Bilinear);
        let options = fir::ResizeOptions::new().resize_alg(bilinear);
        self.resizer
            .resize(&source, &mut resized, &options)
            .expect("a resize");
        resized
    }
}

/// The middle of the picture, normalised, as three planes.
fn normalised(resized: &fir::images::Image<'_>) -> Vec<f32> {
    let size = |n: u32| usize::try_from(n).expect("a side");
    let (width, crop) = (size(resized.width()), size(CROP));
    let (left, top) = ((width - crop) / 2, (size(resized.height()) - crop) / 2);
    let mut out = Vec::with_capacity(3 * crop * crop);
    for (channel, (mean, std)) in MEAN.into_iter().zip(STD).enumerate() {
        let (factor, offset) = (1.0 / (255.0 * std), mean / std);
        for line in resized
            .buffer()
            .chunks_exact(3 * width)
            .skip(top)
            .take(crop)
        {
            let pixels = line[3 * left..3 * (left + crop)].as_chunks::<3>().0;
            out.extend(
                pixels
                    .iter()
                    .map(|pixel| f32::from(pixel[channel]) * factor - offset),
            );
        }
    }
    out
}

fn side(n: usize) -> u32 {
    u32::try_from(n).expect("a side")
}

fn spec(fast_decode: bool) -> PictureSpec {
    PictureSpec {
        layout: Layout::Nchw,
        element: ElementType::Float32,
        height: CROP,
        width: CROP,
        color: Color::Rgb,
        resize: Resize::ShorterSide { to: SHORTER },
        center_crop: true,
        filter: Filter::Bilinear,
        scale: 1.0 / 255.0,
        mean: MEAN.map(f64::from).to_vec(),
        std: STD.map(f64::from).to_vec(),
        fast_decode,
    }
}
