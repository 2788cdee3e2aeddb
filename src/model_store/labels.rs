//! Labels and other files that a manifest names: always inside the model's folder, never elsewhere.

use std::path::{Component, Path, PathBuf};

use super::observed::is_absence;
use crate::domain::manifest::LabelsSource;

/// The most bytes of a labels file: a million classes of a hundred characters.
pub(super) const MAX_BYTES: u64 = 100 << 20;

/// The default name.
const DEFAULT_FILE: &str = "labels.txt";

/// The classes of a version, and where they were read.
pub(super) struct Found {
    /// `None` where neither the manifest nor a default file has any.
    pub(super) labels: Option<Vec<String>>,
    /// Where a file of them is looked for, also those places where none is.
    pub(super) places: Vec<PathBuf>,
}

/// The classes of a version. Files are looked for in the version's folder first, then in the model's.
pub(super) fn read(
    source: Option<&LabelsSource>,
    version_dir: &Path,
    model_dir: &Path,
) -> Result<Found, String> {
    let (name, required) = match source {
        Some(LabelsSource::Inline(labels)) => {
            return Ok(Found {
                labels: Some(labels.clone()),
                places: Vec::new(),
            });
        }
        Some(LabelsSource::File(name)) => (name.as_str(), true),
        None => (DEFAULT_FILE, false),
    };
    let mut places = Vec::new();
    for dir in [version_dir, model_dir] {
        let path = inside(dir, name).map_err(|reason| format!("labels: {reason}"))?;
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => {
                return Err(format!("labels: {name} is not a file"));
            }
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(format!("labels: {name} has {} bytes", found.len()));
            }
            Ok(_) => {
                let labels = parse(&path, name)?;
                places.push(path);
                return Ok(Found {
                    labels: Some(labels),
                    places,
                });
            }
            Err(error) if is_absence(&error) => places.push(path),
            // Not to be read now is not the same as not there.
            Err(error) => return Err(format!("labels: {name}: {error}")),
        }
    }
    if required {
        Err(format!("labels: there is no file {name}"))
    } else {
        Ok(Found {
            labels: None,
            places,
        })
    }
}

fn parse(path: &Path, name: &str) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("labels: {name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("labels: {name} is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    while labels.last().is_some_and(String::is_empty) {
        labels.pop();
    }
    Ok(labels)
}

/// `name` below `dir`. Refuses everything that could lead out of it by its words; where the file exists,
/// also what leads out of it by a link.
pub(super) fn inside(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let relative = Path::new(name);
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.contains(['\0', '\\']) || !plain {
        return Err(format!("{name:?} is not a path inside the model's folder"));
    }
    let path = dir.join(relative);
    if let (Ok(real), Ok(real_dir)) = (path.canonicalize(), dir.canonicalize())
        && !real.starts_with(&real_dir)
    {
        return Err(format!("{name:?} leads outside the model's folder"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_folder_are_followed() {
        let dir = std::env::temp_dir();
        assert_eq!(inside(&dir, "samples/7.png"), Ok(dir.join("samples/7.png")));
        for bad in [
            "",
            "/etc/hostname",
            "../x",
            "a/../../x",
            "a\\b",
            "a\0b",
            "./../x",
        ] {
            assert!(inside(&dir, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_labels_whatever_ends_them() {
        let file = std::env::temp_dir().join(format!("lensgate-labels-{}", std::process::id()));
        std::fs::write(&file, "\u{feff}tabby, tabby cat\r\n\r\nlynx\n\n\n").expect("a file");
        let labels = parse(&file, "labels.txt");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(
            labels,
            Ok(vec![
                "tabby, tabby cat".to_owned(),
                String::new(),
                "lynx".to_owned()
            ])
        );
    }
}
