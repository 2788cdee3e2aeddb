//! Walks the messages of an ONNX file and keeps the little that the gateway asks about.
//!
//! Called by `read`. Knows onnx.proto3's field numbers; follows no path, and judges no graph.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::tensor::Scalar;
use super::values::Tensor;
use super::wire::{Span, Value, Wire, not_onnx};
use super::{ExternalFile, GraphFacts, Node, OnnxError, Op, sniff};

/// How much of a file is followed before it is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Nodes, those of subgraphs and functions included.
    pub(super) nodes: u32,
    /// Fields of all messages that are walked.
    pub(super) fields: u64,
    /// Bytes kept, an estimate that counts the containers' own.
    pub(super) kept: u64,
    /// Graphs within graphs.
    pub(super) depth: u32,
}

impl Limits {
    /// Far above any classifier; reading up to them takes a second or two.
    pub(super) const DEFAULT: Self = Self {
        nodes: 1_000_000,
        fields: 50_000_000,
        kept: 64 * 1024 * 1024,
        depth: 16,
    };
}

/// What a kept name or item costs besides its bytes.
const ITEM: u64 = 128;

/// Reads the model in `reader`, which holds `len` bytes.
pub(super) fn parse<R: Read + Seek>(
    reader: R,
    len: u64,
    limits: Limits,
) -> Result<GraphFacts, OnnxError> {
    if len == 0 {
        return Err(OnnxError::Empty);
    }
    let mut wire = Wire::new(reader, len, limits.fields);
    if let Some(reason) = sniff::other_format(wire.peek()?) {
        return Err(not_onnx(reason.to_owned()));
    }
    let mut walk = Walk {
        wire,
        facts: GraphFacts::default(),
        needed: BTreeMap::new(),
        nodes_left: limits.nodes,
        kept_left: limits.kept,
        max_depth: limits.depth,
    };
    walk.model()?;
    let files = walk.needed.into_iter();
    walk.facts.external = files
        .map(|(location, needed_bytes)| ExternalFile {
            location,
            needed_bytes,
        })
        .collect();
    Ok(walk.facts)
}

/// Which fields of the model there were.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four fields, each seen or not"
)]
struct Seen {
    version: bool,
    graph: bool,
    opset: bool,
    /// A field that no model has today.
    unknown: bool,
}

/// The walk: the reader, what was found, and what may still come.
pub(super) struct Walk<R> {
    pub(super) wire: Wire<R>,
    pub(super) facts: GraphFacts,
    /// How far each file of external data is needed, by its location.
    pub(super) needed: BTreeMap<String, u64>,
    nodes_left: u32,
    kept_left: u64,
    max_depth: u32,
}

impl<R: Read + Seek> Walk<R> {
    /// `ModelProto`: `ir_version` 1, `producer_name` 2, `graph` 7, `opset_import` 8, `functions` 25.
    /// `training_info` 20 is passed over: nothing here trains.
    fn model(&mut self) -> Result<(), OnnxError> {
        let mut seen = Seen::default();
        let span = self.wire.whole();
        // In every writer's order `ir_version` comes first: a file that runs out before it is none.
        let begins = self.wire.peek()?.first() == Some(&0x08);
        loop {
            let field = match self.wire.next(span) {
                Ok(Some(field)) => field,
                Ok(None) => break,
                Err(OnnxError::Truncated) if !seen.version && !begins => {
                    return Err(not_a_model());
                }
                Err(OnnxError::NotOnnx { .. }) if !seen.version => return Err(not_a_model()),
                Err(error) => return Err(error),
            };
            match (field.number, field.value) {
                (1, Value::Varint(version)) => {
                    seen.version = true;
                    self.facts.ir_version = ir_version(version)?;
                }
                (2, Value::Span(inner)) => {
                    self.facts.producer = self.wire.strict_string(inner)?;
                }
                (7, Value::Span(inner)) => {
                    seen.graph = true;
                    self.graph(inner, 0)?;
                }
                (8, Value::Span(inner)) => {
                    seen.opset = true;
                    self.opset_import(inner)?;
                }
                (25, Value::Span(inner)) => self.function(inner)?,
                (5, Value::Varint(_)) | (3 | 4 | 6 | 14 | 20 | 26 | 30, Value::Span(_)) => {}
                (1..=8 | 14 | 20 | 25 | 26 | 30, _) => return Err(not_a_model()),
                // A later release's field is passed over, but nothing unknown comes first.
                _ if !seen.version => return Err(not_a_model()),
                _ => seen.unknown = true,
            }
            self.wire.leave(field)?;
        }
        self.finish(seen)
    }

