//! A request's body: its form told by the content type, read piece by piece, counted before it is kept.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use poem::http::{HeaderMap, header};
use poem::{Body, Request, RequestBody};
use poem_openapi::registry::{MetaRequest, MetaSchema, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::api::problem::{self, ApiError};
use crate::api::schema::{array_of, binary, media, object};
use crate::classify::{InflightBudget, Reservation};
use crate::domain::error::ErrorKind;

/// The form in which pictures arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `multipart/form-data` with this boundary.
    Multipart(String),
    /// The picture itself.
    Raw,
    /// JSON with base64 inside.
    Json,
}

/// What surrounds the pictures in a multipart or JSON body may take this much.
const OVERHEAD: u64 = 64 << 10;

/// A body that has not been read yet. `BATCH` only changes how it is documented.
pub(super) struct PictureBody<const BATCH: bool> {
    body: Body,
    headers: HeaderMap,
}

/// How much of a body is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Bytes of one picture.
    pub(super) image: u64,
    /// Pictures.
    pub(super) images: u64,
    /// Whether several are meant to come.
    batch: bool,
}

impl BodyLimits {
    /// One picture of so many bytes.
    pub(super) fn one(image: u64) -> Self {
        Self {
            image,
            images: 1,
            batch: false,
        }
    }

    /// Several pictures of so many bytes each.
    pub(super) fn batch(image: u64, images: usize) -> Self {
        Self {
            image,
            images: u64::try_from(images).unwrap_or(u64::MAX),
            batch: true,
        }
    }

    /// More pictures than one request may bring.
    pub(super) fn too_many(self) -> ApiError {
        if !self.batch {
            return ApiError::new(
                ErrorKind::BadRequest,
                "the request holds several pictures; batch-classify takes several",
            );
        }
        ApiError::new(
            ErrorKind::BatchTooLarge,
            format!(
                "the request holds more than the {} pictures that are allowed",
                self.images
            ),
        )
    }

    /// Bytes of the whole body in `form`, never more than the budget that all requests share.
    fn whole(self, form: &Form, budget: u64) -> u64 {
        let pictures = self.image.saturating_mul(self.images);
        let bytes = match form {
            Form::Raw => self.image,
            Form::Multipart(_) => pictures.saturating_add(OVERHEAD),
            Form::Json => (pictures / 3)
                .saturating_add(1)
                .saturating_mul(4)
                .saturating_add(OVERHEAD),
        };
        bytes.min(budget)
    }
}

impl<const BATCH: bool> PictureBody<BATCH> {
    /// The form, by the content type; `Content-Length` is checked against it here, before a byte is read.
    pub(super) fn open(
        self,
        limits: BodyLimits,
        budget: &InflightBudget,
    ) -> Result<(Form, CountedBody), ApiError> {
        let form = form_of(&self.headers)?;
        let limit = limits.whole(&form, budget.limit());
        let announced = match self.headers.get(header::CONTENT_LENGTH) {
            None => None,
            Some(value) => value
                .to_str()
                .ok()
                .and_then(|text| text.parse::<u64>().ok()),
        };
        if let Some(length) = announced.filter(|&length| length > limit) {
            return Err(too_large(length, limit));
        }
        let reservation = Arc::new(budget.reserve(0)?);
        Ok((
            form,
            CountedBody {
                body: self.body,
                announced,
                limit,
                reservation,
            },
        ))
    }
}

fn too_large(length: u64, limit: u64) -> ApiError {
    ApiError::new(
        ErrorKind::PayloadTooLarge,
        format!("the body has {length} bytes; allowed are {limit}"),
    )
}

/// A body that is counted while it is read; what was read is held against the budget.
pub(super) struct CountedBody {
    body: Body,
    announced: Option<u64>,
    limit: u64,
    reservation: Arc<Reservation>,
}

impl CountedBody {
    /// What the body holds of the budget; grows while it is read.
    pub(super) fn reservation(&self) -> Arc<Reservation> {
        Arc::clone(&self.reservation)
    }

    /// The body in pieces, each counted before it is handed on.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static {
        let Self {
            body,
            limit,
            reservation,
            ..
        } = self;
        body.into_bytes_stream().map(move |piece| {
            let piece = piece.map_err(|error| problem::broken_body(&error))?;
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if reservation.bytes().saturating_add(length) > limit {
                return Err(ApiError::new(
                    ErrorKind::PayloadTooLarge,
                    format!("the body has more than the {limit} bytes that are allowed"),
                ));
            }
            reservation.grow(length)?;
            Ok(piece)
        })
    }

    /// The whole body.
    pub(super) async fn read(self) -> Result<Bytes, ApiError> {
        // An announced length is only address space until bytes come: they alone are counted.
        let room = self
            .announced
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(0);
        let mut read = BytesMut::with_capacity(room);
        let mut pieces = std::pin::pin!(self.pieces());
        while let Some(piece) = pieces.next().await {
            read.extend_from_slice(&piece?);
        }
        Ok(read.freeze())
    }
}

