//! Where a scale and a zero point may stand in a file.

use super::*;

/// `y = QuantizeLinear(x, s, z)` after what defines `s` and `z`.
fn quantised(constants: &[Vec<u8>]) -> Option<(f32, i32)> {
    let node = node("QuantizeLinear", "", &["x", "s", "z"], &["y"], &[]);
    facts(&[constants.concat(), node].concat()).output_quantisation("y")
}

fn scale() -> Vec<u8> {
    raw("s", 1, &0.25_f32.to_le_bytes())
}

fn zero_point() -> Vec<u8> {
    raw("z", 2, &[128])
}

/// A constant in `raw_data`.
fn raw(name: &str, data_type: i64, content: &[u8]) -> Vec<u8> {
    initial(name, data_type, &bytes(9, content))
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn scales_in_all_their_forms() {
    let value = bytes(5, tensor("", 1, &bytes(9, 0.125_f32.to_le_bytes())));
    let cases = [
        (scale(), 0.25),
        (initial("s", 1, &bytes(4, floats(&[0.5]))), 0.5),
        (initial("s", 1, &fixed32(4, 0.5)), 0.5),
        (raw("s", 10, &0x3400_u16.to_le_bytes()), 0.25),
        (raw("s", 10, &0x0001_u16.to_le_bytes()), 1.0 / 16_777_216.0),
        (initial("s", 10, &int(5, 0x3555)), 0.333_251_95),
        (raw("s", 16, &0x3E80_u16.to_le_bytes()), 0.25),
        (initial("s", 16, &int(5, 0x3E80)), 0.25),
        (constant("s", "value", &value), 0.125),
        (constant("s", "value_float", &fixed32(2, 0.75)), 0.75),
        // One for each class, all equal.
        (raw("s", 1, &floats(&[0.5; 16])), 0.5),
    ];
    for (at, (constant, scale)) in cases.into_iter().enumerate() {
        assert_eq!(
            quantised(&[constant, zero_point()]),
            Some((scale, 128)),
            "case {at}"
        );
    }
}

#[test]
fn zero_points_in_all_their_forms() {
    let cases = [
        (zero_point(), 128),
        (raw("z", 3, &[0xFB]), -5),
        (raw("z", 4, &60_000_u16.to_le_bytes()), 60_000),
        (raw("z", 5, &(-300_i16).to_le_bytes()), -300),
        (raw("z", 6, &7_i32.to_le_bytes()), 7),
        (raw("z", 7, &7_i64.to_le_bytes()), 7),
        (initial("z", 3, &int(5, -5)), -5),
        (initial("z", 2, &bytes(5, varint(200))), 200),
        (initial("z", 7, &int(7, 3)), 3),
        (constant("z", "value_int", &int(3, 7)), 7),
        (raw("z", 2, &[9; 64]), 9),
    ];
    for (at, (constant, zero_point)) in cases.into_iter().enumerate() {
        assert_eq!(
            quantised(&[scale(), constant]),
            Some((0.25, zero_point)),
            "case {at}"
        );
    }
}

#[test]
fn what_is_not_one_constant_is_none() {
    let no_scale = [
        Vec::new(),
        initial("s", 1, &[]),
        raw("s", 1, &floats(&[0.5; 17])),
        raw("s", 1, &floats(&[0.5, 0.25])),
        initial("s", 1, &fixed32(4, 0.5).repeat(65)),
        initial("s", 1, &bytes(4, floats(&[0.5; 17]))),
        raw("s", 1, &floats(&[f32::NAN])),
        raw("s", 1, &floats(&[-1.0])),
        raw("s", 1, &floats(&[0.0])),
        raw("s", 10, &0x7C00_u16.to_le_bytes()),
        raw("s", 6, &1_i32.to_le_bytes()),
        constant("s", "sparse_value", &fixed32(2, 0.75)),
        initial("s", 1, &external(&[("location", "s.bin")])),
        // In a graph within the graph, where names are others.
        node("If", "", &["x"], &["i"], &message(5, &[bytes(6, scale())])),
    ];
    for (at, constant) in no_scale.into_iter().enumerate() {
        assert_eq!(quantised(&[constant, zero_point()]), None, "scale {at}");
    }
    let no_zero_point = [
        Vec::new(),
        raw("z", 1, &floats(&[1.0])),
        raw("z", 7, &i64::MAX.to_le_bytes()),
        raw("z", 2, &[1, 2]),
        raw("z", 22, &[1]),
    ];
    for (at, constant) in no_zero_point.into_iter().enumerate() {
        assert_eq!(quantised(&[scale(), constant]), None, "zero point {at}");
    }
}

#[test]
fn where_an_output_is_quantised() {
    let constants = [scale(), raw("z", 2, &[9])].concat();
    let quantize =
        |domain, output| node("QuantizeLinear", domain, &["x", "s", "z"], &[output], &[]);
    let softmax = node(
        "QLinearSoftmax",
        "com.microsoft",
        &["x", "a", "b", "s", "z"],
        &["y"],
        &[],
    );
    let cases = [
        (quantize("", "y"), Some((0.25, 9))),
        (quantize("com.microsoft", "y"), Some((0.25, 9))),
        (quantize("elsewhere", "y"), None),
        (softmax, Some((0.25, 9))),
        (
            node("QuantizeLinear", "", &["x", "s"], &["y"], &[]),
            Some((0.25, 0)),
        ),
        (
            node("QuantizeLinear", "", &["x", "s", ""], &["y"], &[]),
            Some((0.25, 0)),
        ),
        (
            [quantize("", "a"), simple("Reshape", "a", "y")].concat(),
            Some((0.25, 9)),
        ),
        // A float again: its numbers mean what they say, or nobody knows.
        ([quantize("", "a"), simple("Cast", "a", "y")].concat(), None),
        (
            [quantize("", "a"), simple("DequantizeLinear", "a", "y")].concat(),
            None,
        ),
    ];
    for (at, (nodes, expected)) in cases.iter().enumerate() {
        let facts = facts(&[constants.as_slice(), nodes].concat());
        assert_eq!(facts.output_quantisation("y"), *expected, "case {at}");
    }
}

#[test]
fn where_an_input_is_dequantised() {
    let dequantize = node("DequantizeLinear", "", &["a", "s", "z"], &["b"], &[]);
    let steps = [
        scale(),
        zero_point(),
        simple("Transpose", "x", "a"),
        dequantize,
    ];
    let found = facts(&steps.concat());
    assert_eq!(found.input_quantisation("x"), Some((0.25, 128)));
    assert_eq!(found.input_quantisation("y"), None);
    let looped = facts(&[simple("Reshape", "x", "a"), simple("Reshape", "a", "x")].concat());
    assert_eq!(looped.input_quantisation("x"), None);
    let floats = facts(&simple("Softmax", "x", "y"));
    assert_eq!(floats.input_quantisation("x"), None);
}
