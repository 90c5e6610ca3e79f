//! Connections to the function's own HTTP server that lanes use, kept for the next request.
//!
//! In: connections whose answer is known to be over. Out: one that can be used at once, or none.
//! Always: a connection is used by one request at a time, and again only when nothing has come on it since; one of an earlier
//! generation leads to nobody who may answer and is closed.
//! Source: limits as in `pool`, which are of-watchdog's.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most connections kept idle.
const IDLE_MAX: usize = 100;
/// Longest a connection is kept idle.
const IDLE_PATIENCE: Duration = Duration::from_millis(500);

/// Idle connections, the last used one last.
#[derive(Debug)]
pub(crate) struct Sockets {
    idle: Mutex<Idle>,
    clock: SystemClock,
}

#[derive(Debug, Default)]
struct Idle {
    kept: Vec<Kept>,
    is_swept: bool,
}

#[derive(Debug)]
struct Kept {
    stream: TcpStream,
    generation: u64,
    since: Moment,
}

impl Sockets {
    pub(crate) fn new(clock: SystemClock) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), clock })
    }

    /// A connection of `generation` on which nothing has come.
    pub(crate) fn take(&self, generation: u64) -> Option<TcpStream> {
        let mut idle = self.lock();
        let now = self.clock.now();
        while let Some(kept) = idle.kept.pop() {
            let is_young = now.since(kept.since) < IDLE_PATIENCE && kept.generation == generation;
            if is_young && is_quiet(&kept.stream) {
                return Some(kept.stream);
            }
        }
        None
    }

    /// Keeps `stream` for the next request.
    pub(crate) fn keep(self: &Arc<Self>, stream: TcpStream, generation: u64) {
        let mut idle = self.lock();
        if idle.kept.len() < IDLE_MAX {
            idle.kept.push(Kept { stream, generation, since: self.clock.now() });
        }
        if !std::mem::replace(&mut idle.is_swept, true) {
            drop(idle);
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes what has been idle for too long; ends when nothing is idle, so that an idle watchdog sets no timer.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE_PATIENCE).await;
            let mut idle = self.lock();
            let now = self.clock.now();
            idle.kept.retain(|kept| now.since(kept.since) < IDLE_PATIENCE);
            if idle.kept.is_empty() {
                idle.kept.shrink_to_fit();
                idle.is_swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().expect("no holder of this lock panics")
    }
}

/// Whether neither a byte nor the end has come. Asks the kernel: the event loop may not have heard yet of what is there, and the
/// next request would get it as its answer. The event loop learns the answer, so that who reads next waits without asking again.
fn is_quiet(stream: &TcpStream) -> bool {
    let peek = || {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(stream, &mut [0; 1], flags).map_err(io::Error::from)
    };
    let mut is_asked = false;
    let peeked = stream.try_io(Interest::READABLE, || {
        is_asked = true;
        peek()
    });
    let peeked = if is_asked { peeked } else { peek() };
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
