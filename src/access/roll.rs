//! Who is known: keys and tokens by the hashes of their secrets, as the store has them. Asked for every request, and changed
//! entry by entry beside it: a change of one key costs the others nothing. The room's only user of the sharded map.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;

use super::meter::{Meter, Seen};
use super::principal::{KnownKey, KnownTenant, KnownToken};
use crate::domain::api_key::ApiKey;
use crate::domain::operator::AdminToken;
use crate::domain::secret::SecretHash;
use crate::domain::tenant::{KeyId, TenantId, TokenId};
use crate::store::Changes;
use crate::telemetry::metrics::Metrics;

/// Keys and tokens.
pub(super) struct Roll {
    keys: DashMap<SecretHash, Arc<KnownKey>>,
    tokens: DashMap<SecretHash, Arc<KnownToken>>,
    /// The same by their ids, for who writes. Held while changes are applied.
    book: Mutex<Book>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Book {
    revision: i64,
    tenants: HashMap<TenantId, Arc<KnownTenant>>,
    keys: HashMap<KeyId, Arc<KnownKey>>,
    tokens: HashMap<TokenId, Arc<KnownToken>>,
    /// Keys that came before their tenant.
    waiting: HashMap<KeyId, ApiKey>,
}

impl Roll {
    /// Nobody yet.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            keys: DashMap::new(),
            tokens: DashMap::new(),
            book: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn key(&self, hash: &SecretHash) -> Option<Arc<KnownKey>> {
        self.keys.get(hash).map(|key| Arc::clone(&key))
    }

    pub(super) fn token(&self, hash: &SecretHash) -> Option<Arc<KnownToken>> {
        self.tokens.get(hash).map(|token| Arc::clone(&token))
    }

    /// The meter of a key that is in force.
    pub(super) fn meter(&self, id: KeyId) -> Option<Arc<Meter>> {
        self.book().keys.get(&id).map(|key| Arc::clone(&key.meter))
    }

    /// The meters of these keys in their order, of each that is in force.
    pub(super) fn meters<T: Copy>(
        &self,
        of: &[T],
        id: impl Fn(T) -> KeyId,
    ) -> Vec<(T, Option<Arc<Meter>>)> {
        let book = self.book();
        let meter = |&each: &T| {
            let key = book.keys.get(&id(each));
            (each, key.map(|key| Arc::clone(&key.meter)))
        };
        of.iter().map(meter).collect()
    }

    pub(super) fn seen(&self, id: TokenId) -> Option<Arc<Seen>> {
        self.book()
            .tokens
            .get(&id)
            .map(|token| Arc::clone(&token.seen))
    }

