//! What the scheduler sees: nodes, functions, their containers and both workers of each.
//!
//! All of it is plain data that the cluster keeps under one lock a function and lends to the scheduler, so a decision copies
//! nothing; a whole [`Snapshot`] is made only by simulations and tests.
//! Units: CPU in thousandths of one CPU (millicores), memory in bytes.

use std::sync::Arc;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Pressure, WORKERS, WorkerState};
use hyperfaas_protocol::moment::Moment;

use super::out::Scale;
use super::scaling::Scaling;
use super::traffic::Traffic;
use crate::engine::ReplicaId;

/// The whole cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the engine answers; while it does not, nothing is ordered.
    pub is_engine_up: bool,
    /// The hosts; [`NodeId`] is the index.
    pub nodes: Vec<NodeView>,
    /// Every function that should exist or still has replicas; each key once.
    pub functions: Vec<FunctionView>,
    /// Workers that could take on a guest; none where nothing can prepare a slot.
    pub offers: Vec<Offer>,
}

/// A host, by its place in the list of hosts. Today there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u16);

/// How large a host is and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeView {
    /// Millicores of the host; zero while unknown.
    pub cpu: u32,
    /// Bytes of the host; zero while unknown.
    pub memory: u64,
    /// Millicores that its functions use or, by their load, are about to.
    pub cpu_used: u32,
    /// Millicores in use there by whatever runs, functions or not; zero while unknown.
    pub cpu_busy: u32,
    /// Bytes that its functions use.
    pub memory_used: u64,
}

impl NodeView {
    /// Millicores that one may use of whose `own` are part of what is used; all of them where the size is unknown.
    pub fn cpu_beside(&self, own: u32) -> u32 {
        let left = self.cpu.saturating_add(own).saturating_sub(self.cpu_used);
        if self.cpu == 0 { u32::MAX } else { left }
    }

    /// Bytes that may still be promised; all of them where the size is unknown.
    pub fn memory_free(&self) -> u64 {
        if self.memory == 0 { u64::MAX } else { self.memory.saturating_sub(self.memory_used) }
    }
}

/// One function: what should be, and what is.
#[derive(Debug, Clone)]
pub struct FunctionView {
    /// Which function.
    pub key: FunctionKey,
    /// What should be; `None` when it has been deleted.
    pub wanted: Option<Wanted>,
    /// Whether the wanted revision's image is present.
    pub image: ImageState,
    /// Its replicas, oldest first.
    pub replicas: Vec<ReplicaView>,
    /// Workers of containers it does not own that serve it, or are about to.
    pub guests: Vec<GuestView>,
    /// Whether it can be a guest: its image's root is there, and nothing is known against it.
    pub may_visit: bool,
    /// Failed visits since one last succeeded.
    pub visit_failure: Option<Failure>,
    /// Failed starts of the wanted revision since one last succeeded.
    pub failure: Option<Failure>,
    /// Requests that wait for a place.
    pub parked: u32,
    /// What has been measured of its requests.
    pub traffic: Traffic,
    /// What earlier decisions on the number of replicas must remember.
    pub scale: Scale,
}

impl FunctionView {
    /// A function of which nothing is known yet.
    pub fn new(key: FunctionKey) -> Self {
        Self {
            key,
            wanted: None,
            image: ImageState::Unknown,
            replicas: Vec::new(),
            guests: Vec::new(),
            may_visit: true,
            visit_failure: None,
            failure: None,
            parked: 0,
            traffic: Traffic::default(),
            scale: Scale::default(),
        }
    }

    /// Requests being served, in all its places.
    pub fn in_flight(&self) -> u32 {
        self.replicas.iter().map(ReplicaView::own_in_flight).sum::<u32>()
            + self.guests.iter().map(|guest| guest.in_flight).sum::<u32>()
    }

    /// Replicas that take requests.
    pub fn ready(&self) -> impl Iterator<Item = &ReplicaView> {
        self.replicas.iter().filter(|replica| replica.phase == Phase::Ready)
    }

    /// The revision that should run, 0 for none.
    pub fn revision(&self) -> u64 {
        self.wanted.as_ref().map_or(0, |wanted| wanted.revision)
    }
}

/// What the catalog asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The revision to run.
    pub revision: u64,
    /// How many replicas the deployment or the last scale call asked for.
    pub replicas: u32,
    /// Grows with every scale call, so that one which repeats a number is seen too.
    pub call: u64,
    /// Bounds and targets of its scaling.
    pub scaling: Arc<Scaling>,
}

/// The state of the wanted revision's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// Not asked for yet.
    Unknown,
    /// Being looked up or pulled.
    Preparing,
    /// Present.
    Present,
}

