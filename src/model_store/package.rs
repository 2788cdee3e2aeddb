//! What a version is made of, to be sent elsewhere: with what it has of its model's folder, so that it needs nothing there.
//!
//! Called by the command line. Blocks.

use std::path::{Path, PathBuf};

use super::name::{self, FileName, InvalidName};
use super::{digest, labels, manifest, onnx};
use crate::domain::ids::Digest;
use crate::domain::manifest::{LabelsSource, Manifest};

/// A version, ready to be sent.
#[derive(Clone, Debug)]
pub struct Package {
    /// The graph.
    pub graph: PathBuf,
    /// SHA-256 of the graph.
    pub digest: Digest,
    /// The effective manifest's text; `None` where it says nothing of the version.
    pub manifest: Option<String>,
    /// The labels' file, if it has the usual name.
    pub labels: Option<PathBuf>,
    /// Golden pictures, external data, and labels of another name.
    pub files: Vec<(FileName, PathBuf)>,
}

impl Package {
    /// The version in `version_dir`, whose model's folder is the one above.
    ///
    /// # Errors
    /// What of it is missing or broken, in words its author can act on.
    pub fn of(version_dir: &Path) -> Result<Self, String> {
        let graph = version_dir.join(name::MODEL);
        let facts = onnx::read(&graph).map_err(|error| error.to_string())?;
        onnx::check_external(&facts, version_dir).map_err(|error| error.to_string())?;
        let model_dir = version_dir.parent().unwrap_or(version_dir);
        let (base, own) = (manifest::read(model_dir)?, manifest::read(version_dir)?);
        let (base, own) = (base.as_deref(), own.as_deref());
        let effective = Manifest::parse(base, own).map_err(|error| error.to_string())?;
        let text = Manifest::of_a_version(base, own).map_err(|error| error.to_string())?;
        let dirs = [version_dir, model_dir];
        let mut files = Vec::new();
        let mut send = |name: &str, path: PathBuf| {
            let read = name
                .parse()
                .map_err(|reason: InvalidName| format!("{name}: {reason}"));
            read.map(|name| {
                if files.iter().all(|(sent, _)| *sent != name) {
                    files.push((name, path));
                }
            })
        };
        for external in &facts.external {
            let location = external.location.trim_start_matches("./");
            send(location, version_dir.join(location))?;
        }
        for (golden, path) in manifest::golden_files(&effective.golden, dirs)? {
            send(&golden.image, path)?;
        }
        let labels = labels::read(effective.labels.as_ref(), version_dir, model_dir)?;
        // The last place is the one where they were found.
        let labels = labels.labels.and(labels.places.into_iter().last());
        let labels = match (&effective.labels, labels) {
            (Some(LabelsSource::File(name)), Some(path)) if name != name::LABELS => {
                send(name, path)?;
                None
            }
            (_, labels) => labels,
        };
        Ok(Self {
            digest: digest::of_file(&graph).map_err(|error| error.to_string())?,
            graph,
            manifest: text,
            labels,
            files,
        })
    }
}

/// The title and description of the model in `model_dir`.
///
/// # Errors
/// When its manifest is broken.
pub fn texts_of(model_dir: &Path) -> Result<(Option<String>, Option<String>), String> {
    let text = manifest::read(model_dir)?;
    let manifest = Manifest::parse(text.as_deref(), None).map_err(|error| error.to_string())?;
    Ok((manifest.title, manifest.description))
}