    /// A file may be cut just where a field of the model ends: what must be there tells it.
    fn finish(&mut self, seen: Seen) -> Result<(), OnnxError> {
        if !seen.graph {
            let begun = seen.version && !seen.unknown;
            return Err(if begun {
                OnnxError::Truncated
            } else {
                OnnxError::NoGraph
            });
        }
        if !seen.version {
            return Err(not_onnx("it has no IR version".to_owned()));
        }
        if self.facts.outputs.is_empty() {
            return Err(OnnxError::NoGraph);
        }
        // `opset_import` is written after the graph, and demanded since IR version 3.
        if !seen.opset && self.facts.ir_version >= 3 {
            return Err(OnnxError::Truncated);
        }
        if !seen.opset {
            self.facts.opset = 1;
        }
        let constants = &self.facts.constants;
        self.facts
            .inputs
            .retain(|input| !constants.contains_key(&input.name));
        Ok(())
    }

    /// `OperatorSetIdProto`: `domain` 1, `version` 2.
    fn opset_import(&mut self, span: Span) -> Result<(), OnnxError> {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) => domain = self.wire.string(inner)?,
                (2, Value::Varint(value)) => version = value.cast_signed(),
                _ => {}
            }
            self.wire.leave(field)?;
        }
        if is_default(&domain) {
            self.facts.opset = version;
        }
        Ok(())
    }

    /// `FunctionProto`: `node` 7, `attribute_proto` 11. Its names are its own: none is kept.
    fn function(&mut self, span: Span) -> Result<(), OnnxError> {
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (7, Value::Span(inner)) => self.node(inner, 1)?,
                (11, Value::Span(inner)) => {
                    self.attribute(inner, 1)?;
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        Ok(())
    }

    /// `GraphProto`: `node` 1, `name` 2, `initializer` 5, `input` 11, `output` 12,
    /// `sparse_initializer` 15. Of graphs within graphs only the external files are kept.
    fn graph(&mut self, span: Span, depth: u32) -> Result<(), OnnxError> {
        if depth > self.max_depth {
            return Err(not_onnx(format!(
                "its graphs are nested deeper than {}",
                self.max_depth
            )));
        }
        let top = depth == 0;
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) => self.node(inner, depth)?,
                (2, Value::Span(inner)) if top => {
                    self.facts.graph_name = self.wire.string(inner)?;
                }
                (5, Value::Span(inner)) => {
                    let tensor = self.tensor(inner)?;
                    self.constant(top, tensor)?;
                }
                (11, Value::Span(inner)) if top => {
                    let input = self.value_info(inner)?;
                    self.facts.inputs.push(input);
                }
                (12, Value::Span(inner)) if top => {
                    let output = self.value_info(inner)?;
                    self.facts.outputs.push(output);
                }
                (15, Value::Span(inner)) => {
                    let name = self.sparse(inner)?;
                    self.constant(top, Tensor { name, scalar: None })?;
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        Ok(())
    }

    /// `NodeProto`: `input` 1, `output` 2, `op_type` 4, `attribute` 5, `domain` 7.
    fn node(&mut self, span: Span, depth: u32) -> Result<(), OnnxError> {
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or_else(|| not_onnx("it has more nodes than any classifier".to_owned()))?;
        let (mut inputs, mut output) = (Vec::new(), None);
        let (mut op_type, mut domain, mut value) = (String::new(), String::new(), None);
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) if inputs.len() < Node::INPUTS => {
                    inputs.push(self.wire.string(inner)?);
                }
                (2, Value::Span(inner)) if output.is_none() => {
                    output = Some(self.wire.string(inner)?);
                }
                (4, Value::Span(inner)) => op_type = self.wire.string(inner)?,
                (5, Value::Span(inner)) => value = self.attribute(inner, depth)?.or(value),
                (7, Value::Span(inner)) => domain = self.wire.string(inner)?,
                _ => {}
            }
            self.wire.leave(field)?;
        }
        let (Some(output), true) = (output.filter(|name| !name.is_empty()), depth == 0) else {
            return Ok(());
        };
        if op_type == "Constant" && is_default(&domain) {
            return self.constant(
                true,
                Tensor {
                    name: output,
                    scalar: value,
                },
            );
        }
        let Some(op) = Op::of(&domain, &op_type) else {
            return Ok(());
        };
        let node = Node::new(op, inputs);
        self.keep(&[&output, &node.data, &node.scale, &node.zero_point])?;
        self.facts.nodes.insert(output, node);
        Ok(())
    }

    /// `AttributeProto`: `name` 1, `f` 2, `i` 3, `t` 5, `g` 6, `tensors` 10, `graphs` 11,
    /// `sparse_tensor` 22, `sparse_tensors` 23. Answers the value that a `Constant` takes from it.
    fn attribute(&mut self, span: Span, depth: u32) -> Result<Option<Scalar>, OnnxError> {
        let (mut named, mut value) = (false, None);
        while let Some(field) = self.wire.next(span)? {
            match (field.number, field.value) {
                (1, Value::Span(inner)) if inner.len() <= 16 => {
                    let name = self.wire.bytes(inner)?;
                    named = matches!(name.as_slice(), b"value" | b"value_float" | b"value_int");
                }
                (2, Value::Fixed32(bits)) => value = Some(Scalar::Float(f32::from_bits(bits))),
                (3, Value::Varint(int)) => {
                    value = i32::try_from(int.cast_signed()).ok().map(Scalar::Int);
                }
                (5, Value::Span(inner)) => value = self.tensor(inner)?.scalar,
                (6 | 11, Value::Span(inner)) => self.graph(inner, depth.saturating_add(1))?,
                (10, Value::Span(inner)) => {
                    self.tensor(inner)?;
                }
                (22 | 23, Value::Span(inner)) => {
                    self.sparse(inner)?;
                }
                _ => {}
            }
            self.wire.leave(field)?;
        }
        Ok(value.filter(|_| named))
    }

    /// Keeps a constant by name: those of subgraphs and functions have names of their own.
    fn constant(&mut self, top: bool, tensor: Tensor) -> Result<(), OnnxError> {
        if top {
            self.keep(&[&tensor.name])?;
            self.facts.constants.insert(tensor.name, tensor.scalar);
        }
        Ok(())
    }

    /// Accounts for names that are kept.
    pub(super) fn keep(&mut self, names: &[&str]) -> Result<(), OnnxError> {
        for name in names {
            let cost = u64::try_from(name.len())
                .unwrap_or(u64::MAX)
                .saturating_add(ITEM);
            self.kept_left = self
                .kept_left
                .checked_sub(cost)
                .ok_or_else(|| not_onnx("its names fill more memory than allowed".to_owned()))?;
        }
        Ok(())
    }
}

/// Whether `domain` is ONNX's own.
fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

fn not_a_model() -> OnnxError {
    not_onnx("it does not begin like a model".to_owned())
}

/// The IR version: 13 at the time of writing, with room, so that other formats are told apart.
fn ir_version(value: u64) -> Result<i64, OnnxError> {
    i64::try_from(value)
        .ok()
        .filter(|version| (1..=1000).contains(version))
        .ok_or_else(|| not_onnx(format!("its IR version is {value}")))
}
