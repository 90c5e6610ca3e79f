//! What the provider knows of one function: the scheduler's view, its seats, and who waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::engine::ReplicaId;
use hyperfaas_provider::scheduler::{
    FunctionView, GuestView, ImageState, Phase, ReplicaView, Seat, Seats, Wanted, WorkerView,
    comfort, expected_use,
};

use super::nodes::Use;
use crate::profile::Profile;
use crate::slab::Id;

/// A request that waits, and who has bounced it.
#[derive(Debug, Clone)]
pub(crate) struct Parked {
    pub(crate) request: Id,
    pub(crate) bounced: Vec<u64>,
}

/// One function.
#[derive(Debug)]
pub struct Function {
    /// What the scheduler sees.
    pub view: FunctionView,
    /// The containers of the view's replicas, in their order.
    pub(crate) containers: Vec<Id>,
    /// Requests served and CPU time used, µs, when the last report of each came, and when that was.
    pub(crate) served: Vec<Option<(u64, u64, Moment)>>,
    /// What it was counted with on its nodes last.
    pub(crate) counted: Vec<Use>,
    pub(crate) seats: Seats,
    pub(crate) parked: VecDeque<Parked>,
    /// Who has bounced requests that are on their way to somebody else.
    pub(crate) bounces: HashMap<Id, Vec<u64>>,
    pub(crate) turn: usize,
    pub(crate) is_dirty: bool,
    /// The last round of planning it was part of.
    pub(crate) planned_in: u64,
    pub(crate) looked_at: Moment,
    /// Whether it waits for a start.
    pub(crate) is_hungry: bool,
    /// When it is to be looked at.
    pub(crate) wake_at: Option<Moment>,
    /// The moment of its entry in the queue of those.
    pub(crate) queued_at: Option<Moment>,
}

impl Function {
    pub(crate) fn new(profile: &Profile) -> Self {
        let mut view = FunctionView::new(profile.key.clone());
        view.image = ImageState::Present;
        view.wanted = Some(Wanted {
            revision: 1,
            replicas: profile.replicas,
            call: 1,
            scaling: Arc::new(profile.scaling.clone()),
        });
        Self {
            view,
            containers: Vec::new(),
            served: Vec::new(),
            counted: Vec::new(),
            seats: Seats::default(),
            parked: VecDeque::new(),
            bounces: HashMap::new(),
            turn: 0,
            is_dirty: false,
            planned_in: u64::MAX,
            looked_at: Moment::ZERO,
            is_hungry: false,
            wake_at: None,
            queued_at: None,
        }
    }

    /// Requests that wait.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Its workers, as places for requests.
    pub fn seats(&self) -> &[Seat] {
        self.seats.list()
    }

    /// Replicas that are or may become able to serve.
    pub fn live(&self) -> usize {
        self.view.replicas.iter().filter(|replica| replica.phase.is_live()).count()
    }

    /// Millicores that each of its ready containers is expected to use.
    pub(crate) fn used_each(&self, now: Moment) -> f64 {
        let ready = self.view.ready().count().max(1);
        expected_use(&self.view, now) / ready as f64
    }

    /// What its containers use by now: the expected CPU in equal shares, and the memory of their reports.
    pub(crate) fn uses(&self, now: Moment) -> impl Iterator<Item = Use> {
        let cpu = millicores(self.used_each(now));
        let of = move |replica: &ReplicaView| Use {
            node: replica.node,
            cpu: if replica.phase == Phase::Ready { cpu } else { 0 },
            memory: replica.load.and_then(|load| load.memory).unwrap_or(0),
        };
        self.view.replicas.iter().map(of)
    }

    pub(crate) fn index_of(&self, container: Id) -> Option<usize> {
        self.containers.iter().position(|id| *id == container)
    }

    pub(crate) fn replica(&mut self, container: Id) -> Option<&mut ReplicaView> {
        let index = self.index_of(container)?;
        self.view.replicas.get_mut(index)
    }

    /// Counts a request in on a worker, in the view; the epoch of the worker's function.
    pub(crate) fn reserve(&mut self, container: Id, worker: u8) -> u64 {
        if let Some(replica) = self.replica(container) {
            let worker = &mut replica.workers[usize::from(worker)];
            worker.in_flight += 1;
            return worker.epoch;
        }
        let Some(guest) = self.guest(container, worker) else { return 0 };
        guest.in_flight += 1;
        guest.epoch
    }

