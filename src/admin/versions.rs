//! Versions that are there: read, put into service and out of it, deleted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::actor::Deed;
use super::models::mark_of_version;
use super::{Actor, Admin, AdminError, still};
use crate::domain::ids::{Alias, ModelId, VersionNumber};
use crate::models::{Check, ModelEntry, Standing, VersionEntry};

/// How long a version may take to be put into service, or out of it.
pub(super) const IN_SERVICE: Duration = Duration::from_mins(2);

/// A version, where it stands.
pub struct VersionAt {
    /// Its model.
    pub model: Arc<ModelEntry>,
    /// Its number.
    pub number: VersionNumber,
}

impl VersionAt {
    /// The version; `None` where it has gone meanwhile.
    #[must_use]
    pub fn entry(&self) -> Option<&VersionEntry> {
        self.model.versions.get(&self.number)
    }

    /// Another number for whatever is shown of it, as `ETag` has it.
    #[must_use]
    pub fn mark(&self) -> i64 {
        let mark = |entry| mark_of_version(&self.model, self.number, entry);
        self.entry().map_or(0, mark)
    }
}

impl Admin {
    /// A version of a model.
    ///
    /// # Errors
    /// When there is no such model or version, or the models have not been read yet.
    pub fn version(&self, id: &ModelId, number: VersionNumber) -> Result<VersionAt, AdminError> {
        let model = self.model(id)?;
        if model.versions.contains_key(&number) {
            Ok(VersionAt { model, number })
        } else {
            Err(AdminError::NoVersion(id.clone(), number.to_string()))
        }
    }

    /// The version, also where its folder has appeared a moment ago.
    pub(super) async fn version_by_now(
        &self,
        id: &ModelId,
        number: VersionNumber,
    ) -> Result<VersionAt, AdminError> {
        if let Ok(version) = self.version(id, number) {
            return Ok(version);
        }
        self.editor.refresh(id).await;
        self.manager.look_at(id, IN_SERVICE).await;
        self.version(id, number)
    }

    /// Puts a version into service: it answers when this returns.
    ///
    /// # Errors
    /// When there is none, its model's manifest does not select it, it cannot be served, or the database is away.
    pub async fn load_version(
        self: &Arc<Self>,
        actor: &Actor,
        id: &ModelId,
        number: VersionNumber,
    ) -> Result<VersionAt, AdminError> {
        let (admin, actor, id) = (Arc::clone(self), actor.clone(), id.clone());
        let work = async move {
            admin.version_by_now(&id, number).await?;
            admin.wish(&actor, &id, number, false).await?;
            let standing = admin.manager.settle(&id, number, None, IN_SERVICE).await;
            standing_live(&id, number, standing, Vec::new())?;
            admin.version(&id, number)
        };
        self.to_the_end(work).await
    }

    /// Takes a version out of service, on every replica and across restarts: it answers nothing when this returns.
    ///
    /// # Errors
    /// When there is none, or the database is away.
    pub async fn unload_version(
        self: &Arc<Self>,
        actor: &Actor,
        id: &ModelId,
        number: VersionNumber,
    ) -> Result<VersionAt, AdminError> {
        let (admin, actor, id) = (Arc::clone(self), actor.clone(), id.clone());
        let work = async move {
            admin.version_by_now(&id, number).await?;
            admin.wish(&actor, &id, number, true).await?;
            match admin.manager.settle(&id, number, None, IN_SERVICE).await {
                Standing::OnItsWay => Err(late(number)),
                Standing::Stopping => Err(AdminError::Stopping),
                _ => admin.version(&id, number),
            }
        };
        self.to_the_end(work).await
    }

    /// Says in the store whether a version is to stay out of service, and brings that into force here.
    pub(super) async fn wish(
        &self,
        actor: &Actor,
        id: &ModelId,
        number: VersionNumber,
        unloaded: bool,
    ) -> Result<(), AdminError> {
        let action = if unloaded {
            "version.unload"
        } else {
            "version.load"
        };
        let shown = |unloaded: bool| Some(json!({"unloaded": unloaded}));
        let deed = deed(action, id, number, shown(!unloaded), shown(unloaded));
        let entry = actor.did(deed, self.clock.now());
        self.store
            .set_unloaded(id, number, unloaded, &entry)
            .await?;
        self.in_force().await
    }

