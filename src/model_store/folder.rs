//! A model store that is a folder: `<model>/model.toml`, `<model>/<version>/model.onnx`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::{self, Fingerprint};
use super::{Candidate, Content, FoundModel, FoundVersion, ModelStore, StoreError, labels, onnx};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::domain::manifest::{Golden, Manifest, VersionsChoice};

/// A folder of models.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: PathBuf,
    max_model_bytes: u64,
}

/// The most bytes of a `model.toml`.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

impl FolderStore {
    /// The store in `root`; larger model files than `max_model_bytes` are broken.
    #[must_use]
    pub fn new(root: PathBuf, max_model_bytes: u64) -> Self {
        Self {
            root,
            max_model_bytes,
        }
    }

    fn sorted_ids(&self) -> Result<Vec<ModelId>, StoreError> {
        subfolders(&self.root)
            .map(sorted)
            .map_err(|error| StoreError {
                path: self.root.clone(),
                reason: error.to_string(),
            })
    }

    /// What the model's graphs take on disk.
    fn bytes_of(&self, id: &ModelId) -> u64 {
        let dir = self.root.join(id.as_str());
        let versions: Vec<VersionNumber> = subfolders(&dir).unwrap_or_default();
        let graph = |number: &VersionNumber| dir.join(number.to_string()).join("model.onnx");
        let bytes = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
        versions.iter().map(graph).map(bytes).sum()
    }

    fn model(&self, id: ModelId) -> FoundModel {
        let dir = self.root.join(id.as_str());
        let text = read_manifest(&dir);
        let manifest = text
            .clone()
            .and_then(|text| Manifest::parse(text.as_deref(), None).map_err(|e| e.to_string()));
        let numbers: Vec<VersionNumber> = sorted(subfolders(&dir).unwrap_or_default());
        let selected = manifest
            .as_ref()
            .map_or(VersionsChoice::All, |m| m.serving.versions.clone());
        let chosen = |number: VersionNumber| match &selected {
            VersionsChoice::All => true,
            VersionsChoice::Latest => numbers.last() == Some(&number),
            VersionsChoice::List(list) => list.contains(&number.get()),
        };
        let versions = numbers
            .iter()
            .map(|&number| FoundVersion {
                number,
                content: if chosen(number) {
                    self.version(&id, number, &dir, &text)
                } else {
                    Content::NotSelected
                },
            })
            .collect();
        FoundModel {
            id,
            manifest: manifest.unwrap_or_default(),
            versions,
        }
    }

    fn version(
        &self,
        id: &ModelId,
        number: VersionNumber,
        model_dir: &Path,
        base: &Result<Option<String>, String>,
    ) -> Content {
        let dir = model_dir.join(number.to_string());
        let graph = dir.join("model.onnx");
        let digest = match self.hash(&graph) {
            Ok(digest) => digest,
            Err(reason) => {
                return Content::Broken {
                    digest: None,
                    reason,
                };
            }
        };
        match candidate(id, number, [&dir, model_dir], graph, digest, base) {
            Ok(candidate) => Content::Candidate(Box::new(candidate)),
            Err(reason) => Content::Broken {
                digest: Some(digest),
                reason,
            },
        }
    }

    fn hash(&self, graph: &Path) -> Result<Digest, String> {
        let found = fs::metadata(graph).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no model.onnx".to_owned(),
            _ => format!("model.onnx: {error}"),
        })?;
        if !found.is_file() {
            return Err("model.onnx is not a file".to_owned());
        }
        if found.len() > self.max_model_bytes {
            return Err(format!(
                "model.onnx has {} bytes, more than limits.max_model_bytes ({})",
                found.len(),
                self.max_model_bytes
            ));
        }
        digest::of_file(graph).map_err(|error| format!("model.onnx: {error}"))
    }
}

impl ModelStore for FolderStore {
    fn ids(&self) -> Result<Vec<ModelId>, StoreError> {
        let mut ids = self.sorted_ids()?;
        ids.sort_by_key(|id| self.bytes_of(id));
        Ok(ids)
    }

    fn scan(&self) -> Result<Vec<FoundModel>, StoreError> {
        Ok(self
            .sorted_ids()?
            .into_iter()
            .map(|id| self.model(id))
            .collect())
    }

    fn find(&self, id: &ModelId) -> Result<Option<FoundModel>, StoreError> {
        Ok(self
            .ids()?
            .into_iter()
            .find(|found| found == id)
            .map(|id| self.model(id)))
    }
}

/// The names of the folders in `dir` that are a `T`; the others are nobody's business.
fn subfolders<T: std::str::FromStr>(dir: &Path) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Through links, as Kubernetes mounts volumes.
        if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir())
            && let Some(parsed) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        {
            found.push(parsed);
        }
    }
    Ok(found)
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

fn read_manifest(dir: &Path) -> Result<Option<String>, String> {
    let path = dir.join("model.toml");
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Reading a pipe or a device would never end.
        Ok(found) if !found.is_file() => Err("model.toml is not a file".to_owned()),
        Ok(found) if found.len() > MAX_MANIFEST_BYTES => {
            Err(format!("model.toml has {} bytes", found.len()))
        }
        _ => fs::read_to_string(&path)
            .map(Some)
            .map_err(|error| format!("model.toml: {error}")),
    }
}

/// Puts a version together from its files; `dirs` are the version's folder and the model's.
fn candidate(
    id: &ModelId,
    number: VersionNumber,
    dirs: [&Path; 2],
    graph: PathBuf,
    digest: Digest,
    base: &Result<Option<String>, String>,
) -> Result<Candidate, String> {
    let [version_dir, model_dir] = dirs;
    let base = base.as_ref().map_err(String::clone)?;
    let own = read_manifest(version_dir)?;
    let manifest =
        Manifest::parse(base.as_deref(), own.as_deref()).map_err(|error| error.to_string())?;
    let facts = onnx::read(&graph).map_err(|error| error.to_string())?;
    let external = onnx::check_external(&facts, version_dir).map_err(|error| error.to_string())?;
    let labels = labels::read(manifest.labels.as_ref(), version_dir, model_dir)?;
    let golden = golden_files(&manifest.golden, dirs)?;

    let mut fingerprint = Fingerprint::default();
    fingerprint.part("digest", digest.to_string().as_bytes());
    fingerprint.part("model.toml", base.as_deref().unwrap_or_default().as_bytes());
    fingerprint.part(
        "version model.toml",
        own.as_deref().unwrap_or_default().as_bytes(),
    );
    for label in labels.iter().flatten() {
        fingerprint.part("label", label.as_bytes());
    }
    for path in &external {
        let content = digest::of_file(path).map_err(|error| format!("external data: {error}"))?;
        fingerprint.part("external", content.to_string().as_bytes());
    }
    Ok(Candidate {
        model: id.clone(),
        number,
        graph,
        digest,
        fingerprint: fingerprint.finish(),
        manifest,
        labels,
        facts,
        golden,
    })
}

fn golden_files(golden: &[Golden], dirs: [&Path; 2]) -> Result<Vec<(Golden, PathBuf)>, String> {
    golden
        .iter()
        .map(|golden| {
            for dir in dirs {
                let path = labels::inside(dir, &golden.image)
                    .map_err(|reason| format!("golden picture: {reason}"))?;
                if path.is_file() {
                    return Ok((golden.clone(), path));
                }
            }
            Err(format!("golden picture: there is no file {}", golden.image))
        })
        .collect()
}
