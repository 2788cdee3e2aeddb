//! Where a model's external data lies, and whether it may be read.
//!
//! Called by `check_external`. Knows the file system, nothing of the ONNX format.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::{ExternalFile, OnnxError};

/// The file that `external` names, below `root`, which is a canonical path.
pub(super) fn locate(external: &ExternalFile, root: &Path) -> Result<PathBuf, OnnxError> {
    let location = external.location.as_str();
    let refuse = |reason: &str| OnnxError::external(location, reason);
    if let Some(reason) = forbidden(location) {
        return Err(refuse(reason));
    }
    let path = match fs::canonicalize(root.join(location)) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(OnnxError::ExternalMissing {
                location: shown(location),
            });
        }
        Err(error) => return Err(refuse(&format!("it cannot be opened: {}", error.kind()))),
    };
    if !path.starts_with(root) {
        return Err(refuse("it leads outside the version's folder"));
    }
    let metadata = fs::metadata(&path)
        .map_err(|error| refuse(&format!("it cannot be read: {}", error.kind())))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    if metadata.len() < external.needed_bytes {
        return Err(OnnxError::ExternalShort {
            location: shown(location),
            has: metadata.len(),
            needs: external.needed_bytes,
        });
    }
    Ok(path)
}

/// Why a location is refused whatever the disk holds.
fn forbidden(location: &str) -> Option<&'static str> {
    if location.is_empty() {
        return Some("the graph gives no location");
    }
    // ONNX Runtime takes `*/_ORT_MEM_ADDR_/*` for an address in its own memory.
    if location
        .chars()
        .any(|c| c.is_control() || matches!(c, '\\' | '*'))
    {
        return Some("the location has characters that no file name needs");
    }
    let mut normal = false;
    for component in Path::new(location).components() {
        match component {
            Component::Normal(_) => normal = true,
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Some("the location must be a relative path without `..`");
            }
        }
    }
    (!normal).then_some("the location names no file")
}

/// A location as it may stand in a message: hostile characters escaped, not too long.
pub(super) fn shown(location: &str) -> String {
    let short: String = location.chars().take(120).collect();
    let rest = if short.len() < location.len() {
        "…"
    } else {
        ""
    };
    format!("\"{}{rest}\"", short.escape_debug())
}
