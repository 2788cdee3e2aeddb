//! Models: made, read, described, deleted with all that is theirs.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::actor::Deed;
use super::{Actor, Admin, AdminError, Edit, still, text};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{Description, Edit as FileEdit};
use crate::models::{ModelEntry, VersionEntry};

/// What a new model is.
#[derive(Clone, Debug)]
pub struct NewModel {
    /// Its id, which is also the name of its folder.
    pub id: ModelId,
    /// Its name for people.
    pub title: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

/// What is to be changed of a model; what is left out stays.
#[derive(Clone, Debug, Default)]
pub struct ModelPatch {
    /// Its name for people.
    pub title: Edit<String>,
    /// What it is for.
    pub description: Edit<String>,
}

/// How long a change of the files may take to be seen.
const SOON: Duration = Duration::from_secs(10);

/// How long it is waited for requests that a deleted version still answers.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

impl Admin {
    /// The models after `after` in the order of their ids, `limit` at most; and whether there are more.
    #[must_use]
    pub fn models(&self, after: Option<&ModelId>, limit: usize) -> (Vec<Arc<ModelEntry>>, bool) {
        let catalog = self.manager.catalog().load();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = catalog.models.range::<ModelId, _>((from, Bound::Unbounded));
        let page = rest.by_ref().take(limit);
        let page = page.map(|(_, model)| Arc::clone(model)).collect();
        (page, rest.next().is_some())
    }

    /// The model of this id.
    ///
    /// # Errors
    /// When there is none, or the models have not been read yet.
    pub fn model(&self, id: &ModelId) -> Result<Arc<ModelEntry>, AdminError> {
        let catalog = self.manager.catalog().load();
        match catalog.models.get(id) {
            Some(model) => Ok(Arc::clone(model)),
            None if catalog.scanned => Err(AdminError::NoModel(id.to_string())),
            None => Err(AdminError::Starting),
        }
    }

    /// The model, also where its folder has appeared a moment ago.
    pub(super) async fn model_by_now(&self, id: &ModelId) -> Result<Arc<ModelEntry>, AdminError> {
        if let Ok(model) = self.model(id) {
            return Ok(model);
        }
        self.editor.refresh(id).await;
        self.manager.look_at(id, SOON).await;
        self.model(id)
    }

    /// Makes a model that has no version.
    ///
    /// # Errors
    /// When a value cannot be, there is such a model, the model store cannot be written, or the database is away.
    pub async fn create_model(
        self: &Arc<Self>,
        actor: &Actor,
        new: NewModel,
    ) -> Result<Arc<ModelEntry>, AdminError> {
        let texts = Description {
            title: file_edit(title(new.title.map_or(Edit::Keep, Edit::Set))?),
            description: file_edit(description(new.description.map_or(Edit::Keep, Edit::Set))?),
        };
        let (admin, actor) = (Arc::clone(self), actor.clone());
        self.to_the_end(async move { admin.make_model(&actor, &new.id, texts).await })
            .await
    }

    async fn make_model(
        &self,
        actor: &Actor,
        id: &ModelId,
        texts: Description,
    ) -> Result<Arc<ModelEntry>, AdminError> {
        let _one = self.changing.lock().await;
        self.in_force().await?;
        let after = json!({"title": set(&texts.title), "description": set(&texts.description)});
        self.editor.create(id, texts).await?;
        let deed = deed("model.create", id, None, Some(after));
        if let Err(error) = self.store.record(&actor.did(deed, self.clock.now())).await {
            // What is in no audit has not happened.
            self.editor.take_out(id, None).await?.remove().await;
            return Err(error.into());
        }
        self.manager.look_at(id, SOON).await;
        self.tell("model.created", &target(id), json!({}));
        self.model(id)
    }

    /// Changes a model's texts, in its `model.toml`; with `expected`, only if that is still its mark.
    ///
    /// # Errors
    /// When there is none, a value cannot be, somebody else was faster, its manifest is broken, the model store cannot be
    /// written, or the database is away.
    pub async fn change_model(
        self: &Arc<Self>,
        actor: &Actor,
        id: &ModelId,
        patch: ModelPatch,
        expected: Option<i64>,
    ) -> Result<Arc<ModelEntry>, AdminError> {
        let texts = Description {
            title: file_edit(title(patch.title)?),
            description: file_edit(description(patch.description)?),
        };
        let (admin, actor, id) = (Arc::clone(self), actor.clone(), id.clone());
        self.to_the_end(async move { admin.describe(&actor, &id, texts, expected).await })
            .await
    }

    async fn describe(
        &self,
        actor: &Actor,
        id: &ModelId,
        texts: Description,
        expected: Option<i64>,
    ) -> Result<Arc<ModelEntry>, AdminError> {
        let _one = self.changing.lock().await;
        // What other replicas have done by now counts, and without the database nothing is changed.
        self.in_force().await?;
        let before = self.model_by_now(id).await?;
        still(expected, mark_of_model(&before))?;
        if texts == Description::default() {
            return Ok(before);
        }
        let shown = |title: &Option<String>, description: &Option<String>| json!({"title": title, "description": description});
        let (mut new_title, mut new_description) =
            (before.title.clone(), before.description.clone());
        put(&texts.title, &mut new_title);
        put(&texts.description, &mut new_description);
        self.editor.describe(id, texts).await?;
        let deed = deed(
            "model.change",
            id,
            Some(shown(&before.title, &before.description)),
            Some(shown(&new_title, &new_description)),
        );
        if let Err(error) = self.store.record(&actor.did(deed, self.clock.now())).await {
            let back = Description {
                title: back(before.title.as_ref()),
                description: back(before.description.as_ref()),
            };
            self.editor.describe(id, back).await?;
            return Err(error.into());
        }
        self.manager.look_at(id, SOON).await;
        self.tell("model.changed", &target(id), json!({}));
        self.model(id)
    }

