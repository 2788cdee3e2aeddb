//! Aliases: movable names of versions, in force at once here and within a second elsewhere.

use std::ops::Bound;

use serde_json::json;

use super::actor::Deed;
use super::{Actor, Admin, AdminError, models};
use crate::domain::ids::{Alias, ModelId, VersionNumber};

/// The most aliases of a model.
const MOST: usize = 100;

impl Admin {
    /// The aliases of a model after `after`, in their order, `limit` at most; and whether there are more.
    ///
    /// # Errors
    /// When there is no such model, or the models have not been read yet.
    pub fn aliases(
        &self,
        id: &ModelId,
        after: Option<&Alias>,
        limit: usize,
    ) -> Result<(Vec<(Alias, VersionNumber)>, bool), AdminError> {
        let model = self.model(id)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = model.aliases.range::<Alias, _>((from, Bound::Unbounded));
        let page = rest.by_ref().take(limit);
        let page = page
            .map(|(alias, version)| (alias.clone(), *version))
            .collect();
        Ok((page, rest.next().is_some()))
    }

    /// Lets an alias name a version; gives the one that it named before.
    ///
    /// # Errors
    /// When there is no such model or version, the model has too many aliases, or the database is away.
    pub async fn put_alias(
        &self,
        actor: &Actor,
        id: &ModelId,
        alias: &Alias,
        number: VersionNumber,
    ) -> Result<Option<VersionNumber>, AdminError> {
        // No version goes away while it is given a name.
        let _one = self.changing.lock().await;
        self.in_force().await?;
        let version = self.version_by_now(id, number).await?;
        let aliases = &version.model.aliases;
        let before = aliases.get(alias).copied();
        if before.is_none() && aliases.len() >= MOST {
            return Err(AdminError::Conflict(format!(
                "model {id} has {MOST} aliases already, which is the most"
            )));
        }
        let deed = deed("alias.put", id, alias, before, Some(number));
        let entry = actor.did(deed, self.clock.now());
        let before = self
            .store
            .put_alias(id, alias.as_str(), number, &entry)
            .await?;
        self.in_force().await?;
        let about = json!({"version": number.get(), "before": before.map(VersionNumber::get)});
        self.tell("alias.moved", &target(id, alias), about);
        Ok(before)
    }

    /// Deletes an alias.
    ///
    /// # Errors
    /// When there is no such model or alias, or the database is away.
    pub async fn delete_alias(
        &self,
        actor: &Actor,
        id: &ModelId,
        alias: &Alias,
    ) -> Result<(), AdminError> {
        let before = self.model_by_now(id).await?.aliases.get(alias).copied();
        let entry = actor.did(
            deed("alias.delete", id, alias, before, None),
            self.clock.now(),
        );
        self.store.delete_alias(id, alias.as_str(), &entry).await?;
        self.in_force().await?;
        self.tell("alias.deleted", &target(id, alias), json!({}));
        Ok(())
    }
}

fn target(id: &ModelId, alias: &Alias) -> String {
    format!("{}/aliases/{alias}", models::target(id))
}

fn deed(
    action: &'static str,
    id: &ModelId,
    alias: &Alias,
    before: Option<VersionNumber>,
    after: Option<VersionNumber>,
) -> Deed {
    let shown = |version: VersionNumber| json!({"version": version.get()});
    Deed {
        action,
        target: target(id, alias),
        before: before.map(shown),
        after: after.map(shown),
    }
}
