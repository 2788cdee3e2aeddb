//! The result cache: scores by what made them, bounded in bytes. The one door to moka.
//!
//! Called by `scores`. Knows no picture, no graph and no HTTP; `top_k` and labels are applied after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;

use crate::config::CacheConfig;
use crate::domain::ids::Digest;
use crate::vision::Format;

/// All that the scores depend on, and who may see them.
///
/// The fingerprint holds the file, the manifest, the labels and the external data: a version that is replaced
/// leaves its results behind, and they go with time. No result needs to be taken out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The version's fingerprint.
    pub(super) fingerprint: Digest,
    /// What executes it: a reload of the same fingerprint may land on the other one.
    pub(super) backend: &'static str,
    /// SHA-256 of the picture's file.
    pub(super) picture: Digest,
    /// The pixel limit: a picture beyond a lowered one is refused, not answered from before.
    pub(super) max_pixels: u64,
    /// The tenant whose result it is; `None` where all share.
    pub(super) tenant: Option<Arc<str>>,
}

/// What is said of a picture beside its scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Told by its bytes.
    pub(super) format: Format,
    /// Columns and rows as stored.
    pub(super) size: (u32, u32),
}

/// Scores that were kept, and for how long they still are.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    /// After the activation, in output order.
    pub(super) scores: Arc<[f32]>,
    /// What the picture's header said.
    pub(super) shape: Shape,
    /// What is left of their time.
    pub(super) ttl: Duration,
}

#[derive(Clone)]
struct Entry {
    scores: Arc<[f32]>,
    shape: Shape,
    stored: Instant,
}

/// The cache; cheap to clone.
#[derive(Clone)]
pub(super) struct ResultCache {
    entries: Cache<Key, Entry>,
    max_bytes: u64,
    ttl: Duration,
}

/// What an entry costs beside its key and scores: moka's bookkeeping (nodes of two queues, counters, table slot)
/// and the allocator's rounding. 200,000 entries of ten scores took 345 bytes each of it.
const OVERHEAD: usize = 384;

/// The bytes that an entry is counted for.
fn weight(key: &Key, scores: &[f32]) -> u64 {
    let tenant = key.tenant.as_ref().map_or(0, |tenant| tenant.len());
    let bytes = size_of::<Key>() + tenant + size_of::<Entry>() + size_of_val(scores) + OVERHEAD;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl ResultCache {
    /// A cache as configured; `None` where it is turned off.
    pub(super) fn new(config: &CacheConfig) -> Option<Self> {
        if config.max_bytes == 0 {
            return None;
        }
        let ttl = Duration::from_secs(config.ttl_s);
        let entries = Cache::builder()
            .name("results")
            .max_capacity(config.max_bytes)
            .weigher(|key: &Key, entry: &Entry| {
                u32::try_from(weight(key, &entry.scores)).unwrap_or(u32::MAX)
            })
            .time_to_live(ttl)
            .build();
        Some(Self {
            entries,
            max_bytes: config.max_bytes,
            ttl,
        })
    }

    /// What it keeps: bytes, bytes that may be, entries.
    pub(super) fn size(&self) -> (u64, u64, u64) {
        let (bytes, entries) = (self.entries.weighted_size(), self.entries.entry_count());
        (bytes, self.max_bytes, entries)
    }

    /// The scores of `key`, where they are kept.
    pub(super) async fn find(&self, key: &Key) -> Option<Hit> {
        let entry = self.entries.get(key).await?;
        Some(Hit {
            scores: entry.scores,
            shape: entry.shape,
            ttl: self.ttl.saturating_sub(entry.stored.elapsed()),
        })
    }

    /// Keeps the scores of `key`; whether the cache took them. Where it is full, what is asked for more often stays.
    pub(super) async fn store(&self, key: Key, scores: &Arc<[f32]>, shape: Shape) -> bool {
        if weight(&key, scores) > self.max_bytes {
            return false;
        }
        let entry = Entry {
            scores: Arc::clone(scores),
            shape,
            stored: Instant::now(),
        };
        self.entries.insert(key, entry).await;
        // moka would put the eviction off: the bound holds now, at microseconds beside a run's milliseconds.
        self.entries.run_pending_tasks().await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(max_bytes: u64) -> ResultCache {
        ResultCache::new(&CacheConfig {
            max_bytes,
            ..CacheConfig::default()
        })
        .expect("a cache")
    }

    fn key(number: u16) -> Key {
        let mut picture = [0; 32];
        picture[..2].copy_from_slice(&number.to_le_bytes());
        Key {
            fingerprint: Digest::from_bytes([1; 32]),
            backend: "ort",
            picture: Digest::from_bytes(picture),
            max_pixels: 1,
            tenant: None,
        }
    }

    const SHAPE: Shape = Shape {
        format: Format::Png,
        size: (28, 30),
    };

    fn scores(count: usize) -> Arc<[f32]> {
        vec![0.5; count].into()
    }

    #[tokio::test]
    async fn what_is_kept_is_found_by_its_whole_key() {
        let cache = cache(1 << 20);
        assert!(cache.store(key(1), &scores(3), SHAPE).await);
        let hit = cache.find(&key(1)).await.expect("kept");
        assert_eq!((&*hit.scores, hit.shape), (&[0.5; 3][..], SHAPE));
        assert!(hit.ttl <= Duration::from_hours(1) && hit.ttl > Duration::from_mins(59));
        let others: [fn(&mut Key); 5] = [
            |key| key.fingerprint = Digest::from_bytes([2; 32]),
            |key| key.backend = "tract",
            |key| key.picture = Digest::from_bytes([2; 32]),
            |key| key.max_pixels = 2,
            |key| key.tenant = Some(Arc::from("other")),
        ];
        for change in others {
            let mut other = key(1);
            change(&mut other);
            assert!(cache.find(&other).await.is_none(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn it_is_bounded_in_bytes_at_every_moment() {
        let bound = 64 << 10;
        let cache = cache(bound);
        for number in 0..2000 {
            cache.store(key(number), &scores(10), SHAPE).await;
            assert!(cache.entries.weighted_size() <= bound, "{number}");
        }
        assert!(
            cache.entries.weighted_size() > bound / 2,
            "the room is used"
        );
        let count = cache.entries.entry_count();
        assert_eq!(
            cache.entries.weighted_size(),
            count * weight(&key(0), &scores(10))
        );
    }

    #[tokio::test]
    async fn an_entry_counts_its_scores_and_what_surrounds_them() {
        assert_eq!(
            weight(&key(1), &scores(1000)) - weight(&key(1), &scores(0)),
            4000
        );
        let mut owned = key(1);
        owned.tenant = Some(Arc::from("0123456789"));
        assert_eq!(weight(&owned, &scores(0)) - weight(&key(1), &scores(0)), 10);
        assert!(weight(&key(1), &scores(0)) > 400, "an entry is never free");
        let small = cache(1000);
        assert!(
            !small.store(key(1), &scores(1000), SHAPE).await,
            "larger than all"
        );
        assert!(small.find(&key(1)).await.is_none());
    }

    #[tokio::test]
    async fn the_time_of_an_entry_ends() {
        let cache = ResultCache::new(&CacheConfig {
            ttl_s: 1,
            ..CacheConfig::default()
        })
        .expect("a cache");
        cache.store(key(1), &scores(1), SHAPE).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(cache.find(&key(1)).await.is_none());
    }

    #[test]
    fn no_bytes_is_no_cache() {
        let config = CacheConfig {
            max_bytes: 0,
            ..CacheConfig::default()
        };
        assert!(ResultCache::new(&config).is_none());
    }
}
