//! tract, the runtime in pure Rust that is always there: the only door to the `tract-onnx` crate.
//!
//! `models` opens graphs with it, `engine` runs them on its own threads. Plans each graph for one picture, since that
//! is what tract is fast at. Knows nothing of ONNX Runtime; runs on the CPU alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use half::f16;
use tract_onnx::Onnx;
use tract_onnx::data_resolver::FopenDataResolver;
use tract_onnx::model::ParseResult;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Extent;
use tract_onnx::pb::type_proto::Value as Kind;
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto};
use tract_onnx::prelude::{
    DatumType, Fact, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable,
    Tensor as TractTensor, TractError, TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::internal::DimLike;

use super::reason::tidy;
use super::rows::{Feed, Port, Values, View};
use super::{Backend, BackendError, OpenOptions, Session, Signature, TensorInfo};
use crate::domain::tensor::{ElementType, Tensor, TensorData};

mod quantised;

const NAME: &str = "tract";

/// The newest ONNX operator set that is taken, the newest that ONNX Runtime 1.32 takes. tract itself would read any and
/// might compute something else.
const NEWEST_OPSET: i64 = 28;

/// tract. It has no state of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct TractBackend;

impl Backend for TractBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Arc<dyn Session>, BackendError> {
        let failed = |text: &str| BackendError::Open {
            backend: NAME,
            reason: tidy(text, Some(path)),
        };
        // tract panics on some graphs instead of refusing them.
        match catch_unwind(AssertUnwindSafe(|| open_graph(path, options))) {
            Ok(Ok(session)) => Ok(Arc::new(session)),
            Ok(Err(reason)) => Err(failed(&reason)),
            Err(_) => Err(failed("the graph is beyond what tract expects")),
        }
    }
}

/// A graph planned for one picture at a time. The plan is shared; each run has its own state.
struct TractSession {
    plan: Arc<TypedRunnableModel>,
    signature: Signature,
    providers: [String; 1],
}

impl TractSession {
    /// One run of the plan.
    fn run_view(
        &self,
        port: &Port<'_>,
        output: usize,
        view: &View<'_>,
    ) -> Result<Tensor, BackendError> {
        let failed = |error: TractError| port.refuse(tidy(&explain(&error), None));
        let input = tract_tensor(view).map_err(failed)?;
        let outputs = self.plan.run(tvec!(input.into())).map_err(failed)?;
        let answer = outputs
            .into_iter()
            .nth(output)
            .ok_or_else(|| port.refuse("the graph gave no such output".to_owned()))?;
        let data = values_of(&answer).map_err(failed)?.ok_or_else(|| {
            port.refuse(format!(
                "the output's element type is {:?}",
                answer.datum_type()
            ))
        })?;
        Tensor::new(answer.shape().to_vec(), data).map_err(|error| port.refuse(error.to_string()))
    }
}

impl Session for TractSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &self.providers
    }

    fn run(
        &self,
        input_name: &str,
        input: &Tensor,
        output_name: &str,
    ) -> Result<Tensor, BackendError> {
        let port = Port::find(NAME, &self.signature, input_name, output_name)?;
        let output = self
            .signature
            .outputs
            .iter()
            .position(|info| info.name == output_name);
        let output = output.unwrap_or_default();
        let run = || port.run(input, Feed::Row, |view| self.run_view(&port, output, &view));
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            Err(port.refuse("the graph is beyond what tract expects".to_owned()))
        })
    }
}

