//! Lanes to the replicas' watchdogs: requests go over them where the watchdog serves them, else over plain HTTP.
//!
//! In: a request for a worker. Out: its answer, streaming, or a [`LaneError`] that says whether it can go elsewhere.
//! Always: one request at a time on a lane; a request that was sent back has run nowhere and comes back whole: a small body was
//! kept, of a large one not a byte was taken before the watchdog had admitted the request; a lane is used again only when both
//! messages on it are over. Where an answer ends is decided here and nowhere else.
//! Source of the frames: [`hyperfaas_protocol::lane`]; of what is done to headers: of-watchdog's http mode, for which this
//! stands in together with the watchdog (`docs/watchdog.md`).

mod answer;
mod body;
mod call;
pub mod chunks;
mod connection;
mod pool;
mod tunnel;
pub mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use hyperfaas_protocol::lane::{Crowd, Reason};

pub use call::call;
pub use pool::LanePool;

/// Why a lane brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// There is no lane to be had; the request is as it was.
    #[error("no lane: {cause}")]
    NoLane {
        /// The request.
        request: Box<Request<Body>>,
        /// Why.
        cause: String,
    },
    /// The watchdog sent it back.
    #[error("bounced: {}", reason.name())]
    Bounced {
        /// The request.
        request: Box<Request<Body>>,
        /// Why.
        reason: Reason,
        /// How full it is there.
        crowd: Crowd,
    },
    /// The lane broke; the request may have run.
    #[error("{0}")]
    Lost(String),
    /// The caller's own body broke off or was malformed.
    #[error("request body broke off")]
    BrokenRequest,
    /// No head of an answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The lanes to one container.
#[derive(Debug)]
pub struct Lanes {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The key they are opened with; `None` until the watchdog says that it serves lanes.
    key: Option<Arc<str>>,
    /// One pool a worker, that of its newest epoch.
    pools: Vec<LanePool>,
}

impl Lanes {
    /// No lane yet, to the watchdog at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, state: Mutex::default() }
    }

    /// The watchdog serves lanes of this version to whoever knows `key`, or none.
    pub fn offer(&self, version: u8, key: &str) {
        let mut state = self.lock();
        state.key = (version > 0).then(|| key.into());
        if version == 0 {
            state.pools.clear();
        }
    }

    /// The lanes to `worker` with `epoch`, if there can be any.
    pub fn to(&self, worker: u8, epoch: u64) -> Option<LanePool> {
        let mut state = self.lock();
        let key = state.key.clone()?;
        if let Some(pool) = state.pools.iter().find(|pool| pool.leads_to(worker, epoch)) {
            return Some(pool.clone());
        }
        let pool = LanePool::new(self.address, worker, epoch, key);
        // Whoever still uses lanes of an earlier epoch finishes there.
        state.pools.retain(|old| !old.is_older_than(worker, epoch));
        state.pools.push(pool.clone());
        Some(pool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request can go over a lane at all. Paths that a watchdog answers by itself, or redirects, go over plain HTTP, as
/// does everything that only a look at HTTP could treat rightly.
pub fn carries(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    *request.method() != Method::CONNECT
        && path.starts_with('/')
        && !path.starts_with("/_/")
        && is_clean(path)
}

/// Whether a path has no empty and no dot segment, and only whole escapes.
fn is_clean(path: &str) -> bool {
    let mut segments = path[1..].split('/').peekable();
    let mut is_clean = true;
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        is_clean &= !matches!(segment, "." | "..") && (is_last || !segment.is_empty());
    }
    let is_escape = |rest: &str| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    is_clean && path.split('%').skip(1).all(is_escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_watchdog_answers_by_itself_goes_over_plain_http() {
        let carried = |path: &str| carries(&Request::get(path).body(Body::empty()).unwrap());
        for path in ["/", "/a", "/a/", "/a/b?q=//", "/a%2F..%2Fb", "/_", "/a/_/health"] {
            assert!(carried(path), "{path}");
        }
        for path in ["/_/health", "/_/ready", "//", "/a//b", "/./a", "/a/..", "/a/%zz", "/%4"] {
            assert!(!carried(path), "{path}");
        }
        let connect = Request::builder().method("CONNECT").uri("/").body(Body::empty()).unwrap();
        assert!(!carries(&connect));
    }

    #[tokio::test]
    async fn a_newer_epoch_takes_the_place_of_an_older_one() {
        let lanes = Lanes::new(([127, 0, 0, 1], 1).into());
        assert!(lanes.to(0, 0).is_none(), "nobody has offered any");
        lanes.offer(1, "k");
        let (first, other) = (lanes.to(0, 0).unwrap(), lanes.to(1, 4).unwrap());
        assert!(first.leads_to(0, 0) && other.leads_to(1, 4));
        lanes.to(1, 5).unwrap();
        assert_eq!(lanes.lock().pools.len(), 2);
        lanes.offer(0, "k");
        assert!(lanes.to(0, 0).is_none(), "taken back");
    }
}
