//! A version that can answer: everything that a request needs of it, immutable.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::picture::PictureSpec;
use crate::domain::scores::OutputSpec;
use crate::engine::Scheduler;
use crate::telemetry::metrics::{ClassMix, VersionSeries};
use crate::vision::Preprocessor;

/// A live version.
pub struct LoadedVersion {
    /// Its model.
    pub model: ModelId,
    /// Its number.
    pub number: VersionNumber,
    /// SHA-256 of its model file.
    pub digest: Digest,
    /// SHA-256 over everything that changes its answers.
    pub fingerprint: Digest,
    /// The classes in output order; decimal indices where the model has no labels.
    pub labels: Arc<[String]>,
    /// Whether the labels are only indices.
    pub unlabelled: bool,
    /// What it takes.
    pub input: InputView,
    /// What executes it: `ort` or `tract`.
    pub backend: &'static str,
    /// The execution providers that were really registered.
    pub providers: Vec<String>,
    /// How long a request may take, where its manifest says so; else as the settings have it.
    pub timeout: Option<Duration>,
    /// Whether its results may be kept and given again.
    pub cache: bool,
    /// Pictures to tensors.
    pub preprocessor: Arc<Preprocessor>,
    /// Output to confidences.
    pub output: OutputSpec,
    /// What runs it.
    pub scheduler: Scheduler,
    /// Where it is counted what it does.
    pub series: Arc<VersionSeries>,
    /// How its answers are spread over its classes.
    pub mix: ClassMix,
}

/// What a version takes, for people and programs.
#[derive(Clone, Debug, PartialEq)]
pub struct InputView {
    /// The graph's input.
    pub name: String,
    /// Extents as the graph has them, `None` where they are open.
    pub shape: Vec<Option<usize>>,
    /// How a picture becomes a tensor.
    pub spec: PictureSpec,
}