    /// Deletes a version: it is out of sight at once, and answers nothing when this returns.
    ///
    /// # Errors
    /// When there is none, an alias names it, its model's rollout is pinned to it or has it as its baseline, somebody else was
    /// faster, the model store cannot be written, or the database is away; nothing is deleted then.
    pub async fn delete_version(
        self: &Arc<Self>,
        actor: &Actor,
        id: &ModelId,
        number: VersionNumber,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let (admin, actor, id) = (Arc::clone(self), actor.clone(), id.clone());
        let work = async move { admin.take_version_out(&actor, &id, number, expected).await };
        self.to_the_end(work).await
    }

    async fn take_version_out(
        &self,
        actor: &Actor,
        id: &ModelId,
        number: VersionNumber,
        expected: Option<i64>,
    ) -> Result<(), AdminError> {
        let _one = self.changing.lock().await;
        // What other replicas have done by now counts.
        self.in_force().await?;
        let before = self.version_by_now(id, number).await?;
        still(expected, before.mark())?;
        let aliases: Vec<&str> = before.model.aliases_of(number).map(Alias::as_str).collect();
        if !aliases.is_empty() {
            return Err(AdminError::Conflict(format!(
                "version {number} of model {id} is needed by the alias {}: move or delete that first",
                aliases.join(", ")
            )));
        }
        if before.model.rollout.mainstay() == Some(number) {
            let mode = before.model.rollout.mode();
            return Err(AdminError::Conflict(format!(
                "version {number} of model {id} is needed by its rollout ({mode}): change that first"
            )));
        }
        let digest = before.entry().and_then(|entry| entry.digest);
        let shown = json!({"digest": digest.map(|digest| digest.to_string())});
        // Whoever holds it keeps it from ending.
        drop(before);
        let taken = self.editor.take_out(id, Some(number)).await?;
        let deed = deed("version.delete", id, number, Some(shown), None);
        let entry = actor.did(deed, self.clock.now());
        if let Err(error) = self.store.forget_version(id, number, &entry).await {
            taken.put_back().await?;
            return Err(error.into());
        }
        taken.remove().await;
        self.in_force().await?;
        self.gone(id, Some(number)).await;
        self.tell("version.deleted", &target(id, number), json!({}));
        Ok(())
    }
}

/// What it means for somebody who wanted the version live that it stands so.
pub(super) fn standing_live(
    id: &ModelId,
    number: VersionNumber,
    standing: Standing,
    mut checks: Vec<Check>,
) -> Result<(), AdminError> {
    match standing {
        Standing::Live => Ok(()),
        Standing::Failed(reason) => {
            checks.push(Check {
                name: "load",
                ok: false,
                detail: reason.clone(),
            });
            Err(AdminError::Rejected { reason, checks })
        }
        Standing::Unloaded(reason) if reason.is_empty() => Err(AdminError::Conflict(format!(
            "version {number} is not loaded: serving.versions in the model.toml of {id} does not select it"
        ))),
        Standing::Unloaded(reason) => Err(AdminError::Conflict(format!(
            "version {number} of model {id} was {reason} meanwhile"
        ))),
        Standing::Gone => Err(AdminError::NoVersion(id.clone(), number.to_string())),
        Standing::OnItsWay => Err(late(number)),
        Standing::Stopping => Err(AdminError::Stopping),
    }
}

fn late(number: VersionNumber) -> AdminError {
    let seconds = IN_SERVICE.as_secs();
    AdminError::Late(format!(
        "version {number} was not where it should be within {seconds} s"
    ))
}

pub(super) fn target(id: &ModelId, number: VersionNumber) -> String {
    format!("models/{id}/versions/{number}")
}

pub(super) fn deed(
    action: &'static str,
    id: &ModelId,
    number: VersionNumber,
    before: Option<Value>,
    after: Option<Value>,
) -> Deed {
    Deed {
        action,
        target: target(id, number),
        before,
        after,
    }
}
