//! A bucket of models, wherever it is: S3, Google's, Azure's. With the archive of pictures the only door to `object_store`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{
    Error, GetResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload,
    PutResult, UpdateVersion,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use url::Url;

use super::RemoteError;
use crate::config::{Environment, ModelStoreConfig};
use crate::domain::ids::Digest;

/// How long a connection may take.
const CONNECTING: &str = "5s";
/// How long one exchange may take, with all its bytes: gigabytes over a slow line come to their end.
const EXCHANGE: &str = "3600s";
/// How long a call without much to carry may take, with what is tried again.
const CALL: Duration = Duration::from_secs(20);
/// How long it may take until more of an object comes or goes.
const PIECE_TIME: Duration = Duration::from_mins(1);
/// Bytes of a part of an upload, and of an object that goes in one.
const PART: usize = 16 << 20;
/// Objects of a bucket that are looked at.
const MOST_OBJECTS: usize = 100_000;
/// Characters of a cause: a server's answer may be of any length.
const MAX_CAUSE: usize = 400;

/// What an object is told apart from its successor by, as the bucket says it: never its clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) etag: String,
    pub(super) bytes: u64,
}

/// Objects by their names below some place.
pub(super) type Objects = BTreeMap<String, Stamp>;

/// A bucket, below a prefix.
#[derive(Debug)]
pub(super) struct Bucket {
    objects: Box<dyn ObjectStore>,
    prefix: Path,
}

