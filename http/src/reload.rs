//! Settings in files that hold anew when the files change.
//!
//! In: a way to take over what the files say now. Out: lines of the log; the files are looked at until told to stop.
//! Always: what went wrong is told once, not every time it is looked at.
//! Touches: the clock; the files are `reload`'s.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How soon a change is in force.
const PERIOD: Duration = Duration::from_secs(2);

/// What the log says, of what kind of settings.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// New ones are in force.
    pub reloaded: &'static str,
    /// The files cannot be used, the old ones stay in force.
    pub kept: &'static str,
}

/// Calls `reload` every two seconds until `stop`; it says whether anything is new, or why the files cannot be used.
///
/// Read, not watched: secrets are replaced by renaming folders around links, which watches lose.
pub async fn watch<E: Display>(
    stop: CancellationToken,
    words: Words,
    reload: impl Fn() -> Result<bool, E>,
) {
    let mut was_broken = false;
    while stop.run_until_cancelled(sleep(PERIOD)).await.is_some() {
        let reloaded = reload();
        match &reloaded {
            Ok(true) => info!("{}", words.reloaded),
            Err(error) if !was_broken => warn!(%error, "{}", words.kept),
            Ok(false) | Err(_) => {}
        }
        was_broken = reloaded.is_err();
    }
}
