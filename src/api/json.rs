//! A JSON body: bounded, and refused by the name of the field that is wrong.

use std::marker::PhantomData;

use bytes::Bytes;
use poem::http::{HeaderValue, header};
use poem::{Body, Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::problem::{self, ApiError};
use crate::domain::error::ErrorKind;

/// Bytes of a body.
const MOST_BYTES: usize = 1 << 20;

/// Bytes that are parsed on a thread of the runtime.
const MOST_AT_ONCE: usize = 64 << 10;

/// A body that must be there. It is described as a `D`; where that is not what it is read as, `T` is [`Value`] and whoever it is
/// for reads it.
pub(in crate::api) struct JsonBody<T, D = T>(pub(in crate::api) T, PhantomData<D>);

/// A body that may be left out, and then says nothing.
pub(in crate::api) struct OptionalJson<T>(pub(in crate::api) T);

/// A body that must be there, and is read when its handler says so: after what comes before it.
pub(in crate::api) struct UnreadJson<T> {
    body: Unread,
    read_as: PhantomData<T>,
}

impl<T: DeserializeOwned + Send + 'static> UnreadJson<T> {
    /// Reads it.
    pub(in crate::api) async fn read(self) -> Result<T, ApiError> {
        let bytes = self.body.read().await?;
        if bytes.len() <= MOST_AT_ONCE {
            return parse(&bytes);
        }
        // Megabytes take milliseconds: not on the runtime's threads.
        let parsed = tokio::task::spawn_blocking(move || parse(&bytes)).await;
        parsed.map_err(|_| ApiError::new(ErrorKind::Internal, "the body was not read"))?
    }
}

/// A body that nothing was read of.
struct Unread {
    body: Body,
    content_type: Option<HeaderValue>,
}

impl Unread {
    fn of(request: &Request, body: &mut RequestBody) -> Result<Self, ApiError> {
        Ok(Self {
            body: body.take().map_err(|error| invalid(error.to_string()))?,
            content_type: request.headers().get(header::CONTENT_TYPE).cloned(),
        })
    }

    async fn read(self) -> Result<Bytes, ApiError> {
        if let Some(value) = self.content_type {
            let essence = value.to_str().unwrap_or_default();
            let essence = essence.split(';').next().unwrap_or_default().trim();
            let known = ["application/json", "application/merge-patch+json"];
            if !known
                .iter()
                .any(|known| essence.eq_ignore_ascii_case(known))
            {
                return Err(ApiError::new(
                    ErrorKind::UnsupportedMediaType,
                    "the body must be application/json",
                ));
            }
        }
        let bytes = self.body.into_bytes_limit(MOST_BYTES).await;
        bytes.map_err(|error| match error {
            poem::error::ReadBodyError::PayloadTooLarge => ApiError::new(
                ErrorKind::PayloadTooLarge,
                format!("the body has more than the {MOST_BYTES} bytes that are allowed"),
            ),
            poem::error::ReadBodyError::Io(error) => problem::broken_body(&error),
            other => invalid(other.to_string()),
        })
    }
}

fn invalid(reason: String) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, reason)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
    if !value.is_object() {
        return Err(invalid("the body must be a JSON object".to_owned()));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        invalid(if path == "." {
            inner.to_string()
        } else {
            format!("`{path}`: {inner}")
        })
    })
}

fn meta<T: Type>(required: bool) -> MetaRequest {
    MetaRequest {
        description: None,
        content: vec![MetaMediaType {
            content_type: "application/json",
            schema: T::schema_ref(),
        }],
        required,
    }
}

impl<'a, T: DeserializeOwned, D: Type> ApiExtractor<'a> for JsonBody<T, D> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        D::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(meta::<D>(true))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let bytes = Unread::of(request, body)?.read().await?;
        Ok(Self(parse(&bytes)?, PhantomData))
    }
}

impl<'a, T: Type + DeserializeOwned + Send> ApiExtractor<'a> for UnreadJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(meta::<T>(true))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self {
            body: Unread::of(request, body)?,
            read_as: PhantomData,
        })
    }
}

impl<'a, T: Type + DeserializeOwned> ApiExtractor<'a> for OptionalJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(meta::<T>(false))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let bytes = Unread::of(request, body)?.read().await?;
        let is_empty = bytes.trim_ascii().is_empty();
        Ok(Self(parse(if is_empty { b"{}" } else { &bytes })?))
    }
}
