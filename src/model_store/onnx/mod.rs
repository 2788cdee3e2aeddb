//! What can be said of an ONNX file without any runtime: whether it is whole, its tensors, how its
//! output comes about, which other files it needs.
//!
//! Called by the scanner and the loader. Runs no graph, opens no session, and reads no weights.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

mod external;
mod parse;
mod sniff;
mod tensor;
mod values;
mod wire;

#[cfg(test)]
mod tests;

use tensor::Scalar;

/// Why a model file cannot be used; in words for an operator, without the server's own paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// No byte has been written yet.
    #[error("the model file is empty")]
    Empty,
    /// The file is the beginning of a model; the rest may still come.
    #[error("the model file is truncated: it ends before the model does")]
    Truncated,
    /// The file is something else, or damaged, or beyond the limits of this reader.
    #[error("the file is not an ONNX model that can be read: {reason}")]
    NotOnnx {
        /// What gave it away.
        reason: String,
    },
    /// A protobuf message without a graph that has outputs.
    #[error("the file holds no graph with outputs")]
    NoGraph,
    /// A file of external data that may not or cannot be used.
    #[error("external data {location}: {reason}")]
    External {
        /// The location as the graph gives it, quoted and shortened.
        location: String,
        /// Why it is refused.
        reason: String,
    },
    /// A file of external data that is not there; it may still come.
    #[error("external data {location} is missing")]
    ExternalMissing {
        /// The location as the graph gives it, quoted and shortened.
        location: String,
    },
    /// A file of external data that is too short; it may still grow.
    #[error("external data {location} is truncated: it has {has} of {needs} bytes")]
    ExternalShort {
        /// The location as the graph gives it, quoted and shortened.
        location: String,
        /// Its length.
        has: u64,
        /// Where the last tensor in it ends.
        needs: u64,
    },
    /// The operating system refused.
    #[error("the model file cannot be read: {0}")]
    Io(ErrorKind),
}

impl OnnxError {
    /// Whether the file may be in the middle of being copied: worth waiting while it grows.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Truncated
                | Self::ExternalMissing { .. }
                | Self::ExternalShort { .. }
        )
    }

    fn external(location: &str, reason: &str) -> Self {
        Self::External {
            location: external::shown(location),
            reason: reason.to_owned(),
        }
    }
}

impl From<Error> for OnnxError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Truncated,
            kind => Self::Io(kind),
        }
    }
}

/// How the graph's output comes about, seen through shape operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A softmax: scores that sum to 1.
    Softmax,
    /// A sigmoid: each score between 0 and 1 by itself.
    Sigmoid,
    /// Anything else, `LogSoftmax` included.
    Other,
}

/// A file beside the model that holds some of its weights (`TensorProto.external_data` 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalFile {
    /// The path as the graph gives it, not checked yet.
    pub location: String,
    /// Where the last tensor in it ends: the greatest offset + length, a missing length being 1.
    pub needed_bytes: u64,
}

/// An input or output of the graph (`ValueInfoProto`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphTensor {
    /// The name (`name` 1).
    pub name: String,
    /// `TensorProto.DataType` (1 float32, 2 uint8, 3 int8, 10 float16); 0 where it is no tensor.
    pub element: i32,
    /// The axes, where the graph says how many.
    pub shape: Option<Vec<Dim>>,
}

/// One axis of a shape (`TensorShapeProto.Dimension`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// `dim_value` 1.
    Fixed(i64),
    /// `dim_param` 2.
    Named(String),
    /// Neither, or a negative value.
    Unknown,
}

/// What the file says (`ModelProto`).
#[derive(Clone, Debug, Default)]
pub struct GraphFacts {
    /// `ir_version` 1.
    pub ir_version: i64,
    /// The version of ONNX's own operators (`opset_import` 8); 0 where the model imports none.
    pub opset: i64,
    /// `producer_name` 2.
    pub producer: String,
    /// `GraphProto.name` 2.
    pub graph_name: String,
    /// The inputs that a caller must give: those that are not initializers (`GraphProto.input` 11).
    pub inputs: Vec<GraphTensor>,
    /// `GraphProto.output` 12.
    pub outputs: Vec<GraphTensor>,
    /// The files beside the model, those of subgraphs and functions included, by location.
    pub external: Vec<ExternalFile>,
    /// Initializers and `Constant` nodes, with their value where it is a single one.
    constants: HashMap<String, Option<Scalar>>,
    /// The nodes that can be seen through, and the endings, by the name of their first output.
    nodes: BTreeMap<String, Node>,
}

