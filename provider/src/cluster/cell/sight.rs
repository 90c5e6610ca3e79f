//! A look at one function for people who watch: what [`FunctionSight`] holds, copied under the lock.

use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;

use super::super::replica::Side;
use super::super::sight::{
    ContainerSight, FunctionSight, Role, Seen, VisitSight, Wall, WorkerSight,
};
use super::{Cell, State};
use crate::scheduler::{GuestView, Phase, ReplicaView};

/// Busy containers report every second; one that has said nothing for so long uses next to no CPU.
const REPORT_HOLDS: Duration = Duration::from_millis(2500);

impl Cell {
    /// See [`super::super::Cluster::look`].
    pub(in super::super) fn look(
        &self,
        key: &FunctionKey,
        seen: usize,
        wall: Wall,
        now: Moment,
    ) -> Seen {
        let state = self.lock();
        let (decisions, made) = state.decisions.since(seen);
        Seen { function: function(&state, key, wall, now), decisions, made }
    }
}

fn function(state: &State, key: &FunctionKey, wall: Wall, now: Moment) -> FunctionSight {
    let view = &state.view;
    let containers: Vec<_> = view
        .replicas
        .iter()
        .zip(&state.sides)
        .map(|(replica, side)| container(replica, side, wall, now))
        .collect();
    FunctionSight {
        available: u32::try_from(view.ready().count()).unwrap_or(u32::MAX),
        in_flight: view.in_flight(),
        parked: view.parked,
        rate: tenths(view.traffic.lasting_rate(now)),
        trouble: trouble(state),
        cpu_milli: containers.iter().filter_map(|c| c.cpu_milli).reduce(u32::saturating_add),
        memory_bytes: containers.iter().filter_map(|c| c.memory_bytes).reduce(u64::saturating_add),
        containers,
        visits: view.guests.iter().map(|guest| visit(guest, wall)).collect(),
        ..FunctionSight::new(key, view.scale.desired)
    }
}

/// Why requests fail, or why replicas do not start.
fn trouble(state: &State) -> Option<String> {
    let crashed = state.view.replicas.iter().position(|replica| replica.phase == Phase::Crashed);
    crashed.and_then(|index| state.sides[index].trouble.clone()).or_else(|| {
        let revision = state.view.revision();
        state.trouble.as_ref().filter(|t| t.revision == revision).map(|t| t.reason.clone())
    })
}

fn container(replica: &ReplicaView, side: &Side, wall: Wall, now: Moment) -> ContainerSight {
    let told = replica.load.filter(|_| side.container.is_some());
    let cpu = told.and_then(|load| {
        if now.since(load.at) < REPORT_HOLDS { load.cpu } else { load.cpu.map(|_| 0) }
    });
    ContainerSight {
        id: replica.id.0.clone(),
        container: side.container.clone(),
        phase: phase(replica.phase),
        since: wall.ms(replica.since),
        level: if replica.pressure.is_some() { "high" } else { "low" },
        pressure: replica.pressure.map(hyperfaas_protocol::control::Pressure::name),
        cpu_milli: cpu,
        cpu_quota_milli: replica.grant.cpu,
        memory_bytes: told.and_then(|load| load.memory),
        memory_max_bytes: replica.grant.memory,
        workers: workers(replica),
    }
}

fn workers(replica: &ReplicaView) -> Vec<WorkerSight> {
    let [first, second] = &replica.workers;
    let role = match second {
        guest if guest.is_guest => Role::Guest,
        _ if replica.second_is_own() => Role::Second,
        _ => Role::Generic,
    };
    let both = [(first, Role::Owner, owner(replica.phase)), (second, role, second.state)];
    let sight = |(worker, role, state): (&crate::scheduler::WorkerView, Role, WorkerState)| {
        let limit = Some(worker.limit).filter(|limit| *limit > 0);
        WorkerSight { role, state, in_flight: worker.in_flight, limit, function: None }
    };
    both.map(sight).into()
}

fn visit(guest: &GuestView, wall: Wall) -> VisitSight {
    VisitSight {
        host: guest.host.0.clone(),
        place: if guest.is_standby { "standby" } else { "guest" },
        worker: guest.worker,
        state: guest.state,
        since: wall.ms(guest.since),
        in_flight: guest.in_flight,
        limit: Some(guest.limit).filter(|limit| *limit > 0),
    }
}

/// The first worker's state is the replica's phase.
const fn owner(phase: Phase) -> WorkerState {
    match phase {
        Phase::Ordered | Phase::Starting => WorkerState::Specialising,
        Phase::Ready => WorkerState::Ready,
        Phase::Crashed => WorkerState::Crashed,
        Phase::Draining | Phase::Ended => WorkerState::Draining,
    }
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Ordered => "ordered",
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Crashed => "crashed",
        Phase::Draining => "draining",
        Phase::Ended => "ended",
    }
}

/// Rounded, so that a rate that hardly changes counts as the same.
fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}
