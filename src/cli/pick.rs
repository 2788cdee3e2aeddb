//! The model and the version that a command works on, by name or as the gateway would choose them.

use anyhow::{Context as _, bail};

use crate::app;
use crate::config::Config;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{Candidate, Content, FoundModel, ModelStore as _};
use crate::models::{Loader, Opened};

/// The model of that name.
pub(super) fn model(settings: &Config, id: &ModelId) -> anyhow::Result<FoundModel> {
    let found = app::model_store(settings).find(id, &mut |_| ())?;
    found.with_context(|| {
        format!(
            "there is no model {id} in {}",
            settings.model_store.folder().display()
        )
    })
}

/// The version that is `wanted`, or the highest that can be loaded, open and tried.
pub(super) fn version<'a>(
    model: &'a FoundModel,
    wanted: Option<VersionNumber>,
    loader: &Loader,
) -> anyhow::Result<(&'a Candidate, Opened)> {
    let mut reason = format!("model {} has no such version", model.id);
    for version in model.versions.iter().rev() {
        if wanted.is_some_and(|wanted| wanted != version.number) {
            continue;
        }
        match &version.content {
            Content::Candidate(candidate) => match loader.examine(candidate) {
                Ok((opened, _)) => return Ok((candidate, opened)),
                Err(error) => reason = format!("version {}: {error}", version.number),
            },
            Content::Broken { reason: why, .. }
            | Content::Absent { reason: why }
            | Content::Waiting { reason: why, .. } => {
                reason = format!("version {}: {why}", version.number);
            }
            Content::NotSelected => {}
        }
    }
    bail!("no version of model {} can be used: {reason}", model.id)
}

/// A picture's bytes, if they are no more than a request may bring.
pub(super) fn picture(path: &std::path::Path, settings: &Config) -> anyhow::Result<Vec<u8>> {
    let found = std::fs::metadata(path).context("cannot be read")?;
    let most = settings.limits.max_image_bytes;
    if found.len() > most {
        bail!("has {} bytes; allowed are {most}", found.len());
    }
    std::fs::read(path).context("cannot be read")
}
