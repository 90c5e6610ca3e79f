//! The simulated host: images, containers, and the script of what goes wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::super::reference::Reference;
use super::super::{
    ContainerId, ContainerUsage, EngineError, EngineEvent, EngineFacts, Image, LogLine, Observed,
    PullPolicy, SecretFile, StartOrder,
};

/// Events kept for a reader that is slow; one that is slower is told to list anew.
const EVENTS_KEPT: usize = 4096;
/// Lines kept for each container.
const LINES_KEPT: usize = 10_000;

/// Where a replica is answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Such as a loopback address.
    pub address: IpAddr,
    /// Where HTTP is served.
    pub http_port: u16,
    /// Where the control link is served.
    pub control_port: u16,
}

/// An end that comes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How long after the start; zero is at once.
    pub after: Duration,
    /// The exit status.
    pub code: i64,
}

/// What a container does when told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminates {
    /// Ends with status 0 after this long, saying these lines.
    After(Duration, Vec<String>),
    /// Goes on until it is killed.
    Never,
}

/// What runs in a started container.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Where it can be reached; `None` is an address nothing can connect to.
    pub place: Option<Place>,
    /// What it says when it starts.
    pub lines: Vec<String>,
    /// When it ends by itself.
    pub exit: Option<Exit>,
    /// How it ends when told to.
    pub terminates: Terminates,
    /// What it uses.
    pub usage: ContainerUsage,
}

impl Default for Program {
    /// Runs silently, ends at once when told to, and cannot be reached.
    fn default() -> Self {
        Self {
            place: None,
            lines: Vec::new(),
            exit: None,
            terminates: Terminates::After(Duration::ZERO, Vec::new()),
            usage: ContainerUsage { cpu_milli: 1.0, memory_bytes: 2 << 20 },
        }
    }
}

type Programs = Arc<dyn Fn(&StartOrder) -> Program + Send + Sync>;

/// A host whose containers exist in memory only. Cloning shares it.
#[derive(Clone)]
pub struct SimHost {
    world: Arc<Mutex<World>>,
    signals: broadcast::Sender<Signal>,
    changed: watch::Sender<u64>,
}

struct World {
    began: Instant,
    facts: EngineFacts,
    away: Option<String>,
    present: HashMap<String, Image>,
    registry: HashMap<String, Image>,
    containers: BTreeMap<ContainerId, Container>,
    started: u32,
    start_delay: Duration,
    start_faults: VecDeque<EngineError>,
    programs: Programs,
    secrets: BTreeMap<(Arc<str>, FunctionKey, u64), Vec<SecretFile>>,
}

struct Container {
    installation: Arc<str>,
    observed: Observed,
    program: Program,
    log: Arc<Mutex<Log>>,
}

/// What a container has said; who follows it reads to the end even when the container is gone.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Number of the oldest line kept.
    first: usize,
    lines: VecDeque<LogLine>,
    has_ended: bool,
}

/// What every event stream hears.
#[derive(Debug, Clone)]
pub(super) enum Signal {
    Lost(String),
    Back,
    Happened(Arc<str>, EngineEvent),
}

impl std::fmt::Debug for SimHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimHost").finish_non_exhaustive()
    }
}

impl Default for SimHost {
    fn default() -> Self {
        Self::new(Cpu(4_000_000_000), Memory(8 << 30))
    }
}

/// The script: what a test arranges.
impl SimHost {
    /// A host of this size without images or containers.
    pub fn new(cpu: Cpu, memory: Memory) -> Self {
        let world = World {
            began: Instant::now(),
            facts: EngineFacts { version: "sim".into(), api_version: "1.41".into(), cpu, memory },
            away: None,
            present: HashMap::new(),
            registry: HashMap::new(),
            containers: BTreeMap::new(),
            started: 0,
            start_delay: Duration::ZERO,
            start_faults: VecDeque::new(),
            programs: Arc::new(|_| Program::default()),
            secrets: BTreeMap::new(),
        };
        let (signals, changed) = (broadcast::Sender::new(EVENTS_KEPT), watch::Sender::new(0));
        Self { world: Arc::new(Mutex::new(world)), signals, changed }
    }

    /// Puts an image on the host.
    pub fn add_image(&self, image: Image) {
        self.world().present.insert(image.reference.clone(), image);
    }

    /// Puts an image into the registry.
    pub fn add_to_registry(&self, image: Image) {
        self.world().registry.insert(image.reference.clone(), image);
    }

    /// Decides what each container started from now on does, such as where a test answers for it.
    pub fn run_programs(&self, programs: impl Fn(&StartOrder) -> Program + Send + Sync + 'static) {
        self.world().programs = Arc::new(programs);
    }

    /// How long each start takes from now on.
    pub fn delay_starts(&self, delay: Duration) {
        self.world().start_delay = delay;
    }

    /// Lets one of the next starts fail; each call adds one.
    pub fn fail_next_start(&self, error: EngineError) {
        self.world().start_faults.push_back(error);
    }

