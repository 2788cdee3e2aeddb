//! What operators want of models: aliases, and versions that stay out of service.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use lensgate::domain::ids::{ModelId, VersionNumber};
use lensgate::domain::rollout::Rollout;
use lensgate::store::{AuditFilter, ModelWish, StoreError};

use super::{audit, note, tenant};
use crate::fixture::database::TestDatabase;

contract![
    aliases_are_put_moved_and_deleted,
    versions_stay_out_of_service_until_they_are_wanted,
    what_is_gone_is_forgotten,
    followers_hear_of_wishes_and_of_nothing_else,
];

fn model(id: &str) -> ModelId {
    id.parse().expect("a model id")
}

fn version(number: u64) -> VersionNumber {
    NonZeroU64::new(number).expect("a version").into()
}

fn wish<const A: usize, const U: usize>(
    aliases: [(&str, u64); A],
    unloaded: [u64; U],
) -> ModelWish {
    ModelWish {
        rollout: Rollout::default(),
        aliases: BTreeMap::from(aliases.map(|(name, number)| (name.to_owned(), version(number)))),
        unloaded: BTreeSet::from(unloaded.map(version)),
    }
}

async fn aliases_are_put_moved_and_deleted(database: &TestDatabase) {
    let store = database.store().await;
    assert_eq!(store.wishes().await, Ok(BTreeMap::new()));
    let digits = model("digits");
    let put = async |alias: &str, number| {
        let version = version(number);
        store
            .put_alias(&digits, alias, version, &note())
            .await
            .expect("put")
    };
    assert_eq!(put("stable", 1).await, None);
    assert_eq!(put("stable", 2).await, Some(version(1)));
    assert_eq!(put("stable", 2).await, Some(version(2)));
    // A number that is beyond what databases count.
    assert_eq!(put("next", u64::MAX).await, None);
    let same_name = store
        .put_alias(&model("other"), "stable", version(9), &note())
        .await;
    assert_eq!(same_name, Ok(None));
    let wanted = BTreeMap::from([
        (
            digits.clone(),
            wish([("stable", 2), ("next", u64::MAX)], []),
        ),
        (model("other"), wish([("stable", 9)], [])),
    ]);
    assert_eq!(store.wishes().await, Ok(wanted));

    store
        .delete_alias(&digits, "stable", &note())
        .await
        .expect("gone");
    let again = store.delete_alias(&digits, "stable", &note()).await;
    assert_eq!(again, Err(StoreError::NotFound("alias")));
    store
        .delete_alias(&digits, "next", &note())
        .await
        .expect("gone");
    // A model of which nothing is wanted is left out.
    let wanted = BTreeMap::from([(model("other"), wish([("stable", 9)], []))]);
    assert_eq!(store.wishes().await, Ok(wanted));
}

async fn versions_stay_out_of_service_until_they_are_wanted(database: &TestDatabase) {
    let store = database.store().await;
    let digits = model("digits");
    let set = async |number, unloaded, action: &str| {
        let entry = audit(action, "models/digits");
        let version = version(number);
        store
            .set_unloaded(&digits, version, unloaded, &entry)
            .await
            .expect("an answer")
    };
    assert!(
        !set(1, false, "not.written").await,
        "it is in service already"
    );
    assert!(set(1, true, "written").await);
    assert!(set(2, true, "written").await);
    let revision = store.revision().await;
    assert!(
        !set(1, true, "not.written").await,
        "it is out of service already"
    );
    assert_eq!(store.revision().await, revision);
    assert_eq!(
        store.wishes().await,
        Ok(BTreeMap::from([(digits.clone(), wish([], [1, 2]))]))
    );
    assert!(set(1, false, "written").await);
    assert_eq!(
        store.wishes().await,
        Ok(BTreeMap::from([(digits.clone(), wish([], [2]))]))
    );
    let entries = store
        .list_audit(&AuditFilter::default(), super::ALL)
        .await
        .expect("a page");
    let actions: Vec<&str> = entries
        .items
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(actions, ["written"; 3]);
}

async fn what_is_gone_is_forgotten(database: &TestDatabase) {
    let store = database.store().await;
    let (digits, other) = (model("digits"), model("other"));
    for model in [&digits, &other] {
        for number in [1, 2] {
            let set = store
                .set_unloaded(model, version(number), true, &note())
                .await;
            assert_eq!(set, Ok(true));
        }
        store
            .put_alias(model, "stable", version(1), &note())
            .await
            .expect("put");
    }
    store
        .forget_version(&digits, version(1), &audit("version.delete", "x"))
        .await
        .expect("gone");
    // Also what was never wanted can be forgotten; it is on record.
    store
        .forget_version(&digits, version(7), &audit("version.delete", "x"))
        .await
        .expect("gone");
    let wanted = BTreeMap::from([
        (digits.clone(), wish([("stable", 1)], [2])),
        (other.clone(), wish([("stable", 1)], [1, 2])),
    ]);
    assert_eq!(store.wishes().await, Ok(wanted));
    store
        .forget_model(&other, &audit("model.delete", "x"))
        .await
        .expect("gone");
    store
        .forget_model(&model("never"), &audit("model.delete", "x"))
        .await
        .expect("gone");
    let wanted = BTreeMap::from([(digits, wish([("stable", 1)], [2]))]);
    assert_eq!(store.wishes().await, Ok(wanted));
    let entries = store
        .list_audit(&AuditFilter::default(), super::ALL)
        .await
        .expect("a page");
    let deletions = entries
        .items
        .iter()
        .filter(|entry| entry.action.ends_with(".delete"));
    assert_eq!(deletions.count(), 4);
}

async fn followers_hear_of_wishes_and_of_nothing_else(database: &TestDatabase) {
    let store = database.store().await;
    let digits = model("digits");
    assert_eq!(
        store.changes_since(0).await.expect("changes").wishes,
        None,
        "nothing changed"
    );
    store
        .create_tenant(&tenant("acme"), &note())
        .await
        .expect("made");
    let all = store.changes_since(0).await.expect("changes");
    assert_eq!(
        all.wishes,
        Some(BTreeMap::new()),
        "all there is, and that is nothing"
    );

    store
        .put_alias(&digits, "stable", version(1), &note())
        .await
        .expect("put");
    let changes = store.changes_since(all.revision).await.expect("changes");
    assert_eq!(
        changes.wishes,
        Some(BTreeMap::from([(
            digits.clone(),
            wish([("stable", 1)], [])
        )]))
    );
    assert_eq!(changes.tenants, []);

    store
        .create_tenant(&tenant("other"), &note())
        .await
        .expect("made");
    let later = store
        .changes_since(changes.revision)
        .await
        .expect("changes");
    assert_eq!((later.wishes, later.tenants.len()), (None, 1));

    store
        .delete_alias(&digits, "stable", &note())
        .await
        .expect("gone");
    let last = store.changes_since(later.revision).await.expect("changes");
    assert_eq!(last.wishes, Some(BTreeMap::new()));
}
