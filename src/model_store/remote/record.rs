//! What was brought from the bucket: of each file of the folder the object that it was, and its SHA-256.
//!
//! One JSON file a model beside the folder, so that a restart need not bring anything again and a bucket that is away is not
//! needed. Blocks, for a small file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::bucket::Stamp;
use crate::domain::ids::ModelId;

/// One file as it was brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::model_store) struct Brought {
    pub(super) stamp: Stamp,
    pub(super) sha256: String,
}

/// Files by their names.
pub(in crate::model_store) type Files = BTreeMap<String, Brought>;

/// All of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The model's own files.
    pub(super) shared: Files,
    /// By the number.
    pub(super) versions: BTreeMap<u64, Files>,
}

impl Record {
    /// Bytes of all its files.
    pub(super) fn bytes(&self) -> u64 {
        let versions = self.versions.values().map(bytes);
        bytes(&self.shared) + versions.sum::<u64>()
    }
}

pub(super) fn bytes(files: &Files) -> u64 {
    files.values().map(|file| file.stamp.bytes).sum()
}

/// The records of all models.
pub(super) struct Records {
    folder: PathBuf,
    all: Mutex<BTreeMap<ModelId, Record>>,
}

impl Records {
    /// Reads what is there; a record that cannot be read is none, and its model is brought again.
    pub(super) fn open(folder: PathBuf) -> Self {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let id = id.and_then(|id| id.parse::<ModelId>().ok());
            let is_record = path
                .extension()
                .is_some_and(|extension| extension == "json");
            let read = fs::read(&path).ok().filter(|_| is_record);
            let record = read.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            if let (Some(id), Some(record)) = (id, record) {
                all.insert(id, record);
            }
        }
        Self {
            folder,
            all: Mutex::new(all),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ModelId, Record>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was brought of a model.
    pub(super) fn of(&self, id: &ModelId) -> Record {
        self.all().get(id).cloned().unwrap_or_default()
    }

    /// The models of which something was brought.
    pub(super) fn ids(&self) -> Vec<ModelId> {
        self.all().keys().cloned().collect()
    }

    /// Bytes of all files of all models.
    pub(super) fn bytes(&self) -> u64 {
        self.all().values().map(Record::bytes).sum()
    }

    /// Changes what is known of a model.
    pub(super) fn change(&self, id: &ModelId, change: impl FnOnce(&mut Record)) {
        let record = {
            let mut all = self.all();
            let record = all.entry(id.clone()).or_default();
            change(record);
            record.clone()
        };
        if let Err(error) = self.write(id, &record) {
            tracing::warn!(%error, model = id.as_str(), "what was brought from the bucket is brought again after a restart");
        }
    }

    /// Knows nothing of a model any more.
    pub(super) fn forget(&self, id: &ModelId) {
        self.all().remove(id);
        // What stays is read at the next start, and found to be of nothing that is there.
        let _ = fs::remove_file(self.file(id));
    }

    fn write(&self, id: &ModelId, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let beside = self.folder.join(format!("{id}.new"));
        // Not brought to the disk: what a loss of power takes is brought from the bucket again.
        fs::write(&beside, serde_json::to_vec(record)?)?;
        fs::rename(beside, self.file(id))
    }

    fn file(&self, id: &ModelId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_outlast_a_restart_and_torn_ones_are_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("brought");
        let records = Records::open(folder.clone());
        let id: ModelId = "digits.v1".parse().expect("an id");
        let file = Brought {
            stamp: Stamp {
                etag: "a".to_owned(),
                bytes: 7,
            },
            sha256: "b".to_owned(),
        };
        records.change(&id, |record| {
            record.shared.insert("model.toml".to_owned(), file.clone());
            let files = Files::from([("model.onnx".to_owned(), file.clone())]);
            record.versions.insert(3, files);
        });
        fs::write(folder.join("torn.json"), "{").expect("written");
        let again = Records::open(folder.clone());
        assert_eq!(again.of(&id), records.of(&id));
        assert_eq!((again.bytes(), again.ids()), (14, vec![id.clone()]));
        again.forget(&id);
        assert_eq!(Records::open(folder).bytes(), 0);
    }
}
