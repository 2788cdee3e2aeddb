//! The outbox: told once, taken by one replica at a time, recorded attempt by attempt; and the secrets.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use lensgate::domain::api_key::ApiKey;
use lensgate::domain::callback::{Attempt, CallbackSecret, DeliveryState, EventKind, NewDelivery};
use lensgate::domain::tenant::{Tenant, TenantId};
use lensgate::store::{
    AfterAttempt, AuditFilter, Busy, DeliveryFilter, Lease, Page, Store, StoreError, Telling,
};
use serde_json::json;
use uuid::Uuid;

use super::{ALL, at, key, note, tenant};
use crate::fixture::database::TestDatabase;

contract![
    what_was_told_is_found_and_listed,
    a_thing_is_told_once_until_it_changes,
    of_two_replicas_one_tells,
    those_hear_of_it_who_may,
    one_replica_has_a_delivery_at_a_time,
    two_replicas_that_take_together_never_take_the_same,
    the_busy_are_left_alone,
    an_attempt_says_what_follows,
    who_is_gone_is_told_nothing_more,
    an_attempt_after_the_lease_changes_nothing,
    what_is_finished_is_sent_anew_or_deleted,
    results_are_erased_and_nothing_else,
    secrets_overlap_and_end,
    a_tenant_goes_with_its_callbacks,
];

async fn make(store: &dyn Store, name: &str) -> Tenant {
    let tenant = tenant(name);
    let made = store.create_tenant(&tenant, &note()).await;
    made.expect("a tenant");
    tenant
}

fn telling(subject: &str, event: EventKind, mark: &str) -> Telling {
    Telling {
        subject: subject.to_owned(),
        event,
        mark: mark.to_owned(),
        settles: event == EventKind::VersionLive,
    }
}

fn delivery(tenant: &Tenant, url: &str, number: i64) -> NewDelivery {
    let data = json!({"number": number, "text": "ä\"'"});
    let traceparent = (number % 2 == 0)
        .then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    NewDelivery::of(EventKind::VersionLive, tenant.id, url, &data, at(number)).of_trace(traceparent)
}

/// Puts deliveries into the outbox.
async fn tell(store: &dyn Store, deliveries: &[NewDelivery]) {
    let subject = Uuid::now_v7().to_string();
    let telling = telling(&subject, EventKind::VersionLive, "");
    let told = store.tell_once(&telling, deliveries, at(0)).await;
    assert_eq!(told, Ok(true));
}

/// So many deliveries to one address, in the outbox.
async fn tell_many(store: &dyn Store, tenant: &Tenant, count: i64) -> Vec<NewDelivery> {
    let deliveries: Vec<_> = (1..=count)
        .map(|number| delivery(tenant, "https://example.com/hook", number))
        .collect();
    tell(store, &deliveries).await;
    deliveries
}

/// A lease from a time until 100 microseconds later.
fn lease(owner: u128, now: i64) -> Lease {
    Lease {
        owner: Uuid::from_u128(owner),
        now: at(now),
        until: at(now + 100),
    }
}

/// Takes all that is due; gives what it got, in order.
async fn take(store: &dyn Store, lease: Lease) -> Vec<Uuid> {
    let due = store
        .due_deliveries(lease.now, &Busy::default(), 1000)
        .await;
    let ids: Vec<Uuid> = due.expect("deliveries").iter().map(|one| one.id).collect();
    let leased = store.lease_deliveries(&ids, lease).await.expect("leased");
    let mut leased: Vec<Uuid> = leased.iter().map(|one| one.what.id).collect();
    leased.sort();
    leased
}

fn ids(deliveries: &[NewDelivery]) -> Vec<Uuid> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

fn attempt(now: i64, status: Option<u16>) -> Attempt {
    Attempt {
        at: at(now),
        status,
        error: status.map(|status| format!("the answer was {status}")),
        duration_ms: 7,
    }
}

/// Records an attempt; gives whether the owner had the delivery.
async fn record(
    store: &dyn Store,
    id: Uuid,
    owner: u128,
    attempt: Attempt,
    after: AfterAttempt,
) -> bool {
    let recorded = store.record_attempt(id, Uuid::from_u128(owner), &attempt, after);
    recorded.await.expect("recorded")
}

