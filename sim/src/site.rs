//! The machines: nodes, containers, workers, requests being served. What is done to them, and what they do.
//!
//! In: orders ([`Site::start`], [`Site::send`], [`Site::specialise`] …) and time ([`Site::happen`]). Out: [`Notice`]s, which a
//! provider would hear from its engine, its control links and its connections. Decides nothing that a provider or a function's
//! code decides; a watchdog's small decisions (admit or bounce, watermarks) are made here as it makes them.
//! Always: a request that was sent is answered, bounced or lost, once; no container serves before it is ready or after it is
//! gone; what a container used never exceeds its quota in a period.

mod container;
mod gauge;
mod starts;
mod step;
mod worker;

use hyperfaas_protocol::control::{OwnerState, Watermark, WorkerState};

use crate::chance::{Chance, Purpose};
use crate::cpu::Quota;
use crate::measure::Books;
use crate::node::{Node, Size};
use crate::profile::Profile;
use crate::queue::{MS, Nanos, Queue};
use crate::service::Work;
use crate::slab::{Id, Slab};

pub use container::{Container, Role};
pub use worker::Worker;

/// How long a watchdog's line takes to the provider: loopback, a JSON line, a wake-up on each side.
pub(crate) const LINK: Nanos = MS / 5;
/// Time between samples of a busy container, as in the watchdog.
pub(crate) const SAMPLE: Nanos = 10 * MS;

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A job of this container may be done, its quota used up or filled again.
    Cpu(Id),
    /// A request has done what needs no CPU.
    Waited(Id),
    /// The engine has started this container.
    Started(Id),
    /// A worker's function can answer.
    Booted(Id, u8, u64),
    /// A worker's process tree has ended.
    Vacated(Id, u8, u64),
    /// The engine has removed this container.
    Removed(Id),
    /// The watchdog looks at its watermarks.
    Look(Id),
    /// The watchdog reports its load.
    Report(Id),
}

/// What a provider hears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Notice {
    /// The engine: the container runs.
    Started(Id),
    /// The engine: it could not be started, and does not exist.
    StartFailed(Id),
    /// The watchdog: where the owner's worker stands.
    Owner(Id, OwnerState),
    /// The watchdog: where a worker stands that was given an order with this epoch.
    Worker(Id, u8, u64, WorkerState),
    /// The watchdog: on which side of its watermarks the container is.
    Marked(Id, Watermark),
    /// The watchdog: how much it has to do.
    Load(Id, LoadTold),
    /// The engine: the container's main process ended.
    Died(Id),
    /// The engine: the container does not exist any more.
    Removed(Id),
    /// A connection: the answer's last byte.
    Answered(Id),
    /// A connection: the watchdog has not taken this request.
    Bounced(Id),
    /// A connection: broken off after the request was taken.
    Lost(Id),
}

/// What a watchdog's load report says, as far as the provider decides by it: fields of `control::Load`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadTold {
    /// Requests that are over, since it started.
    pub served: u64,
    /// Millicores used since the report before.
    pub cpu_millicores: u64,
    /// CPU time used since it started, µs.
    pub cpu_us: u64,
    /// Bytes used.
    pub memory_bytes: u64,
}

/// A request on its way or being served.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Index of its function.
    pub function: u32,
    /// When it came.
    pub arrived: Nanos,
    /// What it needs.
    pub work: Work,
    /// Container, worker and epoch it was sent to last.
    pub sent: Option<(Id, u8, u64)>,
    /// When.
    pub sent_at: Nanos,
    /// Its place among those that the worker works on.
    pub(crate) spot: usize,
}

/// What things cost on this site.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Create and start of a container.
    pub start: hyperfaas_trace::Quantiles,
    /// From the order to the worker's own process: slot, fork, exec; its boot comes on top.
    pub specialise: Nanos,
    /// From the order to remove a stopped container to its end.
    pub remove: Nanos,
    /// From the decision to a quota in force.
    pub cgroup: Nanos,
}

/// What a container is started with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// CPU quota.
    pub quota: Option<Quota>,
    /// Memory limit, bytes.
    pub memory: Option<u64>,
}

