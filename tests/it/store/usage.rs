//! What keys have used of their days: sums over all replicas, exact whoever adds.

use chrono::{Days, NaiveDate};
use lensgate::domain::tenant::KeyId;
use uuid::Uuid;

use super::{at, key, note, tenant};
use crate::fixture::database::TestDatabase;

contract![
    days_are_summed_by_key,
    many_replicas_add_to_the_same_sums,
    old_days_are_forgotten,
    very_many_keys_are_added_at_once,
];

fn day(number: u64) -> NaiveDate {
    at(0).date_naive() + Days::new(number)
}

async fn days_are_summed_by_key(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let (one, two) = (key(&acme, "one"), key(&acme, "two"));
    for key in [&one, &two] {
        store.create_key(key, &note()).await.expect("made");
    }
    let revision = store.revision().await;
    assert_eq!(store.add_usage(&[]).await, Ok(vec![]));
    let (one, two) = (one.id, two.id);
    let added = store
        .add_usage(&[(two, day(0), 2), (one, day(0), 1), (one, day(1), 5)])
        .await;
    assert_eq!(
        added,
        Ok(vec![(two, day(0), 2), (one, day(0), 1), (one, day(1), 5)])
    );
    // The same key and day twice, a key that is gone between them, nothing, and something given back.
    let gone = KeyId(Uuid::now_v7());
    let used = [
        (one, day(0), 10),
        (gone, day(0), 7),
        (one, day(0), 100),
        (two, day(0), 0),
        (one, day(1), -2),
    ];
    let added = store.add_usage(&used).await;
    let wanted = vec![
        (one, day(0), 111),
        (one, day(0), 111),
        (two, day(0), 2),
        (one, day(1), 3),
    ];
    assert_eq!(added, Ok(wanted));
    let mut today = store.usage_of(day(0)).await.expect("usage");
    today.sort();
    let mut wanted = vec![(one, 111), (two, 2)];
    wanted.sort();
    assert_eq!(today, wanted);
    assert_eq!(store.usage_of(day(1)).await, Ok(vec![(one, 3)]));
    assert_eq!(store.usage_of(day(2)).await, Ok(vec![]));
    assert_eq!(store.add_usage(&[(gone, day(0), 1)]).await, Ok(vec![]));
    assert_eq!(store.revision().await, revision, "nobody hears of it");
    // A key takes what it has used with it.
    store.delete_key(one, 1, &note()).await.expect("gone");
    assert_eq!(store.usage_of(day(0)).await, Ok(vec![(two, 2)]));
    assert_eq!(store.usage_of(day(1)).await, Ok(vec![]));
}

async fn many_replicas_add_to_the_same_sums(database: &TestDatabase) {
    const REPLICAS: i64 = 8;
    const ROUNDS: i64 = 25;
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let keys: Vec<_> = (0..5)
        .map(|number| key(&acme, &format!("key {number}")))
        .collect();
    for key in &keys {
        store.create_key(key, &note()).await.expect("made");
    }
    let mut replicas = tokio::task::JoinSet::new();
    for replica in 0..REPLICAS {
        let store = database.store().await;
        let mut used: Vec<_> = keys
            .iter()
            .map(|key| (key.id, day(0), 1 + replica))
            .collect();
        if replica % 2 == 1 {
            // In another order each: rows are locked by whoever comes, and nobody may wait for ever.
            used.reverse();
        }
        replicas.spawn(async move {
            let mut last = 0;
            for round in 0..ROUNDS {
                let totals = store.add_usage(&used).await.expect("added");
                assert_eq!(totals.len(), used.len());
                assert!(
                    totals.iter().all(|&(_, _, total)| total > last),
                    "sums only rise"
                );
                last = totals
                    .iter()
                    .map(|&(_, _, total)| total)
                    .min()
                    .expect("totals");
                let touched: Vec<_> = used.iter().map(|&(key, _, _)| (key, at(round))).collect();
                store.touch_keys(&touched).await.expect("touched");
            }
        });
    }
    replicas.join_all().await;
    let sum = ROUNDS * REPLICAS * (REPLICAS + 1) / 2;
    let mut found = store.usage_of(day(0)).await.expect("usage");
    found.sort();
    let wanted: Vec<_> = keys.iter().map(|key| (key.id, sum)).collect();
    assert_eq!(found, wanted);
}

async fn old_days_are_forgotten(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let mine = key(&acme, "k");
    store.create_key(&mine, &note()).await.expect("made");
    let used: Vec<_> = (0..4).map(|number| (mine.id, day(number), 1)).collect();
    store.add_usage(&used).await.expect("added");
    store.prune_usage(day(2)).await.expect("pruned");
    for (number, wanted) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        let found = store.usage_of(day(number)).await.expect("usage");
        assert_eq!(found.len(), wanted, "day {number}");
    }
}

async fn very_many_keys_are_added_at_once(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let mine = key(&acme, "k");
    store.create_key(&mine, &note()).await.expect("made");
    let mut used: Vec<_> = (0..20_000)
        .map(|_| (KeyId(Uuid::now_v7()), day(0), 1))
        .collect();
    used.push((mine.id, day(0), 3));
    used.insert(0, (mine.id, day(1), 4));
    let added = store.add_usage(&used).await;
    assert_eq!(added, Ok(vec![(mine.id, day(1), 4), (mine.id, day(0), 3)]));
}
