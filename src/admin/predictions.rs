//! The prediction log: read here, and deleted where a tenant asks for it.

use serde_json::json;
use uuid::Uuid;

use super::actor::Deed;
use super::{Actor, Admin, AdminError};
use crate::domain::prediction::Prediction;
use crate::domain::tenant::TenantId;
use crate::predictions::{Page, PredictionFilter, PredictionMark};

impl Admin {
    /// A page of the predictions, newest first; those of this replica also before the store has them.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn predictions(
        &self,
        filter: &PredictionFilter,
        after: Option<PredictionMark>,
        limit: u32,
    ) -> Result<Page, AdminError> {
        Ok(self.predictions.list(filter, after, limit).await?)
    }

    /// The pictures of a request, in their order.
    ///
    /// # Errors
    /// When there is none of this id, or the store is away.
    pub async fn prediction(&self, request_id: Uuid) -> Result<Vec<Prediction>, AdminError> {
        let found = self.predictions.find(request_id, None).await?;
        if found.is_empty() {
            return Err(AdminError::NoPrediction);
        }
        Ok(found)
    }

    /// Deletes all predictions that a tenant has asked for until now, wherever they are; the tenant itself may be gone.
    ///
    /// # Errors
    /// When the store is away. Where it goes away in the middle, the rest is deleted later.
    pub async fn delete_predictions(
        &self,
        actor: &Actor,
        tenant: TenantId,
    ) -> Result<(), AdminError> {
        let now = self.clock.now();
        let target = format!("tenants/{tenant}/predictions");
        let deed = Deed {
            action: "predictions.delete",
            target: target.clone(),
            before: None,
            after: Some(json!({"until": now.to_rfc3339()})),
        };
        let (predictions, entry) = (self.predictions.clone(), actor.did(deed, now));
        self.to_the_end(async move { Ok(predictions.purge(tenant, now, &entry).await?) })
            .await?;
        self.tell("predictions.deleted", &target, json!({}));
        Ok(())
    }
}
