//! How replicas follow: revisions rise in the order of commits, and nobody who follows misses anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lensgate::domain::api_key::ApiKey;
use lensgate::domain::ids::ModelId;
use lensgate::domain::operator::AdminToken;
use lensgate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};
use lensgate::store::{AuditFilter, Bootstrap, Changes, ModelWish, Page, Store};

use super::{ALL, at, audit, full_key, key, note, tenant, token};
use crate::fixture::database::TestDatabase;

contract![
    a_new_store_holds_nothing,
    each_thing_comes_as_it_is_now,
    followers_miss_nothing_while_eight_write,
    a_store_from_a_backup_is_told_whole,
    of_replicas_that_start_together_one_fills_the_store,
    a_store_that_held_something_is_not_filled,
    a_closed_store_is_away,
];

async fn a_new_store_holds_nothing(database: &TestDatabase) {
    let store = database.store().await;
    store.ping().await.expect("a sign of life");
    let name = if database.is_sqlite() {
        "SQLite 3."
    } else {
        "PostgreSQL 1"
    };
    assert!(store.engine().starts_with(name), "{}", store.engine());
    assert_eq!(store.revision().await, Ok(0));
    assert_eq!(store.changes_since(0).await, Ok(Changes::default()));
}

async fn each_thing_comes_as_it_is_now(database: &TestDatabase) {
    let store = database.store().await;
    let (acme, other) = (tenant("acme"), tenant("other"));
    let (one, two) = (key(&acme, "one"), full_key(&other, "two"));
    let admin = token("t");
    store.create_tenant(&acme, &note()).await.expect("made");
    store.create_key(&one, &note()).await.expect("made");
    let middle = store.revision().await.expect("a revision");
    store.create_tenant(&other, &note()).await.expect("made");
    store.create_key(&two, &note()).await.expect("made");
    store.create_token(&admin, &note()).await.expect("made");

    let all = store.changes_since(0).await.expect("changes");
    let wanted = Changes {
        revision: 5,
        tenants: vec![acme.clone(), other.clone()],
        keys: vec![one.clone(), two.clone()],
        tokens: vec![admin.clone()],
        wishes: Some(BTreeMap::new()),
        ..Changes::default()
    };
    assert_eq!(all, wanted);
    let late = store.changes_since(middle).await.expect("changes");
    let wanted = Changes {
        revision: 5,
        tenants: vec![other.clone()],
        keys: vec![two.clone()],
        tokens: vec![admin.clone()],
        ..Changes::default()
    };
    assert_eq!(late, wanted);
    let nothing = Changes {
        revision: 5,
        ..Changes::default()
    };
    assert_eq!(store.changes_since(5).await, Ok(nothing));

    // Changed twice, it comes once; made and gone since, it comes as gone; gone before, it does not come.
    for version in [2, 3] {
        let changed = Tenant {
            callback_url: Some(format!("https://example.org/{version}")),
            version,
            ..acme.clone()
        };
        store
            .update_tenant(&changed, version - 1, &note())
            .await
            .expect("changed");
    }
    let brief = key(&acme, "brief");
    store.create_key(&brief, &note()).await.expect("made");
    store.delete_key(brief.id, 1, &note()).await.expect("gone");
    store
        .delete_key(two.id, two.version, &note())
        .await
        .expect("gone");
    store.delete_token(admin.id, &note()).await.expect("gone");
    let changes = store.changes_since(5).await.expect("changes");
    assert_eq!(changes.revision, 11);
    assert_eq!(changes.tenants.len(), 1);
    assert_eq!(changes.tenants[0].version, 3);
    assert_eq!((changes.keys, changes.tokens), (vec![], vec![]));
    assert_eq!(changes.keys_gone, [brief.id, two.id]);
    assert_eq!(changes.tokens_gone, [admin.id]);
    assert_eq!(changes.tenants_gone, []);
    let fresh = store.changes_since(0).await.expect("changes");
    assert_eq!(
        (fresh.keys_gone, fresh.tokens_gone),
        (vec![], vec![]),
        "a beginner knows nothing"
    );
    assert_eq!(fresh.keys, [one]);
}

