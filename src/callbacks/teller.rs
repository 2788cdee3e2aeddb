//! Tells tenants what happened: each event once, whatever the number of replicas and restarts, to those whom it concerns.

use std::collections::BTreeMap;

use serde_json::Value;

use super::outbox::Outbox;
use crate::domain::callback::{EventKind, NewDelivery};
use crate::domain::ids::ModelId;
use crate::domain::tenant::TenantId;
use crate::store::{StoreError, Subscriber, Telling};
use crate::telemetry::trace;

/// Something that happened to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// What happened to what, and how that was told.
    pub telling: Telling,
    /// The model: tenants hear of it that may use it.
    pub model: ModelId,
    /// What is said of it.
    pub data: Value,
}

impl Outbox {
    /// Puts what happened into the outbox for all whom it concerns, unless it was told before.
    ///
    /// # Errors
    /// When the store is away; nothing is told then, and it may be tried again.
    pub async fn tell(&self, news: &News) -> Result<(), StoreError> {
        if self.store().was_told(&news.telling).await? {
            return Ok(());
        }
        let now = self.now();
        let subscribers = self.store().subscribers(now).await?;
        let event = news.telling.event;
        let deliveries: Vec<NewDelivery> = concerned(&subscribers, event, &news.model)
            .into_iter()
            .map(|(tenant, url)| {
                NewDelivery::of(event, tenant, url, &news.data, now).of_trace(trace::traceparent())
            })
            .collect();
        let is_new = self
            .store()
            .tell_once(&news.telling, &deliveries, now)
            .await?;
        if is_new && !deliveries.is_empty() {
            self.nudge();
        }
        Ok(())
    }
}

/// The tenants, each once, that want such an event and may use the model.
fn concerned<'s>(
    subscribers: &'s [Subscriber],
    event: EventKind,
    model: &ModelId,
) -> BTreeMap<TenantId, &'s str> {
    let wants = |one: &&Subscriber| {
        let named = one.events.iter().any(|name| name == event.as_str());
        (one.events.is_empty() || named) && one.models.iter().any(|models| models.names(model))
    };
    let concerned = subscribers.iter().filter(wants);
    concerned
        .map(|one| (one.tenant, one.url.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn subscriber(tenant: u128, events: &[&str], models: &[&str]) -> Subscriber {
        Subscriber {
            tenant: TenantId(Uuid::from_u128(tenant)),
            url: format!("https://{tenant}.example"),
            events: events.iter().map(|&event| event.to_owned()).collect(),
            models: models
                .iter()
                .map(|text| text.parse().expect("a pattern"))
                .collect(),
        }
    }

    #[test]
    fn those_hear_it_who_want_it_and_may_use_the_model() {
        let subscribers = [
            subscriber(1, &[], &["*"]),
            subscriber(1, &[], &["digits"]),
            subscriber(2, &["version.live"], &["digits", "other"]),
            subscriber(3, &["version.failed"], &["*"]),
            subscriber(4, &[], &["other"]),
            subscriber(5, &["of.a.newer.release"], &["*"]),
        ];
        let model = "digits".parse().expect("an id");
        let told = concerned(&subscribers, EventKind::VersionLive, &model);
        let told: Vec<u128> = told.keys().map(|tenant| tenant.0.as_u128()).collect();
        assert_eq!(told, [1, 2]);
    }
}
