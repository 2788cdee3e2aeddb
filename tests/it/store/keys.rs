//! API keys: all that a key carries, whose it is, its versions, and when it was last used.

use chrono::{SubsecRound as _, Utc};
use lensgate::domain::api_key::{ApiKey, KeyLimits};
use lensgate::domain::secret::SecretHash;
use lensgate::domain::tenant::KeyId;
use lensgate::store::{Page, StoreError};
use uuid::Uuid;

use super::{ALL, at, full_key, key, note, tenant};
use crate::fixture::database::TestDatabase;

contract![
    a_key_comes_back_as_it_was_made,
    a_secret_belongs_to_one_key,
    a_key_belongs_to_a_tenant,
    keys_are_listed_by_tenant_and_in_pages,
    an_update_replaces_all_but_the_last_use,
    an_update_needs_the_version_that_was_read,
    the_last_use_only_moves_forward,
    very_many_keys_are_touched_at_once,
];

async fn a_key_comes_back_as_it_was_made(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let bare = ApiKey {
        scopes: Vec::new(),
        models: Vec::new(),
        ..key(&acme, "bare")
    };
    let full = full_key(&acme, "full");
    let odd = ApiKey {
        limits: KeyLimits {
            requests_per_second: Some(1.0 / 3.0),
            burst: Some(0),
            images_per_day: Some(0),
            max_image_bytes: Some(u64::MAX / 2 + 1),
            ..KeyLimits::default()
        },
        // The machine's own clock, as the program cuts it.
        created_at: now(),
        expires_at: Some(at(999_999)),
        ..key(&acme, "odd")
    };
    for key in [&bare, &full, &odd] {
        store.create_key(key, &note()).await.expect("made");
        let found = store.find_key(key.id).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(key));
    }
    assert_eq!(store.find_key(KeyId(Uuid::now_v7())).await, Ok(None));
    let changes = store.changes_since(0).await.expect("changes");
    assert_eq!(changes.keys, [bare, full, odd]);
}

fn now() -> chrono::DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

async fn a_secret_belongs_to_one_key(database: &TestDatabase) {
    let store = database.store().await;
    let (acme, other) = (tenant("acme"), tenant("other"));
    for tenant in [&acme, &other] {
        store.create_tenant(tenant, &note()).await.expect("made");
    }
    let first = key(&acme, "secret");
    store.create_key(&first, &note()).await.expect("made");
    let conflict = Err(StoreError::Conflict("key"));
    let same_secret = key(&other, "secret");
    assert_eq!(store.create_key(&same_secret, &note()).await, conflict);
    // Names may be the same.
    let same_name = ApiKey {
        hash: SecretHash::of("another"),
        ..key(&acme, "secret")
    };
    store.create_key(&same_name, &note()).await.expect("made");
    let clash = ApiKey {
        hash: first.hash,
        version: 2,
        ..same_name
    };
    assert_eq!(store.update_key(&clash, 1, &note()).await, conflict);
}

async fn a_key_belongs_to_a_tenant(database: &TestDatabase) {
    let store = database.store().await;
    let nobody = store
        .create_key(&key(&tenant("nobody"), "k"), &note())
        .await;
    assert_eq!(nobody, Err(StoreError::NotFound("tenant")));
    assert_eq!(store.revision().await, Ok(0));
}

async fn keys_are_listed_by_tenant_and_in_pages(database: &TestDatabase) {
    let store = database.store().await;
    let (acme, other) = (tenant("acme"), tenant("other"));
    for tenant in [&acme, &other] {
        store.create_tenant(tenant, &note()).await.expect("made");
    }
    let mut made = Vec::new();
    for number in 0..9 {
        let whose = if number % 3 == 0 { &other } else { &acme };
        made.push(key(whose, &format!("key {number}")));
    }
    for key in &made {
        store.create_key(key, &note()).await.expect("made");
    }
    for whose in [None, Some(acme.id), Some(other.id)] {
        let wanted: Vec<&ApiKey> = made
            .iter()
            .filter(|key| whose.is_none_or(|whose| whose == key.tenant))
            .collect();
        let mut page = Page {
            after: None,
            limit: 2,
        };
        let mut seen = Vec::new();
        loop {
            let listing = store.list_keys(whose, page).await.expect("a page");
            seen.extend(listing.items);
            let Some(next) = listing.next else { break };
            page.after = Some(next);
        }
        assert_eq!(seen.iter().collect::<Vec<_>>(), wanted);
    }
    let nobody = store
        .list_keys(Some(tenant("x").id), ALL)
        .await
        .expect("a page");
    assert_eq!((nobody.items.len(), nobody.next), (0, None));
}