/// Reads, plans and optimises the graph. The error is text with paths still in it.
fn open_graph(path: &Path, options: &OpenOptions) -> Result<TractSession, String> {
    let said = |error: TractError| explain(&error);
    let mut framework = tract_onnx::onnx()
        // Exporters write symbolic batch shapes there, which contradict a plan for one picture.
        .with_ignore_value_info(true);
    // A mapped file that shrinks while it is read would end the process.
    framework.provider = Arc::new(FopenDataResolver);

    let mut file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut proto = framework.proto_model_for_read(&mut file).map_err(said)?;
    check_opset(&proto)?;
    quantised::write_out_dequantizers(proto.graph.as_mut().ok_or("the file holds no graph")?);
    let graph = proto.graph.as_ref().ok_or("the file holds no graph")?;
    check_operators(&framework, graph)?;
    let mut signature = Signature {
        inputs: inputs_of(graph).map(describe).collect(),
        outputs: graph.output.iter().map(describe).collect(),
    };

    let folder = path.parent().and_then(Path::to_str);
    let ParseResult {
        mut model,
        unresolved_inputs,
        ..
    } = framework.parse(&proto, folder).map_err(said)?;
    if !unresolved_inputs.is_empty() {
        return Err(format!("nothing gives the values {unresolved_inputs:?}"));
    }
    let unshaped: Vec<bool> = graph.output.iter().map(|info| !has_shape(info)).collect();
    drop(proto);

    bind_inputs(&mut model, &signature, options.picture_size)?;
    let model = model.into_optimized().map_err(said)?;
    let is_open = signature
        .inputs
        .iter()
        .any(|info| info.shape.first() == Some(&None));
    for (index, info) in signature.outputs.iter_mut().enumerate() {
        if unshaped.get(index) == Some(&true) {
            let fact = model.output_fact(index).map_err(said)?;
            info.shape = fact
                .shape
                .iter()
                .map(|extent| extent.to_usize().ok())
                .collect();
            match info.shape.first_mut() {
                Some(batch) if is_open && *batch == Some(1) => *batch = None,
                _ => {}
            }
        }
    }
    let plan = model.into_runnable().map_err(said)?;
    Ok(TractSession {
        plan,
        signature,
        providers: ["cpu".to_owned()],
    })
}

/// The graph's inputs without those that are weights.
fn inputs_of(graph: &GraphProto) -> impl Iterator<Item = &ValueInfoProto> {
    graph.input.iter().filter(|info| {
        graph
            .initializer
            .iter()
            .all(|weight| weight.name != info.name)
    })
}

fn check_opset(proto: &ModelProto) -> Result<(), String> {
    let newest = proto
        .opset_import
        .iter()
        .filter(|import| import.domain.is_empty() || import.domain == "ai.onnx")
        .map(|import| import.version)
        .max();
    match newest {
        Some(version) if version > NEWEST_OPSET => Err(format!(
            "the graph is of ONNX operator set {version}; up to {NEWEST_OPSET} is known here"
        )),
        _ => Ok(()),
    }
}

/// Names the operators that tract lacks: its own message does not.
fn check_operators(framework: &Onnx, graph: &GraphProto) -> Result<(), String> {
    let lacking: BTreeSet<&str> = graph
        .node
        .iter()
        .map(|node| node.op_type.as_str())
        .filter(|op_type| !framework.op_register.0.contains_key(*op_type))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = lacking.into_iter().collect();
    Err(format!("tract has no operator {}", names.join(", ")))
}

/// Fixes the shape of every input: one picture, and the picture's size where the graph leaves it open.
fn bind_inputs(
    model: &mut InferenceModel,
    signature: &Signature,
    picture: Option<(usize, usize)>,
) -> Result<(), String> {
    for (index, info) in signature.inputs.iter().enumerate() {
        let shape = bind(&info.shape, picture)
            .ok_or_else(|| format!("input {:?} {}", info.name, open_axes(&info.shape)))?;
        let fact = model.input_fact(index).map_err(|error| explain(&error))?;
        let Some(element) = fact.datum_type() else {
            return Err(format!("input {:?} has no element type", info.name));
        };
        model
            .set_input_fact(index, InferenceFact::dt_shape(element, shape))
            .map_err(|error| explain(&error))?;
    }
    Ok(())
}

