//! Simulated standby containers, renames, exports.
//!
//! A standby container is kept like a replica of a function that no user can name, and is left out of the list of replicas.

use std::sync::Arc;

use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::names::Namespace;
use hyperfaas_protocol::{FunctionKey, FunctionName};

use super::super::{
    Bounds, ContainerId, EngineError, Image, ReplicaId, Standby, StandbyOrder, StartOrder,
};
use super::host::SimHost;

/// The image of standby containers.
const IMAGE: &str = "hyperfaas-standby:1";
/// The namespace of what standby containers are kept as.
const NOBODY: &str = "hyperfaas-standby";
/// Where the host's numbers of first processes begin.
const FIRST_PROCESS: u32 = 1_000;
/// The end of an archive, which is all there is of an empty one.
const EMPTY: [u8; 1024] = [0; 1024];

impl SimHost {
    /// Gives an image, by its content id, the files in `archive`; others are empty.
    pub fn add_archive(&self, image: &str, archive: Vec<u8>) {
        self.world().archives.insert(image.to_owned(), archive);
    }

    pub(super) fn start_standby(
        &self,
        installation: &Arc<str>,
        order: &StandbyOrder,
    ) -> Result<Standby, EngineError> {
        let order = as_start_order(order);
        {
            let mut world = self.answering()?;
            world.present.entry(IMAGE.to_owned()).or_insert_with(|| order.image.clone());
        }
        let started = self.start(installation, &order)?;
        if let Some(container) = self.world().containers.get_mut(&started.container) {
            container.is_standby = true;
        }
        let all = self.list_standby(installation)?;
        all.into_iter()
            .find(|standby| standby.container == started.container)
            .ok_or(EngineError::NotFound)
    }

    pub(super) fn list_standby(&self, installation: &str) -> Result<Vec<Standby>, EngineError> {
        let world = self.answering()?;
        let ours = world
            .containers
            .values()
            .filter(|container| container.is_standby && *container.installation == *installation);
        let standby = ours.map(|container| Standby {
            container: container.observed.container.clone(),
            name: container.observed.replica.clone(),
            http_port: container.observed.http_port,
            control_port: container.observed.control_port,
            is_running: container.observed.is_running,
            address: container.observed.address,
        });
        Ok(standby.collect())
    }

    pub(super) fn rename(
        &self,
        container: &ContainerId,
        name: &ReplicaId,
    ) -> Result<(), EngineError> {
        let mut world = self.answering()?;
        let is_taken = |(id, other): (&ContainerId, &super::world::Container)| {
            id != container && other.observed.replica == *name
        };
        if world.containers.iter().any(is_taken) {
            return Err(EngineError::Refused(format!("container name {} is taken", name.0)));
        }
        let found = world.containers.get_mut(container).ok_or(EngineError::NotFound)?;
        found.observed.replica = name.clone();
        Ok(())
    }

    pub(super) fn process(&self, container: &ContainerId) -> Result<u32, EngineError> {
        let world = self.answering()?;
        let found = world.containers.get(container).ok_or(EngineError::NotFound)?;
        let number = container.0.trim_start_matches("sim").parse::<u32>().unwrap_or(0);
        if !found.observed.is_running {
            return Err(EngineError::Refused(format!("container {} does not run", container.0)));
        }
        Ok(FIRST_PROCESS + number)
    }

    pub(super) fn archive(&self, image: &Image) -> Result<Vec<u8>, EngineError> {
        let world = self.answering()?;
        if !world.present.values().any(|present| present.id == image.id) {
            return Err(EngineError::ImageUnavailable {
                reference: image.reference.clone(),
                reason: "it is no longer present on the engine".into(),
            });
        }
        Ok(world.archives.get(&image.id).cloned().unwrap_or_else(|| EMPTY.to_vec()))
    }
}

/// Whether it is the function that standby containers are kept as.
pub(super) fn is_nobody(function: &FunctionKey) -> bool {
    function.namespace.as_str() == NOBODY
}

fn as_start_order(order: &StandbyOrder) -> StartOrder {
    let namespace = Namespace::parse(NOBODY).expect("a valid name");
    StartOrder {
        replica: order.name.clone(),
        function: FunctionKey {
            namespace,
            name: FunctionName::parse("standby").expect("a valid name"),
        },
        revision: 0,
        image: Image {
            reference: IMAGE.to_owned(),
            id: IMAGE.to_owned(),
            digest: None,
            env: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            directory: String::new(),
        },
        kind: FunctionKind::Watchdog,
        env: Vec::new(),
        boot: order.boot.clone(),
        limits: order.limits,
        requests: Bounds::default(),
        read_only_root: true,
        secrets: Vec::new(),
    }
}
