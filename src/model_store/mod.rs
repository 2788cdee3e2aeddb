//! The folder of models: what lies there, whole files only, by content; the broken with reasons. And its changes from
//! inside: uploads, new models, deletions.
//!
//! Called by `models`, `admin` and the command line. Opens no session and knows no backend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::manifest::{Golden, Manifest};

mod change;
mod digest;
mod disk;
mod editor;
mod folder;
mod labels;
mod manifest;
mod name;
mod observed;
pub mod onnx;
mod package;
mod remote;
mod slot;
mod taken_out;
mod upload;
mod watcher;

pub use change::ChangeError;
pub use editor::{Place, StoreEditor};
pub use folder::FolderStore;
pub use manifest::{Description, Edit};
pub use name::{FileName, InvalidName};
pub use package::{Package, texts_of};
pub use remote::{RemoteError, RemoteStatus, RemoteStore};
pub use taken_out::TakenOut;
pub use upload::{PartWriter, Staged, Upload, UploadPart};
pub use watcher::{Changed, WatchError, Watcher};

/// Where models come from.
pub trait ModelStore: Send + Sync {
    /// Whether it is known what is offered. Where it is not yet, nothing may be taken to be gone; whoever watches is told when it
    /// is.
    fn is_known(&self) -> bool {
        true
    }

    /// The models that are offered now, in order, with the bytes of their graphs. Reads no file.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    fn ids(&self) -> Result<Vec<(ModelId, u64)>, StoreError>;

    /// One model, `None` where it is not offered. Blocks: files are read, and hashed where they changed; `hashing`
    /// hears of a version before its model file is.
    ///
    /// # Errors
    /// When the store itself cannot be read: then nothing is known, which is not to say that nothing is there.
    fn find(
        &self,
        id: &ModelId,
        hashing: &mut dyn FnMut(VersionNumber),
    ) -> Result<Option<FoundModel>, StoreError>;

    /// Tells `changed` of every change from now on, until the watcher is dropped.
    ///
    /// # Errors
    /// Where changes cannot be heard of; then the store must be asked now and then.
    fn watch(&self, changed: Changed) -> Result<Watcher, WatchError>;

    /// All that is offered now, in the order of ids and numbers. Blocks as [`Self::find`] does.
    ///
    /// # Errors
    /// When the store itself cannot be read; a broken model or version is part of the answer instead.
    fn scan(&self) -> Result<Vec<FoundModel>, StoreError> {
        let ids = self.ids()?;
        ids.iter()
            .filter_map(|(id, _)| self.find(id, &mut |_| ()).transpose())
            .collect()
    }
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
    /// The model's own manifest; `None` where it is broken, and then every version is broken too.
    pub manifest: Option<Manifest>,
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
    /// Files that are still on their way.
    Waiting {
        /// What is waited for.
        reason: String,
        /// When it is worth another look.
        again_in: Duration,
    },
    /// No model file, and none is coming.
    Absent {
        /// In words an operator can act on.
        reason: String,
    },
    /// Files that cannot be served.
    Broken {
        /// What of it.
        part: Part,
        /// SHA-256 of the model file, where there is one.
        digest: Option<Digest>,
        /// Why, in words an operator can act on.
        reason: String,
    },
    /// Not selected by `serving.versions`.
    NotSelected,
}

/// What a version is made of, as far as it is looked at before a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The model file: whole, and a graph.
    File,
    /// The files of external data beside it.
    External,
    /// `model.toml`, the model's and the version's own.
    Manifest,
    /// The labels.
    Labels,
    /// The golden pictures: that they are there.
    Golden,
}

impl Part {
    /// The name of the check of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::External => "external",
            Self::Manifest => "manifest",
            Self::Labels => "labels",
            Self::Golden => "golden",
        }
    }
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
    /// Every file it is made of, with the identity that was read.
    pub files: Vec<(PathBuf, FileId)>,
}

impl Candidate {
    /// Whether the files are still those that were read. To be asked again once a backend has opened them.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let same = |(path, id): &(PathBuf, FileId)| {
            std::fs::metadata(path).is_ok_and(|found| FileId::of(&found) == *id)
        };
        self.files.iter().all(same)
    }

    /// The bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, id)| id.size).sum()
    }

    /// The files of external data: as the graph names them, and where they are.
    pub fn external(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let dir = self.graph.parent().unwrap_or(&self.graph);
        let locations = self.facts.external.iter().map(|file| &file.location);
        locations.map(move |location| (location.clone(), dir.join(location)))
    }

    /// The folder in which `<model>/<version>/model.onnx` is this candidate's graph.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.graph.ancestors().nth(3).unwrap_or(&self.graph)
    }
}

/// Who a file is: another content in the same place, or another file under the same name, has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Of the inode: also `cp -p` and a rename set it.
    changed: (i64, i64),
}
