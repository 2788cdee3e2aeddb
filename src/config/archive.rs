//! `[archive]`: where pictures are kept, which, and for how long.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[archive]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Where pictures are kept: a folder, or `s3://` with a bucket and a prefix. Without it none is.
    pub images: Option<String>,
    /// The share of pictures that is kept, 0 to 1.
    pub sample: f64,
    /// Bytes of a picture that is kept at most.
    pub max_image_bytes: u64,
    /// Bytes of pictures that wait to be kept at most; each counts 512 more than it has.
    pub max_waiting_bytes: u64,
    /// How long a picture is kept after it was last seen; 0 is for ever.
    pub retention: Seconds,
    /// The server of the bucket, where it is not Amazon's.
    pub s3_endpoint: Option<String>,
    /// The bucket's region.
    pub s3_region: Option<String>,
    /// Whether the bucket is named in the path of an address, not in its host.
    pub s3_path_style: bool,
    /// Whether the server may be spoken to without TLS.
    pub s3_allow_http: bool,
}

/// Where pictures are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a bucket.
    Bucket {
        /// The bucket.
        name: String,
        /// What the names of all objects begin with; may be empty.
        prefix: String,
    },
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            images: None,
            sample: 1.0,
            max_image_bytes: 10 << 20,
            max_waiting_bytes: 64 << 20,
            retention: Seconds::new(30 * 24 * 3600),
            s3_endpoint: None,
            s3_region: None,
            s3_path_style: true,
            s3_allow_http: false,
        }
    }
}

impl ArchiveConfig {
    /// Where pictures are kept; `None` where none is.
    #[must_use]
    pub fn place(&self) -> Option<Images> {
        let images = self.images.as_deref()?;
        let Some(rest) = images.strip_prefix("s3://") else {
            let folder = images.strip_prefix("file://").unwrap_or(images);
            return Some(Images::Folder(PathBuf::from(folder)));
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Images::Bucket {
            name: name.to_owned(),
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let is_good = match self.place() {
            None => true,
            Some(Images::Folder(folder)) => {
                let folder = folder.to_string_lossy();
                !folder.is_empty() && !folder.contains("://")
            }
            Some(Images::Bucket { name, prefix }) => {
                is_part(&name) && (prefix.is_empty() || prefix.split('/').all(is_part))
            }
        };
        if !is_good {
            return Err(bad(
                "archive.images",
                "must be a folder or begin with s3:// and a bucket; a prefix has letters, digits and any of . _ - = between its slashes",
            ));
        }
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(bad("archive.sample", "must be 0 to 1"));
        }
        if self.max_image_bytes == 0 || self.max_waiting_bytes < self.max_image_bytes {
            return Err(bad(
                "archive.max_waiting_bytes",
                "must be no less than archive.max_image_bytes, and that at least 1",
            ));
        }
        is_server("archive", self.s3_endpoint.as_deref(), self.s3_allow_http)
    }
}

/// Whether a section's `s3_endpoint` is a server that may be spoken to as the section says.
pub(super) fn is_server(
    section: &str,
    endpoint: Option<&str>,
    allow_http: bool,
) -> Result<(), ConfigError> {
    let key = || format!("{section}.s3_endpoint");
    match endpoint.map(|url| url.split_once("://")) {
        None | Some(Some(("https", _))) => Ok(()),
        Some(Some(("http", _))) if allow_http => Ok(()),
        Some(Some(("http", _))) => Err(bad(
            &key(),
            format!("has no TLS: it needs {section}.s3_allow_http = true"),
        )),
        Some(_) => Err(bad(&key(), "must begin with https://")),
    }
}

/// Whether a bucket, or a part of a prefix, may have this name: nothing that an address would write differently.
pub(super) fn is_part(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=".contains(&byte);
    !matches!(name, "" | "." | "..") && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(images: &str) -> ArchiveConfig {
        ArchiveConfig {
            images: Some(images.to_owned()),
            ..ArchiveConfig::default()
        }
    }

    #[test]
    fn a_place_is_a_folder_or_a_bucket_with_a_prefix() {
        let bucket = |name: &str, prefix: &str| {
            let (name, prefix) = (name.to_owned(), prefix.to_owned());
            Images::Bucket { name, prefix }
        };
        for (images, place) in [
            ("data/archive", Images::Folder("data/archive".into())),
            ("file:///var/archive", Images::Folder("/var/archive".into())),
            ("s3://pictures", bucket("pictures", "")),
            ("s3://pictures/", bucket("pictures", "")),
            ("s3://my.pictures/a/b_=1/", bucket("my.pictures", "a/b_=1")),
        ] {
            let config = of(images);
            assert_eq!(config.validate(), Ok(()), "{images}");
            assert_eq!(config.place(), Some(place), "{images}");
        }
        assert_eq!(ArchiveConfig::default().place(), None);
        for images in [
            "",
            "file://",
            "ftp://x",
            "s3://",
            "s3:///a",
            "s3://b/../c",
            "s3://b//c",
            "s3://b/ä",
            "s3://b?x",
        ] {
            let error = of(images).validate().expect_err(images).to_string();
            assert!(error.contains("archive.images"), "{images}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let default = of("s3://pictures");
        for (config, key) in [
            (
                ArchiveConfig {
                    sample: 1.5,
                    ..default.clone()
                },
                "archive.sample",
            ),
            (
                ArchiveConfig {
                    sample: f64::NAN,
                    ..default.clone()
                },
                "archive.sample",
            ),
            (
                ArchiveConfig {
                    max_waiting_bytes: (10 << 20) - 1,
                    ..default.clone()
                },
                "archive.max_waiting_bytes",
            ),
            (
                ArchiveConfig {
                    s3_endpoint: Some("http://127.0.0.1:9000".to_owned()),
                    ..default.clone()
                },
                "archive.s3_allow_http",
            ),
            (
                ArchiveConfig {
                    s3_endpoint: Some("127.0.0.1:9000".to_owned()),
                    ..default.clone()
                },
                "archive.s3_endpoint",
            ),
        ] {
            let error = config.validate().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        let plain = ArchiveConfig {
            s3_endpoint: Some("http://127.0.0.1:9000".to_owned()),
            s3_allow_http: true,
            ..default
        };
        assert_eq!(plain.validate(), Ok(()));
    }
}
