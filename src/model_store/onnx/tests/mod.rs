//! The cases of `onnx`: models built by hand, cut and damaged; folders of external data; and, where
//! the environment names them (`LENSGATE_FIXTURES`), real models.

use std::io::{self, Cursor};

use super::*;

mod folder;
mod hostile;
mod large;
mod quantised;
mod writer;

use writer::{
    bytes, constant, external, fixed32, initial, int, message, model, node, simple, tensor,
    value_info, varint,
};

fn parse(file: &[u8]) -> Result<GraphFacts, OnnxError> {
    read_from(Cursor::new(file), file.len() as u64, parse::Limits::DEFAULT)
}

fn facts(graph: &[u8]) -> GraphFacts {
    parse(&model(graph)).unwrap()
}

fn reason(file: &[u8]) -> String {
    match parse(file) {
        Err(OnnxError::NotOnnx { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_model_says_of_itself() {
    let weights = [
        bytes(5, tensor("w", 1, &bytes(9, [0; 400]))),
        message(
            15,
            &[
                bytes(1, tensor("sparse", 1, &[])),
                bytes(2, tensor("", 7, &[])),
            ],
        ),
        value_info(11, "w", 1, &[]),
        value_info(11, "sparse", 1, &[]),
        simple("Relu", "x", "y"),
    ];
    let facts = facts(&weights.concat());
    assert_eq!((facts.ir_version, facts.opset), (8, 17));
    assert_eq!(
        (facts.producer.as_str(), facts.graph_name.as_str()),
        ("by hand", "main")
    );
    let shape = Some(vec![Dim::Named("N".to_owned()), Dim::Fixed(10)]);
    assert_eq!(
        facts.inputs,
        [GraphTensor {
            name: "x".to_owned(),
            element: 1,
            shape: shape.clone()
        }]
    );
    assert_eq!(
        facts.outputs,
        [GraphTensor {
            name: "y".to_owned(),
            element: 1,
            shape
        }]
    );
    assert!(facts.external.is_empty());
}

#[test]
fn shapes_in_all_their_forms() {
    let dims = [
        int(1, -1),
        Vec::new(),
        bytes(2, ""),
        int(1, 0),
        [int(1, 3), bytes(3, "C")].concat(),
    ];
    let no_shape = message(11, &[bytes(1, "u"), bytes(2, message(1, &[int(1, 10)]))]);
    let sequence = message(11, &[bytes(1, "s"), bytes(2, bytes(4, "…"))]);
    let facts = facts(
        &[
            value_info(11, "d", 2, &dims),
            value_info(11, "r", 3, &[]),
            no_shape,
            sequence,
        ]
        .concat(),
    );
    let expected = vec![
        Dim::Unknown,
        Dim::Unknown,
        Dim::Unknown,
        Dim::Fixed(0),
        Dim::Fixed(3),
    ];
    let found: Vec<_> = facts
        .inputs
        .into_iter()
        .map(|i| (i.name, i.element, i.shape))
        .collect();
    assert_eq!(found[0], ("d".to_owned(), 2, Some(expected)));
    assert_eq!(found[1], ("r".to_owned(), 3, Some(Vec::new())));
    assert_eq!(found[2], ("u".to_owned(), 10, None));
    assert_eq!(found[3], ("s".to_owned(), 0, None));
}

#[test]
fn endings() {
    let through = |op: &str| [simple("Softmax", "x", "a"), simple(op, "a", "y")].concat();
    let ms = |op: &str| node(op, "com.microsoft", &["x", "a", "b", "c", "d"], &["y"], &[]);
    let cases = [
        (simple("Softmax", "x", "y"), Ending::Softmax),
        (simple("Sigmoid", "x", "y"), Ending::Sigmoid),
        (simple("LogSoftmax", "x", "y"), Ending::Other),
        (
            node("Softmax", "ai.onnx", &["x"], &["y"], &[]),
            Ending::Softmax,
        ),
        (
            node("Softmax", "com.example", &["x"], &["y"], &[]),
            Ending::Other,
        ),
        (ms("QLinearSoftmax"), Ending::Softmax),
        (ms("QLinearSigmoid"), Ending::Sigmoid),
        (through("Reshape"), Ending::Softmax),
        (through("Flatten"), Ending::Softmax),
        (through("Squeeze"), Ending::Softmax),
        (through("Unsqueeze"), Ending::Softmax),
        (through("Identity"), Ending::Softmax),
        (through("Transpose"), Ending::Softmax),
        (through("Cast"), Ending::Softmax),
        (through("Dropout"), Ending::Softmax),
        (through("QuantizeLinear"), Ending::Softmax),
        (through("DequantizeLinear"), Ending::Softmax),
        (through("Relu"), Ending::Other),
        (through("ArgMax"), Ending::Other),
        // Out of order, through several.
        (
            [
                simple("Cast", "b", "y"),
                simple("Reshape", "a", "b"),
                simple("Sigmoid", "x", "a"),
            ]
            .concat(),
            Ending::Sigmoid,
        ),
        // The mask of a dropout is its second output.
        (
            [
                simple("Softmax", "x", "a"),
                node("Dropout", "", &["a"], &["b", "y"], &[]),
            ]
            .concat(),
            Ending::Other,
        ),
        (
            [simple("Reshape", "y", "a"), simple("Reshape", "a", "y")].concat(),
            Ending::Other,
        ),
        (simple("Identity", "x", "y"), Ending::Other),
        (Vec::new(), Ending::Other),
    ];
    for (at, (graph, ending)) in cases.iter().enumerate() {
        assert_eq!(facts(graph).ending("y"), *ending, "case {at}");
    }
    assert_eq!(facts(&cases[0].0).ending("elsewhere"), Ending::Other);
}

/// A tensor whose data is in the file `location`.
fn outside(location: &str, more: &[(&str, &str)]) -> Vec<u8> {
    tensor(
        "w",
        1,
        &external(&[&[("location", location)], more].concat()),
    )
}

fn external_of(file: &[u8]) -> Vec<(String, u64)> {
    let files = parse(file).unwrap().external.into_iter();
    files
        .map(|file| (file.location, file.needed_bytes))
        .collect()
}

#[test]
fn external_files_are_needed_as_far_as_the_last_tensor() {
    let graph = [
        bytes(5, outside("w.bin", &[("offset", "100"), ("length", "50")])),
        bytes(5, outside("w.bin", &[("length", "120")])),
        bytes(5, outside("v.bin", &[("offset", "4096")])),
        bytes(5, outside("a.bin", &[("length", "0")])),
        // A location without `EXTERNAL` is not looked at by anyone.
        bytes(
            5,
            tensor(
                "in",
                1,
                &message(13, &[bytes(1, "location"), bytes(2, "i.bin")]),
            ),
        ),
    ];
    let expected = [("a.bin", 0), ("v.bin", 4097), ("w.bin", 150)];
    let expected = expected.map(|(location, needed)| (location.to_owned(), needed));
    assert_eq!(external_of(&model(&graph.concat())), expected);
    let nowhere = model(&bytes(5, tensor("w", 1, &int(14, 1))));
    assert_eq!(external_of(&nowhere), [(String::new(), 1)]);
}

#[test]
fn external_files_are_found_wherever_tensors_are() {
    let sparse = |number| {
        message(
            number,
            &[bytes(1, outside("1", &[])), bytes(2, outside("2", &[]))],
        )
    };
    let attribute = |content: Vec<u8>| message(5, &[bytes(1, "name"), content]);
    let in_function = |content: Vec<u8>| [model(&[]), message(25, &[content])].concat();
    let plain = || bytes(5, outside("1", &[]));
    let in_node = |content| model(&node("If", "", &["x"], &["y"], &attribute(content)));
    let cases = [
        (model(&plain()), 1),
        (model(&sparse(15)), 2),
        (in_node(plain()), 1),
        (in_node(bytes(10, outside("1", &[]))), 1),
        (in_node(sparse(22)), 2),
        (in_node(sparse(23)), 2),
        (in_node(bytes(6, plain())), 1),
        (in_node(bytes(11, sparse(15))), 2),
        (in_node(bytes(6, bytes(1, attribute(bytes(6, plain()))))), 1),
        (in_function(bytes(7, attribute(plain()))), 1),
        (in_function(message(11, &[plain()])), 1),
    ];
    for (at, (file, count)) in cases.iter().enumerate() {
        assert_eq!(external_of(file).len(), *count, "case {at}");
    }
}

#[test]
fn external_numbers_must_be_numbers() {
    let max = u64::MAX.to_string();
    for (offset, length) in [("-1", "1"), ("1", "ten"), ("", "1"), (max.as_str(), "1")] {
        let entries = [
            ("location", "w\n.bin"),
            ("offset", offset),
            ("length", length),
        ];
        let file = model(&bytes(5, tensor("w", 1, &external(&entries))));
        let Err(error @ OnnxError::External { .. }) = parse(&file) else {
            panic!("{offset} {length}")
        };
        assert!(
            error
                .to_string()
                .starts_with(r#"external data "w\n.bin": its offset"#),
            "{error}"
        );
        assert!(!error.is_incomplete());
    }
}

#[test]
fn old_models_need_no_opset() {
    let body = bytes(7, value_info(12, "y", 1, &[]));
    assert_eq!(parse(&[int(1, 2), body.clone()].concat()).unwrap().opset, 1);
    assert_eq!(
        parse(&[int(1, 3), body].concat()).unwrap_err(),
        OnnxError::Truncated
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the fixtures are named by the environment"
)]
fn real_models_end_as_they_do() {
    let Some(fixtures) = std::env::var_os("LENSGATE_FIXTURES") else {
        println!("fixtures: NOT RUN");
        return;
    };
    let cases = [
        ("squeezenet1.1", Ending::Other, None),
        ("squeezenet1.1-int8", Ending::Other, None),
        ("mobilenetv2", Ending::Softmax, None),
        (
            "mobilenetv1-025-uint8",
            Ending::Softmax,
            Some((1.0 / 256.0, 0)),
        ),
        ("cifar10-resnet8", Ending::Softmax, None),
        ("mnist", Ending::Other, None),
    ];
    for (name, ending, quantisation) in cases {
        let folder = Path::new(&fixtures).join("models").join(name);
        let facts = read(&folder.join("model.onnx")).unwrap();
        println!("{name}: {:?} -> {:?}", facts.inputs, facts.outputs);
        assert_eq!((facts.inputs.len(), facts.outputs.len()), (1, 1), "{name}");
        let output = facts.outputs[0].name.as_str();
        assert_eq!(facts.ending(output), ending, "{name}");
        assert_eq!(facts.output_quantisation(output), quantisation, "{name}");
        assert_eq!(
            check_external(&facts, &folder).unwrap(),
            Vec::<PathBuf>::new(),
            "{name}"
        );
    }
}
