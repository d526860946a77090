//! How much freed memory this process keeps for later.

/// Blocks from this size on, in bytes, are the kernel's to give and to take back; the same
/// amount may lie unused at the end of a heap. It is glibc's first value of both
/// (`DEFAULT_MMAP_THRESHOLD` in malloc.c, `DEFAULT_TRIM_THRESHOLD`), and setting it stops
/// glibc from raising it to twice the largest block that was ever freed, 32 MiB at most.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: i32 = 128 << 10;

/// Heaps that threads share. One for each of the many threads that read files would keep
/// something each.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// Has what is freed go back to the kernel: a daemon that unpacked an image once should not
/// hold on to those megabytes for months. Call it before threads are started.
///
/// It changes nothing with another C library than glibc.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_MMAP_THRESHOLD, LARGE_BLOCK),
        (libc::M_TRIM_THRESHOLD, LARGE_BLOCK),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: mallopt takes two numbers and has no precondition; it locks the heap itself.
        let set = unsafe { libc::mallopt(what, value) };
        if set != 1 {
            tracing::debug!(what, value, "the allocator keeps its own setting");
        }
    }
}