async fn state(store: &dyn Store, id: Uuid) -> DeliveryState {
    let found = store.find_delivery(id).await.expect("the store");
    found.expect("a delivery").state
}

async fn what_was_told_is_found_and_listed(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let mut deliveries = vec![
        delivery(&one, "https://example.com/1?a=b", 1),
        delivery(&two, "http://example.com/2", 2),
        delivery(&one, "https://example.com/3", 3),
    ];
    deliveries[2].event = EventKind::RolloutRolledBack;
    tell(&*store, &deliveries).await;
    let found = store.find_delivery(deliveries[0].id).await;
    let found = found.expect("the store").expect("a delivery");
    assert_eq!(found.what, deliveries[0]);
    assert_eq!(found.state, DeliveryState::Pending);
    assert_eq!((found.attempts, found.next_attempt_at), (0, Some(at(1))));
    assert_eq!((found.last_status, found.finished_at), (None, None));
    assert_eq!(store.find_delivery(Uuid::now_v7()).await, Ok(None));

    let list = async |filter, page| {
        let listing = store.list_deliveries(filter, page).await.expect("a list");
        let items: Vec<i64> = listing
            .items
            .iter()
            .map(|one| {
                (one.what.created_at - at(0))
                    .num_microseconds()
                    .expect("few")
            })
            .collect();
        (items, listing.next)
    };
    let all = DeliveryFilter::default();
    assert_eq!(list(all, ALL).await, (vec![3, 2, 1], None));
    let first = Page { limit: 2, ..ALL };
    let (items, next) = list(all, first).await;
    assert_eq!((items, next), (vec![3, 2], Some(deliveries[1].id)));
    let rest = Page {
        after: next,
        ..first
    };
    assert_eq!(list(all, rest).await, (vec![1], None));
    let of_one = DeliveryFilter {
        tenant: Some(one.id),
        ..all
    };
    assert_eq!(list(of_one, ALL).await.0, [3, 1]);
    let of_event = DeliveryFilter {
        event: Some(EventKind::RolloutRolledBack),
        ..all
    };
    assert_eq!(list(of_event, ALL).await.0, [3]);
    for (state, count) in [(DeliveryState::Pending, 3), (DeliveryState::Dead, 0)] {
        let in_state = DeliveryFilter {
            state: Some(state),
            ..all
        };
        assert_eq!(list(in_state, ALL).await.0.len(), count);
    }
}

async fn a_thing_is_told_once_until_it_changes(database: &TestDatabase) {
    let store = database.store().await;
    let subject = "models/digits/versions/1";
    let (live, failed) = (EventKind::VersionLive, EventKind::VersionFailed);
    for (event, mark, is_news) in [
        (live, "a", true),
        (live, "a", false),
        // A replacement that fails says nothing of what serves.
        (failed, "b", true),
        (live, "a", false),
        (failed, "b", false),
        // What served fails, and serves again.
        (failed, "a", true),
        (live, "a", true),
        // Whatever failed before may fail again.
        (failed, "b", true),
        (live, "c", true),
        (live, "a", true),
    ] {
        let telling = telling(subject, event, mark);
        let told = store.was_told(&telling).await;
        assert_eq!(told, Ok(!is_news), "{event} {mark}");
        let news = store.tell_once(&telling, &[], at(0)).await;
        assert_eq!(news, Ok(is_news), "{event} {mark}");
        assert_eq!(store.was_told(&telling).await, Ok(true));
    }
    let other = telling("models/digits/versions/2", live, "a");
    assert_eq!(store.tell_once(&other, &[], at(0)).await, Ok(true));
}

async fn of_two_replicas_one_tells(database: &TestDatabase) {
    let (one, two) = (database.store().await, database.store().await);
    let told = make(&*one, "told").await;
    for round in 0..10 {
        let telling = telling(&round.to_string(), EventKind::VersionLive, "a");
        let (a, b) = (
            [delivery(&told, "https://a.example", round)],
            [delivery(&told, "https://a.example", round)],
        );
        let told = tokio::join!(
            one.tell_once(&telling, &a, at(0)),
            two.tell_once(&telling, &b, at(0))
        );
        assert_ne!(told.0.expect("told"), told.1.expect("told"));
    }
    let all = one.list_deliveries(DeliveryFilter::default(), ALL).await;
    assert_eq!(all.expect("a list").items.len(), 10);
}