async fn an_update_replaces_all_but_the_last_use(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let made = key(&acme, "made");
    store.create_key(&made, &note()).await.expect("made");
    store
        .touch_keys(&[(made.id, at(77))])
        .await
        .expect("touched");
    // Who changes it has read it before it was used, or after.
    for (version, last_used_at) in [(2, None), (3, Some(at(1)))] {
        let changed = ApiKey {
            id: made.id,
            created_at: made.created_at,
            updated_at: at(version),
            last_used_at,
            version,
            ..full_key(&acme, &format!("changed {version}"))
        };
        let outcome = store.update_key(&changed, version - 1, &note()).await;
        outcome.expect("changed");
        let found = store
            .find_key(made.id)
            .await
            .expect("an answer")
            .expect("a key");
        let wanted = ApiKey {
            last_used_at: Some(at(77)),
            ..changed
        };
        assert_eq!(found, wanted);
    }
    // And back to nothing: what is `None` is written too.
    let plain = ApiKey {
        version: 4,
        ..made.clone()
    };
    store.update_key(&plain, 3, &note()).await.expect("changed");
    let found = store
        .find_key(made.id)
        .await
        .expect("an answer")
        .expect("a key");
    let wanted = ApiKey {
        last_used_at: Some(at(77)),
        ..plain
    };
    assert_eq!(found, wanted);
}

async fn an_update_needs_the_version_that_was_read(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let first = key(&acme, "first");
    store.create_key(&first, &note()).await.expect("made");
    // Of many who read the same version one may change it.
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let store = database.store().await;
        let mine = ApiKey {
            name: format!("writer {number}"),
            version: 2,
            ..first.clone()
        };
        writers.spawn(async move { store.update_key(&mine, 1, &note()).await });
    }
    let outcomes = writers.join_all().await;
    let stale = outcomes
        .iter()
        .filter(|outcome| **outcome == Err(StoreError::Stale))
        .count();
    assert_eq!(stale, 7, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(
        store.delete_key(first.id, 1, &note()).await,
        Err(StoreError::Stale)
    );
    store.delete_key(first.id, 2, &note()).await.expect("gone");
    let missing = Err(StoreError::NotFound("key"));
    assert_eq!(store.delete_key(first.id, 2, &note()).await, missing);
    assert_eq!(store.update_key(&first, 2, &note()).await, missing);
    assert_eq!(store.find_key(first.id).await, Ok(None));
}

async fn the_last_use_only_moves_forward(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let (one, two) = (key(&acme, "one"), key(&acme, "two"));
    for key in [&one, &two] {
        store.create_key(key, &note()).await.expect("made");
    }
    let revision = store.revision().await;
    let last = async |id| {
        store
            .find_key(id)
            .await
            .expect("an answer")
            .expect("a key")
            .last_used_at
    };
    store.touch_keys(&[]).await.expect("nothing");
    // Whole seconds, halves and microseconds: as text they would not all sort by time.
    let second = 1_000_000;
    for (used, known) in [
        (0, 0),
        (second / 2, second / 2),
        (second, second),
        (second / 2 + 1, second),
        (second - 1, second),
        (second + 1, second + 1),
        (second + 500_000, second + 500_000),
        (second + 499_999, second + 500_000),
    ] {
        store
            .touch_keys(&[(one.id, at(used))])
            .await
            .expect("touched");
        assert_eq!(last(one.id).await, Some(at(known)), "after {used}");
    }
    // Twice in one call, and one that is gone.
    let gone = KeyId(Uuid::now_v7());
    let used = [
        (two.id, at(9)),
        (gone, at(9)),
        (two.id, at(8)),
        (one.id, at(3)),
    ];
    store.touch_keys(&used).await.expect("touched");
    assert_eq!(last(two.id).await, Some(at(9)));
    assert_eq!(last(one.id).await, Some(at(second + 500_000)));
    assert_eq!(store.revision().await, revision, "nobody hears of it");
}

async fn very_many_keys_are_touched_at_once(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    let known = key(&acme, "known");
    store.create_key(&known, &note()).await.expect("made");
    let mut used: Vec<_> = (0..20_000)
        .map(|_| (KeyId(Uuid::now_v7()), at(1)))
        .collect();
    used.push((known.id, at(2)));
    store.touch_keys(&used).await.expect("touched");
    let found = store
        .find_key(known.id)
        .await
        .expect("an answer")
        .expect("a key");
    assert_eq!(found.last_used_at, Some(at(2)));
}
