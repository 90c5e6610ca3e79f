//! Connections to the function's own HTTP server, kept for the next request.
//!
//! In: connections whose answer has been read to its end. Out: one that can be used at once, or none.
//! Always: a connection is used by one request at a time, and again only when the boundary between two messages is
//! certain: hyper reports it ready, has seen the whole answer, and has found no stray byte behind it.
//! Source: limits as of-watchdog's transport: at most 100 idle connections, none idle longer than 500 ms, which is below
//! the keep-alive limit of every known server.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};

use crate::inbound::Inbound;

/// Most connections kept idle.
const IDLE_MAX: usize = 100;
/// Longest a connection is kept idle.
const IDLE_PATIENCE: Duration = Duration::from_millis(500);

/// Idle connections, the last used one first.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    clock: SystemClock,
}

#[derive(Debug, Default)]
struct Idle {
    connections: Vec<(SendRequest<Inbound>, Moment)>,
    is_swept: bool,
    /// Goes up whenever the server behind the connections changes.
    generation: u64,
}

/// A connection in use; [`Lease::give_back`] keeps it, dropping it closes it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) sender: SendRequest<Inbound>,
    /// Whether it has served a request before, and may just have been closed by the function.
    pub(super) is_reused: bool,
    pool: Arc<Pool>,
    generation: u64,
}

impl Pool {
    pub(super) fn new(clock: SystemClock) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), clock })
    }

    /// A connection that is ready now, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut idle = self.lock();
        let oldest = self.clock.now();
        while let Some((sender, since)) = idle.connections.pop() {
            if sender.is_ready() && oldest.since(since) < IDLE_PATIENCE {
                let generation = idle.generation;
                return Some(Lease { sender, is_reused: true, pool: self.clone(), generation });
            }
        }
        None
    }

    /// What a connection that is about to be opened belongs to.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Wraps a connection that has just been opened.
    pub(super) fn lease(self: &Arc<Self>, sender: SendRequest<Inbound>, generation: u64) -> Lease {
        Lease { sender, is_reused: false, pool: self.clone(), generation }
    }

    /// Closes all idle connections, and those in use after their answer: the server behind them is gone or replaced.
    pub(super) fn clear(&self) {
        let mut idle = self.lock();
        idle.connections.clear();
        idle.generation += 1;
    }

    fn keep(self: Arc<Self>, sender: SendRequest<Inbound>, generation: u64) {
        let mut idle = self.lock();
        let is_current = idle.generation == generation;
        if is_current && idle.connections.len() < IDLE_MAX && !sender.is_closed() {
            idle.connections.push((sender, self.clock.now()));
        }
        if !std::mem::replace(&mut idle.is_swept, true) {
            drop(idle);
            tokio::spawn(self.sweep());
        }
    }

    /// Closes what has been idle for too long; ends when nothing is idle, so that an idle watchdog sets no timer.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE_PATIENCE).await;
            let mut idle = self.lock();
            let now = self.clock.now();
            idle.connections
                .retain(|(sender, since)| !sender.is_closed() && now.since(*since) < IDLE_PATIENCE);
            if idle.connections.is_empty() {
                idle.connections.shrink_to_fit();
                idle.is_swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().expect("no holder of this lock panics")
    }
}

impl Lease {
    /// Keeps the connection for the next request; only after the answer has been read to its end.
    pub(super) fn give_back(self) {
        let Self { sender, pool, generation, .. } = self;
        pool.keep(sender, generation);
    }
}
