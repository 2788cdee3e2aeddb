//! The body of an upload: the ONNX file itself, or a form with the model and what belongs to it. Taken piece by piece, as it
//! streams.

use futures_util::StreamExt as _;
use multer::Multipart;
use poem::http::{HeaderMap, header};
use poem::{Body, Request, RequestBody};
use poem_openapi::registry::{MetaRequest, MetaSchema, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::wire::invalid;
use crate::admin::Incoming;
use crate::api::data::multipart_refusal;
use crate::api::problem::{self, ApiError};
use crate::api::schema::{array_of, binary, media, object};
use crate::domain::error::ErrorKind;

/// A body that has not been read yet.
pub(super) struct UploadBody {
    body: Body,
    headers: HeaderMap,
}

/// The form in which a version arrives.
pub(super) enum Form {
    /// `multipart/form-data` with this boundary.
    Multipart(String),
    /// The model file itself.
    Raw,
}

/// What surrounds the files in a form may take this much.
const OVERHEAD: u64 = 1 << 20;

/// Content types of a body that is the model file; the third is what curl says where it is told nothing.
const RAW: [&str; 6] = [
    "application/octet-stream",
    "application/onnx",
    "application/x-www-form-urlencoded",
    "application/x-onnx",
    "application/protobuf",
    "application/x-protobuf",
];

impl UploadBody {
    /// The form, by the content type; `Content-Length` is checked here, before a byte is read.
    pub(super) fn form(&self, most: u64) -> Result<Form, ApiError> {
        let form = form_of(&self.headers)?;
        let limit = match form {
            Form::Raw => most,
            Form::Multipart(_) => most.saturating_add(OVERHEAD),
        };
        let announced = self.headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match announced.filter(|&length| length > limit) {
            Some(length) => Err(ApiError::new(
                ErrorKind::PayloadTooLarge,
                format!(
                    "the body has {length} bytes; allowed are {limit} (limits.max_model_bytes)"
                ),
            )),
            None => Ok(form),
        }
    }

    /// Pours the body into the upload.
    pub(super) async fn pour(self, form: Form, incoming: &mut Incoming) -> Result<(), ApiError> {
        match form {
            Form::Raw => raw(self.body, incoming).await,
            Form::Multipart(boundary) => multipart(self.body, &boundary, incoming).await,
        }
    }
}

async fn raw(body: Body, incoming: &mut Incoming) -> Result<(), ApiError> {
    let mut pieces = body.into_bytes_stream();
    let (mut model, mut is_empty) = (incoming.model().await?, true);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| problem::broken_body(&error))?;
        is_empty &= piece.is_empty();
        model.write(&piece).await?;
    }
    if is_empty {
        return Err(invalid("the body is empty; it must be an ONNX file"));
    }
    Ok(model.end().await?)
}

async fn multipart(body: Body, boundary: &str, incoming: &mut Incoming) -> Result<(), ApiError> {
    let pieces = body.into_bytes_stream();
    let pieces = pieces.map(|piece| piece.map_err(|error| problem::broken_body(&error)));
    let mut multipart = Multipart::new(pieces, boundary);
    while let Some(mut field) = multipart.next_field().await.map_err(multipart_refusal)? {
        let name = field.name().unwrap_or_default().to_owned();
        let mut part = match name.as_str() {
            "model" => incoming.model().await?,
            "manifest" => incoming.manifest().await?,
            "labels" => incoming.labels().await?,
            "file" => {
                let file = field.file_name().map(str::to_owned);
                let no_name =
                    || invalid("a `file` must have a file name, relative to the version's folder");
                incoming.file(&file.ok_or_else(no_name)?).await?
            }
            other => {
                return Err(invalid(format!(
                    "the form has a field {other:?}; known are `model`, `manifest`, `labels` and `file`"
                )));
            }
        };
        while let Some(piece) = field.chunk().await.map_err(multipart_refusal)? {
            part.write(&piece).await?;
        }
        part.end().await?;
    }
    Ok(())
}

fn form_of(headers: &HeaderMap) -> Result<Form, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        // Without a type it can only be the model itself.
        return Ok(Form::Raw);
    };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence == "multipart/form-data" {
        let boundary = multer::parse_boundary(value).map(Form::Multipart);
        return boundary.map_err(|_| invalid("the multipart content type has no boundary"));
    }
    if RAW.contains(&essence.as_str()) {
        return Ok(Form::Raw);
    }
    Err(ApiError::new(
        ErrorKind::UnsupportedMediaType,
        format!(
            "the body is {essence:?}; taken are application/octet-stream and multipart/form-data"
        ),
    ))
}

impl<'a> ApiExtractor<'a> for UploadBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(_: &mut Registry) {}

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: Some(
                "The ONNX file itself, which the model's own `model.toml` and `labels.txt` then describe; or a form: `model`, \
                 and where wanted `manifest` (the version's own `model.toml`), `labels` (its own `labels.txt`) and `file`, \
                 repeated, for golden pictures and external data, each with its name relative to the version's folder.",
            ),
            content: vec![
                media("application/octet-stream", binary()),
                media("multipart/form-data", form_schema()),
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

fn form_schema() -> MetaSchema {
    let fields = [
        ("model", binary()),
        ("manifest", binary()),
        ("labels", binary()),
        ("file", array_of(binary())),
    ];
    object("model", fields.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(content_type: &str) -> Result<&'static str, ErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().expect("a value"));
        match form_of(&headers) {
            Ok(Form::Raw) => Ok("raw"),
            Ok(Form::Multipart(_)) => Ok("multipart"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn the_form_is_told_by_the_type() {
        assert_eq!(form("application/octet-stream"), Ok("raw"));
        assert_eq!(form("Application/ONNX; x=y"), Ok("raw"));
        assert_eq!(form("multipart/form-data; boundary=x"), Ok("multipart"));
        assert_eq!(form("multipart/form-data"), Err(ErrorKind::BadRequest));
        assert_eq!(
            form("application/json"),
            Err(ErrorKind::UnsupportedMediaType)
        );
        assert!(matches!(form_of(&HeaderMap::new()), Ok(Form::Raw)));
    }
}
