//! Pictures as base64 inside a JSON body.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserialize;

use super::body::{BodyLimits, Received, not_empty};
use crate::api::problem::ApiError;
use crate::classify::Options;
use crate::domain::error::ErrorKind;

/// The JSON form of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `image` or `images`")]
struct JsonPictures {
    image: Option<String>,
    images: Option<Vec<String>>,
    top_k: Option<usize>,
    min_confidence: Option<f32>,
}

/// The pictures of a JSON body, and the options beside them. Takes milliseconds for megabytes.
pub(super) fn read(text: &[u8], limits: BodyLimits) -> Result<(Vec<Received>, Options), ApiError> {
    let parsed: JsonPictures = serde_json::from_slice(text).map_err(|error| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the JSON body is malformed: {error}"),
        )
    })?;
    let encoded = match (parsed.image, parsed.images) {
        (Some(image), None) => vec![image],
        (None, Some(images)) => images,
        (None, None) => vec![],
        (Some(_), Some(_)) => {
            let detail = "the JSON body has both `image` and `images`";
            return Err(ApiError::new(ErrorKind::BadRequest, detail));
        }
    };
    if encoded.is_empty() {
        let detail = "the JSON body has no `image` (or, for a batch, `images`)";
        return Err(ApiError::new(ErrorKind::MissingImage, detail));
    }
    if u64::try_from(encoded.len()).unwrap_or(u64::MAX) > limits.images {
        return Err(limits.too_many());
    }
    let pictures = encoded
        .iter()
        .map(|text| Received {
            filename: None,
            bytes: from_base64(text, limits.image).and_then(not_empty),
        })
        .collect();
    let options = Options {
        top_k: parsed.top_k,
        min_confidence: parsed.min_confidence,
    };
    Ok((pictures, options))
}

/// Base64, padded or not; a `data:` URL is taken too, as browsers make them.
fn from_base64(text: &str, limit: u64) -> Result<Bytes, ApiError> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = match text
        .strip_prefix("data:")
        .and_then(|url| url.split_once(";base64,"))
    {
        Some((_, encoded)) => encoded,
        None => text,
    };
    let decoded = ENGINE.decode(text).map_err(|error| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the picture is no base64: {error}"),
        )
    })?;
    let length = u64::try_from(decoded.len()).unwrap_or(u64::MAX);
    if length > limit {
        return Err(ApiError::new(
            ErrorKind::PayloadTooLarge,
            format!("the picture has {length} bytes; allowed are {limit}"),
        ));
    }
    Ok(decoded.into())
}