async fn those_hear_of_it_who_may(database: &TestDatabase) {
    let store = database.store().await;
    let with = async |name: &str, url: Option<&str>, keys: &[ApiKey]| {
        let tenant = Tenant {
            callback_url: url.map(str::to_owned),
            events: vec!["version.live".to_owned()],
            ..tenant(name)
        };
        let made = store.create_tenant(&tenant, &note()).await;
        made.expect("a tenant");
        for key in keys {
            let key = ApiKey {
                tenant: tenant.id,
                ..key.clone()
            };
            store.create_key(&key, &note()).await.expect("a key");
        }
        tenant.id
    };
    let nobody = tenant("nobody");
    let ended = ApiKey {
        expires_at: Some(at(10)),
        ..key(&nobody, "ended")
    };
    let narrow = ApiKey {
        models: vec!["digits".parse().expect("a pattern")],
        ..key(&nobody, "narrow")
    };
    let url = Some("https://example.com");
    let told = with("told", url, &[key(&nobody, "a"), key(&nobody, "b"), narrow]).await;
    with("without a URL", None, &[key(&nobody, "c")]).await;
    with("without a key", url, &[]).await;
    with("with a key that ended", url, &[ended]).await;
    let found = store.subscribers(at(10)).await.expect("subscribers");
    assert_eq!(
        found.len(),
        2,
        "keys with the same models are one: {found:?}"
    );
    for one in &found {
        assert_eq!((one.tenant, Some(one.url.as_str())), (told, url));
        assert_eq!(one.events, ["version.live"]);
    }
    let models: BTreeSet<_> = found.iter().map(|one| one.models[0].as_str()).collect();
    assert_eq!(models, BTreeSet::from(["*", "digits"]));
    assert_eq!(store.subscribers(at(9)).await.expect("some").len(), 3);
}

async fn one_replica_has_a_delivery_at_a_time(database: &TestDatabase) {
    let (one, two) = (database.store().await, database.store().await);
    let tenant = make(&*one, "acme").await;
    let deliveries = tell_many(&*one, &tenant, 3).await;
    assert_eq!(
        take(&*one, lease(1, 0)).await,
        Vec::<Uuid>::new(),
        "nothing is due yet"
    );
    assert_eq!(take(&*one, lease(1, 2)).await, ids(&deliveries[..2]));
    assert_eq!(take(&*two, lease(2, 50)).await, ids(&deliveries[2..]));
    // What was seen as due before somebody else took it.
    let all = ids(&deliveries);
    assert_eq!(two.lease_deliveries(&all, lease(2, 50)).await, Ok(vec![]));
    // The first lease ends.
    let taken = two.lease_deliveries(&all, lease(2, 102)).await;
    let taken = taken.expect("leased");
    assert_eq!(taken.len(), 2);
    assert_eq!(
        (taken[0].attempts, taken[0].begun_at),
        (0, taken[0].what.created_at)
    );
    assert!(deliveries.contains(&taken[0].what));
    // What is given back is there for others at once.
    one.release_deliveries(Uuid::from_u128(1))
        .await
        .expect("released");
    assert_eq!(
        take(&*one, lease(1, 103)).await,
        Vec::<Uuid>::new(),
        "none was the first's"
    );
    two.release_deliveries(Uuid::from_u128(2))
        .await
        .expect("released");
    assert_eq!(take(&*one, lease(1, 103)).await, all);
    assert_eq!(two.lease_deliveries(&[], lease(2, 900)).await, Ok(vec![]));
}

async fn two_replicas_that_take_together_never_take_the_same(database: &TestDatabase) {
    let (one, two) = (database.store().await, database.store().await);
    let tenant = make(&*one, "acme").await;
    let all = ids(&tell_many(&*one, &tenant, 40).await);
    let taking = async |store: &dyn Store, owner| {
        let mut taken = Vec::new();
        for piece in all.chunks(4) {
            let leased = store.lease_deliveries(piece, lease(owner, 50)).await;
            taken.extend(leased.expect("leased").iter().map(|one| one.what.id));
        }
        taken
    };
    let (first, second) = tokio::join!(taking(&*one, 1), taking(&*two, 2));
    let mut both = [first, second].concat();
    both.sort();
    assert_eq!(both, all, "each is taken once");
}

