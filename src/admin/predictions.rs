//! The prediction log: read here, and deleted where a tenant asks for it.

use bytes::Bytes;
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

    /// A picture of a request, where it is archived.
    ///
    /// # Errors
    /// When there is no such prediction or its picture is not archived, or the store or the archive is away.
    pub async fn prediction_image(
        &self,
        request_id: Uuid,
        index: u32,
    ) -> Result<Bytes, AdminError> {
        let found = self.prediction(request_id).await?;
        let one = found.into_iter().find(|one| one.index == index);
        let one = one.ok_or(AdminError::NoPrediction)?;
        let archived = match (self.predictions.archive(), one.picture) {
            (Some(archive), Some(picture)) => {
                archive.fetch(one.asked.tenant, picture.digest).await?
            }
            _ => None,
        };
        archived.ok_or(AdminError::NotFound("archived picture"))
    }

    /// Deletes all predictions that a tenant has asked for until now, wherever they are, and its archived pictures; the tenant
    /// itself may be gone.
    ///
    /// # Errors
    /// When the store or the archive is away. Where the store goes away in the middle, the rest is deleted later.
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
        self.to_the_end(async move {
            predictions.purge(tenant, now, &entry).await?;
            if let Some(archive) = predictions.archive() {
                archive.forget(tenant, now).await?;
            }
            Ok(())
        })
        .await?;
        self.tell("predictions.deleted", &target, json!({}));
        Ok(())
    }
}
