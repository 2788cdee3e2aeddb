//! A model store that is a folder: `<model>/model.toml`, `<model>/<version>/model.onnx`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::digest::Fingerprint;
use super::observed::{LOOK_AGAIN, Observed, Settling, Unsettled, is_absence};
use super::onnx::OnnxError;
use super::watcher::{Changed, WatchError, Watcher};
use super::{
    Candidate, Content, FileId, FoundModel, FoundVersion, ModelStore, Part, StoreError, labels,
    manifest, onnx,
};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::manifest::{Manifest, VersionsChoice};

/// A folder of models.
#[derive(Clone)]
pub struct FolderStore {
    root: PathBuf,
    max_model_bytes: u64,
    only: Option<VersionNumber>,
    settling: Settling,
    /// What was seen of each model's files; an unchanged file is not read again.
    observed: Arc<Mutex<HashMap<ModelId, Observed>>>,
}

/// A file that is not whole and has not grown for this long has been given up by whoever wrote it.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// How often a model is read anew because it changed meanwhile.
const READINGS: usize = 3;

/// The most files of a folder that are looked at without being named by anything.
const MOST_FILES: usize = 1000;

impl FolderStore {
    /// The store in `root`; larger model files than `max_model_bytes` are broken. Files are taken as they are: what
    /// serves beside somebody who copies wants [`Self::quiet`].
    #[must_use]
    pub fn new(root: PathBuf, max_model_bytes: u64) -> Self {
        Self {
            // As the events of the file system name it.
            root: std::path::absolute(&root).unwrap_or(root),
            max_model_bytes,
            only: None,
            settling: Settling::default(),
            observed: Arc::default(),
        }
    }

    /// Takes no file that has not stood still for `quiet`.
    #[must_use]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.settling.quiet = quiet;
        self
    }

    /// Offers this version alone, whatever its manifest selects; the others are not read.
    #[must_use]
    pub fn only(mut self, version: VersionNumber) -> Self {
        self.only = Some(version);
        self
    }

    /// The folder of all models.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that a model file may have.
    pub(super) fn max_model_bytes(&self) -> u64 {
        self.max_model_bytes
    }

    /// The same rules in another place, without a wait for quiet: what lies there is taken as it is.
    pub(super) fn at(&self, root: PathBuf) -> Self {
        Self::new(root, self.max_model_bytes)
    }

    /// Takes files as settled whose writer has ended and, where it is given, as hashed: who put them there knows.
    pub(super) fn know(
        &self,
        id: &ModelId,
        files: impl Iterator<Item = (PathBuf, FileId, Option<Digest>)>,
    ) {
        let mut all = self.all_observed();
        let observed = all.entry(id.clone()).or_default();
        for (path, identity, digest) in files {
            observed.note(path, identity, digest);
        }
    }

    fn error(&self, error: &io::Error) -> StoreError {
        StoreError {
            path: self.root.clone(),
            reason: error.to_string(),
        }
    }

    /// What the model's graphs take on disk.
    fn bytes_of(&self, id: &ModelId) -> u64 {
        let dir = self.root.join(id.as_str());
        let versions: Vec<VersionNumber> = subfolders(&dir).unwrap_or_default();
        let graph = |number: &VersionNumber| dir.join(number.to_string()).join("model.onnx");
        let bytes = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
        versions.iter().map(graph).map(bytes).sum()
    }

    fn model(
        &self,
        id: &ModelId,
        numbers: &[VersionNumber],
        observed: &mut Observed,
        hashing: &mut dyn FnMut(VersionNumber),
    ) -> FoundModel {
        let dir = self.root.join(id.as_str());
        let text = manifest::read(&dir);
        let manifest = text
            .clone()
            .and_then(|text| Manifest::parse(text.as_deref(), None).map_err(|e| e.to_string()));
        let selected = manifest
            .as_ref()
            .map_or(VersionsChoice::All, |m| m.serving.versions.clone());
        let chosen = |number: VersionNumber| match self.only {
            Some(only) => number == only,
            None => selected.selects(number, numbers.last().copied()),
        };
        let versions = numbers.iter().map(|&number| {
            let content = if chosen(number) {
                Reading {
                    store: self,
                    model: id,
                    number,
                    model_dir: &dir,
                    version_dir: dir.join(number.to_string()),
                    base: &text,
                    observed,
                    files: Vec::new(),
                }
                .content(hashing)
            } else {
                Content::NotSelected
            };
            FoundVersion { number, content }
        });
        let versions = versions.collect();
        FoundModel {
            id: id.clone(),
            manifest: manifest.ok(),
            versions,
        }
    }
}