async fn the_busy_are_left_alone(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let deliveries = [
        delivery(&one, "https://slow.example/1", 1),
        delivery(&two, "https://slow.example/2", 2),
        delivery(&one, "https://fast.example/", 3),
    ];
    tell(&*store, &deliveries).await;
    let due = async |lanes: &[&NewDelivery], tenants: &[TenantId], limit| {
        let busy = Busy {
            lanes: lanes.iter().map(|delivery| delivery.lane()).collect(),
            tenants: tenants.to_vec(),
        };
        let due = store.due_deliveries(at(10), &busy, limit).await;
        due.expect("deliveries")
    };
    let all = due(&[], &[], 9).await;
    let found: Vec<_> = all
        .iter()
        .map(|one| (one.id, one.tenant, one.lane))
        .collect();
    let expected: Vec<_> = deliveries
        .iter()
        .map(|one| (one.id, one.tenant, one.lane()))
        .collect();
    assert_eq!(found, expected, "the longest due first");
    assert_eq!(due(&[], &[], 2).await, all[..2]);
    assert_eq!(due(&[&deliveries[0]], &[], 9).await, all[2..]);
    assert_eq!(due(&[], &[one.id], 9).await, all[1..2]);
    assert_eq!(due(&[&deliveries[2]], &[two.id], 9).await, all[..1]);
    assert_eq!(due(&[&deliveries[0], &deliveries[2]], &[], 9).await, []);
}

async fn an_attempt_says_what_follows(database: &TestDatabase) {
    let store = database.store().await;
    let tenant = make(&*store, "acme").await;
    let deliveries = tell_many(&*store, &tenant, 3).await;
    let [first, second, third] = [0, 1, 2].map(|n: usize| deliveries[n].id);
    take(&*store, lease(1, 10)).await;
    let arrived = Attempt {
        error: None,
        ..attempt(20, Some(204))
    };
    assert!(record(&*store, first, 1, arrived, AfterAttempt::Delivered).await);
    let again = AfterAttempt::Again(at(70));
    assert!(record(&*store, second, 1, attempt(21, Some(500)), again).await);
    assert!(record(&*store, third, 1, attempt(22, None), AfterAttempt::Dead).await);

    let found = async |id| {
        let found = store.find_delivery(id).await.expect("the store");
        found.expect("a delivery")
    };
    let one = found(first).await;
    assert_eq!((one.state, one.attempts), (DeliveryState::Delivered, 1));
    assert_eq!((one.last_status, one.last_error), (Some(204), None));
    let ended = at(20) + TimeDelta::milliseconds(7);
    assert_eq!((one.next_attempt_at, one.finished_at), (None, Some(ended)));
    let two = found(second).await;
    assert_eq!((two.state, two.attempts), (DeliveryState::Pending, 1));
    assert_eq!((two.next_attempt_at, two.finished_at), (Some(at(70)), None));
    assert_eq!(two.last_error.as_deref(), Some("the answer was 500"));
    assert_eq!(found(third).await.state, DeliveryState::Dead);

    // Nobody has the one that goes on; it comes when its time does, and knows what was tried.
    assert_eq!(take(&*store, lease(2, 69)).await, Vec::<Uuid>::new());
    let leased = store
        .lease_deliveries(&ids(&deliveries), lease(2, 70))
        .await;
    let leased = leased.expect("leased");
    assert_eq!(
        (leased.len(), leased[0].what.id, leased[0].attempts),
        (1, second, 1)
    );
    assert!(record(&*store, second, 2, attempt(71, None), again).await);
    let log = store.attempts_of(second, 10).await.expect("attempts");
    assert_eq!(log, [attempt(71, None), attempt(21, Some(500))]);
    assert_eq!(store.attempts_of(second, 1).await.expect("one").len(), 1);
}