/// What somebody knows who follows.
#[derive(Debug, Default, PartialEq)]
struct Mirror {
    revision: i64,
    tenants: BTreeMap<TenantId, Tenant>,
    keys: BTreeMap<KeyId, ApiKey>,
    tokens: BTreeMap<TokenId, AdminToken>,
    wishes: BTreeMap<ModelId, ModelWish>,
}

impl Mirror {
    /// Hears of what changed; gives whether anything did.
    async fn follow(&mut self, store: &dyn Store) -> bool {
        let changes = store.changes_since(self.revision).await.expect("changes");
        assert!(changes.revision >= self.revision, "revisions rise");
        let news = changes.revision > self.revision;
        self.revision = changes.revision;
        for id in changes.keys_gone {
            self.keys.remove(&id);
        }
        for id in changes.tenants_gone {
            self.tenants.remove(&id);
        }
        for id in changes.tokens_gone {
            self.tokens.remove(&id);
        }
        self.tenants
            .extend(changes.tenants.into_iter().map(|one| (one.id, one)));
        self.keys
            .extend(changes.keys.into_iter().map(|one| (one.id, one)));
        self.tokens
            .extend(changes.tokens.into_iter().map(|one| (one.id, one)));
        if let Some(wishes) = changes.wishes {
            self.wishes = wishes;
        }
        for key in self.keys.values() {
            assert!(
                self.tenants.contains_key(&key.tenant),
                "a key of a missing tenant"
            );
        }
        news
    }

    /// What the store itself lists.
    async fn of(store: &dyn Store) -> Self {
        Self {
            revision: store.revision().await.expect("a revision"),
            tenants: store
                .list_tenants(ALL)
                .await
                .expect("a page")
                .items
                .into_iter()
                .map(|one| (one.id, one))
                .collect(),
            keys: store
                .list_keys(None, ALL)
                .await
                .expect("a page")
                .items
                .into_iter()
                .map(|one| (one.id, one))
                .collect(),
            tokens: store
                .list_tokens(ALL)
                .await
                .expect("a page")
                .items
                .into_iter()
                .map(|one| (one.id, one))
                .collect(),
            wishes: store.wishes().await.expect("wishes"),
        }
    }
}

/// A replica's operator, who makes, changes and deletes things of their own.
async fn work(store: Arc<dyn Store>, who: usize) -> usize {
    const ROUNDS: usize = 12;
    let model: ModelId = format!("model-{who}").parse().expect("a model id");
    let mut count = 0;
    for round in 0..ROUNDS {
        let mine = tenant(&format!("tenant {who} {round}"));
        store.create_tenant(&mine, &note()).await.expect("made");
        let first = key(&mine, &format!("key {who} {round} a"));
        let second = full_key(&mine, &format!("key {who} {round} b"));
        store.create_key(&first, &note()).await.expect("made");
        store.create_key(&second, &note()).await.expect("made");
        let changed = ApiKey {
            name: "changed".to_owned(),
            version: 2,
            updated_at: at(7),
            ..first.clone()
        };
        store
            .update_key(&changed, 1, &note())
            .await
            .expect("changed");
        let admin = token(&format!("token {who} {round}"));
        store.create_token(&admin, &note()).await.expect("made");
        let version = std::num::NonZeroU64::new(1 + round as u64)
            .expect("a version")
            .into();
        store
            .put_alias(&model, "stable", version, &note())
            .await
            .expect("put");
        count += 6;
        match round % 3 {
            0 => {
                store
                    .delete_tenant(mine.id, 1, &note())
                    .await
                    .expect("gone");
                store.delete_token(admin.id, &note()).await.expect("gone");
                count += 2;
            }
            1 => {
                store.delete_key(first.id, 2, &note()).await.expect("gone");
                let set = store.set_unloaded(&model, version, true, &note()).await;
                assert_eq!(set, Ok(true));
                count += 2;
            }
            _ => {
                // What is undone is never heard of.
                store
                    .create_tenant(&tenant(&mine.name), &note())
                    .await
                    .expect_err("refused");
            }
        }
    }
    count
}

