//! Files that are cut, damaged, of another kind, or made to hurt.

use super::*;

/// A model with something of everything.
fn rich() -> Vec<u8> {
    let body = [
        bytes(
            5,
            tensor("b", 1, &external(&[("location", "b.bin"), ("length", "9")])),
        ),
        simple("Relu", "x", "r"),
    ];
    let graph = [
        simple("Conv", "x", "c"),
        node(
            "If",
            "",
            &["c"],
            &["i"],
            &message(5, &[bytes(1, "else_branch"), bytes(6, body.concat())]),
        ),
        constant(
            "s",
            "value",
            &bytes(5, tensor("", 1, &bytes(4, 0.5_f32.to_le_bytes()))),
        ),
        simple("Softmax", "i", "p"),
        node("QuantizeLinear", "", &["p", "s", "z"], &["y"], &[]),
        initial("z", 2, &bytes(9, [1])),
    ];
    model(&graph.concat())
}

#[test]
fn a_file_cut_anywhere_is_never_a_model() {
    let whole = rich();
    let expected = parse(&whole).unwrap();
    assert_eq!(expected.ending("y"), Ending::Softmax);
    assert_eq!(expected.output_quantisation("y"), Some((0.5, 1)));
    // The one cut that leaves a whole message: between two imports of operators.
    let last_import = whole.len() - message(8, &[bytes(1, ""), int(2, 17)]).len();
    for cut in 0..whole.len() {
        let result = parse(&whole[..cut]);
        match cut {
            0 => assert_eq!(result.unwrap_err(), OnnxError::Empty),
            _ if cut == last_import => assert_eq!(result.unwrap().opset, 0),
            _ => assert_eq!(result.unwrap_err(), OnnxError::Truncated, "cut at {cut}"),
        }
    }
}

#[test]
fn a_file_whose_space_is_reserved_is_incomplete() {
    let whole = [rich(), bytes(6, "text ".repeat(20))].concat();
    for cut in 0..=rich().len() {
        let mut file = whole.clone();
        file[cut..].fill(0);
        assert_eq!(
            parse(&file).unwrap_err(),
            OnnxError::Truncated,
            "zeros from {cut}"
        );
    }
    assert!(reason(&[0; 63]).starts_with("it does not begin"));
}

