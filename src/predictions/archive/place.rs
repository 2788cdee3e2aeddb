//! Where the archive's pictures lie: a folder or a bucket. The only door to `object_store`.

use std::collections::HashMap;
use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, PutPayload, RetryConfig,
};

use super::ArchiveError;
use super::waiting::Key;
use crate::config::{ArchiveConfig, Environment, Images};
use crate::domain::tenant::TenantId;

/// Objects that are deleted in one go, as many as S3 takes.
const PIECE: usize = 1000;

/// How long a connection to a bucket's server may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALLING: Duration = Duration::from_secs(30);

/// A folder or a bucket: objects `<tenant>/<first 2 digits>/<64 digits of the digest>`, below a prefix.
pub(super) struct Place {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The folder, where it is one.
    folder: Option<PathBuf>,
}

impl Place {
    /// The place that the settings name, or `None`. Makes a folder that is missing; asks a bucket nothing.
    ///
    /// # Errors
    /// When it can never be used.
    pub(super) fn open(
        config: &ArchiveConfig,
        environment: &Environment,
    ) -> Result<Option<Self>, ArchiveError> {
        match config.place() {
            None => Ok(None),
            Some(Images::Folder(folder)) => Self::folder(&folder).map(Some),
            Some(Images::Bucket { name, prefix }) => {
                let objects = bucket(&name, config, environment).map_err(unusable)?;
                Ok(Some(Self {
                    objects,
                    prefix: Path::from(prefix),
                    folder: None,
                }))
            }
        }
    }

    fn folder(folder: &FilePath) -> Result<Self, ArchiveError> {
        make_folder(folder).map_err(unusable)?;
        let folder = std::fs::canonicalize(folder).map_err(unusable)?;
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(unusable)?;
        Ok(Self {
            objects: Arc::new(objects.with_automatic_cleanup(true)),
            prefix: Path::default(),
            folder: Some(folder),
        })
    }

    /// Puts a picture there, whole or not at all, also where it is already: its age begins anew.
    ///
    /// # Errors
    /// When it was not put.
    pub(super) async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), ArchiveError> {
        let path = self.path(key);
        let file = self
            .folder
            .as_ref()
            .map(|folder| folder.join(path.as_ref()));
        if let Some(file) = file.clone() {
            // Before it is written: the folder keeps everybody else out.
            blocking(move || file.parent().map_or(Ok(()), make_folder)).await?;
        }
        let put = self.objects.put(&path, PutPayload::from_bytes(bytes)).await;
        put.map_err(|error| failure(&error))?;
        if let Some(file) = file {
            let own = std::fs::Permissions::from_mode(0o600);
            blocking(move || std::fs::set_permissions(file, own)).await?;
        }
        Ok(())
    }

    /// A picture's bytes, where it is there.
    ///
    /// # Errors
    /// When the place cannot be read.
    pub(super) async fn get(&self, key: &Key) -> Result<Option<Bytes>, ArchiveError> {
        let read = async { self.objects.get(&self.path(key)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Deletes all pictures of a tenant; gives how many there were.
    ///
    /// # Errors
    /// When some may be left.
    pub(super) async fn forget(&self, tenant: TenantId) -> Result<u64, ArchiveError> {
        let of_tenant = self.prefix.child(tenant.to_string());
        let deleted = self.delete(&of_tenant, |_| true).await?;
        if let Some(folder) = &self.folder {
            let folder = folder.join(of_tenant.as_ref());
            // What was not written to its end is listed nowhere.
            let gone = blocking(move || match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            });
            gone.await?;
        }
        Ok(deleted)
    }

    /// Deletes pictures of a tenant: those that `known` says so of, and of all others those that were put until then. Gives how
    /// many. (A bucket tells seconds: what was put within the same one goes too, rather than too little.)
    ///
    /// # Errors
    /// When some may be left.
    pub(super) async fn purge(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
        known: HashMap<Key, bool>,
    ) -> Result<u64, ArchiveError> {
        let known: HashMap<Path, bool> = known
            .into_iter()
            .map(|(key, goes)| (self.path(&key), goes))
            .collect();
        let goes = |object: &ObjectMeta| {
            let known = known.get(&object.location).copied();
            known.unwrap_or(object.last_modified <= until)
        };
        let of_tenant = self.prefix.child(tenant.to_string());
        let deleted = self.delete(&of_tenant, goes).await?;
        if let Some(folder) = self.folder.clone() {
            let swept = blocking(move || {
                // Where the folder itself is away, nothing is listed: that is not all gone.
                std::fs::read_dir(&folder)?;
                sweep_torn_of(&folder.join(of_tenant.as_ref()), until)
            });
            swept.await?;
        }
        Ok(deleted)
    }

    /// Deletes pictures that were put before this time; gives how many.
    ///
    /// # Errors
    /// When some may be left.
    pub(super) async fn sweep(&self, before: DateTime<Utc>) -> Result<u64, ArchiveError> {
        let is_old = move |object: &ObjectMeta| object.last_modified < before;
        let deleted = self.delete(&self.prefix, is_old).await?;
        if let Some(folder) = self.folder.clone() {
            blocking(move || sweep_torn(&folder, before)).await?;
        }
        Ok(deleted)
    }

    /// Deletes the objects below a path that are meant, piece by piece as they are listed.
    async fn delete(
        &self,
        below: &Path,
        is_meant: impl Fn(&ObjectMeta) -> bool + Send,
    ) -> Result<u64, ArchiveError> {
        let found = self.objects.list(Some(below));
        let mut pieces = found
            .try_filter(|object| future::ready(is_meant(object)))
            .map_ok(|object| object.location)
            .try_chunks(PIECE);
        let mut deleted = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| failure(&error.1))?;
            let piece = stream::iter(piece.into_iter().map(Ok)).boxed();
            let mut outcomes = self.objects.delete_stream(piece);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Ok(_) => deleted += 1,
                    // Somebody else was faster.
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(failure(&error)),
                }
            }
        }
        Ok(deleted)
    }

    fn path(&self, (tenant, digest): &Key) -> Path {
        let digits = digest.to_string();
        let digits = digits.trim_start_matches("sha256:");
        let first = digits.get(..2).unwrap_or_default();
        let tenant = tenant.to_string();
        self.prefix.child(tenant).child(first).child(digits)
    }
}