async fn followers_miss_nothing_while_eight_write(database: &TestDatabase) {
    let done = Arc::new(AtomicBool::new(false));
    let mut followers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (store, done) = (database.store().await, Arc::clone(&done));
        followers.spawn(async move {
            let mut mirror = Mirror::default();
            let mut looks = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                let news = mirror.follow(&*store).await;
                looks += usize::from(news);
                if last && !news {
                    return (mirror, looks);
                }
            }
        });
    }
    let mut writers = tokio::task::JoinSet::new();
    for who in 0..8 {
        writers.spawn(work(database.store().await, who));
    }
    let changes: usize = writers.join_all().await.into_iter().sum();
    done.store(true, Ordering::Release);

    let store = database.store().await;
    let truth = Mirror::of(&*store).await;
    assert_eq!(
        usize::try_from(truth.revision),
        Ok(changes),
        "a revision for each change"
    );
    assert!(
        truth.keys.len() > 50 && truth.tokens.len() > 50,
        "something is left"
    );
    for (mirror, looks) in followers.join_all().await {
        assert_eq!(mirror, truth);
        assert!(looks > 10, "it looked {looks} times while they wrote");
    }
    let mut late = Mirror::default();
    late.follow(&*store).await;
    assert_eq!(late, truth);
}

async fn a_store_from_a_backup_is_told_whole(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    store
        .create_key(&key(&acme, "k"), &note())
        .await
        .expect("made");
    let changes = store.changes_since(1000).await.expect("changes");
    assert_eq!(
        (changes.revision, changes.tenants.len(), changes.keys.len()),
        (2, 1, 1)
    );
    assert_eq!(changes.wishes, Some(BTreeMap::new()));
}

fn first_fill(name: &str) -> Bootstrap {
    let first = tenant("default");
    Bootstrap {
        key: key(&first, name),
        tenant: first,
        token: token(name),
        audit: audit("gateway.bootstrap", "gateway"),
    }
}

async fn of_replicas_that_start_together_one_fills_the_store(database: &TestDatabase) {
    let mut replicas = tokio::task::JoinSet::new();
    for number in 0..8 {
        let store = database.store().await;
        replicas.spawn(async move {
            let first = first_fill(&format!("replica {number}"));
            let filled = store.bootstrap(&first).await.expect("an answer");
            filled.then_some(first)
        });
    }
    let filled: Vec<Bootstrap> = replicas.join_all().await.into_iter().flatten().collect();
    let [first] = filled.as_slice() else {
        panic!("{} replicas filled it", filled.len());
    };
    let store = database.store().await;
    let changes = store.changes_since(0).await.expect("changes");
    assert_eq!(changes.revision, 1);
    assert_eq!(changes.tenants, std::slice::from_ref(&first.tenant));
    assert_eq!(changes.keys, std::slice::from_ref(&first.key));
    assert_eq!(changes.tokens, std::slice::from_ref(&first.token));
    let page = Page {
        after: None,
        limit: 9,
    };
    let entries = store
        .list_audit(&AuditFilter::default(), page)
        .await
        .expect("a page")
        .items;
    assert_eq!(entries, std::slice::from_ref(&first.audit));
}

async fn a_store_that_held_something_is_not_filled(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    store
        .delete_tenant(acme.id, 1, &note())
        .await
        .expect("gone");
    assert_eq!(store.bootstrap(&first_fill("late")).await, Ok(false));
    assert_eq!(store.list_tenants(ALL).await.expect("a page").items, []);
    assert_eq!(store.revision().await, Ok(2));
}

async fn a_closed_store_is_away(database: &TestDatabase) {
    let store = database.store().await;
    store.ping().await.expect("a sign of life");
    store.close().await;
    let error = store.ping().await.expect_err("closed");
    assert!(
        matches!(error, lensgate::store::StoreError::Unavailable(_)),
        "{error}"
    );
    database
        .store()
        .await
        .ping()
        .await
        .expect("another is not closed");
}
