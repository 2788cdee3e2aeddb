//! Admin tokens: made, found, listed, gone; never changed.

use lensgate::domain::operator::{AdminToken, Role};
use lensgate::domain::tenant::TokenId;
use lensgate::store::{Page, StoreError};
use uuid::Uuid;

use super::{ALL, at, note, token};
use crate::fixture::database::TestDatabase;

contract![
    a_token_comes_back_as_it_was_made,
    tokens_are_listed_and_go,
    the_last_use_only_moves_forward,
];

async fn a_token_comes_back_as_it_was_made(database: &TestDatabase) {
    let store = database.store().await;
    let mut made = Vec::new();
    for role in Role::ALL {
        made.push(AdminToken {
            role,
            hint: "lga_0000…".to_owned(),
            expires_at: (role == Role::Admin).then(|| at(500_000)),
            last_used_at: (role == Role::Viewer).then(|| at(1)),
            ..token(role.as_str())
        });
    }
    for token in &made {
        store.create_token(token, &note()).await.expect("made");
        let found = store.find_token(token.id).await.expect("an answer");
        assert_eq!(found.as_ref(), Some(token));
    }
    let again = store.create_token(&token("viewer"), &note()).await;
    assert_eq!(again, Err(StoreError::Conflict("token")));
    assert_eq!(store.find_token(TokenId(Uuid::now_v7())).await, Ok(None));
    assert_eq!(store.changes_since(0).await.expect("changes").tokens, made);
}

async fn tokens_are_listed_and_go(database: &TestDatabase) {
    let store = database.store().await;
    let made = ["a", "b", "c"].map(token);
    for token in &made {
        store.create_token(token, &note()).await.expect("made");
    }
    let page = Page {
        after: None,
        limit: 2,
    };
    let first = store.list_tokens(page).await.expect("a page");
    assert_eq!(
        (first.items.as_slice(), first.next),
        (&made[..2], Some(made[1].id.0))
    );
    let page = Page {
        after: first.next,
        ..page
    };
    let second = store.list_tokens(page).await.expect("a page");
    assert_eq!((second.items.as_slice(), second.next), (&made[2..], None));

    let before = store.revision().await.expect("a revision");
    store.delete_token(made[0].id, &note()).await.expect("gone");
    let again = store.delete_token(made[0].id, &note()).await;
    assert_eq!(again, Err(StoreError::NotFound("token")));
    let changes = store.changes_since(before).await.expect("changes");
    assert_eq!(
        (changes.revision, changes.tokens_gone),
        (before + 1, vec![made[0].id])
    );
    let left = store.list_tokens(ALL).await.expect("a page").items;
    assert_eq!(left, made[1..]);
}

async fn the_last_use_only_moves_forward(database: &TestDatabase) {
    let store = database.store().await;
    let made = token("t");
    store.create_token(&made, &note()).await.expect("made");
    let revision = store.revision().await;
    store.touch_tokens(&[]).await.expect("nothing");
    let gone = TokenId(Uuid::now_v7());
    for (used, known) in [(5, 5), (4, 5), (1_000_000, 1_000_000), (500_000, 1_000_000)] {
        let used = [(made.id, at(used)), (gone, at(1)), (made.id, at(0))];
        store.touch_tokens(&used).await.expect("touched");
        let found = store
            .find_token(made.id)
            .await
            .expect("an answer")
            .expect("a token");
        assert_eq!(found.last_used_at, Some(at(known)));
    }
    assert_eq!(store.revision().await, revision, "nobody hears of it");
}
