//! Admin tokens: made and deleted. A secret is shown once, in the answer that makes it.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::actor::Deed;
use super::keys::new_secret;
use super::{Actor, Admin, AdminError, text};
use crate::domain::operator::{AdminToken, Role};
use crate::domain::secret::{self, SecretHash, SecretKind};
use crate::domain::tenant::TokenId;
use crate::store::{Listing, Page};

/// What a new token is.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name for people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Tokens that are read at once where all are.
const ALL_AT_ONCE: u32 = 1000;

impl Admin {
    /// Makes a token; its secret is given here and never again.
    ///
    /// # Errors
    /// When a value cannot be, or the store is away.
    pub async fn create_token(
        &self,
        actor: &Actor,
        new: NewToken,
    ) -> Result<(AdminToken, String), AdminError> {
        let now = self.clock.now();
        let secret = new_secret(SecretKind::AdminToken)?;
        let token = AdminToken {
            id: TokenId(Uuid::now_v7()),
            name: text::name("name", &new.name)?,
            hash: SecretHash::of(&secret),
            hint: secret::hint(&secret),
            role: new.role,
            expires_at: new.expires_at,
            created_at: now,
            last_used_at: None,
        };
        let deed = Deed {
            action: "token.create",
            target: target(token.id),
            before: None,
            after: Some(shown(&token)),
        };
        self.store
            .create_token(&token, &actor.did(deed, now))
            .await?;
        self.in_force().await?;
        let about = json!({"name": token.name, "role": token.role.as_str()});
        self.tell("token.created", &target(token.id), about);
        Ok((token, secret))
    }

    /// The token of this id.
    ///
    /// # Errors
    /// When there is none, or the store is away.
    pub async fn token(&self, id: TokenId) -> Result<AdminToken, AdminError> {
        let found = self.store.find_token(id).await?;
        found.ok_or(AdminError::NotFound("token"))
    }

    /// A page of the tokens.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn tokens(&self, page: Page) -> Result<Listing<AdminToken>, AdminError> {
        Ok(self.store.list_tokens(page).await?)
    }

    /// Deletes a token: it opens nothing from now on. The last one that may make others stays, as nobody could get in.
    ///
    /// # Errors
    /// When there is none, it is the last of its kind, or the store is away.
    pub async fn delete_token(&self, actor: &Actor, id: TokenId) -> Result<(), AdminError> {
        let token = self.token(id).await?;
        if token.role == Role::Admin && !self.has_another_admin(id).await? {
            return Err(AdminError::Conflict(
                "this is the last token of the role admin: make another one first".to_owned(),
            ));
        }
        let deed = Deed {
            action: "token.delete",
            target: target(id),
            before: Some(shown(&token)),
            after: None,
        };
        let entry = actor.did(deed, self.clock.now());
        self.store.delete_token(id, &entry).await?;
        self.in_force().await?;
        self.tell("token.deleted", &target(id), json!({}));
        Ok(())
    }

    async fn has_another_admin(&self, than: TokenId) -> Result<bool, AdminError> {
        let now = self.clock.now();
        let mut page = Page {
            after: None,
            limit: ALL_AT_ONCE,
        };
        loop {
            let listing = self.store.list_tokens(page).await?;
            let fits = |token: &AdminToken| {
                token.id != than
                    && token.role == Role::Admin
                    && token.expires_at.is_none_or(|at| at > now)
            };
            if listing.items.iter().any(fits) {
                return Ok(true);
            }
            if listing.next.is_none() {
                return Ok(false);
            }
            page.after = listing.next;
        }
    }
}

fn target(id: TokenId) -> String {
    format!("tokens/{id}")
}

/// What the audit keeps of a token: everything but what could open something.
pub(super) fn shown(token: &AdminToken) -> Value {
    json!({
        "name": token.name,
        "role": token.role.as_str(),
        "expires_at": token.expires_at.map(|at| at.to_rfc3339()),
    })
}