#[test]
fn other_files_are_named() {
    let zip = [b"PK\x03\x04".as_slice(), &[0; 100]].concat();
    let cut_character = format!("{}é", "a".repeat(511));
    let cases: [(&[u8], &str); 12] = [
        (b"hello", "it is a text file"),
        (b"readme", "it is a text file"),
        ("Gr\u{fc}\u{df}e\r\n".as_bytes(), "it is a text file"),
        (cut_character.as_bytes(), "it is a text file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "it is a Git LFS pointer",
        ),
        (b"<!DOCTYPE html><html>", "it is a page of markup"),
        (&zip, "it is a zip archive"),
        (b"\x1C\0\0\0TFL3\0\0", "it is a TensorFlow Lite model"),
        (b"\x89HDF\r\n\x1A\n\0", "it is an HDF5 file"),
        (b"\x89PNG\r\n\x1A\n\0", "it does not begin like a model"),
        (
            b"\xFF\xD8\xFF\xE0\0\x10JFIF",
            "it does not begin like a model",
        ),
        (b"\x7FELF\x02\x01\x01\0", "it does not begin like a model"),
    ];
    for (file, expected) in cases {
        let reason = reason(file);
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[test]
fn other_protobufs_are_no_models() {
    // A caffe net (name 1), a TensorProto (dims 1, data_type 2), a SavedModel (1, meta_graphs 2).
    assert!(reason(&bytes(1, "net\0")).starts_with("it does not begin"));
    assert!(reason(&[int(1, 3), int(2, 1)].concat()).starts_with("it does not begin"));
    let saved = [int(1, 1), bytes(2, "\n".repeat(70_000))].concat();
    assert!(reason(&saved).contains("70000 bytes long"));
    assert!(reason(&[int(1, 1), bytes(2, [0xC0, 0])].concat()).contains("not UTF-8"));
    // A Core ML model: specificationVersion 1, description 2, neuralNetworkClassifier 403.
    let core_ml = [int(1, 4), bytes(2, bytes(1, "x")), bytes(403, "…")].concat();
    assert_eq!(parse(&core_ml).unwrap_err(), OnnxError::NoGraph);
    assert_eq!(
        parse(&bytes(14, bytes(1, "\0"))).unwrap_err(),
        OnnxError::NoGraph
    );
    assert_eq!(
        parse(&[int(1, 8), bytes(7, "")].concat()).unwrap_err(),
        OnnxError::NoGraph
    );
    assert!(reason(&[int(1, 0), bytes(2, "")].concat()).contains("IR version is 0"));
    let graph = bytes(7, value_info(12, "y", 1, &[]));
    assert!(reason(&[graph, message(8, &[int(2, 17)])].concat()).contains("no IR version"));
    // What a later release may add is passed over.
    let future = [int(1, 8), bytes(99, "new"), int(98, 1), fixed32(97, 1.0)].concat();
    let future = [future, varint(96 << 3 | 1), vec![0; 8], rich()].concat();
    assert_eq!(parse(&future).unwrap().ending("y"), Ending::Softmax);
}

#[test]
fn damage_inside_a_whole_file_is_damage() {
    let broken = |graph: &[u8]| reason(&model(graph));
    assert!(broken(&[varint(1 << 3 | 2), varint(9_999)].concat()).contains("cut short"));
    assert!(broken(&[varint(1 << 3 | 2), varint(u64::MAX)].concat()).contains("cut short"));
    assert!(broken(&message(1, &[vec![0x0A, 0x05, b'x']])).contains("cut short"));
    assert!(broken(&message(1, &[vec![0x80]])).contains("cut short"));
    assert!(broken(&message(1, &[vec![0x09, 1, 2, 3]])).contains("cut short"));
    assert!(broken(&[0xFF; 20]).contains("no end"));
    assert!(broken(&[0x00, 0x00]).contains("no protobuf field"));
    assert!(broken(&[0x0B]).contains("wire type 3"));
    assert!(broken(&initial("s", 1, &bytes(4, [1, 2, 3]))).contains("cut short"));
    assert!(broken(&bytes(2, "n".repeat(65_537))).contains("65537 bytes long"));
    assert_eq!(facts(&bytes(2, [b'n', 0xFF])).graph_name, "main");
}

#[test]
fn the_limits_hold() {
    let small = parse::Limits {
        nodes: 3,
        fields: 50,
        kept: 2_500,
        depth: 2,
    };
    let limited = |graph: &[u8]| {
        let file = model(graph);
        read_from(Cursor::new(&file), file.len() as u64, small)
    };
    let refused = |graph: &[u8], word: &str| {
        let error = limited(graph).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let node = || bytes(1, "");
    assert!(limited(&node().repeat(3)).is_ok());
    refused(&node().repeat(4), "more nodes");
    refused(&int(20, 1).repeat(60), "more fields");
    refused(&initial(&"n".repeat(3_000), 1, &[]), "more memory");
    refused(
        &bytes(
            5,
            tensor("w", 1, &external(&[("location", &"l".repeat(3_000))])),
        ),
        "more memory",
    );
    refused(
        &value_info(11, "x", 1, &vec![Vec::new(); 20]),
        "more memory",
    );
    let nested = |depth: u32| {
        (0..depth).fold(Vec::new(), |graph, _| {
            message(1, &[message(5, &[bytes(6, graph)])])
        })
    };
    assert!(limited(&nested(2)).is_ok());
    refused(&nested(3), "nested deeper");
    let deep = model(&nested(10_000));
    assert!(reason(&deep).contains("nested deeper than 16"));
}

#[test]
fn many_nodes_take_time_in_proportion() {
    let nodes: Vec<u8> = (0..100_000)
        .flat_map(|at| simple("Reshape", &format!("n{at}"), &format!("n{}", at + 1)))
        .collect();
    let facts = facts(&nodes);
    assert_eq!(facts.ending("n100000"), Ending::Other);
    assert_eq!(facts.input_quantisation("n0"), None);
    assert!(reason(&model(&bytes(1, "").repeat(1_000_001))).contains("more nodes"));
}

#[test]
fn no_damage_makes_it_panic() {
    let whole = rich();
    // xorshift64*, so that a failure comes again.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % below
    };
    let mut whole_ones = 0_u32;
    for _ in 0..30_000 {
        let mut file = whole.clone();
        for _ in 0..=random(4) {
            let at = random(file.len());
            match random(4) {
                0 => file[at] = u8::try_from(random(256)).unwrap(),
                1 => file[at] ^= 1 << random(8),
                2 => file.truncate(at + 1),
                _ => {
                    let piece = file[at..file.len().min(at + random(40) + 1)].to_vec();
                    let to = random(file.len());
                    file.splice(to..to, piece);
                }
            }
        }
        if let Ok(facts) = parse(&file) {
            whole_ones += 1;
            for output in &facts.outputs {
                let _ = facts.ending(&output.name);
                let _ = facts.output_quantisation(&output.name);
            }
            for input in &facts.inputs {
                let _ = facts.input_quantisation(&input.name);
            }
        }
    }
    assert!(whole_ones > 100, "{whole_ones} files left whole");
}
