//! Pictures out of a multipart body, part by part as it streams.

use bytes::BytesMut;
use multer::{Field, Multipart};

use super::body::{BodyLimits, CountedBody, Received};
use crate::api::problem::ApiError;
use crate::domain::error::ErrorKind;

/// Bytes of the longest name of a file: it goes into answers and callbacks.
const LONGEST_NAME: usize = 1024;

/// Fields that are named where none is a picture, and how much of each name.
const MOST_NAMED: usize = 10;
const LONGEST_SHOWN: usize = 100;

/// The pictures of a multipart body, in order. A part over `limits.image` is kept as its error.
pub(super) async fn read(
    body: CountedBody,
    boundary: &str,
    fields: &[&str],
    limits: BodyLimits,
) -> Result<Vec<Received>, ApiError> {
    let mut multipart = Multipart::new(body.pieces(), boundary);
    let mut pictures = Vec::new();
    let mut others: Vec<String> = Vec::new();
    while let Some(mut field) = multipart.next_field().await.map_err(refusal)? {
        let name = field.name().unwrap_or_default().to_owned();
        if !fields.contains(&name.as_str()) {
            // Read to its end, so that the next part is found; nothing of it is kept.
            while field.chunk().await.map_err(refusal)?.is_some() {}
            if others.len() < MOST_NAMED {
                others.push(name.chars().take(LONGEST_SHOWN).collect());
            }
            continue;
        }
        if u64::try_from(pictures.len()).unwrap_or(u64::MAX) >= limits.images {
            return Err(limits.too_many());
        }
        let filename = field.file_name().map(str::to_owned);
        if let Some(length) = filename.as_ref().map(String::len)
            && length > LONGEST_NAME
        {
            return Err(ApiError::new(
                ErrorKind::BadRequest,
                format!("a file's name has {length} bytes; allowed are {LONGEST_NAME}"),
            ));
        }
        let bytes = part(&mut field, limits.image).await.map_err(refusal)?;
        pictures.push(Received { filename, bytes });
    }
    if pictures.is_empty() {
        return Err(no_picture(fields, &others));
    }
    Ok(pictures)
}

/// One part's bytes, or why it is refused; in either case it is read to its end.
async fn part(
    field: &mut Field<'_>,
    limit: u64,
) -> Result<Result<bytes::Bytes, ApiError>, multer::Error> {
    let mut read = BytesMut::new();
    let mut length: u64 = 0;
    while let Some(piece) = field.chunk().await? {
        length = length.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if length <= limit {
            read.extend_from_slice(&piece);
        } else {
            read = BytesMut::new();
        }
    }
    Ok(if length > limit {
        Err(ApiError::new(
            ErrorKind::PayloadTooLarge,
            format!("the picture has {length} bytes; allowed are {limit}"),
        ))
    } else {
        Ok(read.freeze())
    })
}

fn no_picture(fields: &[&str], others: &[String]) -> ApiError {
    let wanted = fields.first().copied().unwrap_or_default();
    let found = if others.is_empty() {
        "none".to_owned()
    } else {
        others.join(", ")
    };
    ApiError::new(
        ErrorKind::MissingImage,
        format!("the form has no field `{wanted}`; its fields are: {found}"),
    )
}

/// A refusal of ours that came through the stream, or what multer found wrong.
pub(in crate::api) fn refusal(error: multer::Error) -> ApiError {
    let reason = match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<ApiError>() {
            Ok(refusal) => return *refusal,
            Err(_) => "it cannot be read",
        },
        multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => "it ends before its closing boundary",
        multer::Error::ReadHeaderFailed(_) => "a part's headers cannot be read",
        _ => "its parts cannot be told apart",
    };
    ApiError::new(
        ErrorKind::BadRequest,
        format!("the multipart body is malformed: {reason}"),
    )
}