/// One replica: a container that the function owns.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    /// Its name.
    pub id: ReplicaId,
    /// The revision it was started from.
    pub revision: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: Moment,
    /// Its host.
    pub node: NodeId,
    /// Its workers; the first is the owner's.
    pub workers: [WorkerView; WORKERS],
    /// Most requests that it is configured to take at once; 0 where nothing says so. What its workers take by their own
    /// measure is theirs to say, and no reason for more replicas.
    pub in_flight_max: u32,
    /// Whether its watchdog can run a second process of the owner's function.
    pub has_second_own: bool,
    /// Whether its watchdog can keep a guest apart; `None` until it has said so, and what its second worker runs.
    pub hosts_guests: Option<bool>,
    /// What raised it above its high watermark; `None` while it is below.
    pub pressure: Option<Pressure>,
    /// The last load report.
    pub load: Option<LoadView>,
    /// What it may use.
    pub grant: Grant,
    /// When the grant last changed.
    pub granted_at: Moment,
    /// Whether a change of the grant is being carried out.
    pub is_resizing: bool,
}

impl ReplicaView {
    /// One that the engine has just been told to start.
    pub fn ordered(id: ReplicaId, revision: u64, grant: Grant, now: Moment) -> Self {
        Self {
            id,
            revision,
            phase: Phase::Ordered,
            since: now,
            node: NodeId::default(),
            workers: [WorkerView::default(); WORKERS],
            in_flight_max: 0,
            has_second_own: false,
            hosts_guests: None,
            pressure: None,
            load: None,
            grant,
            granted_at: now,
            is_resizing: false,
        }
    }

    /// Requests of the owner's function that it is serving.
    pub fn own_in_flight(&self) -> u32 {
        self.workers.iter().filter(|worker| !worker.is_guest).map(|worker| worker.in_flight).sum()
    }

    /// Whether another function is, or is about to be, a guest in it: what it uses is not the owner's alone.
    pub fn has_guest(&self) -> bool {
        self.workers[1].is_guest
    }

    /// Whether its second worker runs the owner's function, or is about to.
    pub fn second_is_own(&self) -> bool {
        let second = &self.workers[1];
        !second.is_guest
            && matches!(
                second.state,
                WorkerState::Specialising | WorkerState::Ready | WorkerState::Crashed
            )
    }
}

/// One of a container's two places for a function's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerView {
    /// Where it stands.
    pub state: WorkerState,
    /// The epoch of the order it follows.
    pub epoch: u64,
    /// Whether another function than the container's owner runs, or is about to run, in it.
    pub is_guest: bool,
    /// Requests it is serving.
    pub in_flight: u32,
    /// Most it takes at once; 0 where that is unknown.
    pub limit: u32,
    /// Since when it stands there.
    pub since: Moment,
}

impl Default for WorkerView {
    fn default() -> Self {
        Self {
            state: WorkerState::Generic,
            epoch: 0,
            is_guest: false,
            in_flight: 0,
            limit: 0,
            since: Moment::ZERO,
        }
    }
}

/// A function's place in a container it does not own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestView {
    /// The container.
    pub host: ReplicaId,
    /// Which worker of it.
    pub worker: u8,
    /// The epoch of the order.
    pub epoch: u64,
    /// The revision it was specialised to.
    pub revision: u64,
    /// Where it stands.
    pub state: WorkerState,
    /// Requests it is serving.
    pub in_flight: u32,
    /// Most it takes at once; 0 where that is unknown.
    pub limit: u32,
    /// Whether the container has no owner.
    pub is_standby: bool,
    /// Since when it stands there.
    pub since: Moment,
}

/// A worker that could take on a guest at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The container.
    pub host: ReplicaId,
    /// Which worker of it.
    pub worker: u8,
    /// The least epoch that an order to it must carry.
    pub epoch: u64,
    /// Its host.
    pub node: NodeId,
    /// Whose container it is; `None` for a standby container, which asks for nobody's permission.
    pub owner: Option<FunctionKey>,
    /// Functions of the same group may be guests of each other.
    pub share: Option<Arc<str>>,
    /// Requests its owner's worker is serving.
    pub owner_in_flight: u32,
    /// Whether the interpreter of the function that it is offered to waits in it.
    pub is_zygote: bool,
}

/// What a container uses, as its watchdog last reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadView {
    /// Millicores used since the report before.
    pub cpu: Option<u32>,
    /// Bytes used, without what the kernel can take back at once.
    pub memory: Option<u64>,
    /// When it came.
    pub at: Moment,
}

/// What a container may use; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Grant {
    /// Millicores.
    pub cpu: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The engine has been told to start it and has not answered.
    Ordered,
    /// Its container runs; its function cannot answer yet.
    Starting,
    /// Takes requests.
    Ready,
    /// Its function's process ended; the watchdog starts it again.
    Crashed,
    /// Takes no more requests; will be stopped.
    Draining,
    /// Its container has ended.
    Ended,
}

impl Phase {
    /// Whether it is or may become able to serve, so that it counts as a replica.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Ordered | Self::Starting | Self::Ready | Self::Crashed)
    }
}

/// Starts that failed in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// How many.
    pub count: u32,
    /// When the last one failed.
    pub last: Moment,
}