/// What a kept node does to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Softmax,
    Sigmoid,
    /// Moves values about without changing them.
    Shape,
    Cast,
    Quantize,
    Dequantize,
    /// ONNX Runtime's operators on quantised tensors: `QLinearSoftmax`, `QLinearSigmoid`.
    QuantizedSoftmax,
    QuantizedSigmoid,
}

impl Op {
    fn of(domain: &str, op_type: &str) -> Option<Self> {
        match (domain, op_type) {
            ("" | "ai.onnx", "Softmax") => Some(Self::Softmax),
            ("" | "ai.onnx", "Sigmoid") => Some(Self::Sigmoid),
            (
                "" | "ai.onnx",
                "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Transpose"
                | "Dropout",
            ) => Some(Self::Shape),
            ("" | "ai.onnx", "Cast") => Some(Self::Cast),
            ("" | "ai.onnx" | "com.microsoft", "QuantizeLinear") => Some(Self::Quantize),
            ("" | "ai.onnx" | "com.microsoft", "DequantizeLinear") => Some(Self::Dequantize),
            ("com.microsoft", "QLinearSoftmax") => Some(Self::QuantizedSoftmax),
            ("com.microsoft", "QLinearSigmoid") => Some(Self::QuantizedSigmoid),
            _ => None,
        }
    }
}

/// A node, with the names that later questions follow.
#[derive(Clone, Debug)]
struct Node {
    op: Op,
    data: String,
    scale: String,
    zero_point: String,
}

impl Node {
    /// The inputs that are looked at: `QLinearSoftmax` has x, its scale and zero point, then y's.
    const INPUTS: usize = 5;

    fn new(op: Op, mut inputs: Vec<String>) -> Self {
        let mut take = |at: usize| inputs.get_mut(at).map(std::mem::take).unwrap_or_default();
        let data = take(0);
        let (scale, zero_point) = match op {
            Op::Quantize | Op::Dequantize => (take(1), take(2)),
            Op::QuantizedSoftmax | Op::QuantizedSigmoid => (take(3), take(4)),
            Op::Softmax | Op::Sigmoid | Op::Shape | Op::Cast => (String::new(), String::new()),
        };
        Self {
            op,
            data,
            scale,
            zero_point,
        }
    }
}

impl GraphFacts {
    /// What computes `output`, seen through shape operators, casts and quantisation.
    ///
    /// A softmax over another axis than the classes' is not told apart.
    #[must_use]
    pub fn ending(&self, output: &str) -> Ending {
        let through = |op| matches!(op, Op::Shape | Op::Cast | Op::Quantize | Op::Dequantize);
        match self.producer(output, through).map(|node| node.op) {
            Some(Op::Softmax | Op::QuantizedSoftmax) => Ending::Softmax,
            Some(Op::Sigmoid | Op::QuantizedSigmoid) => Ending::Sigmoid,
            _ => Ending::Other,
        }
    }

    /// The scale and zero point of an integer `output` that a quantisation makes, shape operators
    /// after it or not: `value = (integer - zero point) * scale`.
    ///
    /// `None` where none is found, or it is not one constant for all classes.
    #[must_use]
    pub fn output_quantisation(&self, output: &str) -> Option<(f32, i32)> {
        let node = self.producer(output, |op| op == Op::Shape)?;
        match node.op {
            Op::Quantize | Op::QuantizedSoftmax | Op::QuantizedSigmoid => self.quantisation(node),
            _ => None,
        }
    }