async fn who_is_gone_is_told_nothing_more(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let deliveries = [
        delivery(&one, "https://example.com/gone", 1),
        delivery(&one, "https://example.com/gone", 2),
        delivery(&one, "https://example.com/there", 3),
        delivery(&two, "https://example.com/gone", 4),
    ];
    tell(&*store, &deliveries).await;
    take(&*store, lease(1, 10)).await;
    let gone = attempt(11, Some(410));
    assert!(record(&*store, deliveries[0].id, 1, gone, AfterAttempt::Gone).await);
    for (delivery, expected) in deliveries.iter().zip([
        DeliveryState::Dead,
        DeliveryState::Dead,
        DeliveryState::Pending,
        DeliveryState::Pending,
    ]) {
        assert_eq!(state(&*store, delivery.id).await, expected);
    }
    assert_eq!(store.attempts_of(deliveries[1].id, 9).await, Ok(vec![]));
}

async fn an_attempt_after_the_lease_changes_nothing(database: &TestDatabase) {
    let store = database.store().await;
    let tenant = make(&*store, "acme").await;
    let id = tell_many(&*store, &tenant, 1).await[0].id;
    take(&*store, lease(1, 10)).await;
    assert_eq!(
        take(&*store, lease(2, 110)).await,
        [id],
        "the first is late"
    );
    assert!(!record(&*store, id, 1, attempt(11, Some(500)), AfterAttempt::Dead).await);
    assert_eq!(state(&*store, id).await, DeliveryState::Pending);
    assert_eq!(
        store.attempts_of(id, 9).await.expect("a log").len(),
        1,
        "it was made"
    );
    assert!(
        record(
            &*store,
            id,
            2,
            attempt(111, Some(200)),
            AfterAttempt::Delivered
        )
        .await
    );
    assert!(
        !record(
            &*store,
            Uuid::now_v7(),
            2,
            attempt(1, None),
            AfterAttempt::Dead
        )
        .await
    );
}

async fn what_is_finished_is_sent_anew_or_deleted(database: &TestDatabase) {
    let store = database.store().await;
    let tenant = make(&*store, "acme").await;
    let all = ids(&tell_many(&*store, &tenant, 2).await);
    assert_eq!(
        store.redeliver(all[0], at(5), &note()).await,
        Ok(false),
        "pending"
    );
    let nothing = store.redeliver(Uuid::now_v7(), at(5), &note()).await;
    assert!(
        matches!(nothing, Err(StoreError::NotFound(_))),
        "{nothing:?}"
    );
    take(&*store, lease(1, 10)).await;
    for id in &all {
        let dead = AfterAttempt::Dead;
        assert!(record(&*store, *id, 1, attempt(11, None), dead).await);
    }
    let audited = async || {
        let filter = AuditFilter {
            action: Some("test.do".to_owned()),
            ..AuditFilter::default()
        };
        store
            .list_audit(&filter, ALL)
            .await
            .expect("the audit")
            .items
            .len()
    };
    let before = audited().await;
    assert_eq!(store.redeliver(all[0], at(50), &note()).await, Ok(true));
    assert_eq!(audited().await, before + 1);
    let anew = store
        .lease_deliveries(&all, lease(1, 50))
        .await
        .expect("leased");
    assert_eq!(anew.len(), 1);
    assert_eq!((anew[0].attempts, anew[0].begun_at), (0, at(50)));

    let finished = at(11) + TimeDelta::milliseconds(7);
    assert_eq!(store.prune_deliveries(finished).await, Ok(0), "not older");
    let later = finished + TimeDelta::microseconds(1);
    assert_eq!(store.prune_deliveries(later).await, Ok(1));
    assert_eq!(store.find_delivery(all[1]).await, Ok(None));
    assert_eq!(store.attempts_of(all[1], 9).await, Ok(vec![]));
    assert_eq!(store.attempts_of(all[0], 9).await.expect("a log").len(), 1);
}