impl Bucket {
    /// The bucket that the settings name, with the environment's credentials. Asks it nothing.
    ///
    /// # Errors
    /// When it can never be used.
    pub(super) fn open(
        url: &str,
        config: &ModelStoreConfig,
        environment: &Environment,
    ) -> Result<Self, RemoteError> {
        // By its short name the crate takes the first part of the prefix for the container, and the container for the account.
        let url = match url.strip_prefix("az://") {
            Some(rest) => format!("azure://{rest}"),
            None => url.to_owned(),
        };
        let url: Url = url.parse().map_err(unusable)?;
        let mut options: Vec<(String, String)> = environment
            .for_buckets()
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.expose().to_owned()))
            .collect();
        let mut set = |key: &str, value: &str| options.push((key.to_owned(), value.to_owned()));
        set("connect_timeout", CONNECTING);
        set("timeout", EXCHANGE);
        if url.scheme() == "s3" {
            if let Some(region) = &config.s3_region {
                set("aws_region", region);
            }
            if let Some(endpoint) = &config.s3_endpoint {
                set("aws_endpoint", endpoint);
            }
            let in_host = if config.s3_path_style {
                "false"
            } else {
                "true"
            };
            set("aws_virtual_hosted_style_request", in_host);
            let plain = if config.s3_allow_http {
                "true"
            } else {
                "false"
            };
            set("allow_http", plain);
        }
        let (objects, prefix) = object_store::parse_url_opts(&url, options).map_err(unusable)?;
        Ok(Self { objects, prefix })
    }

    /// All objects below a name, by their names below it; below the prefix with an empty one.
    ///
    /// # Errors
    /// When they cannot be listed to the last.
    pub(super) async fn list(&self, below: &str) -> Result<Objects, RemoteError> {
        let place = self.place(below);
        let listing = async {
            let mut found = Objects::new();
            let mut objects = self.objects.list(Some(&place));
            while let Some(object) = objects.try_next().await? {
                if let Some(rest) = object.location.prefix_match(&place) {
                    let name: Vec<_> = rest.map(|part| part.as_ref().to_owned()).collect();
                    // What some programs put where a folder would be has no name below it.
                    if !name.is_empty() {
                        found.insert(name.join("/"), stamp(&object));
                    }
                }
                if found.len() > MOST_OBJECTS {
                    break;
                }
            }
            Ok::<_, Error>(found)
        };
        let found = match in_time(listing).await {
            Err(RemoteError::Away(cause)) => return Err(self.why(cause).await),
            found => found?,
        };
        if found.len() > MOST_OBJECTS {
            return Err(RemoteError::Unusable(format!(
                "it has more than {MOST_OBJECTS} objects below the prefix"
            )));
        }
        Ok(found)
    }

    /// Whether a list that failed was refused: of a list the crate does not say, of an object it does.
    async fn why(&self, cause: String) -> RemoteError {
        match in_time(self.objects.head(&self.place(".probe"))).await {
            Err(RemoteError::Refused(_)) => RemoteError::Refused(cause),
            // The probe is never there: it is the list that must have said so.
            Err(RemoteError::Missing(_)) if cause.contains("404") => RemoteError::Missing(cause),
            _ => RemoteError::Away(cause),
        }
    }

    /// A small object with its stamp, where it is there.
    ///
    /// # Errors
    /// When it cannot be read, or has more than `limit` bytes.
    pub(super) async fn read(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<(Bytes, Stamp)>, RemoteError> {
        let place = self.place(name);
        let reading = async {
            match self.objects.get(&place).await {
                Ok(found) if found.meta.size > limit => Ok(Some(Err(found.meta.size))),
                Ok(found) => {
                    let stamp = stamp(&found.meta);
                    Ok(Some(Ok((found.bytes().await?, stamp))))
                }
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match in_time(reading).await? {
            None => Ok(None),
            Some(Ok(read)) => Ok(Some(read)),
            Some(Err(bytes)) => Err(RemoteError::Content(format!("{name} has {bytes} bytes"))),
        }
    }

    /// Brings an object into a new file, which is on the disk then; gives its SHA-256.
    ///
    /// # Errors
    /// When it is not the object any more that was seen, it does not come, or the file cannot be written.
    pub(super) async fn fetch(
        &self,
        name: &str,
        seen: &Stamp,
        into: &FilePath,
    ) -> Result<Digest, RemoteError> {
        let place = self.place(name);
        let found: GetResult = in_time(self.objects.get(&place)).await?;
        if stamp(&found.meta) != *seen {
            return Err(RemoteError::Changed);
        }
        if let Some(folder) = into.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(disk)?;
        }
        let mut file = File::create_new(into).await.map_err(disk)?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let mut pieces = found.into_stream();
        loop {
            let piece = timeout(PIECE_TIME, pieces.try_next()).await;
            let piece = piece.map_err(|_| away("nothing more of an object came for a minute"))?;
            let Some(piece) = piece.map_err(|error| failure(&error))? else {
                break;
            };
            bytes = bytes.saturating_add(piece.len() as u64);
            if bytes > seen.bytes {
                return Err(RemoteError::Changed);
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(disk)?;
        }
        if bytes != seen.bytes {
            return Err(RemoteError::Changed);
        }
        file.sync_all().await.map_err(disk)?;
        Ok(Digest::from_bytes(hasher.finalize().into()))
    }

    /// Puts a small object where none is.
    ///
    /// # Errors
    /// [`RemoteError::Exists`] where one is, or when it cannot be put.
    pub(super) async fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Stamp, RemoteError> {
        self.put(name, bytes, PutMode::Create).await
    }

    /// Puts a small object in the place of the one that was seen, or with `None` where none is.
    ///
    /// # Errors
    /// [`RemoteError::Exists`] or [`RemoteError::Changed`] where there is another, or when it cannot be put.
    pub(super) async fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        seen: Option<&Stamp>,
    ) -> Result<Stamp, RemoteError> {
        let Some(seen) = seen else {
            return self.put_new(name, bytes).await;
        };
        let found = in_time(self.objects.head(&self.place(name))).await?;
        if stamp(&found) != *seen {
            return Err(RemoteError::Changed);
        }
        let version = UpdateVersion {
            e_tag: found.e_tag,
            version: found.version,
        };
        self.put(name, bytes, PutMode::Update(version)).await
    }

    async fn put(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<Stamp, RemoteError> {
        let place = self.place(name);
        let payload = PutPayload::from(bytes.to_vec());
        let put = self
            .objects
            .put_opts(&place, payload, PutOptions::from(mode));
        let put = in_time(put).await?;
        self.stamp_of(&place, put, bytes.len() as u64).await
    }

    /// Puts a file there, whatever is there.
    ///
    /// # Errors
    /// When it cannot be read or put.
    pub(super) async fn upload(&self, name: &str, file: &FilePath) -> Result<Stamp, RemoteError> {
        let place = self.place(name);
        let bytes = tokio::fs::metadata(file).await.map_err(disk)?.len();
        let mut file = File::open(file).await.map_err(disk)?;
        let mut part = Vec::new();
        if bytes <= PART as u64 {
            file.read_to_end(&mut part).await.map_err(disk)?;
            let put = timeout(PIECE_TIME, self.objects.put(&place, part.into()));
            let put = put
                .await
                .map_err(|_| away("an object was not taken for a minute"))?;
            let put = put.map_err(|error| failure(&error))?;
            return self.stamp_of(&place, put, bytes).await;
        }
        let mut upload = in_time(self.objects.put_multipart(&place)).await?;
        match send_parts(&mut *upload, &mut file).await {
            Ok(put) => self.stamp_of(&place, put, bytes).await,
            Err(error) => {
                // What is not aborted, a bucket's own rules remove.
                let _ = timeout(CALL, upload.abort()).await;
                Err(error)
            }
        }
    }

    async fn stamp_of(
        &self,
        place: &Path,
        put: PutResult,
        bytes: u64,
    ) -> Result<Stamp, RemoteError> {
        match put.e_tag {
            Some(etag) => Ok(Stamp {
                etag: plain(&etag),
                bytes,
            }),
            None => in_time(self.objects.head(place))
                .await
                .map(|found| stamp(&found)),
        }
    }

    /// Deletes objects; what is not there is deleted.
    ///
    /// # Errors
    /// When some may be left.
    pub(super) async fn delete(&self, names: Vec<String>) -> Result<(), RemoteError> {
        let places: Vec<_> = names.iter().map(|name| Ok(self.place(name))).collect();
        let mut outcomes = self.objects.delete_stream(stream::iter(places).boxed());
        loop {
            match timeout(PIECE_TIME, outcomes.next()).await {
                Err(_) => return Err(away("objects were not deleted for a minute")),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(_) | Err(Error::NotFound { .. }))) => {}
                Ok(Some(Err(error))) => return Err(failure(&error)),
            }
        }
    }

    /// Seconds that lie between two objects by the bucket's own clock.
    ///
    /// # Errors
    /// When either is not there, or the bucket does not answer.
    pub(super) async fn seconds_between(
        &self,
        earlier: &str,
        later: &str,
    ) -> Result<i64, RemoteError> {
        let (earlier, later) = (self.place(earlier), self.place(later));
        let from = in_time(self.objects.head(&earlier)).await?;
        let to = in_time(self.objects.head(&later)).await?;
        Ok((to.last_modified - from.last_modified).num_seconds())
    }

    fn place(&self, name: &str) -> Path {
        if name.is_empty() {
            return self.prefix.clone();
        }
        // As it was listed, with characters that would be written differently in a new name.
        let whole = match self.prefix.as_ref() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Path::parse(&whole).unwrap_or_else(|_| Path::from(whole))
    }
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    file: &mut File,
) -> Result<PutResult, RemoteError> {
    loop {
        let mut part = Vec::with_capacity(PART);
        let read = file.take(PART as u64).read_to_end(&mut part).await;
        if read.map_err(disk)? == 0 {
            return in_time(upload.complete()).await;
        }
        let sent = timeout(PIECE_TIME, upload.put_part(part.into())).await;
        let sent = sent.map_err(|_| away("a part was not taken for a minute"))?;
        sent.map_err(|error| failure(&error))?;
    }
}

