//! Memory that is free after a wave of connections goes back to the system.
//!
//! In: how many connections have let go of their buffers. Touches: the allocator's free pages, once a few seconds at most.
//! Why: glibc keeps what was freed in the middle of its heap for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// Connections whose buffers are worth the walk over the heap: some 4 MiB.
const WORTH: usize = 256;
/// How long others are waited for.
const PAUSE: Duration = Duration::from_secs(5);

/// Counts connections that have let go of their buffers.
#[derive(Debug, Default)]
pub(crate) struct Spare(Arc<AtomicUsize>);

impl Spare {
    /// Another connection has let go of its buffers; has to be told within a runtime.
    pub(crate) fn add(&self) {
        if self.0.fetch_add(1, Ordering::Relaxed) + 1 == WORTH {
            let count = Arc::clone(&self.0);
            tokio::spawn(async move {
                sleep(PAUSE).await;
                count.store(0, Ordering::Relaxed);
                // Some milliseconds where much is free.
                tokio::task::spawn_blocking(trim);
            });
        }
    }
}

/// Gives free pages back to the system.
#[expect(unsafe_code, reason = "a call of the C library without a safe form")]
fn trim() {
    // Only glibc has it, and only glibc needs it.
    #[cfg(target_env = "gnu")]
    // SAFETY: returns pages to the system that the allocator itself knows to be free, under its own locks.
    let _ = unsafe { libc::malloc_trim(0) };
}