    /// The engine stops answering; containers go on.
    pub fn go_away(&self, reason: &str) {
        let is_new = self.world().away.replace(reason.to_owned()).is_none();
        if is_new {
            self.tell(Signal::Lost(reason.to_owned()));
        }
    }

    /// The engine answers again.
    pub fn come_back(&self) {
        if self.world().away.take().is_some() {
            self.tell(Signal::Back);
        }
    }

    /// A container says something.
    pub fn say(&self, container: &ContainerId, text: &str) {
        let world = self.world();
        let timestamp = world.now();
        if let Some(container) = world.containers.get(container) {
            container.say(timestamp, text);
        }
        drop(world);
        self.note_change();
    }

    /// A container ends, as after a crash.
    pub fn exit(&self, container: &ContainerId, exit_code: i64) {
        let mut world = self.world();
        let ended =
            world.containers.get_mut(container).filter(|found| found.observed.is_running).map(
                |found| {
                    found.observed.is_running = false;
                    found.observed.address = None;
                    found.log().has_ended = true;
                    (
                        Arc::clone(&found.installation),
                        EngineEvent::Died { container: container.clone(), exit_code },
                    )
                },
            );
        self.happened(&world, ended);
    }

    /// A container vanishes, as after `docker rm --force`.
    pub fn remove(&self, container: &ContainerId) {
        self.exit(container, 137);
        let mut world = self.world();
        let removed = world.containers.remove(container).map(|found| {
            (found.installation, EngineEvent::Removed { container: container.clone() })
        });
        self.happened(&world, removed);
    }

    /// The secrets a function's revision has on this host, for tests to look at.
    pub fn secrets(
        &self,
        installation: &str,
        function: &FunctionKey,
        revision: u64,
    ) -> Option<Vec<SecretFile>> {
        self.world().secrets.get(&(installation.into(), function.clone(), revision)).cloned()
    }
}

/// What the engine's calls do.
impl SimHost {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic while held")
    }

    fn answering(&self) -> Result<MutexGuard<'_, World>, EngineError> {
        let world = self.world();
        match &world.away {
            Some(reason) => Err(EngineError::Unavailable(reason.clone())),
            None => Ok(world),
        }
    }

    fn tell(&self, signal: Signal) {
        // Nobody listening is fine.
        let _ = self.signals.send(signal);
        self.note_change();
    }

    fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells what happened, unless the engine is away: then it is lost, as events are.
    fn happened(&self, world: &World, event: Option<(Arc<str>, EngineEvent)>) {
        if let Some((installation, event)) = event {
            if world.away.is_none() {
                let _ = self.signals.send(Signal::Happened(installation, event));
            }
            self.note_change();
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The first event of a new stream, and what follows it.
    pub(super) fn subscribe(&self) -> (EngineEvent, broadcast::Receiver<Signal>) {
        let world = self.world();
        let first = match &world.away {
            Some(reason) => EngineEvent::Lost { reason: reason.clone() },
            None => EngineEvent::Connected,
        };
        (first, self.signals.subscribe())
    }

    pub(super) fn facts(&self) -> Result<EngineFacts, EngineError> {
        Ok(self.answering()?.facts.clone())
    }

    pub(super) fn image(&self, reference: &str, policy: PullPolicy) -> Result<Image, EngineError> {
        let mut world = self.answering()?;
        let unavailable = |reason: &str| EngineError::ImageUnavailable {
            reference: reference.to_owned(),
            reason: reason.to_owned(),
        };
        if Reference::parse(reference).is_none() {
            return Err(unavailable("invalid reference format"));
        }
        let present = world.present.get(reference).cloned();
        if let (Some(image), PullPolicy::Missing) = (&present, policy) {
            return Ok(image.clone());
        }
        match world.registry.get(reference).cloned() {
            Some(image) => {
                world.present.insert(reference.to_owned(), image.clone());
                Ok(image)
            }
            None => present.ok_or_else(|| unavailable("not in the registry")),
        }
    }

    pub(super) fn start_delay(&self) -> Duration {
        self.world().start_delay
    }

    pub(super) fn start(
        &self,
        installation: &Arc<str>,
        order: &StartOrder,
    ) -> Result<Observed, EngineError> {
        let mut world = self.answering()?;
        if let Some(fault) = world.start_faults.pop_front() {
            return Err(fault);
        }
        if !world.present.values().any(|image| image.id == order.image.id) {
            let reason = "it is no longer present on the engine".to_owned();
            return Err(EngineError::ImageUnavailable {
                reference: order.image.reference.clone(),
                reason,
            });
        }
        if world.containers.values().any(|container| container.observed.replica == order.replica) {
            return Err(EngineError::Refused(format!(
                "container name {} is taken",
                order.replica.0
            )));
        }
        let programs = Arc::clone(&world.programs);
        let program = programs(order);
        let exit = program.exit;
        let observed = world.add(installation, order, program);
        drop(world);
        match exit {
            Some(Exit { after: Duration::ZERO, code }) => self.exit(&observed.container, code),
            Some(Exit { after, code }) => {
                let (host, container) = (self.clone(), observed.container.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    host.exit(&container, code);
                });
            }
            None => {}
        }
        self.note_change();
        let is_running = self.is_running(&observed.container);
        Ok(Observed { is_running, address: observed.address.filter(|_| is_running), ..observed })
    }

    /// How long a container takes to end when told so, and its status then; `None` when it does not run.
    pub(super) fn terminate(
        &self,
        container: &ContainerId,
        grace: Duration,
    ) -> Result<Option<(Duration, i64)>, EngineError> {
        let world = self.answering()?;
        let timestamp = world.now();
        let Some(found) = world.containers.get(container).filter(|found| found.observed.is_running)
        else {
            return Ok(None);
        };
        match found.program.terminates.clone() {
            Terminates::After(takes, lines) if takes <= grace => {
                lines.iter().for_each(|line| found.say(timestamp, line));
                Ok(Some((takes, 0)))
            }
            Terminates::After(..) | Terminates::Never => Ok(Some((grace, 137))),
        }
    }

    pub(super) fn list(&self, installation: &str) -> Result<Vec<Observed>, EngineError> {
        let world = self.answering()?;
        let ours =
            world.containers.values().filter(|container| *container.installation == *installation);
        Ok(ours.map(|container| container.observed.clone()).collect())
    }

    pub(super) fn is_running(&self, container: &ContainerId) -> bool {
        self.world()
            .containers
            .get(container)
            .is_some_and(|container| container.observed.is_running)
    }

    /// A container's log.
    pub(super) fn log(&self, container: &ContainerId) -> Result<Arc<Mutex<Log>>, EngineError> {
        let world = self.answering()?;
        world
            .containers
            .get(container)
            .map(|found| Arc::clone(&found.log))
            .ok_or(EngineError::NotFound)
    }

    pub(super) fn usage(&self, container: &ContainerId) -> Result<ContainerUsage, EngineError> {
        let world = self.answering()?;
        let found = world.containers.get(container).ok_or(EngineError::NotFound)?;
        Ok(if found.observed.is_running { found.program.usage } else { ContainerUsage::default() })
    }

    pub(super) fn collect_secrets(
        &self,
        installation: &str,
        live: &[(FunctionKey, u64)],
    ) -> Result<(), EngineError> {
        let mut world = self.answering()?;
        let World { containers, secrets, .. } = &mut *world;
        let is_mounted = |function: &FunctionKey, revision: u64| {
            containers.values().any(|container| {
                *container.installation == *installation
                    && container.observed.function == *function
                    && container.observed.revision == revision
            })
        };
        secrets.retain(|(of, function, revision), _| {
            let is_live = live.iter().any(|(live, number)| live == function && number == revision);
            **of != *installation || is_live || is_mounted(function, *revision)
        });
        Ok(())
    }
}

