//! The lanes to one worker: opened when needed, kept while they are of use.
//!
//! In: lanes whose request is over. Out: one for the next request.
//! Always: at most [`LANES_MAX`] exist, at most [`DIALS_MAX`] are being opened; the last used one is used first, so that those
//! beyond need get idle and are closed.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyperfaas_protocol::lane::Greeting;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::connection::Lane;

/// Most lanes to one worker; requests beyond go over plain HTTP.
const LANES_MAX: usize = 1024;
/// Most that are being opened at the same time.
const DIALS_MAX: usize = 8;
/// How long opening one may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an unused lane is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Shares the lanes to one worker.
#[derive(Clone)]
pub struct LanePool(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    worker: u8,
    epoch: u64,
    key: Arc<str>,
    room: Arc<Semaphore>,
    dials: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Oldest first.
    lanes: Vec<(Lane, Instant)>,
    has_reaper: bool,
}

impl fmt::Debug for LanePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { address, worker, epoch, .. } = &*self.0;
        f.debug_struct("LanePool")
            .field("address", address)
            .field("worker", worker)
            .field("epoch", epoch)
            .finish_non_exhaustive()
    }
}

impl LanePool {
    /// Lanes to `worker` with `epoch` of the watchdog at `address`; none is opened yet.
    pub fn new(address: SocketAddr, worker: u8, epoch: u64, key: Arc<str>) -> Self {
        let (room, dials) = (Arc::new(Semaphore::new(LANES_MAX)), Semaphore::new(DIALS_MAX));
        Self(Arc::new(Inner { address, worker, epoch, key, room, dials, idle: Mutex::default() }))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(super) fn worker(&self) -> (u8, u64) {
        (self.0.worker, self.0.epoch)
    }

    pub(super) fn greeting(&self) -> Greeting {
        Greeting::new(self.0.worker, self.0.epoch, &self.0.key)
    }

    pub(super) fn leads_to(&self, worker: u8, epoch: u64) -> bool {
        (self.0.worker, self.0.epoch) == (worker, epoch)
    }

    pub(super) fn is_older_than(&self, worker: u8, epoch: u64) -> bool {
        self.0.worker == worker && self.0.epoch < epoch
    }

    /// A lane that can take a request.
    pub(super) async fn lane(&self) -> Result<Lane, String> {
        if let Some(lane) = self.0.take() {
            return Ok(lane);
        }
        let room = Arc::clone(&self.0.room).try_acquire_owned();
        let room = room.map_err(|_| "as many lanes as there may be".to_owned())?;
        let _dial = self.0.dials.acquire().await.map_err(|error| error.to_string())?;
        // One may have got free while others were being opened.
        if let Some(lane) = self.0.take() {
            return Ok(lane);
        }
        match timeout(DIAL_TIMEOUT, Lane::open(self, room)).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err("not opened in time".to_owned()),
        }
    }

    /// Keeps `lane` for the next request.
    pub(super) fn keep(&self, lane: Lane) {
        let mut idle = self.0.lock();
        idle.lanes.push((lane, Instant::now()));
        if !idle.has_reaper
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            idle.has_reaper = true;
            runtime.spawn(reap(Arc::downgrade(&self.0)));
        }
    }
}

impl Inner {
    fn take(&self) -> Option<Lane> {
        let mut idle = self.lock();
        while let Some((mut lane, _)) = idle.lanes.pop() {
            if lane.is_alive() {
                return Some(lane);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes unused lanes as their time comes; ends when none is left or the pool is gone. What is kept holds its pool, so a pool
/// nobody asks any more lives until its lanes have been closed.
async fn reap(pool: Weak<Inner>) {
    loop {
        sleep(IDLE_TIMEOUT).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.lock();
        let now = Instant::now();
        let old = |(_, since): &(Lane, Instant)| now.duration_since(*since) >= IDLE_TIMEOUT;
        let count = idle.lanes.iter().take_while(|lane| old(lane)).count();
        let closed: Vec<_> = idle.lanes.drain(..count).collect();
        idle.has_reaper = !idle.lanes.is_empty();
        let is_over = !idle.has_reaper;
        drop(idle);
        drop(closed);
        if is_over {
            return;
        }
    }
}
