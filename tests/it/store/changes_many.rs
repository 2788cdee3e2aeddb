//! A hundred thousand keys: all of them are loaded, once each, and what changes then is told by itself.

use std::collections::BTreeSet;
use std::time::Instant;

use lensgate::domain::tenant::Tenant;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};

use super::{key, note, tenant};
use crate::fixture::database::TestDatabase;

contract![a_hundred_thousand_keys_are_loaded];

const KEYS: usize = 100_000;

async fn a_hundred_thousand_keys_are_loaded(database: &TestDatabase) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    add_keys(database, &acme).await;

    let began = Instant::now();
    let all = store.changes_since(0).await.expect("changes");
    println!("{}: {KEYS} keys in {:?}", store.engine(), began.elapsed());
    let ids: BTreeSet<_> = all.keys.iter().map(|key| key.id).collect();
    assert_eq!((all.keys.len(), ids.len()), (KEYS, KEYS));
    assert!(all.keys.iter().all(|key| key.tenant == acme.id));

    // From the middle of those that one change brought: all of the next, none of its own.
    let some = store
        .changes_since(all.revision - 1000)
        .await
        .expect("changes");
    assert_eq!(some.keys.len(), 1000);

    let late = key(&acme, "late");
    store.create_key(&late, &note()).await.expect("made");
    let news = store.changes_since(all.revision).await.expect("changes");
    assert_eq!(news.keys, [late]);
}

/// Writes keys as many calls would have, the first half by one change: more than a page of them.
async fn add_keys(database: &TestDatabase, whose: &Tenant) {
    let columns = "id, tenant_id, name, secret_hash, hint, scopes, models, limit_mode, created_at, updated_at, version, revision";
    let constants = "'[\"classify\"]', '[\"*\"]', 'enforce', '2026-01-31T00:00:00+00:00', '2026-01-31T00:00:00+00:00', 1";
    let revision = format!("CASE WHEN n <= {0} THEN 2 ELSE n - {0} + 2 END", KEYS / 2);
    let last = KEYS / 2 + 2;
    let tenant = whose.id.0;
    if database.is_sqlite() {
        let mut writer = SqliteConnection::connect(&database.url)
            .await
            .expect("a file");
        let numbers = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {KEYS})"
        );
        let statement = format!(
            "{numbers} INSERT INTO api_keys ({columns}) SELECT randomblob(16), x'{}', 'key ' || n, randomblob(32), 'lg_…', \
             {constants}, {revision} FROM numbers; UPDATE revision SET value = {last}",
            tenant.simple()
        );
        writer
            .execute(AssertSqlSafe(statement))
            .await
            .expect("keys");
        writer.close().await.expect("an end");
    } else {
        let mut writer = PgConnection::connect(&database.url)
            .await
            .expect("a server");
        let statement = format!(
            "INSERT INTO api_keys ({columns}) SELECT gen_random_uuid(), '{tenant}', 'key ' || n, sha256(n::text::bytea), 'lg_…', \
             '[\"classify\"]', '[\"*\"]', 'enforce', '2026-01-31T00:00:00Z'::timestamptz, '2026-01-31T00:00:00Z'::timestamptz, 1, \
             {revision} FROM generate_series(1, {KEYS}) AS numbers (n); UPDATE revision SET value = {last}"
        );
        writer
            .execute(AssertSqlSafe(statement))
            .await
            .expect("keys");
        writer.close().await.expect("an end");
    }
}
