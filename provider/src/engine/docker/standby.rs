//! Containers without a function: made of an image that holds nothing, imported here, and the watchdog's volume.
//!
//! Always: as for replicas, a start that fails removes what it made, and what was pruned is made again once.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RenameContainerOptionsBuilder,
};
use tracing::warn;

use super::super::clamp::clamp;
use super::super::{Bounds, ContainerId, EngineError, ReplicaId, Standby, StandbyOrder};
use super::connection::{CHANGE, READ, classify, status, within};
use super::labels::{self, Told};
use super::{Inner, create, volume};

/// The image of standby containers and its version; a new content gets a new number.
const IMAGE: (&str, &str) = ("hyperfaas-standby", "1");
/// How long an engine that is being asked for a process may take.
const PROCESS: Duration = READ;

impl Inner {
    /// Creates and starts one standby container.
    pub(super) async fn start_standby(&self, order: StandbyOrder) -> Result<Standby, EngineError> {
        let docker = self.connection.docker()?;
        let ready = self.ready().await?;
        let bounds = clamp(&order.limits, &Bounds::default(), &ready.facts);
        let image = format!("{}:{}", IMAGE.0, IMAGE.1);
        let watchdog = (ready.watchdog_volume.as_str(), self.watchdog_labels());
        let body = create::standby_body(&self.config, &order, bounds, &image, watchdog)?;
        match self.launch_standby(&docker, &order, body.clone()).await {
            Err(error) if self.is_repairable(&error) => {
                let reason = error.to_string();
                warn!(reason, "network or watchdog volume is gone, or there twice; mending that");
                self.repair(&ready).await?;
                self.launch_standby(&docker, &order, body).await
            }
            other => other,
        }
    }

    /// One attempt; leaves nothing behind when it fails.
    async fn launch_standby(
        &self,
        docker: &Docker,
        order: &StandbyOrder,
        body: ContainerCreateBody,
    ) -> Result<Standby, EngineError> {
        let ReplicaId(name) = &order.name;
        let create = || {
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            within(CHANGE, docker.create_container(Some(options), body.clone()))
        };
        let created = match create().await {
            Err(error) if is_without_image(&error) => {
                volume::import(docker, IMAGE, ("tmp/", 0o1777)).await?;
                create().await
            }
            other => other,
        };
        let id = match created {
            Ok(created) => created.id,
            Err(error) if status(&error) == Some(409) => {
                return Err(EngineError::Refused(format!("container name {name} is taken")));
            }
            Err(error) => {
                // Only a create that may still come to pass needs undoing.
                if status(&error).is_none() {
                    self.discard(docker, name).await;
                }
                return Err(classify(error));
            }
        };
        let started = self.started_standby(docker, &id).await;
        if started.is_err() {
            self.discard(docker, &id).await;
        }
        started
    }

    async fn started_standby(&self, docker: &Docker, id: &str) -> Result<Standby, EngineError> {
        within(CHANGE, docker.start_container(id, None)).await.map_err(classify)?;
        let container = inspect(docker, id).await?;
        let told =
            Told::from_inspect(container).and_then(|told| told.standby(&self.config.network));
        told.ok_or_else(|| EngineError::Refused(format!("container {id} lost its labels")))
    }

    /// Every standby container of this installation.
    pub(super) async fn list_standby(&self) -> Result<Vec<Standby>, EngineError> {
        let filters = labels::filter(labels::STANDBY, Some(&self.config.installation));
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let rows = within(READ, self.connection.docker()?.list_containers(Some(options))).await;
        let standby = |row| Told::from_summary(row)?.standby(&self.config.network);
        Ok(rows.map_err(classify)?.into_iter().filter_map(standby).collect())
    }

    /// Gives a container another name.
    pub(super) async fn rename(
        &self,
        container: &ContainerId,
        name: &ReplicaId,
    ) -> Result<(), EngineError> {
        let docker = self.connection.docker()?;
        let options = RenameContainerOptionsBuilder::default().name(&name.0).build();
        match within(CHANGE, docker.rename_container(&container.0, options)).await {
            Err(error) if status(&error) == Some(409) => {
                Err(EngineError::Refused(format!("container name {} is taken", name.0)))
            }
            // Docker refuses to give a container the name that it has.
            Err(error) if status(&error) == Some(400) => {
                let told = within(READ, docker.inspect_container(&container.0, None)).await;
                let own = told.ok().and_then(|told| told.name);
                let is_so = own.is_some_and(|own| own.trim_start_matches('/') == name.0);
                if is_so { Ok(()) } else { Err(classify(error)) }
            }
            other => other.map_err(classify),
        }
    }

    /// The first process of a running container.
    pub(super) async fn process(&self, container: &ContainerId) -> Result<u32, EngineError> {
        let docker = self.connection.docker()?;
        let told = within(PROCESS, docker.inspect_container(&container.0, None)).await;
        let pid = told.map_err(classify)?.state.and_then(|state| state.pid);
        match pid.and_then(|pid| u32::try_from(pid).ok()) {
            Some(pid) if pid > 0 => Ok(pid),
            _ => Err(EngineError::Refused(format!("container {} does not run", container.0))),
        }
    }
}

async fn inspect(docker: &Docker, id: &str) -> Result<ContainerInspectResponse, EngineError> {
    within(READ, docker.inspect_container(id, None)).await.map_err(classify)
}

/// Whether a create failed for want of our image, which a `docker image prune` may have taken.
fn is_without_image(error: &Error) -> bool {
    status(error) == Some(404) && error.to_string().contains(IMAGE.0)
}