impl ModelStore for FolderStore {
    fn ids(&self) -> Result<Vec<(ModelId, u64)>, StoreError> {
        let ids: Vec<ModelId> = subfolders(&self.root).map_err(|error| self.error(&error))?;
        let with_bytes = |id: ModelId| {
            let bytes = self.bytes_of(&id);
            (id, bytes)
        };
        Ok(sorted(ids).into_iter().map(with_bytes).collect())
    }

    fn find(
        &self,
        id: &ModelId,
        hashing: &mut dyn FnMut(VersionNumber),
    ) -> Result<Option<FoundModel>, StoreError> {
        let dir = self.root.join(id.as_str());
        let list = || subfolders(&dir).map(sorted);
        for _ in 0..READINGS {
            let numbers = match list() {
                Ok(numbers) => numbers,
                Err(error) if is_absence(&error) => return self.absent(id, &dir),
                Err(error) => return Err(self.error(&error)),
            };
            let before = self.all_observed().remove(id).unwrap_or_default();
            let mut observed = before.next_round();
            let found = self.model(id, &numbers, &mut observed, hashing);
            self.all_observed().insert(id.clone(), observed);
            // What came or went in the middle of it, with the whole store at worst, was not seen to be there or gone.
            if list().is_ok_and(|again| again == numbers) {
                return Ok(Some(found));
            }
        }
        Err(self.changing())
    }

    fn watch(&self, changed: Changed) -> Result<Watcher, WatchError> {
        Watcher::start(self.root.clone(), self.settling.writers.clone(), changed)
    }
}

impl FolderStore {
    /// A model's folder is not there: it must be gone by itself, not with the whole store.
    fn absent(&self, id: &ModelId, dir: &Path) -> Result<Option<FoundModel>, StoreError> {
        let root = || fs::metadata(&self.root).map(|found| (found.dev(), found.ino()));
        let before = root().map_err(|error| self.error(&error))?;
        let is_gone = fs::metadata(dir).is_err_and(|error| is_absence(&error));
        let after = root().map_err(|error| self.error(&error))?;
        if !is_gone || before != after {
            return Err(self.changing());
        }
        self.all_observed().remove(id);
        Ok(None)
    }

    fn changing(&self) -> StoreError {
        StoreError {
            path: self.root.clone(),
            reason: "it changed while it was read".to_owned(),
        }
    }

    fn all_observed(&self) -> std::sync::MutexGuard<'_, HashMap<ModelId, Observed>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One version being read.
struct Reading<'a> {
    store: &'a FolderStore,
    model: &'a ModelId,
    number: VersionNumber,
    model_dir: &'a Path,
    version_dir: PathBuf,
    base: &'a Result<Option<String>, String>,
    observed: &'a mut Observed,
    /// Every file that has a say in the version.
    files: Vec<PathBuf>,
}

/// Why a version is no candidate.
enum Refusal {
    Unsettled(Unsettled),
    Absent(String),
    Broken(Part, String),
}

impl From<Unsettled> for Refusal {
    fn from(unsettled: Unsettled) -> Self {
        Self::Unsettled(unsettled)
    }
}

impl Refusal {
    /// How a part's reason becomes a refusal.
    fn of(part: Part) -> impl Fn(String) -> Self {
        move |reason| Self::Broken(part, reason)
    }
}

