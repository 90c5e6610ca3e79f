//! Bytes both ways between two upgraded connections.
//!
//! The end of one direction is passed on as such, so half-closed tunnels work; silence is not an error.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

/// Joins `caller` and `upstream` until both directions have ended or one fails.
///
/// `caller` resolves once the 101 has been sent, `upstream` at once.
pub(crate) async fn tunnel(caller: OnUpgrade, upstream: OnUpgrade) {
    let (caller, upstream) = match tokio::try_join!(caller, upstream) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "upgrade not completed"),
    };
    match copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(upstream)).await {
        Ok((up_bytes, down_bytes)) => debug!(up_bytes, down_bytes, "tunnel closed"),
        Err(error) => debug!(%error, "tunnel cut"),
    }
}