    /// Counts it out again.
    pub(crate) fn unreserve(&mut self, container: Id, worker: u8, epoch: u64) {
        if let Some(replica) = self.replica(container) {
            let worker = &mut replica.workers[usize::from(worker)];
            if worker.epoch == epoch {
                worker.in_flight = worker.in_flight.saturating_sub(1);
            }
        } else if let Some(guest) = self.guest(container, worker).filter(|g| g.epoch == epoch) {
            guest.in_flight = guest.in_flight.saturating_sub(1);
        }
    }

    pub(crate) fn guest(&mut self, container: Id, worker: u8) -> Option<&mut GuestView> {
        self.view
            .guests
            .iter_mut()
            .find(|guest| container_of(&guest.host) == Some(container) && guest.worker == worker)
    }

    /// Whether this container drains and has nothing left to finish.
    pub(crate) fn is_drained(&self, container: Id) -> bool {
        self.index_of(container).map(|index| &self.view.replicas[index]).is_some_and(|replica| {
            replica.phase == Phase::Draining && replica.workers.iter().all(|w| w.in_flight == 0)
        })
    }

    pub(crate) fn add(&mut self, replica: ReplicaView, container: Id) {
        self.view.replicas.push(replica);
        self.containers.push(container);
        self.served.push(None);
    }

    pub(crate) fn remove(&mut self, container: Id) -> Option<ReplicaView> {
        let index = self.index_of(container)?;
        self.containers.remove(index);
        self.served.remove(index);
        let gone = self.view.replicas.remove(index);
        self.seat();
        Some(gone)
    }

    /// Brings the seats up to date, after a worker has come, gone or changed its state.
    pub(crate) fn seat(&mut self) {
        let Self { view, containers, seats, .. } = self;
        let view = &*view;
        let both = view.replicas.iter().zip(&*containers);
        let own = both.flat_map(|(replica, container)| {
            let workers = (0_u8..).zip(&replica.workers);
            let serving = workers.filter(|(index, w)| !w.is_guest && (*index == 0 || w.epoch > 0));
            serving.map(move |(index, worker)| {
                let state = if index == 0 { owner_state(replica.phase) } else { worker.state };
                let comfort = comfort(view, replica.grant.cpu);
                Seat { comfort, ..seat(*container, index, worker, state, replica.phase) }
            })
        });
        // A guest is taken to bring as much as one replica has at its ceiling, as phase 2 reckons.
        let ceiling = view.wanted.as_ref().and_then(|wanted| wanted.scaling.ceiling.cpu);
        let guests = view.guests.iter().filter_map(|guest| {
            let worker = WorkerView { in_flight: guest.in_flight, ..WorkerView::default() };
            let container = container_of(&guest.host)?;
            let seat = seat(container, guest.worker, &worker, guest.state, Phase::Ready);
            Some(Seat { is_guest: true, comfort: comfort(view, ceiling), ..seat })
        });
        seats.refill(own.chain(guests));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; never negative"
)]
pub(crate) fn millicores(cpu: f64) -> u32 {
    cpu as u32
}

/// The provider's name of a container.
pub(crate) fn name(container: Id) -> ReplicaId {
    ReplicaId(format!("c{}", container.serial()))
}

/// The container of that name.
pub(crate) fn container_of(replica: &ReplicaId) -> Option<Id> {
    replica.0.strip_prefix('c').and_then(|serial| serial.parse().ok()).map(Id::from_serial)
}

fn owner_state(phase: Phase) -> WorkerState {
    if phase == Phase::Ready { WorkerState::Ready } else { WorkerState::Specialising }
}

fn seat(container: Id, worker: u8, view: &WorkerView, state: WorkerState, phase: Phase) -> Seat {
    Seat {
        host: container.serial(),
        in_flight: view.in_flight,
        limit: view.limit,
        comfort: 0,
        worker,
        is_open: phase == Phase::Ready && state == WorkerState::Ready,
        is_guest: false,
    }
}
