//! How a job stands.

use uuid::Uuid;

use super::{JobError, Jobs};
use crate::domain::job::JobStanding;
use crate::domain::tenant::TenantId;

impl Jobs {
    /// How a tenant's job stands; `None` where there is none of this id, or its results are not kept any more.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn find(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Option<JobStanding>, JobError> {
        Ok(self.parts.store.find_job(request_id, tenant).await?)
    }
}