fn open_axes(shape: &[Option<usize>]) -> String {
    let axes: Vec<String> = shape
        .iter()
        .map(|n| n.map_or_else(|| "?".to_owned(), |n| n.to_string()))
        .collect();
    format!(
        "has the shape [{}], which leaves open more than batch and size",
        axes.join(", ")
    )
}

/// `shape` for one picture of `picture` rows and columns. The channels tell the layout: second axis of 1 or 3 is NCHW,
/// else last axis of 1 or 3 is NHWC. `None` when something else is open.
fn bind(shape: &[Option<usize>], picture: Option<(usize, usize)>) -> Option<Vec<usize>> {
    let (rows, columns) =
        picture.map_or((None, None), |(rows, columns)| (Some(rows), Some(columns)));
    let batch = |n: Option<usize>| Some(n.unwrap_or(1));
    let bound = match *shape {
        [n, c @ Some(1 | 3), h, w] => vec![batch(n), c, h.or(rows), w.or(columns)],
        [n, h, w, c @ Some(1 | 3)] => vec![batch(n), h.or(rows), w.or(columns), c],
        [n, ref rest @ ..] => std::iter::once(batch(n))
            .chain(rest.iter().copied())
            .collect(),
        [] => return None,
    };
    bound.into_iter().collect()
}

/// What the file says of an input or output.
fn describe(info: &ValueInfoProto) -> TensorInfo {
    let name = info.name.clone();
    let Some(Kind::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return TensorInfo {
            name,
            element: Err("not a tensor".to_owned()),
            shape: Vec::new(),
        };
    };
    let element = match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => Ok(ElementType::Float32),
        Ok(DataType::Float16) => Ok(ElementType::Float16),
        Ok(DataType::Uint8) => Ok(ElementType::Uint8),
        Ok(DataType::Int8) => Ok(ElementType::Int8),
        Ok(other) => Err(other.as_str_name().to_ascii_lowercase()),
        Err(_) => Err(format!("element type {}", tensor.elem_type)),
    };
    let axes = tensor.shape.iter().flat_map(|shape| &shape.dim);
    let shape = axes
        .map(|axis| match axis.value {
            Some(Extent::DimValue(extent)) => usize::try_from(extent).ok(),
            _ => None,
        })
        .collect();
    TensorInfo {
        name,
        element,
        shape,
    }
}

fn has_shape(info: &ValueInfoProto) -> bool {
    let kind = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    kind.is_some_and(|Kind::TensorType(tensor)| tensor.shape.is_some())
}

fn tract_tensor(view: &View<'_>) -> Result<TractTensor, TractError> {
    match view.values {
        Values::Float32(values) => TractTensor::from_shape(&view.shape, values),
        Values::Float16(values) => TractTensor::from_shape(&view.shape, values),
        Values::Uint8(values) => TractTensor::from_shape(&view.shape, values),
        Values::Int8(values) => TractTensor::from_shape(&view.shape, values),
    }
}

/// The tensor's values; `None` for an element type that no classifier has.
fn values_of(tensor: &TractTensor) -> Result<Option<TensorData>, TractError> {
    let plain = tensor.try_as_plain_ram()?;
    Ok(Some(match tensor.datum_type().unquantized() {
        DatumType::F32 => TensorData::Float32(plain.as_slice::<f32>()?.to_vec()),
        DatumType::F16 => TensorData::Float16(plain.as_slice::<f16>()?.to_vec()),
        DatumType::U8 => TensorData::Uint8(plain.as_slice::<u8>()?.to_vec()),
        DatumType::I8 => TensorData::Int8(plain.as_slice::<i8>()?.to_vec()),
        _ => return Ok(None),
    }))
}

/// The innermost cause, and what tract was doing: the whole chain is long and repeats itself.
fn explain(error: &TractError) -> String {
    let (doing, cause) = (error.to_string(), error.root_cause().to_string());
    if doing == cause {
        cause
    } else {
        format!("{cause} (while: {doing})")
    }
}
