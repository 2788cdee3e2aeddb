//! An opened graph that many threads run at once, through ONNX Runtime's C interface.
//!
//! Made by `backend::ort`, called by `engine`. The one place in the house with `unsafe`: the crate's own `run` wants
//! the session for itself, and a session for each thread would hold the weights as many times.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::session::Session as OrtGraph;
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType,
};

use super::message::reason;
use super::{CPU, NAME};
use crate::backend::rows::{Feed, Port, Values, View};
use crate::backend::{BackendError, Session, Signature, TensorInfo};
use crate::domain::tensor::{ElementType, Tensor, TensorData};

/// A graph opened by ONNX Runtime.
pub(super) struct OrtSession {
    graph: OrtGraph,
    signature: Signature,
    providers: Vec<String>,
    /// Held during a run where a provider other than the CPU's takes part: those are not safe for several runs of one
    /// session at once. `None` where the CPU runs alone.
    one_at_a_time: Option<Mutex<()>>,
}

impl OrtSession {
    /// Wraps `graph`, which was opened with `providers`.
    pub(super) fn new(graph: OrtGraph, providers: Vec<String>) -> Self {
        let signature = Signature {
            inputs: graph.inputs().iter().map(describe).collect(),
            outputs: graph.outputs().iter().map(describe).collect(),
        };
        let cpu_alone = providers.iter().all(|name| name == CPU);
        Self {
            graph,
            signature,
            providers,
            one_at_a_time: (!cpu_alone).then(Mutex::default),
        }
    }

    /// One call of the runtime: `view` in, output `output` out.
    fn run_view(&self, port: &Port<'_>, view: &View<'_>) -> Result<Tensor, BackendError> {
        let failed = |error: ort::Error| port.refuse(reason(&error.to_string(), None));
        let name = |name: &str| {
            CString::new(name).map_err(|_| port.refuse("a name holds a zero byte".to_owned()))
        };
        let names = Names {
            input: name(&port.input.name)?,
            output: name(&port.output.name)?,
        };
        let result = match view.values {
            Values::Float32(values) => self.call(&names, &view.shape, values),
            Values::Float16(values) => self.call(&names, &view.shape, values),
            Values::Uint8(values) => self.call(&names, &view.shape, values),
            Values::Int8(values) => self.call(&names, &view.shape, values),
        };
        copy_out(port, &result.map_err(failed)?)
    }

    /// Hands `values` to the graph without a copy and returns what it made.
    fn call<T>(&self, names: &Names, shape: &[usize], values: &[T]) -> Result<DynValue, ort::Error>
    where
        T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
    {
        let input = TensorRef::from_array_view((shape, values))?;
        let _alone = self
            .one_at_a_time
            .as_ref()
            .map(|m| m.lock().unwrap_or_else(PoisonError::into_inner));
        run_shared(&self.graph, names, &input)
    }
}

impl Session for OrtSession {
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
        let run = || port.run(input, Feed::Batch, |view| self.run_view(&port, &view));
        // The crate panics where the runtime gives it a value that it does not expect.
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(port.refuse("the output is of an unexpected kind".to_owned())))
    }
}

/// The names of the input that is given and the output that is wanted.
struct Names {
    input: CString,
    output: CString,
}

/// Runs `graph` while other threads may be running it too, which the crate's own `run(&mut self)` does not allow.
#[expect(
    unsafe_code,
    reason = "only the C interface runs one session from several threads"
)]
fn run_shared<T>(
    graph: &OrtGraph,
    names: &Names,
    input: &TensorRef<'_, T>,
) -> Result<DynValue, ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug,
{
    let input_names: [*const c_char; 1] = [names.input.as_ptr()];
    let output_names: [*const c_char; 1] = [names.output.as_ptr()];
    let inputs: [*const ort::sys::OrtValue; 1] = [input.ptr()];
    let mut outputs: [*mut ort::sys::OrtValue; 1] = [ptr::null_mut()];
    // SAFETY: `Run` may be called from several threads on one session whose only provider is the CPU's (the C
    // interface promises it; elsewhere the caller holds the session's lock). The session pointer is valid as long as
    // `graph` is borrowed. Each array holds the one element that its length announces, names end in a zero byte, the
    // input borrows its data for longer than this call, and `outputs` asks the runtime to allocate. A null pointer
    // for the options means the defaults.
    let status = unsafe {
        (ort::api().Run)(
            graph.ptr().cast_mut(),
            ptr::null(),
            input_names.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            output_names.as_ptr(),
            output_names.len(),
            outputs.as_mut_ptr(),
        )
    };
    // SAFETY: `status` was returned by the call above and is used this once; the error owns and releases it.
    unsafe { ort::Error::result_from_status(status) }?;
    let [output] = outputs;
    let output = NonNull::new(output)
        .ok_or_else(|| ort::Error::new("the runtime returned no output and no error"))?;
    // SAFETY: after a run that succeeded the runtime has put a valid value there, which is ours to release: the
    // `DynValue` does so when it is dropped. It lives in memory of the session's own allocator, named here.
    Ok(unsafe { DynValue::from_ptr(output, Some(graph.allocator())) })
}

/// Copies the values out of the runtime's memory, which `value` releases.
fn copy_out(port: &Port<'_>, value: &DynValue) -> Result<Tensor, BackendError> {
    let failed = |error: ort::Error| port.refuse(reason(&error.to_string(), None));
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(port.refuse(format!("the output is {}, not a tensor", value.dtype())));
    };
    let shape = shape
        .iter()
        .map(|&extent| usize::try_from(extent))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| port.refuse("the output has a negative extent".to_owned()))?;
    let data = match ty {
        TensorElementType::Float32 => TensorData::Float32(
            value
                .try_extract_tensor::<f32>()
                .map_err(failed)?
                .1
                .to_vec(),
        ),
        TensorElementType::Float16 => TensorData::Float16(
            value
                .try_extract_tensor::<f16>()
                .map_err(failed)?
                .1
                .to_vec(),
        ),
        TensorElementType::Uint8 => {
            TensorData::Uint8(value.try_extract_tensor::<u8>().map_err(failed)?.1.to_vec())
        }
        TensorElementType::Int8 => {
            TensorData::Int8(value.try_extract_tensor::<i8>().map_err(failed)?.1.to_vec())
        }
        other => return Err(port.refuse(format!("the output's element type is {other}"))),
    };
    Tensor::new(shape, data).map_err(|error| port.refuse(error.to_string()))
}

/// What the crate says of an input or output, in the house's words.
fn describe(outlet: &Outlet) -> TensorInfo {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let shape = shape
                .iter()
                .map(|&extent| usize::try_from(extent).ok())
                .collect();
            (element_of(*ty), shape)
        }
        other => (Err(other.to_string()), Vec::new()),
    };
    TensorInfo {
        name: outlet.name().to_owned(),
        element,
        shape,
    }
}

fn element_of(ty: TensorElementType) -> Result<ElementType, String> {
    match ty {
        TensorElementType::Float32 => Ok(ElementType::Float32),
        TensorElementType::Float16 => Ok(ElementType::Float16),
        TensorElementType::Uint8 => Ok(ElementType::Uint8),
        TensorElementType::Int8 => Ok(ElementType::Int8),
        other => Err(other.to_string()),
    }
}