    /// The scale and zero point of an integer `input` that is dequantised first of all.
    #[must_use]
    pub fn input_quantisation(&self, input: &str) -> Option<(f32, i32)> {
        let mut consumers: HashMap<&str, (&str, &Node)> = HashMap::new();
        for (output, node) in &self.nodes {
            let consumer = (output.as_str(), node);
            if node.op == Op::Dequantize {
                consumers.insert(&node.data, consumer);
            } else {
                consumers.entry(&node.data).or_insert(consumer);
            }
        }
        let mut name = input;
        for _ in 0..=self.nodes.len() {
            let (output, node) = consumers.get(name)?;
            match node.op {
                Op::Shape => name = output,
                Op::Dequantize => return self.quantisation(node),
                _ => return None,
            }
        }
        None
    }

    /// The first node behind `output` that is not seen through.
    fn producer(&self, output: &str, through: impl Fn(Op) -> bool) -> Option<&Node> {
        let mut name = output;
        // A graph has no cycle; a hostile file may.
        for _ in 0..=self.nodes.len() {
            let node = self.nodes.get(name)?;
            if !through(node.op) {
                return Some(node);
            }
            name = &node.data;
        }
        None
    }

    fn quantisation(&self, node: &Node) -> Option<(f32, i32)> {
        let constant = |name: &str| self.constants.get(name).copied().flatten();
        let Some(Scalar::Float(scale)) = constant(&node.scale) else {
            return None;
        };
        let zero_point = match (node.zero_point.as_str(), constant(&node.zero_point)) {
            ("", _) => 0,
            (_, Some(Scalar::Int(zero_point))) => zero_point,
            _ => return None,
        };
        (scale.is_finite() && scale > 0.0).then_some((scale, zero_point))
    }
}

/// Reads what the model in `path` says; its weights, and the files beside it, stay unread.
///
/// # Errors
/// Every [`OnnxError`] but those of files beside the model that are missing or short.
pub fn read(path: &Path) -> Result<GraphFacts, OnnxError> {
    // Asked before it is opened: opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(OnnxError::NotOnnx {
            reason: "it is not a regular file".to_owned(),
        });
    }
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    read_from(file, len, parse::Limits::DEFAULT)
}

/// Checks the files that `facts` needs beside the model in `version_dir`: their locations stay
/// inside it, symbolic links followed, and each is long enough. Answers their canonical paths.
///
/// What was checked may change before a runtime opens it: the folder must be the operator's own.
///
/// # Errors
/// [`OnnxError::External`], [`OnnxError::ExternalMissing`] or [`OnnxError::ExternalShort`] for the
/// first that fails; [`OnnxError::Io`] where the folder itself cannot be read.
pub fn check_external(facts: &GraphFacts, version_dir: &Path) -> Result<Vec<PathBuf>, OnnxError> {
    if facts.external.is_empty() {
        return Ok(Vec::new());
    }
    // Mounts of Kubernetes reach the folder itself over links: what lies in it is compared with
    // where it really is.
    let root = fs::canonicalize(version_dir)?;
    facts
        .external
        .iter()
        .map(|external| external::locate(external, &root))
        .collect()
}

fn read_from<R: Read + Seek>(
    mut reader: R,
    len: u64,
    limits: parse::Limits,
) -> Result<GraphFacts, OnnxError> {
    match parse::parse(&mut reader, len, limits) {
        // Some tools reserve the whole length, then fill it: the end is zeros until it comes.
        Err(OnnxError::NotOnnx { .. }) if is_reserved(&mut reader, len)? => {
            Err(OnnxError::Truncated)
        }
        result => result,
    }
}

/// Whether the file begins like a model or not at all, and ends in zeros, as no model does.
fn is_reserved<R: Read + Seek>(reader: &mut R, len: u64) -> Result<bool, OnnxError> {
    const TAIL: u64 = 64;
    let Some(start) = len.checked_sub(TAIL) else {
        return Ok(false);
    };
    let mut bytes = Vec::new();
    reader.rewind()?;
    reader.by_ref().take(1).read_to_end(&mut bytes)?;
    if !matches!(bytes.as_slice(), [0 | 0x08]) {
        return Ok(false);
    }
    bytes.clear();
    reader.seek(SeekFrom::Start(start))?;
    reader.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}
