//! Bytes as a picture: header, decoding with and without shrinking, and the tensor.
#![no_main]

use std::sync::LazyLock;

use lensgate_fuzz::domain::picture::{Color, Filter, Layout, PictureSpec, Resize};
use lensgate_fuzz::domain::tensor::ElementType;
use lensgate_fuzz::vision::{DecodeLimits, Preprocessor, read_header};
use libfuzzer_sys::fuzz_target;

const LIMITS: DecodeLimits = DecodeLimits {
    max_pixels: 1 << 20,
};

/// Exact first, then the one that shrinks a JPEG while it is decoded.
static PREPROCESSORS: LazyLock<[Preprocessor; 2]> = LazyLock::new(|| {
    [false, true].map(|fast_decode| {
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
            fast_decode,
        };
        Preprocessor::new(&spec).expect("a valid spec")
    })
});

fuzz_target!(|data: &[u8]| {
    let Ok(header) = read_header(data, &LIMITS) else {
        return;
    };
    assert!(u64::from(header.width) * u64::from(header.height) <= LIMITS.max_pixels);
    // One of the two for each input, so that each costs one decoding.
    let fast = data.len() % 2 == 1;
    let preprocessor = &PREPROCESSORS[usize::from(fast)];
    let Ok(picture) = preprocessor.decode_for(data, &header) else {
        return;
    };
    if !fast {
        assert_eq!((picture.width(), picture.height()), header.upright_size());
    }
    let tensor = preprocessor.tensor(&picture);
    assert_eq!(tensor.shape(), [1, 3, 32, 32]);
    assert_eq!(tensor.data().len(), 3 * 32 * 32);
});
