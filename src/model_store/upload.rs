//! A version on its way in: its files as they stream, then read as the folder reads them, then ready to be put in place.
//!
//! Made by the editor, written by whoever takes bodies off the wire. Everything lies in a place of its own until it is
//! whole, and goes away with the upload. The disk is used off the async runtime; a megabyte of a file is in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::change::ChangeError;
use super::disk::off_runtime;
use super::folder::{FolderStore, subfolders};
use super::name::{self, FileName};
use super::slot::Slot;
use super::{Candidate, Content, FileId, ModelStore as _, Part, digest, labels, manifest};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::manifest::{LabelsSource, Manifest};

/// The most files of one version.
const MOST_FILES: usize = 1000;

/// Bytes that are written in one go.
const PIECE: usize = 1 << 20;

/// One file of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadPart {
    /// The graph, `model.onnx`.
    Model,
    /// The version's own `model.toml`.
    Manifest,
    /// The version's own `labels.txt`.
    Labels,
    /// A golden picture or external data.
    File(FileName),
}

impl UploadPart {
    fn file(&self) -> &str {
        match self {
            Self::Model => name::MODEL,
            Self::Manifest => name::MANIFEST,
            Self::Labels => name::LABELS,
            Self::File(name) => name.as_str(),
        }
    }

    /// What it is, and the bytes it may have by itself.
    fn limit(&self, all: u64) -> (&'static str, u64) {
        match self {
            Self::Model => ("the model file", all),
            Self::Manifest => ("the manifest", manifest::MAX_BYTES.min(all)),
            Self::Labels => ("the labels' file", labels::MAX_BYTES.min(all)),
            Self::File(_) => ("a file", all),
        }
    }
}

/// A file that is whole and on the disk.
struct Written {
    id: FileId,
    digest: Digest,
}

/// A version that is being uploaded.
pub struct Upload {
    slot: Arc<Slot>,
    store: FolderStore,
    model: ModelId,
    number: VersionNumber,
    /// What the model file is to be.
    expected: Option<Digest>,
    /// Bytes that may still come.
    left: u64,
    /// By the name below the version's folder.
    written: BTreeMap<String, Written>,
    /// A part was begun and not ended.
    unfinished: bool,
    turn: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) fn new(
        slot: Slot,
        store: FolderStore,
        model: ModelId,
        number: VersionNumber,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let left = store.max_model_bytes();
        Self {
            slot: Arc::new(slot),
            store,
            model,
            number,
            expected: None,
            left,
            written: BTreeMap::new(),
            unfinished: false,
            turn,
        }
    }

    /// Refuses every model file but the one of this digest.
    #[must_use]
    pub fn expecting(self, expected: Option<Digest>) -> Self {
        Self { expected, ..self }
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When there is such a file, there are too many, or the system refuses.
    pub async fn begin(&mut self, part: &UploadPart) -> Result<PartWriter<'_>, ChangeError> {
        let name = part.file().to_owned();
        if self.written.contains_key(&name) {
            return Err(ChangeError::Twice(name));
        }
        if self.written.len() >= MOST_FILES {
            return Err(ChangeError::TooManyFiles(MOST_FILES));
        }
        self.unfinished = true;
        let path = version_dir(self.slot.dir(), &self.model, self.number).join(&name);
        // Kept until the file is there, so that nothing is made behind the back of who removes the place.
        let slot = Arc::clone(&self.slot);
        let opened = off_runtime(move || {
            let opened = create(&path);
            drop(slot);
            Ok(opened)
        });
        let file = match opened.await? {
            Ok(file) => file,
            Err(error) if is_in_the_way(&error) => return Err(ChangeError::Twice(name)),
            Err(error) => return Err(ChangeError::of(&error)),
        };
        let (what, limit) = part.limit(self.store.max_model_bytes());
        Ok(PartWriter {
            upload: self,
            is_model: *part == UploadPart::Model,
            name,
            what,
            limit,
            left: limit,
            buffer: Vec::new(),
            sink: Some(Sink {
                file,
                hasher: Sha256::new(),
            }),
        })
    }

    /// The whole version, read as the folder reads what it serves: with the model's own manifest, labels and golden
    /// pictures where it has none itself.
    ///
    /// # Errors
    /// When it has no model file or a part of it is not whole, the model is gone, or the system refuses. A version that
    /// is whole and cannot be served is none: [`Staged::candidate`] says so.
    pub async fn finish(self) -> Result<Staged, ChangeError> {
        let slot = Arc::clone(&self.slot);
        let staged = off_runtime(move || self.read()).await;
        if staged.is_err() {
            discard(slot).await;
        }
        staged
    }

    fn read(self) -> Result<Staged, ChangeError> {
        if self.unfinished {
            return Err(ChangeError::Unfinished);
        }
        if !self.written.contains_key(name::MODEL) {
            return Err(ChangeError::NoModelFile);
        }
        let model_dir = self.store.root().join(self.model.as_str());
        let staged_dir = self.slot.dir().join(self.model.as_str());
        let version_dir = version_dir(self.slot.dir(), &self.model, self.number);
        let shared =
            share(&model_dir, &staged_dir, &version_dir).map_err(|e| ChangeError::of(&e))?;
        let store = self
            .store
            .at(self.slot.dir().to_path_buf())
            .only(self.number);
        let hashed = self
            .written
            .iter()
            .map(|(name, written)| (version_dir.join(name), written.id, Some(written.digest)));
        store.know(&self.model, hashed);
        let found = store.find(&self.model, &mut |_| ());
        let found = found.map_err(|error| ChangeError::Unavailable {
            reason: error.reason,
        })?;
        let content = found
            .into_iter()
            .flat_map(|found| found.versions)
            .find(|version| version.number == self.number)
            .map(|version| version.content);
        Ok(Staged {
            unselected: unselected(&model_dir, self.number),
            // It was written a moment ago: somebody took it away.
            content: content.ok_or(ChangeError::Changed)?,
            slot: self.slot,
            model: self.model,
            number: self.number,
            shared,
            written: self.written,
            _turn: self.turn,
        })
    }

    /// Gives up; returns once nothing is left of it.
    pub async fn discard(self) {
        discard(self.slot).await;
    }
}

