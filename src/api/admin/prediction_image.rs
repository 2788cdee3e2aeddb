//! `/admin/v1/predictions/{id}/image`: a picture out of the archive.

use std::sync::Arc;

use bytes::Bytes;
use poem::http::{HeaderValue, header};
use poem::{IntoResponse, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::registry::{MetaResponse, MetaResponses, Registry};
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::AdminPlane;
use super::call::{Call, Operator};
use crate::admin::{Admin, AdminError};
use crate::api::problem::ApiError;
use crate::api::schema::{binary, media};
use crate::classify::Format;

/// Pictures of predictions.
pub(super) struct PredictionImageApi {
    admin: Arc<Admin>,
}

/// A picture's file, as it came.
struct PictureFile {
    bytes: Bytes,
    request_id: Uuid,
    index: u32,
}

impl PredictionImageApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/predictions")]
impl PredictionImageApi {
    /// A picture of a request, where it is archived. For operators: it is what a person sent, and no viewer of figures needs it
    #[oai(path = "/:id/image", method = "get")]
    async fn get(
        &self,
        _call: Call<Operator>,
        id: Path<String>,
        /// The picture's place in the request; 0 where left out.
        index: Query<Option<u32>>,
    ) -> Result<PictureFile, ApiError> {
        let request_id = id.0.parse().map_err(|_| AdminError::NoPrediction)?;
        let index = index.0.unwrap_or_default();
        let bytes = self.admin.prediction_image(request_id, index).await?;
        Ok(PictureFile {
            bytes,
            request_id,
            index,
        })
    }
}

impl IntoResponse for PictureFile {
    fn into_response(self) -> Response {
        // By its bytes, and never by what a client called it: a browser saves it and guesses nothing.
        let format = Format::sniff(&self.bytes);
        let content_type = format.map_or("application/octet-stream", Format::media_type);
        let extension = format.map_or("bin", Format::as_str);
        let name = format!(
            "attachment; filename=\"{}-{}.{extension}\"",
            self.request_id, self.index
        );
        Response::builder()
            .content_type(content_type)
            .header(header::CONTENT_DISPOSITION, name)
            .header(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            )
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .body(self.bytes)
    }
}

impl ApiResponse for PictureFile {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The picture's file, as it came",
                status: Some(200),
                status_range: None,
                content: vec![
                    media("image/*", binary()),
                    media("application/octet-stream", binary()),
                ],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}
