//! Text as `model.toml`, a version's after the first NUL; what is understood is resolved against graphs.
#![no_main]

use lensgate_fuzz::domain::graph::InputFacts;
use lensgate_fuzz::domain::manifest::Manifest;
use lensgate_fuzz::domain::tensor::ElementType;
use lensgate_fuzz::vision::Preprocessor;
use libfuzzer_sys::fuzz_target;

const GRAPHS: [(ElementType, [Option<usize>; 4]); 4] = [
    (ElementType::Float32, [None, Some(3), None, None]),
    (ElementType::Float16, [Some(1), Some(1), Some(28), Some(28)]),
    (ElementType::Uint8, [None, Some(224), Some(224), Some(3)]),
    (ElementType::Int8, [None, None, None, None]),
];

fuzz_target!(|text: &str| {
    let (base, overrides) = match text.split_once('\0') {
        Some((base, overrides)) => (base, Some(overrides)),
        None => (text, None),
    };
    let manifest = match Manifest::parse(Some(base), overrides) {
        Ok(manifest) => manifest,
        // It goes to a log and an answer: one line.
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    for (element, shape) in GRAPHS {
        let facts = InputFacts {
            element,
            shape: shape.to_vec(),
        };
        if let Ok(spec) = manifest.picture_spec(&facts) {
            let _ = Preprocessor::new(&spec);
        }
    }
});
