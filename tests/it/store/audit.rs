//! The audit: every change leaves one entry, read newest first and by what is asked for.

use lensgate::domain::operator::AuditEntry;
use lensgate::domain::tenant::TokenId;
use lensgate::store::{AuditFilter, Page, Store, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ALL, at, audit, key, note, tenant, token};
use crate::fixture::database::TestDatabase;

contract![
    an_entry_comes_back_as_it_was_written,
    every_change_leaves_its_entry,
    pages_go_back_in_time,
    filters_choose_by_words,
    filters_choose_by_time_and_token,
    filters_and_pages_go_together,
];

async fn an_entry_comes_back_as_it_was_written(database: &TestDatabase) {
    let store = database.store().await;
    let full = AuditEntry {
        token: Some(TokenId(Uuid::now_v7())),
        before: Some(json!({"b": 2, "a": {"deep": [1, 2.5, true, null, "ä\u{0}\"'"]}})),
        at: at(123_456),
        ..audit("key.update", "keys/1")
    };
    let bare = AuditEntry {
        before: None,
        after: None,
        address: None,
        request_id: None,
        ..audit("gateway.reload", "gateway")
    };
    let null = AuditEntry {
        before: Some(Value::Null),
        after: Some(json!("text")),
        ..note()
    };
    let revision = store.revision().await.expect("a revision");
    for entry in [&full, &bare, &null] {
        store.record(entry).await.expect("recorded");
    }
    let found = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("a page")
        .items;
    assert_eq!(found, [null, bare.clone(), full.clone()]);
    // The order of keys in an object is kept too.
    let before = found[2].before.as_ref().map(ToString::to_string);
    assert_eq!(before, full.before.as_ref().map(ToString::to_string));
    assert_eq!(
        store.record(&bare).await,
        Err(StoreError::Conflict("audit entry"))
    );
    let heard = store.revision().await.expect("a revision");
    assert_eq!(heard, revision + 3, "others hear of each");
}

async fn every_change_leaves_its_entry(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    let (mine, admin) = (key(&acme, "k"), token("t"));
    let digits = "digits".parse().expect("a model id");
    let one = std::num::NonZeroU64::MIN.into();
    let entry = |number: u32| audit(&format!("step.{number:02}"), "x");
    store.create_tenant(&acme, &entry(1)).await.expect("done");
    store
        .update_tenant(&acme, 1, &entry(2))
        .await
        .expect("done");
    store.create_key(&mine, &entry(3)).await.expect("done");
    store.update_key(&mine, 1, &entry(4)).await.expect("done");
    store.delete_key(mine.id, 1, &entry(5)).await.expect("done");
    store.create_token(&admin, &entry(6)).await.expect("done");
    store.delete_token(admin.id, &entry(7)).await.expect("done");
    store
        .put_alias(&digits, "a", one, &entry(8))
        .await
        .expect("done");
    store
        .delete_alias(&digits, "a", &entry(9))
        .await
        .expect("done");
    store
        .set_unloaded(&digits, one, true, &entry(10))
        .await
        .expect("done");
    store
        .forget_version(&digits, one, &entry(11))
        .await
        .expect("done");
    store.forget_model(&digits, &entry(12)).await.expect("done");
    store
        .delete_tenant(acme.id, 1, &entry(13))
        .await
        .expect("done");
    assert_eq!(store.revision().await, Ok(13), "a revision for each");
    let found = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("a page")
        .items;
    let actions: Vec<String> = found.into_iter().map(|entry| entry.action).collect();
    let wanted: Vec<String> = (1..=13)
        .rev()
        .map(|number| format!("step.{number:02}"))
        .collect();
    assert_eq!(actions, wanted);
}

async fn pages_go_back_in_time(database: &TestDatabase) {
    let store = database.store().await;
    let mut made = Vec::new();
    for number in 0..7 {
        let entry = audit(&format!("step.{number}"), "x");
        store.record(&entry).await.expect("recorded");
        made.insert(0, entry);
    }
    for limit in [1, 2, 3, 7, 8] {
        let mut page = Page { after: None, limit };
        let mut seen = Vec::new();
        loop {
            let listing = store
                .list_audit(&AuditFilter::default(), page)
                .await
                .expect("a page");
            assert!(listing.items.len() <= limit as usize);
            seen.extend(listing.items);
            let Some(next) = listing.next else { break };
            assert_eq!(seen.last().map(|entry| entry.id), Some(next));
            page.after = Some(next);
            // What is written meanwhile is on the first page of the next reader, and on no later one of this.
            let later = audit("later", "y");
            store.record(&later).await.expect("recorded");
            made.insert(0, later);
        }
        let (_, as_it_was) = made.split_at(made.len() - seen.len());
        assert_eq!(seen, as_it_was, "in pages of {limit}");
        assert!(seen.len() >= 7);
    }
}

