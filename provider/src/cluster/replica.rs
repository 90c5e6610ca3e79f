//! One replica: its phase, and the route that requests take to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyperfaas_http::client::{Pool, PoolSettings};
use hyperfaas_protocol::control::{Load, Watermark};
use hyperfaas_protocol::moment::Moment;
use tokio::sync::Notify;

use crate::engine::{ContainerId, Observed, ReplicaId};
use crate::lanes::Lanes;
use crate::scheduler::Phase;

/// A replica as the cluster keeps it.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    pub(super) revision: u64,
    pub(super) phase: Phase,
    pub(super) since: Moment,
    pub(super) container: Option<ContainerId>,
    pub(super) route: Option<Arc<Route>>,
    /// Whether it has ever been ready; one that ends before that is a failed start.
    pub(super) was_ready: bool,
    /// What its watchdog last said of a crash.
    pub(super) trouble: Option<String>,
    /// What its watchdog last said of its watermarks.
    pub(super) watermark: Option<Watermark>,
    /// What its watchdog last said of its load, and when.
    pub(super) load: Option<(Load, Moment)>,
}

impl Replica {
    pub(super) fn ordered(id: ReplicaId, revision: u64, now: Moment) -> Self {
        Self {
            id,
            revision,
            phase: Phase::Ordered,
            since: now,
            container: None,
            route: None,
            was_ready: false,
            trouble: None,
            watermark: None,
            load: None,
        }
    }

    /// Takes on the container that the engine made for it; the route to it while it runs.
    pub(super) fn settle(&mut self, observed: &Observed, now: Moment) -> Option<Arc<Route>> {
        self.container = Some(observed.container.clone());
        self.route = if observed.is_running { Route::to(observed) } else { None };
        self.enter(if self.route.is_some() { Phase::Starting } else { Phase::Ended }, now);
        self.route.clone()
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Moment) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.route.as_ref().map_or(0, |route| route.in_flight())
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
    in_flight: AtomicU32,
    idle: Notify,
}

impl Route {
    /// The route to a running container; `None` when it has no address.
    pub(super) fn to(observed: &Observed) -> Option<Arc<Self>> {
        let address = observed.address?;
        Some(Arc::new(Self {
            replica: observed.replica.clone(),
            pool: Pool::new(SocketAddr::new(address, observed.http_port), PoolSettings::default()),
            control: SocketAddr::new(address, observed.control_port),
            lanes: Lanes::new(SocketAddr::new(address, observed.control_port)),
            in_flight: AtomicU32::new(0),
            idle: Notify::new(),
        }))
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

    /// Counts one more request in.
    pub(super) fn enter(self: &Arc<Self>) -> Ticket {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Ticket { route: Arc::clone(self) }
    }
}

/// A place on a replica; counted as in flight until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    route: Arc<Route>,
}

impl Ticket {
    /// The way to the replica.
    pub fn route(&self) -> &Route {
        &self.route
    }
}

impl Drop for Ticket {
    /// Gives the place back however the request ended: answer, error, client gone.
    fn drop(&mut self) {
        if self.route.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.route.idle.notify_waiters();
        }
    }
}