impl World {
    /// Virtual time as a moment of the calendar.
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        // 2024-01-01T00:00:00Z
        Timestamp::constant(1_704_067_200, 0).saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    fn add(&mut self, installation: &Arc<str>, order: &StartOrder, program: Program) -> Observed {
        self.started += 1;
        if !order.secrets.is_empty() {
            let key = (Arc::clone(installation), order.function.clone(), order.revision);
            self.secrets.insert(key, order.secrets.clone());
        }
        // A multicast address: the kernel refuses to connect to it at once.
        let [_, high, middle, low] = self.started.to_be_bytes();
        let nowhere = IpAddr::V4(Ipv4Addr::new(239, high, middle, low));
        let place = program.place;
        let observed = Observed {
            container: ContainerId(format!("sim{:08}", self.started)),
            replica: order.replica.clone(),
            function: order.function.clone(),
            revision: order.revision,
            http_port: place.map_or(order.boot.http_port, |place| place.http_port),
            control_port: place.map_or(order.boot.control_port, |place| place.control_port),
            is_running: true,
            address: Some(place.map_or(nowhere, |place| place.address)),
        };
        let timestamp = self.now();
        let installation = Arc::clone(installation);
        let container =
            Container { installation, observed: observed.clone(), program, log: Arc::default() };
        container.program.lines.iter().for_each(|line| container.say(timestamp, line));
        self.containers.insert(observed.container.clone(), container);
        observed
    }
}

impl Container {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic while held")
    }

    fn say(&self, timestamp: Timestamp, text: &str) {
        let mut log = self.log();
        if log.lines.len() == LINES_KEPT {
            log.lines.pop_front();
            log.first += 1;
        }
        log.lines.push_back(LogLine { timestamp, text: text.to_owned() });
    }
}

impl Log {
    /// Number of the first of the last `tail` lines.
    pub(super) fn start(&self, tail: Option<u64>) -> usize {
        let tail = tail.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
        self.first + self.lines.len().saturating_sub(tail)
    }

    /// Line number `at`, or the oldest kept after it, and the number of the one that follows.
    pub(super) fn line(&self, at: usize) -> Option<(LogLine, usize)> {
        let at = at.max(self.first);
        self.lines.get(at - self.first).map(|line| (line.clone(), at + 1))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}
