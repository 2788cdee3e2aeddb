//! What the two backends open, run and refuse: the tiny graphs of `tests/data`, and the real ones of the fixtures.
//!
//! ONNX Runtime is where `make` puts it; without it its half of each test says that it was not run.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test stops where it fails"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use lensgate::backend::ort::{LibrarySearch, OrtBackend, known_provider};
use lensgate::backend::tract::TractBackend;
use lensgate::backend::{Backend, BackendError, OpenOptions, Session};
use lensgate::domain::tensor::{ElementType, Tensor, TensorData};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder)
}

fn search() -> LibrarySearch {
    LibrarySearch {
        executable: std::env::current_exe().ok(),
        working_dir: Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
        ..LibrarySearch::default()
    }
}

fn ort() -> Option<OrtBackend> {
    OrtBackend::load(&search())
        .map_err(|error| println!("ort: NOT RUN: {error}"))
        .ok()
}

fn backends() -> Vec<Box<dyn Backend>> {
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(TractBackend)];
    all.extend(ort().map(|ort| Box::new(ort) as Box<dyn Backend>));
    all
}

fn options(size: usize) -> OpenOptions {
    OpenOptions {
        threads: 1,
        spinning: false,
        picture_size: Some((size, size)),
        execution_providers: vec![],
        external: vec![],
    }
}

/// A batch that fits the session's input, `size` where the graph leaves rows and columns open.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the values lie between 0 and 1"
)]
fn input(session: &dyn Session, batch: usize, size: usize, value: impl Fn(usize) -> f32) -> Tensor {
    let info = &session.signature().inputs[0];
    let mut shape: Vec<usize> = info.shape.iter().map(|n| n.unwrap_or(size)).collect();
    shape[0] = batch;
    let values = (0..shape.iter().product()).map(value);
    let data = match info.element.as_ref().expect("a classifier's element type") {
        ElementType::Float32 => TensorData::Float32(values.collect()),
        ElementType::Float16 => TensorData::Float16(values.map(f16::from_f32).collect()),
        ElementType::Uint8 => TensorData::Uint8(values.map(|v| (v * 255.0) as u8).collect()),
        ElementType::Int8 => TensorData::Int8(values.map(|v| (v * 255.0 - 128.0) as i8).collect()),
    };
    Tensor::new(shape, data).expect("the product of the shape")
}

/// Runs the first input into the first output.
fn run(session: &dyn Session, input: &Tensor) -> Result<Tensor, BackendError> {
    let signature = session.signature();
    session.run(&signature.inputs[0].name, input, &signature.outputs[0].name)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.data() {
        TensorData::Float32(v) => v.clone(),
        TensorData::Float16(v) => v.iter().map(|v| v.to_f32()).collect(),
        TensorData::Uint8(v) => v.iter().map(|&v| f32::from(v)).collect(),
        TensorData::Int8(v) => v.iter().map(|&v| f32::from(v)).collect(),
    }
}

#[track_caller]
fn assert_close(given: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(given.len(), wanted.len());
    for (given, wanted) in given.iter().zip(wanted) {
        assert!(
            (given - wanted).abs() <= tolerance,
            "{given} is not {wanted}"
        );
    }
}

/// The colour that `plain` paints a picture in.
const COLOUR: [f32; 3] = [0.8, 0.4, 0.2];

/// A picture of one colour, 8x8, as `session` wants it. Later pictures of the batch have the channels turned.
fn plain(session: &dyn Session, batch: usize) -> Tensor {
    let channels_last = session.signature().inputs[0].shape.last() == Some(&Some(3));
    input(session, batch, 8, |at| {
        let (picture, within) = (at / 192, at % 192);
        let channel = if channels_last {
            within % 3
        } else {
            within / 64
        };
        COLOUR[(channel + picture) % 3]
    })
}

/// The scores of the tiny graphs for `plain`'s first picture: four times the channel's mean, then the last operator.
fn tiny_scores(model: &str) -> Vec<f32> {
    let scores = COLOUR.map(|value| value * 4.0);
    let soft = |value: f32| value.exp() / scores.iter().map(|s| s.exp()).sum::<f32>();
    match model {
        "rgb-softmax" => scores.map(soft).to_vec(),
        "rgb-sigmoid" => scores.map(|s| 1.0 / (1.0 + (2.0 - s).exp())).to_vec(),
        "rgb-u8" => scores.map(|s| (soft(s) * 256.0).round()).to_vec(),
        "rgb-i8" => scores.map(|s| (soft(s) * 256.0).round() - 128.0).to_vec(),
        "rgb-bgr" => scores.iter().rev().copied().collect(),
        _ => scores.to_vec(),
    }
}

