//! The C library's allocator, which the runtimes allocate from: how it keeps blocks, and how it gives them back.
//!
//! Called once at the start, and by `models` when a session has ended. What a session leaves behind is not a leak of
//! the runtime's: it lies in the allocator's free lists until they are trimmed.

/// Blocks of this size and more go back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: i32 = 4 << 20;

/// Keeps the C allocator from hoarding. Left to itself, glibc raises the size from which blocks are mapped (and so given
/// back) with every large block that is freed: bodies and pixels then stay in its arenas, up to several times
/// `limits.max_inflight_bytes`. Smaller blocks are kept and reused, which spares the picture path its page faults: for
/// that the free end of each arena may be as large too, which would be 128 KiB where only the first is set.
/// To be called before any other thread exists.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the C library has no other door to its allocator"
)]
pub fn settle() {
    let settled = [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD].map(|name| {
        // SAFETY: `mallopt` takes two integers and is called before any other thread exists.
        unsafe { libc::mallopt(name, LARGE_BLOCK) }
    });
    if settled.contains(&0) {
        tracing::debug!("the allocator keeps its own thresholds");
    }
}

/// Gives what is free back to the system. Takes milliseconds, and each arena's lock for some of them: never call it for
/// a request.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the C library has no other door to its allocator"
)]
pub fn give_back() {
    // SAFETY: `malloc_trim` takes an integer, touches free memory alone and may be called from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give large blocks back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn settle() {}

/// Other C libraries give large blocks back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
