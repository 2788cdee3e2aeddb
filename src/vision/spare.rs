//! Memory of pixels that is used again: a fresh block of megabytes is zeroed, and paid for page by page.
//!
//! Called by `jpeg`, `picture`, `resample` and `preprocess`. Kept for the whole process, not for each thread, since
//! there are more threads of instances than pictures in work at a time; what is kept is bounded.

use std::sync::{LazyLock, Mutex};

/// The largest block that is kept: 1280 x 960 pixels of RGB, and the size from which the allocator gives blocks back.
const LARGEST: usize = 4 << 20;
/// What one picture in work uses again: its pixels, and what lies between the passes of a resize.
const FOR_A_PICTURE: usize = 6 << 20;

/// The most bytes that are kept: as many pictures are in work as there are cores.
static MOST: LazyLock<usize> = LazyLock::new(|| {
    FOR_A_PICTURE * std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
});

static KEPT: Mutex<Kept> = Mutex::new(Kept {
    blocks: Vec::new(),
    bytes: 0,
});

/// Blocks that nobody uses, the smallest first.
struct Kept {
    blocks: Vec<Vec<u8>>,
    /// Their capacities together.
    bytes: usize,
}

impl Kept {
    /// The smallest block of at least `len` bytes.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let at = self.blocks.partition_point(|block| block.capacity() < len);
        // A block that is much larger is left to a picture that needs it.
        self.blocks
            .get(at)
            .filter(|block| block.capacity() / 4 <= len)?;
        let block = self.blocks.remove(at);
        self.bytes -= block.capacity();
        Some(block)
    }

    /// Keeps a block within `most` bytes in all; smaller ones give way to it. Returns what is not kept.
    fn put(&mut self, block: Vec<u8>, most: usize) -> Vec<Vec<u8>> {
        let size = block.capacity();
        if size == 0 || size > LARGEST.min(most) {
            return vec![block];
        }
        let at = self.blocks.partition_point(|kept| kept.capacity() < size);
        self.blocks.insert(at, block);
        self.bytes += size;
        let mut left = Vec::new();
        while self.bytes > most && !self.blocks.is_empty() {
            let smallest = self.blocks.remove(0);
            self.bytes -= smallest.capacity();
            left.push(smallest);
        }
        left
    }
}

/// `len` bytes that hold anything, pixels of other pictures among it: the caller writes each of them.
pub(super) fn take(len: usize) -> Vec<u8> {
    let found = KEPT.lock().ok().and_then(|mut kept| kept.take(len));
    let Some(mut block) = found else {
        return vec![0; len];
    };
    block.resize(len, 0);
    block
}

/// Takes back what nobody needs any more, wherever it comes from.
pub(super) fn give_back(block: Vec<u8>) {
    let left = KEPT.lock().ok().map(|mut kept| kept.put(block, *MOST));
    // What is not kept is freed here, outside the lock.
    drop(left);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(kept: &Kept) -> Vec<usize> {
        kept.blocks.iter().map(Vec::capacity).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_best_fit_is_taken() {
        let mut kept = Kept {
            blocks: Vec::new(),
            bytes: 0,
        };
        for size in [300, 100, 200] {
            assert!(kept.put(vec![1; size], 1000).is_empty());
        }
        assert_eq!((sizes(&kept), kept.bytes), (vec![100, 200, 300], 600));
        assert_eq!(kept.take(150).map(|block| block.capacity()), Some(200));
        assert!(kept.take(301).is_none());
        assert!(kept.take(10).is_none(), "much too large");
        let left = kept.put(vec![1; 700], 1000);
        assert_eq!(left.iter().map(Vec::capacity).sum::<usize>(), 100);
        assert_eq!((sizes(&kept), kept.bytes), (vec![300, 700], 1000));
        assert_eq!(kept.put(vec![1; LARGEST + 1], usize::MAX).len(), 1);
        assert_eq!(kept.put(vec![1; 1001], 1000).len(), 1);
        assert_eq!(kept.bytes, 1000);
    }

    #[test]
    fn as_many_bytes_come_as_are_asked_for() {
        give_back(vec![7; 1000]);
        for len in [900, 1, 0, 5000] {
            assert_eq!(take(len).len(), len);
        }
    }
}
