//! How a graph's raw output becomes confidences: the rule, without the arithmetic (that is `vision::postprocess`).

use serde::Deserialize;

/// The function between the graph's output and the confidences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The graph gives confidences itself.
    None,
    /// The graph gives logits of classes of which one is true.
    Softmax,
    /// The graph gives logits of classes that are true or not, each by itself.
    Sigmoid,
}

impl Activation {
    /// The name in the manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
        }
    }
}

/// How one output row becomes confidences: `activation((raw - zero_point) * scale)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputSpec {
    /// Applied after dequantisation.
    pub activation: Activation,
    /// Step of an integer output; 1 for floats.
    pub scale: f32,
    /// The integer that stands for 0; 0 for floats.
    pub zero_point: i32,
}