#[test]
fn every_tiny_graph_gives_its_scores_alone_and_in_a_batch() {
    const MODELS: [&str; 13] = [
        "rgb-f32",
        "rgb-f32-fixed1",
        "rgb-f16",
        "rgb-u8",
        "rgb-i8",
        "rgb-softmax",
        "rgb-sigmoid",
        "rgb-vector",
        "rgb-nc11",
        "rgb-nhwc",
        "rgb-sized-by-manifest",
        "rgb-external",
        "rgb-bgr",
    ];
    for backend in backends() {
        for model in MODELS {
            let path = data("models").join(model).join("1/model.onnx");
            let session = backend
                .open(&path, &options(8))
                .unwrap_or_else(|e| panic!("{model}: {e}"));
            assert_eq!(session.providers(), ["cpu"]);
            let tolerance = match model {
                "rgb-u8" | "rgb-i8" => 1.0,
                "rgb-f16" => 0.004,
                _ => 1e-5,
            };
            let one = run(&*session, &plain(&*session, 1)).unwrap();
            assert_close(&floats(&one), &tiny_scores(model), tolerance);
            let tail = if model == "rgb-nc11" {
                vec![3, 1, 1]
            } else {
                vec![3]
            };
            assert_eq!(one.shape(), [vec![1], tail.clone()].concat(), "{model}");
            let three = run(&*session, &plain(&*session, 3)).unwrap();
            assert_eq!(three.shape(), [vec![3], tail].concat(), "{model}");
            assert_close(&floats(&three)[..3], &floats(&one), 1e-6);
            assert_ne!(
                floats(&three)[..3],
                floats(&three)[3..6],
                "{model}: the rows differ"
            );
        }
    }
}

#[test]
fn the_signature_says_what_the_graph_says() {
    for backend in backends() {
        let open = |model: &str| {
            let path = data("models").join(model).join("1/model.onnx");
            backend
                .open(&path, &options(8))
                .unwrap()
                .signature()
                .clone()
        };
        let signature = open("rgb-sized-by-manifest");
        assert_eq!(signature.inputs.len(), 1, "weights are no inputs");
        assert_eq!(signature.inputs[0].name, "image");
        assert_eq!(signature.inputs[0].element, Ok(ElementType::Float32));
        assert_eq!(signature.inputs[0].shape, [None, Some(3), None, None]);
        assert_eq!(signature.outputs[0].name, "scores");
        assert_eq!(signature.outputs[0].shape, [None, Some(3)]);
        assert_eq!(open("rgb-vector").outputs[0].shape, [Some(3)]);
        assert_eq!(open("rgb-u8").inputs[0].element, Ok(ElementType::Uint8));
    }
}

/// What stands in the reason why a broken graph does not open (`Err`) or run (`Ok(reason)`), by ort and by tract.
type Refusal = Result<&'static str, &'static str>;

const BROKEN: [(&str, Refusal, Refusal); 14] = [
    ("empty", Err("No graph"), Err("no graph")),
    (
        "text",
        Err("Protobuf parsing failed"),
        Err("failed to decode Protobuf"),
    ),
    (
        "truncated",
        Err("Protobuf parsing failed"),
        Err("buffer underflow"),
    ),
    ("future-opset", Err("Opset 99"), Err("operator set 99")),
    (
        "unknown-op",
        Err("No Op registered for Frobnicate"),
        Err("no operator Frobnicate"),
    ),
    (
        "external-missing",
        Err("does not exist"),
        Err("No such file"),
    ),
    (
        "external-escape",
        Err("escapes model directory"),
        Err("must be a relative path inside"),
    ),
    (
        "external-absolute",
        Err("Absolute path not allowed"),
        Err("must be a relative path inside"),
    ),
    (
        "external-short",
        Err("out of bounds"),
        Err("exceeds file size 768"),
    ),
    ("two-inputs", Ok("wants 2 inputs"), Ok("wants 2 inputs")),
    ("int64-output", Ok("is i64"), Ok("is int64")),
    ("argmax-output", Ok("is i64"), Ok("is int64")),
    (
        "string-output",
        Ok("is String"),
        Err("no operator LabelEncoder"),
    ),
    (
        "does-not-exist",
        Err("does not exist"),
        Err("cannot be read"),
    ),
];

#[test]
fn a_broken_graph_is_refused_with_a_reason_and_without_a_path() {
    let root = data("broken");
    for backend in backends() {
        for (model, by_ort, by_tract) in BROKEN {
            let refusal = if backend.name() == "ort" {
                by_ort
            } else {
                by_tract
            };
            let path = root.join(model).join("1/model.onnx");
            let opened = backend.open(&path, &options(8));
            let (error, wanted) = match (opened, refusal) {
                (Err(error), Err(wanted)) => (error, wanted),
                (Ok(session), Ok(wanted)) => (
                    run(&*session, &plain(&*session, 1)).expect_err(model),
                    wanted,
                ),
                (opened, refusal) => {
                    panic!(
                        "{model} on {}: {:?} against {refusal:?}",
                        backend.name(),
                        opened.err()
                    )
                }
            };
            let text = error.to_string();
            assert!(text.contains(wanted), "{model}: {text}");
            assert!(
                !text.contains(&*root.to_string_lossy()) && !text.contains('\n'),
                "{text}"
            );
            assert!(text.chars().count() < 360, "{text}");
        }
    }
}

