//! Models built by hand: a protobuf writer of a few lines.
//!
//! Called by the tests of `onnx`.

/// One varint.
pub(super) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7F).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// A field of wire type 0.
pub(super) fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value.cast_unsigned())].concat()
}

/// A field of wire type 2.
pub(super) fn bytes(number: u64, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [
        varint(number << 3 | 2),
        varint(payload.len() as u64),
        payload.to_vec(),
    ]
    .concat()
}

/// A field of wire type 2 that holds the fields of a message.
pub(super) fn message(number: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(number, fields.concat())
}

/// `GraphProto.node`, with the attributes given as they are.
pub(super) fn node(
    op: &str,
    domain: &str,
    inputs: &[&str],
    outputs: &[&str],
    more: &[u8],
) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    let outputs: Vec<u8> = outputs.iter().flat_map(|name| bytes(2, name)).collect();
    let domain = if domain.is_empty() {
        Vec::new()
    } else {
        bytes(7, domain)
    };
    message(
        1,
        &[
            inputs,
            outputs,
            bytes(3, "a node"),
            bytes(4, op),
            more.to_vec(),
            domain,
        ],
    )
}

/// A node of one input and one output in ONNX's own domain.
pub(super) fn simple(op: &str, input: &str, output: &str) -> Vec<u8> {
    node(op, "", &[input], &[output], &[])
}

/// `TensorProto`'s fields but its content.
pub(super) fn tensor(name: &str, data_type: i64, content: &[u8]) -> Vec<u8> {
    [int(2, data_type), bytes(8, name), content.to_vec()].concat()
}

/// `TensorProto.external_data` and `data_location`.
pub(super) fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(key, value)| message(13, &[bytes(1, key), bytes(2, value)]))
        .collect();
    [entries, int(14, 1)].concat()
}

/// `GraphProto.input` or `output` (by `number`): the axes as `Dimension` messages.
pub(super) fn value_info(number: u64, name: &str, element: i64, dims: &[Vec<u8>]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| bytes(1, dim)).collect();
    let kind = message(1, &[int(1, element), bytes(2, dims)]);
    message(number, &[bytes(1, name), bytes(2, kind)])
}

/// A model of IR version 8 and opset 17 with an input `x` and an output `y` of `N` x 10.
pub(super) fn model(graph: &[u8]) -> Vec<u8> {
    let dims = [bytes(2, "N"), int(1, 10)];
    let graph = message(
        7,
        &[
            graph.to_vec(),
            bytes(2, "main"),
            value_info(11, "x", 1, &dims),
            value_info(12, "y", 1, &dims),
        ],
    );
    let opset = [
        message(8, &[bytes(1, "other"), int(2, 1)]),
        message(8, &[bytes(1, ""), int(2, 17)]),
    ];
    [int(1, 8), bytes(2, "by hand"), graph, opset.concat()].concat()
}

/// A constant as an initializer.
pub(super) fn initial(name: &str, data_type: i64, content: &[u8]) -> Vec<u8> {
    bytes(5, tensor(name, data_type, content))
}

/// A constant as a node with one attribute.
pub(super) fn constant(name: &str, attribute: &str, content: &[u8]) -> Vec<u8> {
    let attribute = message(5, &[bytes(1, attribute), content.to_vec()]);
    node("Constant", "", &[], &[name], &attribute)
}

/// A field of wire type 5.
pub(super) fn fixed32(number: u64, value: f32) -> Vec<u8> {
    [varint(number << 3 | 5), value.to_le_bytes().to_vec()].concat()
}
