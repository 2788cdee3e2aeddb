//! The picture that is sent: a photo of the fixtures at a usual size.

use std::path::Path;

use lensgate::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate::domain::tensor::ElementType;
use lensgate::vision;

const WIDTH: u32 = 500;
const HEIGHT: u32 = 375;

/// A photo of 500x375 as a JPEG of usual quality.
pub(crate) fn jpeg(fixtures: &Path) -> Vec<u8> {
    let photo = std::fs::read(fixtures.join("images/cat_meow.jpg")).expect("a photo");
    let limits = vision::DecodeLimits {
        max_pixels: 50_000_000,
    };
    let header = vision::read_header(&photo, &limits).expect("a header");
    let picture = vision::decode(&photo, &header).expect("a picture");
    let spec = PictureSpec {
        layout: Layout::Nhwc,
        element: ElementType::Uint8,
        height: HEIGHT,
        width: WIDTH,
        color: Color::Rgb,
        resize: Resize::Stretch {
            height: HEIGHT,
            width: WIDTH,
        },
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
        width: side(WIDTH),
        pitch: side(WIDTH) * 3,
        height: side(HEIGHT),
        format: turbojpeg::PixelFormat::RGB,
    };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2)
        .expect("a JPEG")
        .to_vec()
}
