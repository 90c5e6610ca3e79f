//! The simulated host: images, containers, and the script of what goes wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::super::{
    Bounds, ContainerId, EngineError, EngineEvent, EngineFacts, Image, SecretFile, StartOrder,
};
use super::program::Program;
use super::world::World;

/// Events kept for a reader that is slow; one that is slower is told to list anew.
const EVENTS_KEPT: usize = 4096;

/// A host whose containers exist in memory only. Cloning shares it.
#[derive(Clone)]
pub struct SimHost {
    world: Arc<Mutex<World>>,
    pub(super) signals: broadcast::Sender<Signal>,
    changed: watch::Sender<u64>,
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
            archives: HashMap::new(),
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

    /// What a container may use, for tests to look at.
    pub fn bounds(&self, container: &ContainerId) -> Option<Bounds> {
        self.world().containers.get(container).map(|found| found.bounds)
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

impl SimHost {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic while held")
    }

    pub(super) fn answering(&self) -> Result<MutexGuard<'_, World>, EngineError> {
        let world = self.world();
        match &world.away {
            Some(reason) => Err(EngineError::Unavailable(reason.clone())),
            None => Ok(world),
        }
    }

    pub(super) fn tell(&self, signal: Signal) {
        // Nobody listening is fine.
        let _ = self.signals.send(signal);
        self.note_change();
    }

    pub(super) fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells what happened, unless the engine is away: then it is lost, as events are.
    pub(super) fn happened(&self, world: &World, event: Option<(Arc<str>, EngineEvent)>) {
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
}