    /// Keys and tokens in force.
    pub(super) fn len(&self) -> (usize, usize) {
        let book = self.book();
        (book.keys.len(), book.tokens.len())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic in between leaves entries that the next change of the same things puts right.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what changed into force. Changes of a revision that is behind are known already.
    pub(super) fn apply(&self, changes: &Changes) {
        let mut book = self.book();
        if changes.revision < book.revision {
            return;
        }
        book.revision = changes.revision;
        for tenant in &changes.tenants {
            let known = book.tenants.entry(tenant.id).or_insert_with(|| {
                let text: Arc<str> = tenant.id.to_string().into();
                Arc::new(KnownTenant {
                    id: tenant.id,
                    series: self.metrics.tenant(&text),
                    text,
                })
            });
            known.series.rename(&tenant.name);
        }
        for id in &changes.tenants_gone {
            self.remove_tenant(&mut book, *id);
        }
        for id in &changes.keys_gone {
            self.remove_key(&mut book, *id);
        }
        for key in &changes.keys {
            self.put_key(&mut book, key);
        }
        for tenant in &changes.tenants {
            self.put_waiting(&mut book, tenant.id);
        }
        for id in &changes.tokens_gone {
            if let Some(token) = book.tokens.remove(id) {
                self.forget_token(&token);
            }
        }
        for token in &changes.tokens {
            self.put_token(&mut book, token);
        }
    }

    /// Brings all there is into force, whatever was known before: the database was set back. What both know keeps what it
    /// owes and has used.
    pub(super) fn replace(&self, all: &Changes) {
        let tenants: HashSet<TenantId> = all.tenants.iter().map(|tenant| tenant.id).collect();
        let keys: HashSet<KeyId> = all.keys.iter().map(|key| key.id).collect();
        let tokens: HashSet<TokenId> = all.tokens.iter().map(|token| token.id).collect();
        let changes = {
            let mut book = self.book();
            book.revision = 0;
            Changes {
                tenants_gone: missing(book.tenants.keys(), &tenants),
                keys_gone: missing(book.keys.keys().chain(book.waiting.keys()), &keys),
                tokens_gone: missing(book.tokens.keys(), &tokens),
                ..all.clone()
            }
        };
        self.apply(&changes);
    }

    fn put_key(&self, book: &mut Book, key: &ApiKey) {
        let Some(tenant) = book.tenants.get(&key.tenant) else {
            self.remove_key(book, key.id);
            book.waiting.insert(key.id, key.clone());
            return;
        };
        book.waiting.remove(&key.id);
        let before = book.keys.get(&key.id).cloned();
        let meter = match &before {
            Some(before) => Arc::clone(&before.meter),
            None => Arc::new(Meter::new(key.id)),
        };
        let known = Arc::new(KnownKey::new(key, Arc::clone(tenant), meter));
        // The new secret opens before the old one stops: who rotates is never shut out in between.
        for hash in known.hashes() {
            self.keys.insert(hash, Arc::clone(&known));
        }
        if let Some(before) = before {
            for hash in before.hashes() {
                if known.hashes().all(|kept| kept != hash) {
                    self.forget_hash(&hash, &before);
                }
            }
        }
        book.keys.insert(key.id, known);
    }

    fn put_waiting(&self, book: &mut Book, tenant: TenantId) {
        if book.waiting.is_empty() {
            return;
        }
        let arrived: Vec<ApiKey> = {
            let waiting = book.waiting.values();
            waiting
                .filter(|key| key.tenant == tenant)
                .cloned()
                .collect()
        };
        for key in &arrived {
            self.put_key(book, key);
        }
    }

    fn remove_tenant(&self, book: &mut Book, id: TenantId) {
        if book.tenants.remove(&id).is_none() {
            return;
        }
        let of_tenant = book.keys.iter().filter(|(_, key)| key.tenant() == id);
        let keys: Vec<KeyId> = of_tenant.map(|(id, _)| *id).collect();
        for key in keys {
            self.remove_key(book, key);
        }
        book.waiting.retain(|_, key| key.tenant != id);
    }

    fn remove_key(&self, book: &mut Book, id: KeyId) {
        book.waiting.remove(&id);
        if let Some(key) = book.keys.remove(&id) {
            for hash in key.hashes() {
                self.forget_hash(&hash, &key);
            }
        }
    }

    /// Only where it still leads to this key: another may have come to have the same secret.
    fn forget_hash(&self, hash: &SecretHash, key: &KnownKey) {
        let same = |_: &SecretHash, found: &Arc<KnownKey>| found.meter.key() == key.meter.key();
        self.keys.remove_if(hash, same);
    }

    fn put_token(&self, book: &mut Book, token: &AdminToken) {
        let before = book.tokens.get(&token.id).cloned();
        let seen = match &before {
            Some(before) => Arc::clone(&before.seen),
            None => Arc::default(),
        };
        let known = Arc::new(KnownToken::new(token, seen));
        self.tokens.insert(token.hash, Arc::clone(&known));
        if let Some(before) = before.filter(|before| before.hash != token.hash) {
            self.forget_token(&before);
        }
        book.tokens.insert(token.id, known);
    }

    fn forget_token(&self, token: &KnownToken) {
        let same = |_: &SecretHash, found: &Arc<KnownToken>| found.operator.id == token.operator.id;
        self.tokens.remove_if(&token.hash, same);
    }
}

/// The ids among `known` that are not in `all`.
fn missing<'a, I: Copy + Eq + Hash + 'a>(
    known: impl Iterator<Item = &'a I>,
    all: &HashSet<I>,
) -> Vec<I> {
    known.filter(|id| !all.contains(*id)).copied().collect()
}
