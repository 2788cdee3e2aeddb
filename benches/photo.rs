//! What the benchmarks share: a fixture photo as a JPEG of a wanted size, and medians.

use lensgate::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate::domain::tensor::ElementType;
use lensgate::vision;

/// The middle one of some values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The photo at another size, as a JPEG of usual quality.
pub(crate) fn jpeg(photo: &[u8], height: u32, width: u32) -> Vec<u8> {
    let limits = vision::DecodeLimits {
        max_pixels: 50_000_000,
    };
    let header = vision::read_header(photo, &limits).expect("a header");
    let picture = vision::decode(photo, &header).expect("a picture");
    let spec = PictureSpec {
        layout: Layout::Nhwc,
        element: ElementType::Uint8,
        height,
        width,
        color: Color::Rgb,
        resize: Resize::Stretch { height, width },
        center_crop: false,
        filter: Filter::Bicubic,
        scale: 1.0,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        fast_decode: false,
    };
    let pixels = vision::Preprocessor::new(&spec)
        .expect("a spec")
        .pixels(&picture);
    let side = |n: u32| usize::try_from(n).expect("a side");
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: side(width),
        pitch: side(width) * 3,
        height: side(height),
        format: turbojpeg::PixelFormat::RGB,
    };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2)
        .expect("a JPEG")
        .to_vec()
}
