//! Rollouts: how a model's traffic is shared, in force at once here and within a second elsewhere.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::actor::Deed;
use super::models::mark;
use super::{Actor, Admin, AdminError, models, still};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::rollout::{Fresh, Rollout};
use crate::models::{Happening, ModelEvent, VersionState};
use crate::store::RolloutChange;

impl Admin {
    /// How a model's traffic is shared.
    ///
    /// # Errors
    /// When there is no such model, or the models have not been read yet.
    pub fn rollout(&self, id: &ModelId) -> Result<Rollout, AdminError> {
        Ok(self.model(id)?.rollout.clone())
    }

    /// Shares a model's traffic as `wanted` says, which is read as [`Rollout::wanted`] does; gives what is in force then.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] by the field's name where it is no rollout or names a version that is not live; when there is
    /// no such model, it is not the one that the caller has read, or the database is away. Nothing changes then.
    pub async fn put_rollout(
        &self,
        actor: &Actor,
        id: &ModelId,
        wanted: &Value,
        expected: Option<i64>,
    ) -> Result<Rollout, AdminError> {
        // No version goes away while it is given traffic.
        let _one = self.changing.lock().await;
        self.in_force().await?;
        let before = self.model_by_now(id).await?.rollout.clone();
        still(expected, mark_of_rollout(&before))?;
        let fresh = Fresh {
            id: Uuid::now_v7(),
            now: self.clock.now(),
        };
        let rollout = Rollout::wanted(wanted, &before, fresh);
        let rollout = rollout.map_err(|error| AdminError::Invalid(error.to_string()))?;
        for (field, version) in rollout.named() {
            self.check_live(id, &field, version).await?;
        }
        let deed = Deed {
            action: "rollout.put",
            target: target(id),
            before: Some(shown(&before)),
            after: Some(shown(&rollout)),
        };
        let change = RolloutChange {
            before: &before,
            after: &rollout,
            aliases: &[],
        };
        let entry = actor.did(deed, fresh.now);
        self.store.put_rollout(id, &change, &entry).await?;
        self.in_force().await?;
        self.tell("rollout.changed", &target(id), shown(&rollout));
        // As it is read from now on, to the last bit of a weight.
        self.rollout(id)
    }

    /// Refuses a version that could not answer.
    pub(super) async fn check_live(
        &self,
        id: &ModelId,
        field: &str,
        version: VersionNumber,
    ) -> Result<(), AdminError> {
        let invalid = |reason: String| AdminError::Invalid(format!("`{field}`: {reason}"));
        let at = match self.version_by_now(id, version).await {
            Err(AdminError::NoVersion(..)) => {
                return Err(invalid(format!("model {id} has no version {version}")));
            }
            at => at?,
        };
        match at.entry() {
            Some(entry) if entry.loaded.is_some() => Ok(()),
            entry => {
                let state = entry.map_or("gone", |entry| entry.state.as_str());
                Err(invalid(format!(
                    "version {version} of model {id} is {state}; a version must be live to get traffic"
                )))
            }
        }
    }

    /// Tells operators of an arm that serves no more, and whose traffic goes elsewhere.
    pub(super) fn tell_of_arm(&self, event: &ModelEvent) {
        let is_out = matches!(
            event.what,
            Happening::Gone
                | Happening::Is(
                    VersionState::Failed | VersionState::Unloaded | VersionState::Draining
                )
        );
        let catalog = self.manager.catalog().load();
        let Some(model) = catalog.models.get(&event.model).filter(|_| is_out) else {
            return;
        };
        let is_arm = model
            .rollout
            .arms()
            .any(|arm| arm.version == event.version && arm.weight > 0.0);
        // A replacement that failed leaves what serves.
        let serves = model.live().any(|live| live.number == event.version);
        if is_arm && !serves {
            let baseline = model.rollout.mainstay().map(VersionNumber::get);
            let about = json!({
                "version": event.version.get(),
                "state": event.what.as_str(),
                "reason": event.reason,
                "baseline": baseline,
            });
            self.tell("rollout.arm_lost", &target(&event.model), about);
        }
    }
}

/// What a rollout is told apart by, as `ETag` does.
#[must_use]
pub fn mark_of_rollout(rollout: &Rollout) -> i64 {
    let mut hasher = Sha256::new();
    hasher.update(format!("{rollout:?}"));
    mark(hasher)
}

pub(super) fn target(id: &ModelId) -> String {
    format!("{}/rollout", models::target(id))
}

/// There is nothing in it that JSON could not say.
pub(super) fn shown(rollout: &Rollout) -> Value {
    serde_json::to_value(rollout).unwrap_or_default()
}
