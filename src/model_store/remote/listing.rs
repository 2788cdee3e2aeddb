//! What a bucket offers, by the names of its objects: models, versions, and which of them are whole. Pure.
//!
//! `<model>/<version>/version.json`, written last, names a version's files with their digests: it is whole when they are there.
//! Without it files are a copy by hand, which nobody says the end of: they count after a quiet time. `.upload` says that a
//! gateway is still putting them there, `.deleted` that what lies there is no more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bucket::{Objects, Stamp};
use crate::domain::ids::{Digest, ModelId, VersionNumber};
use crate::model_store::name::{self, FileName};

/// The names with a meaning in a version's place.
pub(super) const SHEET: &str = name::SHEET;
pub(super) const UPLOAD: &str = ".upload";
pub(super) const DELETED: &str = ".deleted";

/// Bytes of a `version.json`.
pub(super) const MAX_SHEET: u64 = 1 << 20;

/// What a bucket has of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelListing {
    /// The model's own files.
    pub(super) shared: Objects,
    pub(super) versions: BTreeMap<VersionNumber, VersionListing>,
    /// The mark that says it is deleted.
    pub(super) deleted: Option<Stamp>,
}

/// What a bucket has of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VersionListing {
    /// Its files, without those below.
    pub(super) files: Objects,
    pub(super) sheet: Option<Stamp>,
    pub(super) upload: Option<Stamp>,
    pub(super) deleted: Option<Stamp>,
    /// A name that no file of a version may have.
    pub(super) odd: Option<String>,
}

impl ModelListing {
    fn add(&mut self, name: &str, stamp: Stamp) {
        let (folder, rest) = name.split_once('/').unwrap_or(("", name));
        if let Ok(number) = folder.parse() {
            return self.versions.entry(number).or_default().add(rest, stamp);
        }
        match name {
            DELETED => self.deleted = Some(stamp),
            // A file where a version's folder would be is none of the model's.
            name if is_file(name) && name.parse::<VersionNumber>().is_err() => {
                self.shared.insert(name.to_owned(), stamp);
            }
            // Nothing of a model is called so.
            _ => {}
        }
    }
}

impl VersionListing {
    fn add(&mut self, name: &str, stamp: Stamp) {
        match name {
            SHEET => self.sheet = Some(stamp),
            UPLOAD => self.upload = Some(stamp),
            DELETED => self.deleted = Some(stamp),
            name if is_file(name) => {
                self.files.insert(name.to_owned(), stamp);
            }
            // What the system of whoever copied has left.
            name if name.starts_with('.') || name.contains("/.") => {}
            name => self.odd = Some(name.chars().take(100).collect()),
        }
    }
}

fn is_file(name: &str) -> bool {
    [name::MODEL, name::MANIFEST, name::LABELS].contains(&name) || name.parse::<FileName>().is_ok()
}

/// The models among objects by their names below the prefix. What is called like no model is passed over.
pub(super) fn models(objects: Objects) -> BTreeMap<ModelId, ModelListing> {
    let mut models: BTreeMap<ModelId, ModelListing> = BTreeMap::new();
    for (name, stamp) in objects {
        if let Some((id, rest)) = name.split_once('/')
            && let Ok(id) = id.parse::<ModelId>()
        {
            models.entry(id).or_default().add(rest, stamp);
        }
    }
    models
}

/// The same of one model, by the names below it.
pub(super) fn model(objects: Objects) -> ModelListing {
    let mut model = ModelListing::default();
    for (name, stamp) in objects {
        model.add(&name, stamp);
    }
    model
}

/// `version.json`: what a version is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sheet {
    /// By their names below the version.
    pub(super) files: BTreeMap<String, SheetFile>,
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SheetFile {
    /// 64 digits, with or without `sha256:`.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

impl Sheet {
    /// Reads a `version.json`.
    ///
    /// # Errors
    /// What of it is wrong, for people.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let sheet: Self = serde_json::from_slice(bytes).map_err(|e| format!("{SHEET}: {e}"))?;
        for (name, file) in &sheet.files {
            if !is_file(name) {
                return Err(format!(
                    "{SHEET} names {name:?}, which no file may be called"
                ));
            }
            if file.sha256.parse::<Digest>().is_err() {
                return Err(format!("{SHEET}: the sha256 of {name} is no SHA-256"));
            }
        }
        if sheet.files.contains_key(name::MODEL) {
            Ok(sheet)
        } else {
            Err(format!("{SHEET} names no {}", name::MODEL))
        }
    }
}

