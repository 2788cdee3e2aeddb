//! Who is being called: so many at a time, so many of one host, and half of all for one tenant at most. A receiver that never
//! answers takes its host's places and no others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::config::CallbacksConfig;
use crate::domain::tenant::TenantId;
use crate::store::{Busy, DueDelivery};

/// The places of a replica.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: usize,
    of_a_host: usize,
    of_a_tenant: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Clone, Debug, Default)]
struct Taken {
    all: usize,
    lanes: HashMap<i64, usize>,
    tenants: HashMap<TenantId, usize>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    lane: i64,
    tenant: TenantId,
}

impl Places {
    pub(super) fn of(config: &CallbacksConfig) -> Self {
        Self {
            all: config.max_concurrent,
            of_a_host: config.max_concurrent_per_host,
            of_a_tenant: (config.max_concurrent / 2).max(1),
            taken: Arc::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is none left.
    pub(super) fn are_full(&self) -> bool {
        self.taken().all >= self.all
    }

    /// The hosts and tenants that have all they may have.
    pub(super) fn busy(&self) -> Busy {
        let taken = self.taken();
        Busy {
            lanes: full(&taken.lanes, self.of_a_host),
            tenants: full(&taken.tenants, self.of_a_tenant),
        }
    }

    /// Those of the deliveries for which there are places, the longest due first.
    pub(super) fn choose(&self, due: &[DueDelivery]) -> Vec<Uuid> {
        let mut taken = self.taken().clone();
        let mut chosen = Vec::new();
        for one in due {
            let of_the_host = taken.lanes.get(&one.lane).copied().unwrap_or_default();
            let of_the_tenant = taken.tenants.get(&one.tenant).copied().unwrap_or_default();
            if taken.all < self.all
                && of_the_host < self.of_a_host
                && of_the_tenant < self.of_a_tenant
            {
                taken.take(one.lane, one.tenant);
                chosen.push(one.id);
            }
        }
        chosen
    }

    /// Takes a place for one that was chosen.
    pub(super) fn take(&self, lane: i64, tenant: TenantId) -> Place {
        self.taken().take(lane, tenant);
        Place {
            places: self.clone(),
            lane,
            tenant,
        }
    }
}

impl Taken {
    fn take(&mut self, lane: i64, tenant: TenantId) {
        self.all += 1;
        *self.lanes.entry(lane).or_default() += 1;
        *self.tenants.entry(tenant).or_default() += 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        less(&mut taken.lanes, self.lane);
        less(&mut taken.tenants, self.tenant);
    }
}

fn full<K: Copy>(taken: &HashMap<K, usize>, most: usize) -> Vec<K> {
    let full = taken.iter().filter(|&(_, &count)| count >= most);
    full.map(|(&key, _)| key).collect()
}

fn less<K: Eq + Hash>(taken: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = taken.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            taken.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, of_a_host: usize) -> Places {
        Places::of(&CallbacksConfig {
            max_concurrent: all,
            max_concurrent_per_host: of_a_host,
            ..CallbacksConfig::default()
        })
    }

    fn due(id: u128, tenant: u128, lane: i64) -> DueDelivery {
        DueDelivery {
            id: Uuid::from_u128(id),
            tenant: TenantId(Uuid::from_u128(tenant)),
            lane,
        }
    }

    fn chosen(places: &Places, due: &[DueDelivery]) -> Vec<u128> {
        places.choose(due).iter().map(Uuid::as_u128).collect()
    }

    #[test]
    fn a_host_and_a_tenant_have_their_share_and_no_more() {
        let places = places(8, 2);
        let all: Vec<_> = [
            (1, 1),
            (1, 1),
            (1, 1),
            (1, 2),
            (1, 3),
            (1, 4),
            (2, 4),
            (3, 5),
        ]
        .into_iter()
        .zip(1..)
        .map(|((tenant, lane), id)| due(id, tenant, lane))
        .collect();
        // Two of host 1; four of tenant 1.
        assert_eq!(chosen(&places, &all), [1, 2, 4, 5, 7, 8]);
        let tenant = TenantId(Uuid::from_u128(1));
        let (one, two) = (places.take(1, tenant), places.take(1, tenant));
        assert_eq!(places.busy().lanes, [1]);
        assert!(places.busy().tenants.is_empty());
        assert_eq!(chosen(&places, &all), [4, 5, 7, 8]);
        drop(one);
        assert!(places.busy().lanes.is_empty());
        drop(two);
        assert_eq!(chosen(&places, &all), [1, 2, 4, 5, 7, 8]);
    }

    #[test]
    fn there_are_so_many_places_in_all() {
        let places = places(2, 4);
        let all = [due(1, 1, 1), due(2, 2, 2), due(3, 3, 3)];
        assert_eq!(chosen(&places, &all), [1, 2]);
        let held: Vec<Place> = [1, 2]
            .map(|n| places.take(n, TenantId(Uuid::from_u128(7))))
            .into();
        assert!(places.are_full());
        assert!(chosen(&places, &all).is_empty());
        drop(held);
        assert!(!places.are_full());
        let single = self::places(1, 1);
        assert_eq!(chosen(&single, &all), [1], "half of one place is one");
    }
}
