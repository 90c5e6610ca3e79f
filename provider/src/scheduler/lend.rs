//! Whether a function's container lends its second worker to a guest of its share group.
//!
//! In: the owner, one of its replicas, the policy. Out: yes, or the first thing in the way, for people.
//! Always: only a generic worker of a container that can keep guests apart, below its watermarks, with memory to spare, whose
//! owner has nothing to do. Who may be the guest is [`super::multiplex`]'s question.
//! Touches: nothing.

use hyperfaas_protocol::control::WorkerState;

use super::policy::Policy;
use super::snapshot::{FunctionView, Phase, ReplicaView};

/// Why a container does not lend its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unlent {
    /// Its function cannot answer, or it is on its way out.
    NotReady,
    /// It is of an older revision, which is about to go.
    Replaced,
    /// Its watchdog has not said yet what runs in its second worker.
    Unknown,
    /// Its watchdog cannot keep guests apart.
    Unable,
    /// The second worker runs something.
    Taken,
    /// It is above a watermark.
    Hot,
    /// Its memory is in use.
    Memory,
    /// Its owner has requests.
    Busy,
}

impl Unlent {
    /// One line for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotReady => "its owner is not ready",
            Self::Replaced => "it is of an older revision",
            Self::Unknown => "its watchdog has not told of its second worker yet",
            Self::Unable => "its watchdog cannot keep guests apart",
            Self::Taken => "its second worker is taken",
            Self::Hot => "it is above its watermark",
            Self::Memory => "its memory is in use",
            Self::Busy => "its owner has requests",
        }
    }
}

/// Whether `replica` of `owner` lends its second worker now.
///
/// # Errors
/// The first thing in the way.
pub fn lends(owner: &FunctionView, replica: &ReplicaView, policy: &Policy) -> Result<(), Unlent> {
    let used = replica.load.and_then(|load| load.memory);
    let is_full = used
        .zip(replica.grant.memory)
        .is_some_and(|(used, most)| used > most / 100 * u64::from(policy.memory_low));
    let in_the_way = [
        (replica.phase != Phase::Ready, Unlent::NotReady),
        (replica.revision != owner.revision(), Unlent::Replaced),
        (replica.hosts_guests.is_none(), Unlent::Unknown),
        (replica.hosts_guests == Some(false), Unlent::Unable),
        (replica.workers[1].state != WorkerState::Generic, Unlent::Taken),
        (replica.pressure.is_some(), Unlent::Hot),
        (is_full, Unlent::Memory),
        (owner.parked > 0 || replica.own_in_flight() > 0, Unlent::Busy),
    ];
    match in_the_way.into_iter().find(|(is_so, _)| *is_so) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyperfaas_protocol::control::Pressure;
    use hyperfaas_protocol::moment::Moment;
    use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};

    use super::*;
    use crate::engine::ReplicaId;
    use crate::scheduler::{Grant, LoadView, Wanted};

    /// One that lends, with `change` made to it.
    fn with(change: impl FnOnce(&mut FunctionView)) -> Result<(), Unlent> {
        let mut view = FunctionView::new(FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse("f").unwrap(),
        });
        let scaling = Arc::default();
        view.wanted = Some(Wanted { revision: 2, replicas: 1, call: 1, scaling });
        let grant = Grant { cpu: None, memory: Some(1000) };
        let new = ReplicaView::ordered(ReplicaId("r".into()), 2, grant, Moment::ZERO);
        view.replicas.push(ReplicaView { phase: Phase::Ready, hosts_guests: Some(true), ..new });
        change(&mut view);
        lends(&view, &view.replicas[0], &Policy::default())
    }

    #[test]
    fn each_thing_in_the_way_is_named() {
        let load = |memory| Some(LoadView { cpu: None, memory: Some(memory), at: Moment::ZERO });
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|view| view.replicas[0].load = load(100)), Ok(()));
        let replica = |change: fn(&mut ReplicaView)| with(|view| change(&mut view.replicas[0]));
        for (refused, reason) in [
            (replica(|r| r.phase = Phase::Crashed), Unlent::NotReady),
            (replica(|r| r.revision = 1), Unlent::Replaced),
            (replica(|r| r.hosts_guests = None), Unlent::Unknown),
            (replica(|r| r.hosts_guests = Some(false)), Unlent::Unable),
            (replica(|r| r.workers[1].state = WorkerState::Draining), Unlent::Taken),
            (replica(|r| r.pressure = Some(Pressure::Cpu)), Unlent::Hot),
            (with(|view| view.replicas[0].load = load(990)), Unlent::Memory),
            (replica(|r| r.workers[0].in_flight = 1), Unlent::Busy),
            (with(|view| view.parked = 1), Unlent::Busy),
        ] {
            assert_eq!(refused, Err(reason));
            assert!(!reason.reason().is_empty());
        }
    }
}