async fn results_are_erased_and_nothing_else(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let result = |tenant, number| NewDelivery {
        event: EventKind::PredictionCompleted,
        ..delivery(tenant, "https://example.com", number)
    };
    let deliveries = [
        result(&one, 1),
        result(&one, 5),
        result(&two, 1),
        delivery(&one, "https://example.com", 1),
    ];
    tell(&*store, &deliveries).await;
    assert_eq!(store.erase_results(one.id, at(4)).await, Ok(1));
    assert_eq!(store.erase_results(one.id, at(4)).await, Ok(0));
    let left = store.list_deliveries(DeliveryFilter::default(), ALL).await;
    let left: BTreeSet<Uuid> = left
        .expect("a list")
        .items
        .iter()
        .map(|one| one.what.id)
        .collect();
    assert_eq!(left, ids(&deliveries[1..]).into_iter().collect());
}

fn secret(tenant: &Tenant, number: i64) -> CallbackSecret {
    CallbackSecret {
        id: Uuid::now_v7(),
        tenant: tenant.id,
        secret: format!("whsec_{number}"),
        created_at: at(number),
        expires_at: None,
    }
}

async fn secrets_overlap_and_end(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let add = async |secret: &CallbackSecret, others_end| {
        store
            .add_callback_secret(secret, at(others_end), &note())
            .await
    };
    let secrets = [
        secret(&one, 1),
        secret(&one, 2),
        secret(&one, 300),
        secret(&two, 1),
    ];
    for (secret, end) in secrets.iter().zip([1, 100, 400, 1]) {
        assert_eq!(add(secret, end).await, Ok(()));
    }
    let of = async |tenant: &Tenant| {
        let found = store.callback_secrets(tenant.id).await.expect("secrets");
        found
            .into_iter()
            .map(|secret| (secret.secret, secret.expires_at))
            .collect::<Vec<_>>()
    };
    // The first had ended when the third was made, and is gone.
    let expected = [
        ("whsec_2".to_owned(), Some(at(400))),
        ("whsec_300".to_owned(), None),
    ];
    assert_eq!(of(&one).await, expected);
    assert_eq!(of(&two).await, [("whsec_1".to_owned(), None)]);
    // A later end does not make a life longer.
    assert_eq!(add(&secret(&one, 301), 900).await, Ok(()));
    assert_eq!(of(&one).await[0].1, Some(at(400)));
    let (id, delete) = (secrets[2].id, async |tenant: &Tenant, id| {
        store.delete_callback_secret(tenant.id, id, &note()).await
    });
    let other = delete(&two, id).await;
    assert!(matches!(other, Err(StoreError::NotFound(_))), "{other:?}");
    assert_eq!(delete(&one, id).await, Ok(()));
    assert!(delete(&one, id).await.is_err());
    assert_eq!(of(&one).await.len(), 2);
    let nobody = tenant("nobody");
    let nowhere = add(&secret(&nobody, 1), 1).await;
    assert!(
        matches!(nowhere, Err(StoreError::NotFound("tenant"))),
        "{nowhere:?}"
    );
}

async fn a_tenant_goes_with_its_callbacks(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (make(&*store, "one").await, make(&*store, "two").await);
    let deliveries = [
        delivery(&one, "https://a.example", 1),
        delivery(&two, "https://a.example", 1),
    ];
    tell(&*store, &deliveries).await;
    store
        .add_callback_secret(&secret(&one, 1), at(1), &note())
        .await
        .expect("a secret");
    take(&*store, lease(1, 10)).await;
    store
        .delete_tenant(one.id, 1, &note())
        .await
        .expect("deleted");
    assert_eq!(store.callback_secrets(one.id).await, Ok(vec![]));
    assert_eq!(store.find_delivery(deliveries[0].id).await, Ok(None));
    assert!(
        store
            .find_delivery(deliveries[1].id)
            .await
            .expect("the store")
            .is_some()
    );
    // Whoever has it under way finds it gone.
    assert!(
        !record(
            &*store,
            deliveries[0].id,
            1,
            attempt(11, Some(200)),
            AfterAttempt::Delivered
        )
        .await
    );
    // Of what is told to several, those that are gone are left out.
    tell(
        &*store,
        &[
            delivery(&one, "https://a.example", 2),
            delivery(&two, "https://a.example", 2),
        ],
    )
    .await;
    let left = store.list_deliveries(DeliveryFilter::default(), ALL).await;
    let left = left.expect("a list").items;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|left| left.what.tenant == two.id));
}