/// Writes entries half a second apart, every other one of `operator`.
async fn write_entries(store: &dyn Store, operator: TokenId) {
    let entries = [
        ("key.create", "keys/1"),
        ("key.update", "keys/12"),
        ("keyring.open", "keyrings/1"),
        ("KEY.CREATE", "KEYS/1"),
        ("model.load", "models/digits/versions/1"),
        ("model.load", "models/digits2"),
        ("a_b%.x", "a_b%/x"),
        ("ä.ö", "ä/ö"),
    ];
    for (number, (action, target)) in (1..).zip(entries) {
        let entry = AuditEntry {
            at: at(number * SECOND / 2),
            token: (number % 2 == 0).then_some(operator),
            ..audit(action, target)
        };
        store.record(&entry).await.expect("recorded");
    }
}

const SECOND: i64 = 1_000_000;

async fn count(store: &dyn Store, filter: AuditFilter) -> usize {
    let listing = store.list_audit(&filter, ALL).await.expect("a page");
    listing.items.len()
}

async fn filters_choose_by_words(database: &TestDatabase) {
    let store = database.store().await;
    write_entries(&*store, TokenId(Uuid::now_v7())).await;
    for (action, wanted) in [
        ("key.", 2),
        ("key.create", 1),
        ("key", 0),
        ("KEY.", 1),
        ("model.", 2),
        ("model.load", 2),
        ("a_b%.", 1),
        ("a%.", 0),
        ("ä.", 1),
        (".", 0),
        ("", 0),
        ("key\0.", 0),
        ("' OR 1 = 1 --", 0),
    ] {
        let filter = AuditFilter {
            action: Some(action.to_owned()),
            ..AuditFilter::default()
        };
        assert_eq!(count(&*store, filter).await, wanted, "{action:?}");
    }
    for (target, wanted) in [
        ("keys/", 2),
        ("keys/1", 1),
        ("models/digits/", 1),
        ("models/", 2),
        ("ä/", 1),
        ("keys", 0),
        ("\0", 0),
    ] {
        let filter = AuditFilter {
            target: Some(target.to_owned()),
            ..AuditFilter::default()
        };
        assert_eq!(count(&*store, filter).await, wanted, "{target:?}");
    }
}

async fn filters_choose_by_time_and_token(database: &TestDatabase) {
    let store = database.store().await;
    let operator = TokenId(Uuid::now_v7());
    write_entries(&*store, operator).await;
    for (from, to, wanted) in [
        (None, None, 8),
        (Some(SECOND), None, 7),
        (Some(SECOND + 1), None, 6),
        (Some(SECOND / 2), Some(SECOND / 2), 0),
        (Some(SECOND / 2), Some(SECOND / 2 + 1), 1),
        (None, Some(SECOND), 1),
        (None, Some(SECOND * 3 / 2), 2),
        (Some(SECOND), Some(SECOND * 2), 2),
    ] {
        let filter = AuditFilter {
            from: from.map(at),
            to: to.map(at),
            ..AuditFilter::default()
        };
        assert_eq!(count(&*store, filter).await, wanted, "{from:?} to {to:?}");
    }
    let by = |token| AuditFilter {
        token: Some(token),
        ..AuditFilter::default()
    };
    assert_eq!(count(&*store, by(operator)).await, 4);
    assert_eq!(count(&*store, by(TokenId(Uuid::now_v7()))).await, 0);
}

async fn filters_and_pages_go_together(database: &TestDatabase) {
    let store = database.store().await;
    let operator = TokenId(Uuid::now_v7());
    write_entries(&*store, operator).await;
    let all_of_it = AuditFilter {
        action: Some("key.".to_owned()),
        target: Some("keys/".to_owned()),
        token: Some(operator),
        from: Some(at(0)),
        to: Some(at(9 * SECOND)),
    };
    assert_eq!(count(&*store, all_of_it).await, 1);
    let filter = AuditFilter {
        action: Some("key.".to_owned()),
        ..AuditFilter::default()
    };
    let mut page = Page {
        after: None,
        limit: 1,
    };
    let first = store.list_audit(&filter, page).await.expect("a page");
    assert_eq!(first.items[0].action, "key.update");
    page.after = first.next;
    let second = store.list_audit(&filter, page).await.expect("a page");
    let action = second.items[0].action.as_str();
    assert_eq!((action, second.next), ("key.create", None));
}