impl Reading<'_> {
    fn content(mut self, hashing: &mut dyn FnMut(VersionNumber)) -> Content {
        let graph = self.version_dir.join("model.onnx");
        match self.candidate(&graph, hashing) {
            Ok(candidate) => Content::Candidate(Box::new(candidate)),
            Err(Refusal::Unsettled(Unsettled { reason, again_in })) => {
                Content::Waiting { reason, again_in }
            }
            Err(Refusal::Absent(reason)) => Content::Absent { reason },
            Err(Refusal::Broken(part, reason)) => Content::Broken {
                part,
                digest: self.observed.known_digest(&graph),
                reason,
            },
        }
    }

    /// Puts a version together from its files, each of which must have settled.
    fn candidate(
        &mut self,
        graph: &Path,
        hashing: &mut dyn FnMut(VersionNumber),
    ) -> Result<Candidate, Refusal> {
        self.look_around();
        self.check_graph_file(graph)?;
        self.settle(graph, "model.onnx")?;
        let (facts, external) = self.facts(graph)?;
        if self.observed.known_digest(graph).is_none() {
            hashing(self.number);
        }
        let digest = self.digest(graph, "model.onnx", Part::File)?;
        let broken = Refusal::of(Part::Manifest);
        let base = self
            .base
            .as_ref()
            .map_err(|reason| broken(reason.clone()))?;
        let dirs = [self.version_dir.clone(), self.model_dir.to_path_buf()];
        for dir in &dirs {
            self.settle(&dir.join("model.toml"), "model.toml")?;
        }
        let own = manifest::read(&self.version_dir).map_err(&broken)?;
        let manifest = Manifest::parse(base.as_deref(), own.as_deref())
            .map_err(|error| broken(error.to_string()))?;
        let [version_dir, model_dir] = &dirs;
        let found = labels::read(manifest.labels.as_ref(), version_dir, model_dir)
            .map_err(Refusal::of(Part::Labels))?;
        for path in found.places {
            self.settle(&path, "the labels' file")?;
        }
        let golden = manifest::golden_files(&manifest.golden, [version_dir, model_dir])
            .map_err(Refusal::of(Part::Golden))?;
        for (_, path) in &golden {
            self.settle(path, "a golden picture")?;
        }
        let mut fingerprint = Fingerprint::default();
        fingerprint.part("digest", digest.to_string().as_bytes());
        fingerprint.part("manifest", manifest.what_matters().as_bytes());
        for label in found.labels.iter().flatten() {
            fingerprint.part("label", label.as_bytes());
        }
        for path in &external {
            let content = self.digest(path, "external data", Part::External)?;
            fingerprint.part("external", content.to_string().as_bytes());
        }
        let files = std::mem::take(&mut self.files);
        Ok(Candidate {
            model: self.model.clone(),
            number: self.number,
            graph: graph.to_path_buf(),
            digest,
            fingerprint: fingerprint.finish(),
            manifest,
            labels: found.labels,
            facts,
            golden,
            files: files
                .into_iter()
                .filter_map(|path| self.observed.id(&path).map(|id| (path, id)))
                .collect(),
        })
    }

    /// Looks at everything that may have a say, so that all of it settles at the same time, not one after the other.
    fn look_around(&mut self) {
        for dir in [&self.version_dir, self.model_dir] {
            let beside = fs::read_dir(dir).into_iter().flatten().flatten();
            for entry in beside.take(MOST_FILES) {
                // What cannot be looked at is not settled, or not needed.
                let _ = self.observed.look(&entry.path());
            }
        }
    }

    /// A file with a say in the version: noted, and settled where it is there.
    fn settle(&mut self, path: &Path, name: &str) -> Result<(), Unsettled> {
        self.observed.settle(path, name, &self.store.settling)?;
        self.files.push(path.to_path_buf());
        Ok(())
    }

    fn check_graph_file(&mut self, graph: &Path) -> Result<(), Refusal> {
        let max = self.store.max_model_bytes;
        let broken = Refusal::of(Part::File);
        match fs::metadata(graph) {
            Ok(found) if !found.is_file() => Err(broken("model.onnx is not a file".to_owned())),
            Ok(found) if found.len() > max => Err(broken(format!(
                "model.onnx has {} bytes, more than limits.max_model_bytes ({max})",
                found.len()
            ))),
            Ok(_) => Ok(()),
            Err(error) if is_absence(&error) => {
                let dir = self.version_dir.clone();
                Err(match self.growth(&[&dir]) {
                    Some(still) => Refusal::Unsettled(Unsettled {
                        reason: "there is no model.onnx yet".to_owned(),
                        again_in: still,
                    }),
                    None => Refusal::Absent("there is no model.onnx".to_owned()),
                })
            }
            Err(error) => Err(broken(format!("model.onnx: {error}"))),
        }
    }

    /// The graph's facts and its files of external data, once all of it is there.
    fn facts(&mut self, graph: &Path) -> Result<(onnx::GraphFacts, Vec<PathBuf>), Refusal> {
        let read = self.observed.facts(graph);
        let outcome = read.as_ref().as_ref().map_err(Clone::clone);
        let outcome =
            outcome.and_then(|facts| onnx::check_external(facts, &self.version_dir).map(|_| facts));
        match outcome {
            // The operators' version is written behind the graph.
            Ok(facts) if facts.opset == 0 && self.growth(&[graph]).is_some() => {
                Err(Refusal::Unsettled(Unsettled {
                    reason: "waiting for the rest of the copy: the model imports no operators yet"
                        .to_owned(),
                    again_in: LOOK_AGAIN,
                }))
            }
            Ok(facts) => {
                // By the names that events have, not by where links lead.
                let named = facts.external.iter().map(|file| &file.location);
                let external: Vec<PathBuf> =
                    named.map(|name| self.version_dir.join(name)).collect();
                for path in &external {
                    self.settle(path, "external data")?;
                }
                Ok((facts.clone(), external))
            }
            Err(error) if error.is_incomplete() => {
                let dir = self.version_dir.clone();
                let beside = fs::read_dir(&dir).into_iter().flatten().flatten();
                let files: Vec<PathBuf> =
                    beside.map(|entry| entry.path()).take(MOST_FILES).collect();
                let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
                Err(match self.growth(&files) {
                    Some(again_in) => Refusal::Unsettled(Unsettled {
                        reason: format!("waiting for the rest of the copy: {error}"),
                        again_in,
                    }),
                    None => Refusal::Broken(part_of(&error), error.to_string()),
                })
            }
            Err(error) => Err(Refusal::Broken(part_of(&error), error.to_string())),
        }
    }

    /// When to look again at files that may still grow; `None` once all of them have stood still for too long.
    /// Without a wait for quiet nothing is waited for.
    fn growth(&mut self, files: &[&Path]) -> Option<Duration> {
        if self.store.settling.quiet.is_zero() {
            return None;
        }
        let still = files
            .iter()
            .filter_map(|path| self.observed.look(path).ok())
            .map(|(_, still)| still)
            .min()?;
        (still < GIVEN_UP).then(|| LOOK_AGAIN.min(GIVEN_UP.saturating_sub(still)))
    }

    fn digest(&mut self, path: &Path, name: &str, part: Part) -> Result<Digest, Refusal> {
        match self.observed.digest(path) {
            Ok(Some(digest)) => Ok(digest),
            Ok(None) => Err(Refusal::Unsettled(Unsettled {
                reason: format!("{name} changed while it was read"),
                again_in: LOOK_AGAIN,
            })),
            Err(error) => Err(Refusal::Broken(part, format!("{name}: {error}"))),
        }
    }
}

fn part_of(error: &OnnxError) -> Part {
    match error {
        OnnxError::External { .. }
        | OnnxError::ExternalMissing { .. }
        | OnnxError::ExternalShort { .. } => Part::External,
        _ => Part::File,
    }
}

/// The names of the folders in `dir` that are a `T`; the others are nobody's business.
pub(super) fn subfolders<T: std::str::FromStr>(dir: &Path) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(parsed) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Through links, as Kubernetes mounts volumes.
        match fs::metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => found.push(parsed),
            Ok(_) => {}
            Err(error) if is_absence(&error) => {}
            // A folder that may not be entered is not a folder that is gone: who reads it says what is wrong.
            Err(_) => found.push(parsed),
        }
    }
    Ok(found)
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}
