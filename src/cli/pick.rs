//! What a command works on: the model and the version, by name or as the gateway would choose them; the tenant.

use anyhow::{Context as _, bail};

use crate::app;
use crate::config::Config;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::tenant::{Tenant, TenantId};
use crate::model_store::{Candidate, Content, FoundModel, ModelStore as _};
use crate::models::{Loader, Opened};
use crate::store::{Page, Store};

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

/// The tenant of that name or id.
pub(super) async fn tenant(store: &dyn Store, named: &str) -> anyhow::Result<Tenant> {
    if let Ok(id) = named.parse::<TenantId>() {
        let found = store.find_tenant(id).await?;
        return found.with_context(|| format!("there is no tenant {named}"));
    }
    let mut page = Page {
        after: None,
        limit: 1000,
    };
    loop {
        let listing = store.list_tenants(page).await?;
        if let Some(found) = listing
            .items
            .into_iter()
            .find(|tenant| tenant.name == named)
        {
            return Ok(found);
        }
        if listing.next.is_none() {
            bail!(
                "there is no tenant {named:?} in this database (the first start of `lensgate serve` makes `default`)"
            );
        }
        page.after = listing.next;
    }
}
