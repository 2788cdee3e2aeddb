//! What executes a graph: one trait, two implementations (`ort`, `tract`).
//!
//! Called by `models` (open) and `engine` (run). Knows nothing of pictures, labels or HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::tensor::{ElementType, Tensor};

pub mod memory;
pub mod ort;
mod reason;
mod rows;
pub mod tract;

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Threads that one run may use inside its operators (ONNX Runtime's intra-op threads).
    pub threads: usize,
    /// Whether those threads look for work without sleeping until the run ends: fast for one run that has the cores to
    /// itself, a waste for several. Between runs they sleep in any case.
    pub spinning: bool,
    /// The picture's rows and columns, for graphs that leave them open.
    pub picture_size: Option<(usize, usize)>,
    /// Execution providers in the order of preference, by ONNX Runtime's short names
    /// (`tensorrt`, `cuda`, `openvino`, `cpu`). Only `ort` has providers; the last resort is always the CPU.
    pub execution_providers: Vec<String>,
    /// The files of external data: as the graph names them, and where they are.
    pub external: Vec<(String, PathBuf)>,
}

/// One input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the graph.
    pub name: String,
    /// The element type where a classifier may have it; otherwise the runtime's own word for it.
    pub element: Result<ElementType, String>,
    /// The extent of each axis; `None` where the graph leaves it open.
    pub shape: Vec<Option<usize>>,
}

/// What a graph takes and gives, as its backend sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs, without the initializers.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the graph's order.
    pub outputs: Vec<TensorInfo>,
}

/// Why a graph could not be opened or run. The messages are the runtime's own, without paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The runtime itself is not there (no library, or not one that fits).
    #[error("{backend} is not available: {reason}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// What is wrong, in words an operator can act on.
        reason: String,
    },
    /// The file is no graph that this runtime can execute.
    #[error("{backend} cannot open the graph: {reason}")]
    Open {
        /// The backend's name.
        backend: &'static str,
        /// The runtime's reason.
        reason: String,
    },
    /// A run failed; the session stays usable.
    #[error("{backend} failed to run the graph: {reason}")]
    Run {
        /// The backend's name.
        backend: &'static str,
        /// The runtime's reason.
        reason: String,
    },
}

/// A runtime that opens graphs.
pub trait Backend: Send + Sync {
    /// `ort` or `tract`.
    fn name(&self) -> &'static str;

    /// Opens the graph in `path` (with its external data beside it). Blocks for as long as the runtime optimises.
    ///
    /// # Errors
    /// [`BackendError::Open`] with the runtime's reason.
    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Arc<dyn Session>, BackendError>;
}

/// An opened graph. Many threads may run it at the same time.
pub trait Session: Send + Sync {
    /// What the graph takes and gives.
    fn signature(&self) -> &Signature;

    /// The execution providers that were really registered, in order, e.g. `["cpu"]`.
    fn providers(&self) -> &[String];

    /// Runs `input` (its first axis is the batch) through the graph's input `input_name` and returns output `output_name`.
    ///
    /// # Errors
    /// [`BackendError::Run`]; the session stays usable.
    fn run(
        &self,
        input_name: &str,
        input: &Tensor,
        output_name: &str,
    ) -> Result<Tensor, BackendError>;
}

/// Where the ONNX Runtime library was looked for and what came of it.
#[derive(Clone, Debug)]
pub enum OrtStatus {
    /// Loaded from `path`.
    Loaded {
        /// The library's file.
        path: PathBuf,
        /// The library's version, e.g. `1.32.0`.
        version: String,
    },
    /// Not loaded; the gateway serves on tract.
    Missing {
        /// What was tried and why it did not do.
        reason: String,
    },
}