#[test]
fn a_wrong_input_is_refused_and_the_session_lives_on() {
    for backend in backends() {
        let path = data("models/rgb-f32/1/model.onnx");
        let session = backend.open(&path, &options(8)).unwrap();
        let good = plain(&*session, 1);
        let wide = Tensor::new(vec![1, 3, 8, 9], TensorData::Float32(vec![0.0; 216])).unwrap();
        let bytes = Tensor::new(vec![1, 3, 8, 8], TensorData::Uint8(vec![0; 192])).unwrap();
        for (input, name, output) in [
            (&wide, "image", "scores"),
            (&bytes, "image", "scores"),
            (&good, "picture", "scores"),
            (&good, "image", "classes"),
        ] {
            let error = session.run(name, input, output).unwrap_err();
            assert!(matches!(error, BackendError::Run { .. }), "{error}");
        }
        assert!(run(&*session, &good).is_ok());
    }
}

#[test]
fn a_provider_that_is_not_there_is_left_out() {
    let Some(ort) = ort() else { return };
    assert!(known_provider("cuda") && known_provider("cpu") && !known_provider("abacus"));
    let wanted = ["openvino", "abacus", "cuda", "tensorrt", "cuda", "cpu"].map(str::to_owned);
    let options = OpenOptions {
        execution_providers: wanted.to_vec(),
        ..options(8)
    };
    let session = ort
        .open(&data("models/rgb-f32/1/model.onnx"), &options)
        .unwrap();
    assert_eq!(session.providers().last().map(String::as_str), Some("cpu"));
    assert!(run(&*session, &plain(&*session, 2)).is_ok());
}

/// Values from 0 to 1 that come again after 97 places.
fn ramp(at: usize) -> f32 {
    u8::try_from(at % 97).map_or(0.0, |step| f32::from(step) / 97.0)
}

/// Eight threads, one session: what each gets is what one thread gets.
fn assert_concurrent(session: &Arc<dyn Session>, size: usize, rounds: usize) {
    let inputs: Vec<Tensor> = (0..8_u16)
        .map(|seed| input(&**session, 1, size, move |at| ramp(at + usize::from(seed))))
        .collect();
    let alone: Vec<Tensor> = inputs
        .iter()
        .map(|input| run(&**session, input).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for (input, alone) in inputs.iter().zip(&alone) {
            scope.spawn(move || {
                for _ in 0..rounds {
                    assert_eq!(&run(&**session, input).unwrap(), alone);
                }
            });
        }
    });
}

#[test]
fn many_threads_run_one_session_and_each_gets_its_own_answer() {
    for backend in backends() {
        for model in ["rgb-f32", "rgb-u8", "rgb-f16", "rgb-external"] {
            let path = data("models").join(model).join("1/model.onnx");
            let session = backend.open(&path, &options(8)).unwrap();
            assert_concurrent(&session, 8, 200);
        }
    }
}

/// The real models, their picture sizes, and how far the backends' raw outputs may lie apart. The quantised two lie up
/// to a few steps apart: tract follows the graph in floats, as ONNX Runtime does when it optimises nothing, and an
/// optimising ONNX Runtime computes in integers, which rounds elsewhere.
const REAL: [(&str, usize, f32); 6] = [
    ("cifar10-resnet8", 32, 1e-4),
    ("mnist", 28, 1e-3),
    ("mobilenetv1-025-uint8", 128, 3.0),
    ("mobilenetv2", 224, 1e-4),
    ("squeezenet1.1", 224, 1e-3),
    ("squeezenet1.1-int8", 224, 0.32),
];

#[test]
fn the_real_models_open_and_run_alike_on_both_backends() {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let fixtures = std::env::var_os("LENSGATE_FIXTURES");
    let Some(root) = fixtures.map(PathBuf::from) else {
        println!("fixtures: NOT RUN (LENSGATE_FIXTURES is not set)");
        return;
    };
    let backends = backends();
    for (model, size, tolerance) in REAL {
        let path = root.join("models").join(model).join("model.onnx");
        let mut answers = Vec::new();
        for backend in &backends {
            let session = backend
                .open(&path, &options(size))
                .unwrap_or_else(|e| panic!("{model}: {e}"));
            let constant = run(&*session, &input(&*session, 1, size, |_| 0.5)).unwrap();
            let varied = input(&*session, 2, size, ramp);
            let varied = run(&*session, &varied).unwrap();
            assert_eq!(varied.shape()[0], 2);
            answers.push([floats(&constant), floats(&varied)].concat());
            let rounds = if size > 200 { 4 } else { 50 };
            assert_concurrent(&session, size, rounds);
            println!("{model} on {}: opens and runs", backend.name());
        }
        for other in answers.iter().skip(1) {
            assert_close(other, &answers[0], tolerance);
        }
    }
}
