//! What the scheduler sees.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::moment::Moment;

use crate::engine::ReplicaId;

/// The whole cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the engine answers; while it does not, nothing is ordered.
    pub is_engine_up: bool,
    /// Every function that should exist or still has replicas; each key once.
    pub functions: Vec<FunctionView>,
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
    /// Failed starts of the wanted revision since one last succeeded.
    pub failure: Option<Failure>,
}

/// What the catalog asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The revision to run.
    pub revision: u64,
    /// How many replicas of it.
    pub replicas: u32,
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

/// One replica.
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
    /// Requests it is serving.
    pub in_flight: u32,
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
