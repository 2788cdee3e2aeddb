//! `/admin/v1/tokens`.

use std::sync::Arc;

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::AdminPlane;
use super::call::{Administrator, Call, Viewer};
use super::wire::{Deleted, given_time, id_in_path, invalid, page, time};
use crate::admin::{Admin, NewToken};
use crate::api::json::JsonBody;
use crate::api::problem::ApiError;
use crate::domain::operator::{AdminToken, Role};

/// Admin tokens.
pub(super) struct TokensApi {
    admin: Arc<Admin>,
}

/// A new token.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
struct NewTokenRequest {
    /// Its name for people, 1 to 200 characters.
    name: String,
    /// `viewer`, `operator` or `admin`.
    role: String,
    /// When it ends, RFC 3339; never, where left out.
    expires_at: Option<String>,
}

/// A token without its secret.
#[derive(Object)]
struct TokenView {
    /// Its id.
    id: String,
    /// Its name for people.
    name: String,
    /// `viewer`, `operator` or `admin`.
    role: String,
    /// The first characters of the secret; empty for a short one of the settings.
    hint: String,
    /// When it ends.
    expires_at: Option<String>,
    /// When it was made.
    created_at: String,
    /// When it last opened something, to within seconds.
    last_used_at: Option<String>,
}

/// A token with its secret, which is shown this once.
#[derive(Object)]
struct NewTokenView {
    #[oai(flatten)]
    view: TokenView,
    /// The secret. It cannot be shown again.
    token: String,
}

/// A page of tokens.
#[derive(Object)]
struct TokensView {
    /// In the order they were made.
    items: Vec<TokenView>,
    /// The `after` of the next page, `null` on the last.
    next: Option<String>,
}

#[derive(ApiResponse)]
enum Made {
    /// Made
    #[oai(status = 201)]
    Token(Json<NewTokenView>),
}

impl TokensApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/tokens")]
impl TokensApi {
    /// All admin tokens, without their secrets
    #[oai(path = "/", method = "get")]
    async fn list(
        &self,
        _call: Call<Viewer>,
        /// Items of a page, 1 to 1000; 100 where left out.
        limit: Query<Option<u32>>,
        /// The `next` of the page before.
        after: Query<Option<String>>,
    ) -> Result<Json<TokensView>, ApiError> {
        let page = page(limit.0, after.0.as_deref())?;
        let listing = self.admin.tokens(page).await?;
        Ok(Json(TokensView {
            items: listing.items.iter().map(TokenView::of).collect(),
            next: listing.next.map(|next| next.to_string()),
        }))
    }

    /// Make an admin token; its secret is in the answer and nowhere else
    #[oai(path = "/", method = "post")]
    async fn create(
        &self,
        call: Call<Administrator>,
        body: JsonBody<NewTokenRequest>,
    ) -> Result<Made, ApiError> {
        let NewTokenRequest {
            name,
            role,
            expires_at,
        } = body.0;
        let role: Role = role
            .parse()
            .map_err(|error| invalid(format!("`role` is {role:?}; {error}")))?;
        let expires_at = expires_at.map(|text| given_time("expires_at", &text));
        let new = NewToken {
            name,
            role,
            expires_at: expires_at.transpose()?,
        };
        let (token, secret) = self.admin.create_token(&call.actor, new).await?;
        Ok(Made::Token(Json(NewTokenView {
            view: TokenView::of(&token),
            token: secret,
        })))
    }

    /// One admin token, without its secret
    #[oai(path = "/:id", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        id: Path<String>,
    ) -> Result<Json<TokenView>, ApiError> {
        let token = self.admin.token(id_in_path(&id, "token")?).await?;
        Ok(Json(TokenView::of(&token)))
    }

    /// Delete an admin token
    #[oai(path = "/:id", method = "delete")]
    async fn delete(
        &self,
        call: Call<Administrator>,
        id: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let id = id_in_path(&id, "token")?;
        self.admin.delete_token(&call.actor, id).await?;
        Ok(Deleted::Gone)
    }
}

impl TokenView {
    fn of(token: &AdminToken) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name.clone(),
            role: token.role.as_str().to_owned(),
            hint: token.hint.clone(),
            expires_at: token.expires_at.map(time),
            created_at: time(token.created_at),
            last_used_at: token.last_used_at.map(time),
        }
    }
}