/// One file to bring, and what it must be where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stamp: Stamp,
    pub(super) digest: Option<Digest>,
}

/// How a version lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Whole, by its `version.json`.
    Whole(BTreeMap<String, Wanted>),
    /// A copy by hand, which may not be at its end.
    Copied(BTreeMap<String, Wanted>),
    /// Not whole yet.
    Waiting(String),
    /// It can never be whole as it is.
    Broken(String),
    /// Deleted.
    Gone,
}

impl VersionListing {
    /// What is offered, with the `version.json` where there is one.
    pub(super) fn offer(&self, sheet: Option<&Result<Sheet, String>>) -> Offer {
        if self.deleted.is_some() {
            return Offer::Gone;
        }
        match sheet {
            Some(Ok(sheet)) => self.by(sheet),
            Some(Err(reason)) => Offer::Broken(reason.clone()),
            None if self.upload.is_some() => {
                Offer::Waiting("it is being put into the bucket".to_owned())
            }
            None => self.copied(),
        }
    }

    fn by(&self, sheet: &Sheet) -> Offer {
        let mut files = BTreeMap::new();
        for (name, file) in &sheet.files {
            let Some(stamp) = self.files.get(name) else {
                return Offer::Waiting(format!("{SHEET} names {name}, which is not in the bucket"));
            };
            if stamp.bytes != file.bytes {
                return Offer::Broken(format!(
                    "{name} has {} bytes in the bucket, and {} by {SHEET}",
                    stamp.bytes, file.bytes
                ));
            }
            let wanted = Wanted {
                stamp: stamp.clone(),
                digest: file.sha256.parse().ok(),
            };
            files.insert(name.clone(), wanted);
        }
        Offer::Whole(files)
    }

