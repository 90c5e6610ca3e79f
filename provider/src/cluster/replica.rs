//! What the cluster keeps of a replica beside what the scheduler sees, and the route that requests take to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyperfaas_http::client::{Pool, PoolSettings};
use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Load, Order, Watermark};
use hyperfaas_protocol::moment::Moment;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::cell::Cell;
use crate::engine::{ContainerId, Observed, ReplicaId, Standby};
use crate::lanes::Lanes;

/// A replica's side that no decision looks at; beside its `ReplicaView`.
#[derive(Debug)]
pub(super) struct Side {
    /// Number of the container within the function, growing; what a bounced request remembers.
    pub(super) host: u64,
    pub(super) container: Option<ContainerId>,
    route: Option<Arc<Route>>,
    /// Whether it has ever been ready; one that ends before that is a failed start.
    pub(super) was_ready: bool,
    /// Whether its grant is what this process gave it, and not a guess about one taken over.
    pub(super) is_grant_known: bool,
    /// What its watchdog last said of a crash.
    pub(super) trouble: Option<String>,
    /// What its watchdog last said of its watermarks.
    pub(super) watermark: Option<Watermark>,
    /// Whether its watchdog said that it can keep guests apart.
    pub(super) is_able: bool,
    /// What its watchdog last said of its load, and when.
    pub(super) load: Option<(Load, Moment)>,
}

impl Side {
    pub(super) fn new(host: u64) -> Self {
        Self {
            host,
            container: None,
            route: None,
            was_ready: false,
            is_grant_known: true,
            trouble: None,
            watermark: None,
            is_able: false,
            load: None,
        }
    }

    pub(super) fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// Takes on the container that the engine made for it; the route to it while it runs.
    pub(super) fn settle(&mut self, observed: &Observed) -> Option<Arc<Route>> {
        self.container = Some(observed.container.clone());
        self.close();
        self.route = if observed.is_running { Route::to(observed) } else { None };
        self.route.clone()
    }

    /// Its container has ended: nothing leads to it any more.
    pub(super) fn close(&mut self) {
        if let Some(route) = self.route.take() {
            route.gone.cancel();
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.close();
    }
}

/// The way to a replica whose container runs.
#[derive(Debug)]
pub struct Route {
    /// The replica at its end.
    pub replica: ReplicaId,
    /// Its watchdog's HTTP connections.
    pub pool: Pool,
    /// Its watchdog's control link.
    pub control: SocketAddr,
    /// Lanes to its workers.
    pub lanes: Lanes,
    /// The function that owns the container; any other is a guest there. A standby container has none.
    pub owner: Option<FunctionKey>,
    /// Cancelled when the container has ended.
    pub gone: CancellationToken,
    /// Its container's first process, as the engine's host numbers it, once somebody has asked.
    pub process: OnceLock<u32>,
    /// The newest order to its watchdog; sent again after a break, until its worker reports.
    pub orders: watch::Sender<Option<Order>>,
    in_flight: AtomicU32,
    idle: Notify,
}

impl Route {
    /// The route to a running container; `None` when it has no address.
    pub(super) fn to(observed: &Observed) -> Option<Arc<Self>> {
        let ports = (observed.http_port, observed.control_port);
        let owner = Some(observed.function.clone());
        Some(Self::new(observed.replica.clone(), owner, observed.address?, ports))
    }

    /// The route to a running standby container, known by the name it was made with; `None` when it has no address.
    pub(super) fn to_standby(name: &ReplicaId, standby: &Standby) -> Option<Arc<Self>> {
        let ports = (standby.http_port, standby.control_port);
        Some(Self::new(name.clone(), None, standby.address?, ports))
    }

    fn new(
        replica: ReplicaId,
        owner: Option<FunctionKey>,
        address: IpAddr,
        (http, control): (u16, u16),
    ) -> Arc<Self> {
        Arc::new(Self {
            replica,
            pool: Pool::new(SocketAddr::new(address, http), PoolSettings::default()),
            control: SocketAddr::new(address, control),
            lanes: Lanes::new(SocketAddr::new(address, control)),
            owner,
            gone: CancellationToken::new(),
            process: OnceLock::new(),
            orders: watch::Sender::new(None),
            in_flight: AtomicU32::new(0),
            idle: Notify::new(),
        })
    }

    /// Requests between the first byte sent and the last byte of the answer.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Waits until nothing is in flight.
    pub async fn idle(&self) {
        loop {
            let woken = self.idle.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            woken.await;
        }
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    fn leave(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }
}

/// Which worker of which container, under which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerRef {
    /// The cluster's number of the container, for [`Ticket::host`] and bounces.
    pub host: u64,
    /// Which worker of it.
    pub worker: u8,
    /// The epoch it serves the function under; a watchdog refuses another.
    pub epoch: u64,
}

/// A place on a worker; counted as in flight until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    route: Arc<Route>,
    worker: WorkerRef,
    cell: Arc<Cell>,
    since: Moment,
    is_answer: bool,
}

impl Ticket {
    pub(super) fn new(route: Arc<Route>, worker: WorkerRef, cell: Arc<Cell>, now: Moment) -> Self {
        route.enter();
        Self { route, worker, cell, since: now, is_answer: true }
    }

    /// The way to the replica.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The worker that the place is on.
    pub fn worker(&self) -> WorkerRef {
        self.worker
    }

    /// The container, as a request remembers it that has been sent back from there.
    pub fn host(&self) -> u64 {
        self.worker.host
    }

    /// Gives the place back without an answer: the request was not sent, or was sent back. It tells nothing of service times.
    pub fn bounced(mut self) {
        self.is_answer = false;
    }
}

impl Drop for Ticket {
    /// Gives the place back however the request ended: answer, error, client gone. Whoever waits longest gets it.
    fn drop(&mut self) {
        self.route.leave();
        let now = self.cell.now();
        let took: Option<Duration> = self.is_answer.then(|| now.since(self.since));
        self.cell.left(self.worker, took, now);
    }
}