/// A bucket as the settings name it, with the environment's credentials.
fn bucket(
    name: &str,
    config: &ArchiveConfig,
    environment: &Environment,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = AmazonS3Builder::new();
    for (variable, value) in environment.for_buckets() {
        if let Ok(key) = variable.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value.expose());
        }
    }
    if let Some(region) = &config.s3_region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.s3_endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    // The archive waits by itself; what is asked once gets a second chance.
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 1,
        retry_timeout: CALLING,
    };
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECTING)
        .with_timeout(CALLING)
        .with_allow_http(config.s3_allow_http);
    let bucket = builder
        .with_bucket_name(name)
        .with_virtual_hosted_style_request(!config.s3_path_style)
        .with_client_options(client)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(bucket))
}

/// Makes a folder that nobody else may enter, with those above it; one that is there stays as it is.
fn make_folder(folder: &FilePath) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)
}

/// Deletes files that were begun before this time and never written to their end: no list has them.
fn sweep_torn(folder: &FilePath, before: DateTime<Utc>) -> io::Result<()> {
    for tenant in std::fs::read_dir(folder)?.flatten() {
        sweep_torn_of(&tenant.path(), before)?;
    }
    Ok(())
}

/// The same in a tenant's folder.
fn sweep_torn_of(tenant: &FilePath, before: DateTime<Utc>) -> io::Result<()> {
    for first in entries_of(tenant)? {
        for file in entries_of(&first.path())? {
            let is_torn = file.file_name().to_string_lossy().contains('#');
            let written = file.metadata().and_then(|file| file.modified());
            if is_torn && written.is_ok_and(|at| DateTime::<Utc>::from(at) < before) {
                match std::fs::remove_file(file.path()) {
                    // Somebody else was faster.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
    }
    Ok(())
}

/// What is in a folder; nothing, where it is gone or none.
fn entries_of(folder: &FilePath) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ArchiveError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| ArchiveError::Away(error.to_string()))
}

fn unusable(error: impl std::error::Error) -> ArchiveError {
    ArchiveError::Unusable(error.to_string())
}

/// Characters of a cause: a server's answer may be of any length.
const MAX_CAUSE: usize = 400;

fn failure(error: &Error) -> ArchiveError {
    let mut cause = error.to_string();
    if let Some((end, _)) = cause.char_indices().nth(MAX_CAUSE) {
        cause.truncate(end);
        cause.push('…');
    }
    match error {
        // What is put is never missing: the bucket is.
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotFound { .. } => {
            ArchiveError::Refused(cause)
        }
        _ => ArchiveError::Away(cause),
    }
}
