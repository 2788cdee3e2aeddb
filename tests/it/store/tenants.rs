//! Tenants: made, found, listed in the order they were made, changed by who read them last, gone with all that is theirs.

use lensgate::domain::tenant::{Tenant, TenantId};
use lensgate::store::{AuditFilter, Page, StoreError};
use uuid::Uuid;

use super::{ALL, at, audit, full_key, key, note, tenant, token};
use crate::fixture::database::TestDatabase;

contract![
    a_tenant_comes_back_as_it_was_made,
    a_name_belongs_to_one_tenant,
    pages_follow_each_other,
    an_update_needs_the_version_that_was_read,
    what_is_refused_leaves_nothing,
    a_tenant_goes_with_its_keys_and_their_usage,
];

async fn a_tenant_comes_back_as_it_was_made(database: &TestDatabase) {
    let store = database.store().await;
    let plain = tenant("acme");
    let full = Tenant {
        name: "Größe \"2\"; DROP TABLE tenants; --".to_owned(),
        callback_url: Some("https://example.org/a?b=c".to_owned()),
        events: vec!["prediction.done".to_owned(), "a,\"b\"".to_owned()],
        // A whole second, half of one, and a last digit that only microseconds have.
        created_at: at(0),
        updated_at: at(500_001),
        version: 7,
        ..tenant("")
    };
    for tenant in [&plain, &full] {
        store.create_tenant(tenant, &note()).await.expect("made");
        let found = store.find_tenant(tenant.id).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(tenant));
    }
    assert_eq!(store.find_tenant(TenantId(Uuid::now_v7())).await, Ok(None));
    // Another replica reads the same.
    let other = database.store().await;
    assert_eq!(other.find_tenant(full.id).await, Ok(Some(full)));
}

async fn a_name_belongs_to_one_tenant(database: &TestDatabase) {
    let store = database.store().await;
    let (one, two) = (tenant("acme"), tenant("other"));
    store.create_tenant(&one, &note()).await.expect("made");
    store.create_tenant(&two, &note()).await.expect("made");
    let again = store.create_tenant(&tenant("acme"), &note()).await;
    assert_eq!(again, Err(StoreError::Conflict("tenant")));
    // Upper case is another name.
    store
        .create_tenant(&tenant("Acme"), &note())
        .await
        .expect("made");
    let renamed = Tenant {
        name: "acme".to_owned(),
        version: 2,
        ..two.clone()
    };
    let clash = store.update_tenant(&renamed, 1, &note()).await;
    assert_eq!(clash, Err(StoreError::Conflict("tenant")));
    assert_eq!(store.find_tenant(two.id).await, Ok(Some(two)));
    // The name is free again once its tenant is gone.
    store.delete_tenant(one.id, 1, &note()).await.expect("gone");
    store
        .create_tenant(&tenant("acme"), &note())
        .await
        .expect("made");
}

async fn pages_follow_each_other(database: &TestDatabase) {
    let store = database.store().await;
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(tenant(&format!("tenant {number}")));
    }
    // Made in any order, they are listed by their ids.
    for tenant in made.iter().rev() {
        store.create_tenant(tenant, &note()).await.expect("made");
    }
    for limit in [1, 2, 3, 7, 8] {
        let mut page = Page { after: None, limit };
        let mut seen = Vec::new();
        loop {
            let listing = store.list_tenants(page).await.expect("a page");
            assert!(listing.items.len() <= limit as usize);
            assert!(listing.next.is_none() || listing.items.len() == limit as usize);
            seen.extend(listing.items);
            let Some(next) = listing.next else { break };
            page.after = Some(next);
        }
        assert_eq!(seen, made, "in pages of {limit}");
    }
    let behind = Page {
        after: Some(made[6].id.0),
        limit: 5,
    };
    let listing = store.list_tenants(behind).await.expect("a page");
    assert_eq!((listing.items.len(), listing.next), (0, None));
}