    /// Deletes a model with its versions, aliases and everything else in its folder.
    ///
    /// # Errors
    /// When there is none, somebody else was faster, the model store cannot be written, or the database is away; nothing
    /// is deleted then.
    pub async fn delete_model(
        self: &Arc<Self>,
        actor: &Actor,
        id: &ModelId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let (admin, actor, id) = (Arc::clone(self), actor.clone(), id.clone());
        self.to_the_end(async move { admin.take_model_out(&actor, &id, expected).await })
            .await
    }

    async fn take_model_out(
        &self,
        actor: &Actor,
        id: &ModelId,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let _one = self.changing.lock().await;
        // What other replicas have done by now counts, and without the database nothing is changed.
        self.in_force().await?;
        let before = self.model_by_now(id).await?;
        still(expected, mark_of_model(&before))?;
        let taken = self.editor.take_out(id, None).await?;
        let versions: Vec<u64> = before.versions.keys().map(|number| number.get()).collect();
        let shown = json!({"title": before.title, "versions": versions});
        // Whoever holds it keeps its versions from ending.
        drop(before);
        let entry = actor.did(
            deed("model.delete", id, Some(shown), None),
            self.clock.now(),
        );
        if let Err(error) = self.store.forget_model(id, &entry).await {
            taken.put_back().await?;
            return Err(error.into());
        }
        taken.remove().await;
        self.in_force().await?;
        self.gone(id, None).await;
        self.tell("model.deleted", &target(id), json!({}));
        Ok(())
    }

    /// Waits until something is out of the catalog; running requests may keep it there for longer.
    pub(super) async fn gone(&self, id: &ModelId, number: Option<VersionNumber>) {
        // Out of service it is with the look; what is seen of it goes with its last request.
        self.manager.look_at(id, SOON).await;
        self.manager.until_gone(id, number, LAST_REQUESTS).await;
    }
}

/// What a model's state is told apart by, as `ETag` does: another number for whatever is shown of it.
#[must_use]
pub fn mark_of_model(model: &ModelEntry) -> i64 {
    let mut hasher = Sha256::new();
    let mut part = |part: &dyn std::fmt::Debug| hasher.update(format!("{part:?};"));
    part(&(
        &model.id,
        &model.title,
        &model.description,
        &model.rollout,
        &model.aliases,
    ));
    for (number, version) in &model.versions {
        part(&(number, mark_of_version(model, *number, version)));
    }
    mark(hasher)
}

/// The same of one version.
#[must_use]
pub fn mark_of_version(model: &ModelEntry, number: VersionNumber, version: &VersionEntry) -> i64 {
    let mut hasher = Sha256::new();
    let loaded = version.loaded.as_ref().map(|loaded| loaded.fingerprint);
    let aliases: Vec<_> = model.aliases_of(number).collect();
    let shown = (
        number,
        version.state,
        version.digest,
        &version.reason,
        loaded,
        &version.pending,
        aliases,
    );
    hasher.update(format!("{shown:?}"));
    mark(hasher)
}

/// The first 63 bits: a tag is never negative.
pub(super) fn mark(hasher: Sha256) -> i64 {
    let digest: [u8; 32] = hasher.finalize().into();
    let first = digest
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first));
    (first >> 1).cast_signed()
}

pub(super) fn target(id: &ModelId) -> String {
    format!("models/{id}")
}

fn deed(action: &'static str, id: &ModelId, before: Option<Value>, after: Option<Value>) -> Deed {
    Deed {
        action,
        target: target(id),
        before,
        after,
    }
}

fn title(given: Edit<String>) -> Result<Edit<String>, AdminError> {
    given.try_map(|title| text::name("title", &title))
}

fn description(given: Edit<String>) -> Result<Edit<String>, AdminError> {
    given.try_map(|words| text::prose("description", &words))
}

fn file_edit(edit: Edit<String>) -> FileEdit {
    match edit {
        Edit::Keep => FileEdit::Keep,
        Edit::Remove => FileEdit::Remove,
        Edit::Set(text) => FileEdit::Set(text),
    }
}

fn set(edit: &FileEdit) -> Option<&str> {
    match edit {
        FileEdit::Set(text) => Some(text),
        FileEdit::Keep | FileEdit::Remove => None,
    }
}

fn put(edit: &FileEdit, value: &mut Option<String>) {
    match edit {
        FileEdit::Keep => {}
        FileEdit::Remove => *value = None,
        FileEdit::Set(text) => *value = Some(text.clone()),
    }
}

fn back(text: Option<&String>) -> FileEdit {
    text.map_or(FileEdit::Remove, |text| FileEdit::Set(text.clone()))
}
