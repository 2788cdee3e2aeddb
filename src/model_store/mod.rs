//! The folder of models: what lies there, whole files only, by content; the broken with reasons.
//!
//! Called by `models` and the command line. Opens no session and knows no runtime.

use std::path::PathBuf;

use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::manifest::{Golden, Manifest};

mod digest;
mod folder;
mod labels;
pub mod onnx;

pub use folder::FolderStore;

/// Where models come from.
pub trait ModelStore: Send + Sync {
    /// The models that are offered now, those with small files first. Reads no file.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    fn ids(&self) -> Result<Vec<ModelId>, StoreError>;

    /// What is offered now, in the order of ids and numbers. Blocks: files are read and hashed.
    ///
    /// # Errors
    /// When the store itself cannot be read; a broken model or version is part of the answer instead.
    fn scan(&self) -> Result<Vec<FoundModel>, StoreError>;

    /// One model, `None` where it is not offered. Blocks as [`Self::scan`] does, for this model alone.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    fn find(&self, id: &ModelId) -> Result<Option<FoundModel>, StoreError>;
}

/// Why the store cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model store {path} cannot be read: {reason}")]
pub struct StoreError {
    /// The folder.
    pub path: PathBuf,
    /// The system's reason.
    pub reason: String,
}

/// A model's folder.
#[derive(Clone, Debug)]
pub struct FoundModel {
    /// The folder's name.
    pub id: ModelId,
    /// The model's own manifest; where it is broken the default stands in and every version is broken too.
    pub manifest: Manifest,
    /// Versions in rising order.
    pub versions: Vec<FoundVersion>,
}

/// A version's folder.
#[derive(Clone, Debug)]
pub struct FoundVersion {
    /// The folder's name.
    pub number: VersionNumber,
    /// What it holds.
    pub content: Content,
}

/// What a version's folder holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Whole files that a backend may try.
    Candidate(Box<Candidate>),
    /// Files that cannot be served.
    Broken {
        /// SHA-256 of the model file, where there is one.
        digest: Option<Digest>,
        /// Why, in words an operator can act on.
        reason: String,
    },
    /// Not selected by `serving.versions`.
    NotSelected,
}

/// A version that is whole.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model.
    pub model: ModelId,
    /// The number.
    pub number: VersionNumber,
    /// The graph.
    pub graph: PathBuf,
    /// SHA-256 of the graph's file.
    pub digest: Digest,
    /// SHA-256 over digest, effective manifest, labels and external data.
    pub fingerprint: Digest,
    /// The effective manifest.
    pub manifest: Manifest,
    /// The classes in output order, `None` where the model has none.
    pub labels: Option<Vec<String>>,
    /// What the file says of the graph.
    pub facts: onnx::GraphFacts,
    /// Golden pictures with their files.
    pub golden: Vec<(Golden, PathBuf)>,
}
