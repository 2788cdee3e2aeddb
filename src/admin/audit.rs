//! The audit: read here; every use case that changes something writes to it.

use super::{Admin, AdminError};
use crate::domain::operator::AuditEntry;
use crate::store::{AuditFilter, Listing, Page};

impl Admin {
    /// A page of the audit, newest first.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Listing<AuditEntry>, AdminError> {
        Ok(self.store.list_audit(filter, page).await?)
    }
}