/// Writes one file of an upload. Dropped before [`Self::end`], it leaves the upload unfinished.
pub struct PartWriter<'a> {
    upload: &'a mut Upload,
    is_model: bool,
    name: String,
    what: &'static str,
    limit: u64,
    left: u64,
    buffer: Vec<u8>,
    /// `None` once a write has failed, or was given up in its middle.
    sink: Option<Sink>,
}

struct Sink {
    file: File,
    hasher: Sha256,
}

impl PartWriter<'_> {
    /// Adds a piece. Returns once there is room for the next.
    ///
    /// # Errors
    /// When the file or all of them together become too large, the disk is full, or the system refuses.
    pub async fn write(&mut self, mut piece: &[u8]) -> Result<(), ChangeError> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let taken = |what, limit, left: u64| {
            let too_large = ChangeError::TooLarge { what, limit };
            left.checked_sub(length).ok_or(too_large)
        };
        self.left = taken(self.what, self.limit, self.left)?;
        let all = self.upload.store.max_model_bytes();
        self.upload.left = taken("the upload", all, self.upload.left)?;
        while !piece.is_empty() {
            let room = PIECE.saturating_sub(self.buffer.len()).min(piece.len());
            let (now, later) = piece.split_at(room);
            self.buffer.extend_from_slice(now);
            piece = later;
            if self.buffer.len() >= PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ChangeError> {
        let mut sink = self.sink.take().ok_or(ChangeError::Unfinished)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = off_runtime(move || {
            sink.hasher.update(&buffer);
            sink.file
                .write_all(&buffer)
                .map_err(|e| ChangeError::of(&e))?;
            buffer.clear();
            Ok((sink, buffer))
        });
        let (sink, buffer) = written.await?;
        (self.sink, self.buffer) = (Some(sink), buffer);
        Ok(())
    }

    /// Ends the file: it is on the disk when this returns.
    ///
    /// # Errors
    /// As [`Self::write`], and when it is not the model file that was expected.
    pub async fn end(mut self) -> Result<Digest, ChangeError> {
        self.flush().await?;
        let sink = self.sink.take().ok_or(ChangeError::Unfinished)?;
        let written = off_runtime(move || {
            let ended = sink.file.sync_all().and_then(|()| sink.file.metadata());
            let id = FileId::of(&ended.map_err(|e| ChangeError::of(&e))?);
            let digest = Digest::from_bytes(sink.hasher.finalize().into());
            Ok(Written { id, digest })
        });
        let written = written.await?;
        let found = written.digest;
        if let Some(wanted) = self.upload.expected.filter(|_| self.is_model)
            && wanted != found
        {
            return Err(ChangeError::OtherContent { wanted, found });
        }
        self.upload.written.insert(self.name, written);
        self.upload.unfinished = false;
        Ok(found)
    }
}

/// A version that is whole, beside what serves.
pub struct Staged {
    pub(super) slot: Arc<Slot>,
    pub(super) model: ModelId,
    pub(super) number: VersionNumber,
    content: Content,
    /// Why the model's manifest would not let it serve.
    unselected: Option<String>,
    /// The model's own files that it was read with, below its folder; `None` where there was no such file.
    shared: Vec<(PathBuf, Option<Digest>)>,
    written: BTreeMap<String, Written>,
    _turn: OwnedSemaphorePermit,
}

impl Staged {
    /// The version, if a backend may try it.
    ///
    /// # Errors
    /// What of it cannot be served, and why.
    pub fn candidate(&self) -> Result<&Candidate, (Part, String)> {
        match (&self.content, &self.unselected) {
            (Content::Candidate(_), Some(reason)) => Err((Part::Manifest, reason.clone())),
            (Content::Candidate(candidate), None) => Ok(candidate),
            (Content::Broken { part, reason, .. }, _) => Err((*part, reason.clone())),
            (Content::Waiting { reason, .. } | Content::Absent { reason }, _) => {
                Err((Part::File, reason.clone()))
            }
            (Content::NotSelected, _) => Err((Part::Manifest, "it is not selected".to_owned())),
        }
    }