/// The machines.
#[derive(Debug)]
pub struct Site {
    pub(crate) profiles: Vec<Profile>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) containers: Slab<Container>,
    pub(crate) requests: Slab<Request>,
    pub(crate) costs: Costs,
    pub(crate) events: Queue<Event>,
    pub(crate) notices: Vec<(Nanos, Notice)>,
    pub(crate) chance: Chance,
    pub(crate) start_failures: f64,
    pub(crate) used_by_the_gone: f64,
    pub(crate) books: Books,
    starts: Vec<u32>,
    /// Room for jobs that have just ended.
    done: Vec<u32>,
}

impl Site {
    /// Machines of these sizes, and the functions that may run there.
    pub fn new(profiles: Vec<Profile>, nodes: &[Size], costs: Costs, seed: u64) -> Self {
        Self {
            profiles,
            nodes: nodes.iter().map(|size| Node::new(*size)).collect(),
            containers: Slab::default(),
            requests: Slab::default(),
            costs,
            events: Queue::default(),
            notices: Vec::new(),
            chance: Chance::new(seed, Purpose::Starts),
            start_failures: 0.0,
            used_by_the_gone: 0.0,
            books: Books::default(),
            starts: vec![0; nodes.len()],
            done: Vec::new(),
        }
    }

    /// The functions.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// The container, while it exists.
    pub fn container(&self, id: Id) -> Option<&Container> {
        self.containers.at(id)
    }

    /// All containers.
    pub fn containers(&self) -> impl Iterator<Item = (Id, &Container)> {
        self.containers.iter()
    }

    /// The request, until it is over.
    pub fn request(&self, id: Id) -> Option<&Request> {
        self.requests.at(id)
    }

    /// Requests that are not over.
    pub fn requests(&self) -> &Slab<Request> {
        &self.requests
    }

    /// A request has come.
    pub fn arrive(&mut self, function: u32, work: Work, now: Nanos) -> Id {
        self.requests.insert(Request {
            function,
            arrived: now,
            work,
            sent: None,
            sent_at: 0,
            spot: 0,
        })
    }

    /// A request is over, whatever its outcome.
    pub fn conclude(&mut self, request: Id) -> Option<Request> {
        self.requests.remove(request)
    }

    /// CPU time used by all containers until `now`, ns.
    pub fn cpu_used(&self, now: Nanos) -> f64 {
        let living: f64 = self.containers.iter().map(|(_, c)| c.group.used_total(now)).sum();
        self.used_by_the_gone + living
    }

    /// CPU time of `node` that its running threads take per time, of all its CPUs.
    pub fn load(&self, node: usize) -> f64 {
        self.nodes[node].threads as f64 / f64::from(self.nodes[node].size.cpus)
    }

    /// Makes a node work at this share of its speed from `now` on.
    pub fn set_health(&mut self, node: usize, health: f64, now: Nanos) {
        self.nodes[node].health = health;
        self.set_speeds(node, now);
    }

    pub(crate) fn tell(&mut self, at: Nanos, notice: Notice) {
        self.notices.push((at, notice));
    }

    /// After threads of `id` began or ended to run: its own next event, and its neighbours' where they share too few CPUs.
    pub(crate) fn settle(&mut self, id: Id, threads_before: usize, now: Nanos) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let (node, threads) = (container.node, container.group.running());
        let site = &mut self.nodes[node];
        let is_busy = container.group.is_busy();
        if is_busy != container.is_listed {
            container.is_listed = is_busy;
            if is_busy {
                site.busy.push(id);
            } else {
                site.busy.retain(|other| *other != id);
            }
        }
        let speed = site.speed();
        site.threads = site.threads + threads - threads_before;
        if (site.speed() - speed).abs() > 1e-9 {
            self.set_speeds(node, now);
        } else {
            container.group.set_speed(speed, now);
            self.schedule(id);
        }
    }

    fn set_speeds(&mut self, node: usize, now: Nanos) {
        let speed = self.nodes[node].speed();
        let busy = std::mem::take(&mut self.nodes[node].busy);
        for id in &busy {
            if let Some(container) = self.containers.at_mut(*id) {
                // Whether it has used up its quota by now is its own event's business, which is due now then.
                container.group.set_speed(speed, now);
                self.schedule(*id);
            }
        }
        self.nodes[node].busy = busy;
    }

    fn schedule(&mut self, id: Id) {
        let Some(container) = self.containers.at_mut(id) else { return };
        let Some(at) = container.group.next() else { return };
        // One that comes too early looks again by itself.
        if container.due.is_none_or(|due| at < due) {
            container.due = Some(at);
            self.events.push(at, Event::Cpu(id));
        }
    }
}