    fn copied(&self) -> Offer {
        if let Some(name) = &self.odd {
            return Offer::Broken(format!(
                "the bucket has {name:?}, which no file may be called"
            ));
        }
        if !self.files.contains_key(name::MODEL) {
            return Offer::Waiting(format!("there is no {} in the bucket", name::MODEL));
        }
        let wanted = |(name, stamp): (&String, &Stamp)| {
            let wanted = Wanted {
                stamp: stamp.clone(),
                digest: None,
            };
            (name.clone(), wanted)
        };
        Offer::Copied(self.files.iter().map(wanted).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(bytes: u64) -> Stamp {
        Stamp {
            etag: format!("tag-{bytes}"),
            bytes,
        }
    }

    fn first() -> VersionNumber {
        "1".parse().expect("a number")
    }

    fn objects(names: &[(&str, u64)]) -> Objects {
        let one = |&(name, bytes): &(&str, u64)| (name.to_owned(), stamp(bytes));
        names.iter().map(one).collect()
    }

    fn sheet(files: &[(&str, u64)]) -> Sheet {
        let file = |&(name, bytes): &(&str, u64)| {
            let sha256 = "ab".repeat(32);
            (name.to_owned(), SheetFile { sha256, bytes })
        };
        let files = files.iter().map(file).collect();
        Sheet { files }
    }

    #[test]
    fn objects_are_models_versions_and_files() {
        let found = models(objects(&[
            ("digits/model.toml", 1),
            ("digits/samples/7.png", 2),
            ("digits/1/model.onnx", 3),
            ("digits/1/version.json", 4),
            ("digits/1/golden/7.png", 5),
            ("digits/2/.upload", 6),
            ("digits/01/model.onnx", 7),
            ("digits/0/model.onnx", 8),
            ("digits/7", 8),
            ("gone/.deleted", 9),
            ("NoModel/1/model.onnx", 10),
            ("alone.txt", 11),
            (".uploads/1/model.onnx", 12),
        ]));
        let ids: Vec<_> = found.keys().map(ModelId::as_str).collect();
        assert_eq!(ids, ["digits", "gone"]);
        let digits = &found[&"digits".parse().expect("an id")];
        let versions: Vec<_> = digits.versions.keys().map(|number| number.get()).collect();
        assert_eq!(versions, [1, 2]);
        let first = digits.versions.values().next().expect("a version");
        let files: Vec<_> = first.files.keys().collect();
        assert_eq!(files, ["golden/7.png", "model.onnx"]);
        assert!(first.sheet.is_some() && digits.shared.contains_key("samples/7.png"));
        assert!(found[&"gone".parse().expect("an id")].deleted.is_some());
    }

    #[test]
    fn a_version_is_whole_when_all_that_its_sheet_names_is_there() {
        let listing = |names| model(objects(names)).versions.remove(&first());
        let named = Ok(sheet(&[("model.onnx", 3), ("labels.txt", 2)]));
        let half = listing(&[("1/model.onnx", 3), ("1/version.json", 9)]).expect("a version");
        assert!(
            matches!(half.offer(Some(&named)), Offer::Waiting(reason) if reason.contains("labels.txt"))
        );
        let whole = [
            ("1/model.onnx", 3),
            ("1/labels.txt", 2),
            ("1/version.json", 9),
            ("1/note.txt", 5),
        ];
        let whole = listing(&whole).expect("a version");
        let Offer::Whole(files) = whole.offer(Some(&named)) else {
            panic!("it is whole");
        };
        assert_eq!(files.len(), 2, "what is not named does not count");
        assert!(files.values().all(|file| file.digest.is_some()));
        let other = listing(&[("1/model.onnx", 4), ("1/labels.txt", 2)]).expect("a version");
        assert!(matches!(other.offer(Some(&named)), Offer::Broken(_)));
        assert!(matches!(
            other.offer(Some(&Err("no JSON".to_owned()))),
            Offer::Broken(_)
        ));
    }

    #[test]
    fn a_copy_by_hand_an_upload_and_a_deletion_are_told_apart() {
        let listing = |names| model(objects(names)).versions.remove(&first());
        let copied = listing(&[("1/model.onnx", 3), ("1/.DS_Store", 1)]).expect("a version");
        assert!(matches!(copied.offer(None), Offer::Copied(files) if files.len() == 1));
        let empty = listing(&[("1/labels.txt", 3)]).expect("a version");
        assert!(matches!(empty.offer(None), Offer::Waiting(_)));
        let odd = listing(&[("1/model.onnx", 3), ("1/we\"ird", 1)]).expect("a version");
        assert!(matches!(odd.offer(None), Offer::Broken(_)));
        let coming = listing(&[("1/model.onnx", 3), ("1/.upload", 1)]).expect("a version");
        assert!(matches!(coming.offer(None), Offer::Waiting(_)));
        let gone = listing(&[
            ("1/model.onnx", 3),
            ("1/version.json", 3),
            ("1/.deleted", 1),
        ]);
        let gone = gone.expect("a version");
        assert_eq!(
            gone.offer(Some(&Ok(sheet(&[("model.onnx", 3)])))),
            Offer::Gone
        );
    }

    #[test]
    fn a_sheet_says_what_is_wrong_with_it() {
        let digest = "ab".repeat(32);
        let good = format!(
            r#"{{"files": {{"model.onnx": {{"sha256": "sha256:{digest}", "bytes": 3}}}}}}"#
        );
        assert!(Sheet::read(good.as_bytes()).is_ok());
        for (bad, why) in [
            ("[]".to_owned(), "version.json"),
            (good.replace("model.onnx", "../model.onnx"), "may be called"),
            (
                good.replace("model.onnx", "weights.bin"),
                "names no model.onnx",
            ),
            (good.replace(&digest, "abc"), "no SHA-256"),
        ] {
            let error = Sheet::read(bad.as_bytes()).expect_err(&bad);
            assert!(error.contains(why), "{error}");
        }
    }
}