    /// SHA-256 of its model file.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.written.get(name::MODEL).map(|model| model.digest)
    }

    /// SHA-256 over everything that changes its answers; `None` where it is broken.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Digest> {
        match &self.content {
            Content::Candidate(candidate) => Some(candidate.fingerprint),
            _ => None,
        }
    }

    /// The bytes of what was uploaded.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.written.values().map(|written| written.id.size).sum()
    }

    /// Its folder, until it is put in place.
    pub(super) fn dir(&self) -> PathBuf {
        version_dir(self.slot.dir(), &self.model, self.number)
    }

    /// Whether the model's own files still are what it was read with.
    pub(super) fn is_up_to_date(&self, model_dir: &Path) -> bool {
        let same = |(name, then): &(PathBuf, Option<Digest>)| {
            let path = model_dir.join(name);
            let now = path.is_file().then(|| digest::of_file(&path)).transpose();
            now.is_ok_and(|now| now == *then)
        };
        self.shared.iter().all(same)
    }

    /// Its files as they are when its folder is `dir`.
    pub(super) fn files_in(
        &self,
        dir: &Path,
    ) -> impl Iterator<Item = (PathBuf, FileId, Option<Digest>)> {
        let file = |(name, written): (&String, &Written)| {
            (dir.join(name), written.id, Some(written.digest))
        };
        self.written.iter().map(file)
    }

    /// Its files as they lie beside what serves: their names, where they are, and their SHA-256.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&str, PathBuf, Digest)> {
        let dir = self.dir();
        self.written
            .iter()
            .map(move |(name, written)| (name.as_str(), dir.join(name), written.digest))
    }

    /// The folders of its files, the deepest first.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let dir = self.dir();
        let mut folders: Vec<PathBuf> = self
            .written
            .keys()
            .flat_map(|name| Path::new(name).ancestors().skip(1))
            .map(|folder| dir.join(folder))
            .collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        folders.dedup();
        folders
    }

    /// Ends it; returns once nothing is left beside what was put in place, unless somebody still works with it.
    pub async fn discard(self: Arc<Self>) {
        if let Some(staged) = Arc::into_inner(self) {
            discard(staged.slot).await;
        }
    }
}

/// The folder of a version below `root`.
pub(super) fn version_dir(root: &Path, model: &ModelId, number: VersionNumber) -> PathBuf {
    root.join(model.as_str()).join(number.to_string())
}

/// Removes a place, unless somebody still works in it and removes it later.
pub(super) async fn discard(slot: Arc<Slot>) {
    let removed = off_runtime(move || {
        if let Some(slot) = Arc::into_inner(slot) {
            slot.remove();
        }
        Ok(())
    });
    // A runtime that ends meanwhile leaves it to the next start.
    let _ = removed.await;
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Whether another file of the upload has the name, or is where a folder is wanted.
fn is_in_the_way(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// Why the manifest in `model_dir` would not let version `number` serve.
fn unselected(model_dir: &Path, number: VersionNumber) -> Option<String> {
    let text = manifest::read(model_dir).ok()?;
    let manifest = Manifest::parse(text.as_deref(), None).ok()?;
    let there: Vec<VersionNumber> = subfolders(model_dir).ok()?;
    let highest = there.into_iter().chain([number]).max();
    let selects = manifest.serving.versions.selects(number, highest);
    (!selects).then(|| {
        format!("serving.versions in the model's model.toml does not select version {number}")
    })
}

/// Copies the model's own files that have a say in the version into its staged folder; gives their names and contents.
/// Copies, as a link would be a change of the file that serves.
fn share(
    model_dir: &Path,
    staged_dir: &Path,
    version_dir: &Path,
) -> io::Result<Vec<(PathBuf, Option<Digest>)>> {
    let mut names = vec![name::MANIFEST.to_owned()];
    let own = |dir: &Path| manifest::read(dir).ok().flatten();
    if let Ok(manifest) = Manifest::parse(own(model_dir).as_deref(), own(version_dir).as_deref()) {
        let labels = match manifest.labels {
            None => Some(name::LABELS.to_owned()),
            Some(LabelsSource::File(name)) => Some(name),
            Some(LabelsSource::Inline(_)) => None,
        };
        let mut files: Vec<String> = labels.into_iter().collect();
        files.extend(manifest.golden.into_iter().map(|golden| golden.image));
        // What the version has itself comes first.
        files.retain(|name| !version_dir.join(name).is_file());
        names.extend(files);
    }
    names.sort();
    names.dedup();
    let mut shared = Vec::new();
    for name in names {
        let target = staged_dir.join(&name);
        // Whoever reads it says what is wrong with a name.
        let Ok(source) = labels::inside(model_dir, &name) else {
            continue;
        };
        if target.starts_with(version_dir) {
            continue;
        }
        if !source.is_file() {
            shared.push((PathBuf::from(name), None));
            continue;
        }
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(source, &target)?;
        shared.push((PathBuf::from(name), Some(digest::of_file(&target)?)));
    }
    Ok(shared)
}