/// A picture as it came out of a body, or why it was refused there.
pub(super) struct Received {
    pub(super) filename: Option<String>,
    pub(super) bytes: Result<Bytes, ApiError>,
}

/// A request without a picture.
pub(super) fn missing() -> ApiError {
    ApiError::new(ErrorKind::MissingImage, "the request holds no picture")
}

/// A picture of no byte is no picture.
pub(super) fn not_empty(bytes: Bytes) -> Result<Bytes, ApiError> {
    if bytes.is_empty() {
        Err(missing())
    } else {
        Ok(bytes)
    }
}

fn form_of(headers: &HeaderMap) -> Result<Form, ApiError> {
    let unsupported = |what: &str| {
        ApiError::new(
            ErrorKind::UnsupportedMediaType,
            format!(
                "the body is {what}; taken are multipart/form-data, image/*, \
                 application/octet-stream and application/json"
            ),
        )
    };
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        // Without a type it can only be the picture itself; its bytes tell the format.
        return Ok(Form::Raw);
    };
    let value = value
        .to_str()
        .map_err(|_| unsupported("of an unreadable type"))?;
    let essence = value
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => multer::parse_boundary(value)
            .map(Form::Multipart)
            .map_err(|_| {
                ApiError::new(
                    ErrorKind::BadRequest,
                    "the multipart content type has no boundary",
                )
            }),
        "application/json" => Ok(Form::Json),
        "application/octet-stream" => Ok(Form::Raw),
        image if image.starts_with("image/") => Ok(Form::Raw),
        other => Err(unsupported(other)),
    }
}

impl<'a, const BATCH: bool> ApiExtractor<'a> for PictureBody<BATCH> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(_: &mut Registry) {}

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: Some(if BATCH {
                "Several pictures: multipart with `files` repeated, or JSON with base64. One picture may also be the body itself."
            } else {
                "One picture: multipart with `file`, the file itself, or JSON with base64."
            }),
            content: vec![
                media("multipart/form-data", form_schema(BATCH)),
                media("image/*", binary()),
                media("application/octet-stream", binary()),
                media("application/json", json_schema(BATCH)),
            ],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self {
            body: body.take()?,
            headers: request.headers().clone(),
        })
    }
}

fn form_schema(batch: bool) -> MetaSchema {
    if batch {
        object("files", vec![("files", array_of(binary()))])
    } else {
        object("file", vec![("file", binary())])
    }
}

fn json_schema(batch: bool) -> MetaSchema {
    let base64 = MetaSchema::new_with_format("string", "byte");
    let (name, pictures) = if batch {
        ("images", array_of(base64))
    } else {
        ("image", base64)
    };
    object(
        name,
        vec![
            (name, pictures),
            ("top_k", MetaSchema::new_with_format("integer", "uint32")),
            (
                "min_confidence",
                MetaSchema::new_with_format("number", "float"),
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(content_type: &str) -> Result<Form, ErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().expect("a value"));
        form_of(&headers).map_err(|error| error.kind())
    }

    #[test]
    fn the_form_is_told_by_the_type_in_any_case_and_with_parameters() {
        assert_eq!(form("IMAGE/JPEG"), Ok(Form::Raw));
        assert_eq!(form("image/jpeg; q=1"), Ok(Form::Raw));
        assert_eq!(form("Application/JSON; charset=utf-8"), Ok(Form::Json));
        assert_eq!(
            form("multipart/form-data; boundary=x"),
            Ok(Form::Multipart("x".to_owned()))
        );
        assert_eq!(form("multipart/form-data"), Err(ErrorKind::BadRequest));
        assert_eq!(form("text/plain"), Err(ErrorKind::UnsupportedMediaType));
        assert_eq!(form_of(&HeaderMap::new()).ok(), Some(Form::Raw));
    }

    #[test]
    fn the_whole_body_is_bounded_in_every_form() {
        let one = BodyLimits::one(3000);
        assert_eq!(one.whole(&Form::Raw, u64::MAX), 3000);
        assert_eq!(one.whole(&Form::Json, u64::MAX), 4004 + OVERHEAD);
        let many = BodyLimits::batch(u64::MAX, 32);
        assert_eq!(many.whole(&Form::Multipart(String::new()), 1000), 1000);
    }
}
