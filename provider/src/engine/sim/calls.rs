//! What the engine's calls do to a simulated host.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyperfaas_protocol::FunctionKey;
use tokio::sync::broadcast;

use super::super::reference::Reference;
use super::super::{
    Bounds, ContainerId, ContainerUsage, EngineError, EngineEvent, EngineFacts, Image, Observed,
    PullPolicy, StartOrder,
};
use super::host::{Signal, SimHost};
use super::program::{Exit, Terminates};
use super::standby::is_nobody;
use super::world::{Log, World};

impl SimHost {
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
        let created = EngineEvent::Created {
            container: observed.container.clone(),
            name: order.replica.clone(),
            function: Some(order.function.clone()).filter(|key| !is_nobody(key)),
        };
        self.happened(&world, Some((Arc::clone(installation), created)));
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
        let ours = world
            .containers
            .values()
            .filter(|container| !container.is_standby && *container.installation == *installation);
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

    pub(super) fn update(
        &self,
        container: &ContainerId,
        bounds: Bounds,
    ) -> Result<(), EngineError> {
        let mut world = self.answering()?;
        let found = world.containers.get_mut(container).ok_or(EngineError::NotFound)?;
        found.bounds.cpu = bounds.cpu.or(found.bounds.cpu);
        found.bounds.memory = bounds.memory.or(found.bounds.memory);
        Ok(())
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