fn stamp(object: &ObjectMeta) -> Stamp {
    // A bucket that gives no tags has at least its own times.
    let etag = object.e_tag.as_deref().map(plain);
    Stamp {
        etag: etag.unwrap_or_else(|| object.last_modified.to_rfc3339()),
        bytes: object.size,
    }
}

/// A tag without what surrounds it in some answers and not in others.
fn plain(etag: &str) -> String {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.trim_matches('"').to_owned()
}

async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, RemoteError> {
    match timeout(CALL, call).await {
        Ok(outcome) => outcome.map_err(|error| failure(&error)),
        Err(_) => Err(away(format!(
            "it gave no answer within {} s",
            CALL.as_secs()
        ))),
    }
}

fn away(cause: impl Into<String>) -> RemoteError {
    RemoteError::Away(cause.into())
}

fn unusable(error: impl Display) -> RemoteError {
    RemoteError::Unusable(error.to_string())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn disk(error: std::io::Error) -> RemoteError {
    RemoteError::Disk(error.to_string())
}

fn failure(error: &Error) -> RemoteError {
    let mut cause = error.to_string();
    // What was sent as a credential, some servers repeat.
    if let Some(at) = cause.find("<Token") {
        cause.truncate(at);
    }
    if let Some((end, _)) = cause.char_indices().nth(MAX_CAUSE) {
        cause.truncate(end);
        cause.push('…');
    }
    match error {
        Error::AlreadyExists { .. } => RemoteError::Exists,
        Error::Precondition { .. } => RemoteError::Changed,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            RemoteError::Refused(cause)
        }
        Error::NotFound { .. } => RemoteError::Missing(cause),
        Error::InvalidPath { .. } => RemoteError::Content(cause),
        _ => RemoteError::Away(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_same_however_they_are_written() {
        for written in ["\"a-1\"", "W/\"a-1\"", "a-1"] {
            assert_eq!(plain(written), "a-1");
        }
    }

    #[test]
    fn buckets_of_three_kinds_are_opened_and_asked_nothing() {
        let environment = Environment::from_pairs([
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ]);
        let config = ModelStoreConfig::default();
        for (url, kind) in [
            ("s3://bucket/some/prefix", "S3"),
            ("gs://bucket/some/prefix", "Google"),
            ("az://bucket/some/prefix", "Azure"),
        ] {
            let bucket = Bucket::open(url, &config, &environment).expect(url);
            assert!(format!("{:?}", bucket.objects).contains(kind), "{url}");
            assert_eq!(bucket.prefix.as_ref(), "some/prefix", "{url}");
            let place = bucket.place("digits/1/model.onnx");
            assert_eq!(place.as_ref(), "some/prefix/digits/1/model.onnx");
            assert_eq!(bucket.place("a~#1").as_ref(), "some/prefix/a~#1");
            assert_eq!(bucket.place(""), bucket.prefix);
        }
        assert!(Bucket::open("no address", &config, &environment).is_err());
    }
}
