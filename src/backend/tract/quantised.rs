//! Writes `DequantizeLinear` out as the arithmetic that it stands for, in a graph that was just read.
//!
//! Called by `backend::tract` before a graph is planned. Knows the ONNX file format and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

/// Replaces each `DequantizeLinear` of one scale, of a value computed at run time, by `(x - zero_point) * scale`.
///
/// tract 0.23.9 makes one lookup table of whatever lies between such a node and the next `QuantizeLinear` if it takes
/// those operators for element-wise, and it takes Softmax for one: each class of a quantised classifier then gets
/// probability 1. It also confuses signed with unsigned there. The arithmetic costs the same time.
pub(super) fn write_out_dequantizers(graph: &mut GraphProto) {
    let known = Constants::of(graph);
    let targets: Vec<bool> = graph
        .node
        .iter()
        .map(|node| known.is_target(node))
        .collect();
    let nodes = std::mem::take(&mut graph.node);
    for (node, is_target) in nodes.into_iter().zip(targets) {
        match (is_target, arithmetic(&node)) {
            (true, Some(steps)) => graph.node.extend(steps),
            _ => graph.node.push(node),
        }
    }
}

/// What the graph says outright.
struct Constants {
    weights: BTreeSet<String>,
    /// Constants of one value, with their element types.
    single: BTreeMap<String, i32>,
}

impl Constants {
    fn of(graph: &GraphProto) -> Self {
        let made = graph
            .node
            .iter()
            .filter(|node| node.op_type == "Constant")
            .filter_map(|node| {
                let value = node
                    .attribute
                    .iter()
                    .find(|attribute| attribute.name == "value")?;
                Some((node.output.first()?, value.t.as_ref()?))
            });
        let given = graph
            .initializer
            .iter()
            .map(|weight| (&weight.name, weight));
        let single = given
            .chain(made)
            .filter(|(_, tensor)| tensor.dims.iter().all(|&extent| extent == 1))
            .map(|(name, tensor)| (name.clone(), tensor.data_type))
            .collect();
        let weights = graph
            .initializer
            .iter()
            .map(|weight| weight.name.clone())
            .collect();
        Self { weights, single }
    }

    /// A value computed at run time, one float scale, at most one zero point.
    fn is_target(&self, node: &NodeProto) -> bool {
        let mut inputs = node.input.iter();
        let (Some(x), Some(scale)) = (inputs.next(), inputs.next()) else {
            return false;
        };
        node.op_type == "DequantizeLinear"
            && !self.weights.contains(x)
            && self.single.get(scale) == Some(&(DataType::Float as i32))
            && inputs.all(|zero| zero.is_empty() || self.single.contains_key(zero))
    }
}

/// The steps that give what `node` gives; `None` when it is not made as the standard says.
fn arithmetic(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let (x, scale) = (node.input.first()?, node.input.get(1)?);
    let zero = node.input.get(2).filter(|zero| !zero.is_empty());
    let out = node.output.first()?;
    let name = |step: &str| format!("{out}/dequantize/{step}");
    let mut steps = vec![to_float(x, name("x"))];
    let mut shifted = name("x");
    if let Some(zero) = zero {
        steps.push(to_float(zero, name("zero")));
        steps.push(binary(
            "Sub",
            [&shifted, &name("zero")],
            name("shifted"),
            name("shifted"),
        ));
        shifted = name("shifted");
    }
    steps.push(binary(
        "Mul",
        [&shifted, scale],
        name("scaled"),
        out.clone(),
    ));
    Some(steps)
}

fn to_float(input: &str, output: String) -> NodeProto {
    let to = AttributeProto {
        name: "to".to_owned(),
        r#type: AttributeType::Int.into(),
        i: DataType::Float as i64,
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: "Cast".to_owned(),
        name: output.clone(),
        input: vec![input.to_owned()],
        output: vec![output],
        attribute: vec![to],
        ..NodeProto::default()
    }
}

fn binary(op_type: &str, inputs: [&str; 2], name: String, output: String) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        name,
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output],
        ..NodeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::TensorProto;

    use super::*;

    fn weight(name: &str, data_type: DataType, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: name.to_owned(),
            data_type: data_type as i32,
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    fn dequantize(inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: "DequantizeLinear".to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    /// The operators of a graph with these nodes, after the rewriting.
    fn rewritten(node: NodeProto) -> Vec<String> {
        let mut graph = GraphProto {
            node: vec![node],
            initializer: vec![
                weight("scale", DataType::Float, &[]),
                weight("zero", DataType::Uint8, &[1]),
                weight("scales", DataType::Float, &[3]),
                weight("half", DataType::Float16, &[]),
                weight("kernel", DataType::Int8, &[3, 3]),
            ],
            ..GraphProto::default()
        };
        write_out_dequantizers(&mut graph);
        assert_eq!(
            graph.node.last().map(|node| node.output.clone()),
            Some(vec!["y".to_owned()])
        );
        graph.node.into_iter().map(|node| node.op_type).collect()
    }

    #[test]
    fn one_scale_is_written_out_and_all_else_stays() {
        let steps = rewritten(dequantize(&["x", "scale", "zero"], "y"));
        assert_eq!(steps, ["Cast", "Cast", "Sub", "Mul"]);
        assert_eq!(rewritten(dequantize(&["x", "scale"], "y")), ["Cast", "Mul"]);
        assert_eq!(
            rewritten(dequantize(&["x", "scale", ""], "y")),
            ["Cast", "Mul"]
        );
        for kept in [
            ["kernel", "scale"],
            ["x", "scales"],
            ["x", "half"],
            ["x", "computed"],
        ] {
            assert_eq!(rewritten(dequantize(&kept, "y")), ["DequantizeLinear"]);
        }
    }
}
