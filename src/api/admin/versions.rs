//! `/admin/v1/models/{model}/versions/{version}`.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi, Union};

use super::AdminPlane;
use super::call::{Call, Operator, Viewer};
use super::models::{given_model, model_in_path};
use super::upload::UploadBody;
use super::wire::{Deleted, etag, if_match, invalid};
use crate::admin::{Admin, AdminError, Uploaded, VersionAt};
use crate::api::data::VersionView;
use crate::api::problem::{ApiError, CheckView};
use crate::domain::ids::{Digest, InvalidDigest, InvalidVersion, ModelId, VersionNumber};

/// Versions.
pub(super) struct VersionsApi {
    admin: Arc<Admin>,
    max_model_bytes: u64,
}

/// What was uploaded.
#[derive(Object)]
struct UploadedView {
    #[oai(flatten)]
    version: VersionView,
    /// Every check that was made.
    checks: Vec<CheckView>,
}

/// What a dry run found.
#[derive(Object)]
struct TriedView {
    /// Whether the upload would be taken.
    ok: bool,
    /// Every check that was made.
    checks: Vec<CheckView>,
}

/// The version, or what a dry run found.
#[derive(Union)]
enum SameOrTried {
    Same(Box<VersionView>),
    Tried(TriedView),
}

#[derive(ApiResponse)]
enum UploadResponse {
    /// The same fingerprint was there already, and is live; or, of a dry run, what it found
    #[oai(status = 200)]
    Is(Json<SameOrTried>, #[oai(header = "ETag")] Option<String>),
    /// New, and live
    #[oai(status = 201)]
    New(
        Json<Box<UploadedView>>,
        #[oai(header = "ETag")] String,
        #[oai(header = "Location")] String,
    ),
}

#[derive(ApiResponse)]
enum VersionResponse {
    /// The version
    #[oai(status = 200)]
    Is(Json<VersionView>, #[oai(header = "ETag")] String),
}

impl VersionsApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
            max_model_bytes: plane.data.limits.load().max_model_bytes,
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/models")]
impl VersionsApi {
    /// Upload a version: it is checked, put in place at once and as a whole, and live when this answers
    #[oai(path = "/:model/versions/:version", method = "put")]
    async fn upload(
        &self,
        call: Call<Operator>,
        /// A model that was made before.
        model: Path<String>,
        /// A number that is free, or taken by the very same version.
        version: Path<String>,
        /// `true`: every check is made, nothing is kept, and the answer says what was found.
        dry_run: Query<Option<bool>>,
        /// The SHA-256 of the ONNX file, with or without `sha256:`; any other file is refused.
        sha256: Query<Option<String>>,
        body: UploadBody,
    ) -> Result<UploadResponse, ApiError> {
        let id = given_model(&model)?;
        let number = version.parse().map_err(|error: InvalidVersion| {
            invalid(format!("the version is {:?}; {error}", version.0))
        })?;
        let digest = sha256.0.map(|text| {
            let read = text.trim().to_ascii_lowercase().parse::<Digest>();
            read.map_err(|error: InvalidDigest| invalid(format!("`sha256` is {text:?}; {error}")))
        });
        let form = body.form(self.max_model_bytes)?;
        let dry_run = dry_run.0.unwrap_or(false);
        let begun = self
            .admin
            .begin_upload(&id, number, digest.transpose()?, dry_run);
        let mut incoming = begun.await?;
        if let Err(error) = body.pour(form, &mut incoming).await {
            incoming.discard().await;
            return Err(error);
        }
        let uploaded = self.admin.finish_upload(&call.actor, incoming).await?;
        Ok(match uploaded {
            Uploaded::New(at, checks) => {
                let view = UploadedView {
                    version: view(&at)?,
                    checks: CheckView::all(&checks),
                };
                let location = format!("/admin/v1/models/{id}/versions/{number}");
                UploadResponse::New(Json(Box::new(view)), etag(at.mark()), location)
            }
            Uploaded::Same(at) => {
                let same = SameOrTried::Same(Box::new(view(&at)?));
                UploadResponse::Is(Json(same), Some(etag(at.mark())))
            }
            Uploaded::Tried(ok, checks) => {
                let checks = CheckView::all(&checks);
                let tried = SameOrTried::Tried(TriedView { ok, checks });
                UploadResponse::Is(Json(tried), None)
            }
        })
    }

    /// One version
    #[oai(path = "/:model/versions/:version", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        model: Path<String>,
        version: Path<String>,
    ) -> Result<VersionResponse, ApiError> {
        let (id, number) = version_in_path(&model, &version)?;
        is(&self.admin.version(&id, number)?)
    }

    /// Delete a version; refused while an alias names it (`If-Match` where given)
    #[oai(path = "/:model/versions/:version", method = "delete")]
    async fn delete(
        &self,
        request: &Request,
        call: Call<Operator>,
        model: Path<String>,
        version: Path<String>,
    ) -> Result<Deleted, ApiError> {
        let (id, number) = version_in_path(&model, &version)?;
        let expected = if_match(request)?;
        let deleted = self
            .admin
            .delete_version(&call.actor, &id, number, expected);
        deleted.await?;
        Ok(Deleted::Gone)
    }

    /// Put a version into service; it is live when this answers
    #[oai(path = "/:model/versions/:version/load", method = "post")]
    async fn load(
        &self,
        call: Call<Operator>,
        model: Path<String>,
        version: Path<String>,
    ) -> Result<VersionResponse, ApiError> {
        let (id, number) = version_in_path(&model, &version)?;
        is(&self.admin.load_version(&call.actor, &id, number).await?)
    }

    /// Take a version out of service, on all replicas and across restarts; its files stay
    #[oai(path = "/:model/versions/:version/unload", method = "post")]
    async fn unload(
        &self,
        call: Call<Operator>,
        model: Path<String>,
        version: Path<String>,
    ) -> Result<VersionResponse, ApiError> {
        let (id, number) = version_in_path(&model, &version)?;
        is(&self.admin.unload_version(&call.actor, &id, number).await?)
    }
}

/// A version in a path: what is none names none.
fn version_in_path(model: &str, version: &str) -> Result<(ModelId, VersionNumber), ApiError> {
    let id = model_in_path(model)?;
    match version.parse() {
        Ok(number) => Ok((id, number)),
        Err(_) => Err(AdminError::NoVersion(id, version.to_owned()).into()),
    }
}

fn view(at: &VersionAt) -> Result<VersionView, ApiError> {
    let entry = at
        .entry()
        .ok_or_else(|| AdminError::NoVersion(at.model.id.clone(), at.number.to_string()))?;
    Ok(VersionView::of(&at.model, at.number, entry))
}

fn is(at: &VersionAt) -> Result<VersionResponse, ApiError> {
    Ok(VersionResponse::Is(Json(view(at)?), etag(at.mark())))
}
