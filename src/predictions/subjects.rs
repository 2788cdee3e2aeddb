//! What labels are about: the predictions that they name, as far as these are known, found many at once.

use std::collections::{BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use crate::domain::feedback::{Feedback, Subject};
use crate::domain::tenant::TenantId;
use crate::store::{Store, StoreError};

/// Requests of one statement: each may have as many pictures as a batch.
const REQUESTS_AT_ONCE: usize = 250;

/// What is known of the pictures that labels name; no more is kept of a request.
pub(super) struct Subjects {
    named: HashMap<(Uuid, u32, TenantId), Option<Subject>>,
    /// The requests of which anything is known, whosever they are.
    known: HashSet<Uuid>,
}

impl Subjects {
    /// Those of these labels; nothing is known yet.
    pub(super) fn of<'a>(labels: impl IntoIterator<Item = &'a Feedback>) -> Self {
        Self {
            named: labels.into_iter().map(|one| (one.place(), None)).collect(),
            known: HashSet::new(),
        }
    }

    /// The requests, each once.
    pub(super) fn requests(&self) -> BTreeSet<Uuid> {
        self.named.keys().map(|&(request, ..)| request).collect()
    }

    /// Takes notice of what was found.
    pub(super) fn note(&mut self, found: impl IntoIterator<Item = Subject>) {
        for one in found {
            self.known.insert(one.request_id);
            if let Some(named) = self.named.get_mut(&one.place()) {
                *named = Some(one);
            }
        }
    }

    /// Looks for them in the store.
    pub(super) async fn look_into(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let requests = Vec::from_iter(self.requests());
        for requests in requests.chunks(REQUESTS_AT_ONCE) {
            self.note(store.find_subjects(requests).await?);
        }
        Ok(())
    }

    /// What a label is about; `None` where that was not found.
    pub(super) fn of_label(&self, label: &Feedback) -> Option<&Subject> {
        self.named.get(&label.place())?.as_ref()
    }

    /// Whether anything is known of a request: other pictures, or another tenant's.
    pub(super) fn knows(&self, request_id: Uuid) -> bool {
        self.known.contains(&request_id)
    }
}