async fn an_update_needs_the_version_that_was_read(database: &TestDatabase) {
    let store = database.store().await;
    let first = tenant("acme");
    store.create_tenant(&first, &note()).await.expect("made");
    let second = Tenant {
        name: "acme & sons".to_owned(),
        callback_url: Some("https://example.org".to_owned()),
        events: vec!["x".to_owned()],
        updated_at: at(9),
        version: 2,
        ..first.clone()
    };
    store
        .update_tenant(&second, 1, &note())
        .await
        .expect("changed");
    assert_eq!(store.find_tenant(first.id).await, Ok(Some(second.clone())));
    let late = Tenant {
        name: "late".to_owned(),
        version: 2,
        ..first.clone()
    };
    let stale = Err(StoreError::Stale);
    assert_eq!(store.update_tenant(&late, 1, &note()).await, stale);
    assert_eq!(store.delete_tenant(first.id, 1, &note()).await, stale);
    assert_eq!(store.find_tenant(first.id).await, Ok(Some(second)));
    let missing = Err(StoreError::NotFound("tenant"));
    let stranger = tenant("stranger");
    assert_eq!(store.update_tenant(&stranger, 1, &note()).await, missing);
    assert_eq!(store.delete_tenant(stranger.id, 1, &note()).await, missing);
    store
        .delete_tenant(first.id, 2, &note())
        .await
        .expect("gone");
    assert_eq!(store.find_tenant(first.id).await, Ok(None));
    assert_eq!(store.delete_tenant(first.id, 2, &note()).await, missing);
}

async fn what_is_refused_leaves_nothing(database: &TestDatabase) {
    let store = database.store().await;
    let first = tenant("acme");
    store.create_tenant(&first, &note()).await.expect("made");
    let revision = store.revision().await.expect("a revision");
    let refused = audit("tenant.refused", "tenants/1");
    for outcome in [
        store.create_tenant(&tenant("acme"), &refused).await,
        store.update_tenant(&first, 9, &refused).await,
        store.delete_tenant(first.id, 9, &refused).await,
        store
            .delete_tenant(TenantId(Uuid::now_v7()), 1, &refused)
            .await,
        store
            .create_key(&key(&tenant("nobody"), "k"), &refused)
            .await,
    ] {
        outcome.expect_err("refused");
    }
    assert_eq!(store.revision().await, Ok(revision));
    let entries = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("a page");
    assert!(
        entries
            .items
            .iter()
            .all(|entry| entry.action != "tenant.refused")
    );
    // What fails at its audit entry fails whole.
    let twice = note();
    store.record(&twice).await.expect("recorded");
    let revision = store.revision().await.expect("a revision");
    let other = tenant("other");
    let outcome = store.create_tenant(&other, &twice).await;
    assert_eq!(outcome, Err(StoreError::Conflict("audit entry")));
    assert_eq!(store.find_tenant(other.id).await, Ok(None));
    assert_eq!(store.revision().await, Ok(revision));
}

async fn a_tenant_goes_with_its_keys_and_their_usage(database: &TestDatabase) {
    let store = database.store().await;
    let (gone, stays) = (tenant("gone"), tenant("stays"));
    for tenant in [&gone, &stays] {
        store.create_tenant(tenant, &note()).await.expect("made");
    }
    let mine = [key(&gone, "a"), full_key(&gone, "b")];
    let other = key(&stays, "c");
    for key in mine.iter().chain([&other]) {
        store.create_key(key, &note()).await.expect("made");
    }
    store
        .create_token(&token("t"), &note())
        .await
        .expect("made");
    let day = at(0).date_naive();
    let used = [(mine[0].id, day, 3), (other.id, day, 4)];
    assert_eq!(store.add_usage(&used).await, Ok(used.to_vec()));
    let before = store.revision().await.expect("a revision");

    store
        .delete_tenant(gone.id, 1, &note())
        .await
        .expect("gone");

    assert_eq!(store.revision().await, Ok(before + 1));
    let changes = store.changes_since(before).await.expect("changes");
    assert_eq!(changes.tenants_gone, [gone.id]);
    let mut keys_gone = changes.keys_gone;
    keys_gone.sort();
    assert_eq!(keys_gone, [mine[0].id, mine[1].id]);
    assert_eq!(
        (changes.tenants, changes.keys, changes.tokens),
        (vec![], vec![], vec![])
    );
    for key in &mine {
        assert_eq!(store.find_key(key.id).await, Ok(None));
    }
    let left = store.list_keys(None, ALL).await.expect("a page").items;
    assert_eq!(left, std::slice::from_ref(&other));
    assert_eq!(store.usage_of(day).await, Ok(vec![(other.id, 4)]));
    let refused = store.create_key(&key(&gone, "d"), &note()).await;
    assert_eq!(refused, Err(StoreError::NotFound("tenant")));
}
