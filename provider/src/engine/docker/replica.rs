//! Starting, stopping and listing replicas.
//!
//! Always: a start that fails removes what it made; what a start relies on (network, watchdog volume) and somebody removed
//! is made again once, so that a `docker system prune` costs one slow start and no outage.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerUpdateBody};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use tracing::{debug, warn};

use super::super::clamp::clamp;
use super::super::{Bounds, ContainerId, EngineError, Observed, ReplicaId, StartOrder};
use super::connection::{CHANGE, READ, classify, gone_is_fine, status, within};
use super::create::{self, Volumes, WATCHDOG_FILE};
use super::labels::Told;
use super::prepare::is_ambiguous;
use super::{Inner, labels};

/// What the engine may take beyond the grace period before a stop counts as failed.
const STOP_SLACK: Duration = Duration::from_secs(60);
/// Before each further attempt at a removal that the engine failed at.
const REMOVE_PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];

impl Inner {
    /// Creates and starts one replica.
    pub(super) async fn start(&self, order: StartOrder) -> Result<Observed, EngineError> {
        let docker = self.connection.docker()?;
        let ready = self.ready().await?;
        let secrets = self.secrets.provide(self, &docker, &order).await?;
        let volumes = Volumes {
            watchdog: (&ready.watchdog_volume, self.watchdog_labels()),
            secrets: secrets
                .as_ref()
                .map(|pin| (pin.volume(), self.secret_labels(&order.function, order.revision))),
        };
        let bounds = clamp(&order.limits, &order.requests, &ready.facts);
        let body = create::body(&self.config, &order, bounds, volumes)?;
        match self.launch(&docker, &order, body.clone()).await {
            Err(error) if self.is_repairable(&error) => {
                warn!(
                    replica = order.replica.0,
                    reason = error.to_string(),
                    "network or watchdog volume is gone, or there twice; mending that"
                );
                self.repair(&ready).await?;
                self.launch(&docker, &order, body).await
            }
            other => other,
        }
    }

    /// One attempt; leaves nothing behind when it fails.
    async fn launch(
        &self,
        docker: &Docker,
        order: &StartOrder,
        body: ContainerCreateBody,
    ) -> Result<Observed, EngineError> {
        let name = &order.replica.0;
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = match within(CHANGE, docker.create_container(Some(options), body)).await {
            Ok(created) => created,
            Err(error) => {
                // Only a create that may still come to pass needs undoing: a conflict's container is another one.
                if status(&error).is_none() {
                    self.discard(docker, name).await;
                }
                return Err(refused_create(error, order));
            }
        };
        let started = match within(CHANGE, docker.start_container(&created.id, None)).await {
            Ok(()) => {
                within(READ, docker.inspect_container(&created.id, None)).await.map_err(classify)
            }
            Err(error) => Err(classify(error)),
        };
        let observed = started.and_then(|container| {
            let damaged = || EngineError::Refused(format!("container {name} lost its labels"));
            Told::from_inspect(container)
                .and_then(|told| told.replica(&self.config.network))
                .ok_or_else(damaged)
        });
        if observed.is_err() {
            self.discard(docker, &created.id).await;
        }
        observed
    }

    /// Removes what a failed start made; when even that fails, the container has our labels and shows up in the list.
    pub(super) async fn discard(&self, docker: &Docker, container: &str) {
        if let Err(error) = remove(docker, container).await {
            warn!(
                container,
                reason = error.to_string(),
                "failed start could not be cleaned up yet"
            );
        }
    }

    /// Whether making network and watchdog volume anew, or one network out of two, may help.
    pub(super) fn is_repairable(&self, error: &EngineError) -> bool {
        let EngineError::Refused(text) = error else { return false };
        let lost_network = text.contains("network")
            && text.contains(&self.config.network)
            && (text.contains("not found") || is_ambiguous(error));
        let lost_watchdog = text.contains(WATCHDOG_FILE) && text.contains("no such file");
        lost_network || lost_watchdog
    }

    /// Changes the limits of one container.
    pub(super) async fn update(
        &self,
        container: ContainerId,
        bounds: Bounds,
    ) -> Result<(), EngineError> {
        let docker = self.connection.docker()?;
        let ready = self.ready().await?;
        let bounds = clamp(&bounds, &Bounds::default(), &ready.facts);
        let body = ContainerUpdateBody {
            nano_cpus: bounds.nano_cpus,
            memory: bounds.memory,
            memory_swap: bounds.memory,
            ..ContainerUpdateBody::default()
        };
        match within(CHANGE, docker.update_container(&container.0, body)).await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Err(EngineError::NotFound),
            Err(error) => Err(classify(error)),
        }
    }

    /// Ends one container and removes it with its anonymous volumes.
    pub(super) async fn stop(
        &self,
        container: ContainerId,
        grace: Duration,
    ) -> Result<(), EngineError> {
        let docker = self.connection.docker()?.with_timeout(grace + STOP_SLACK);
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        match within(grace + STOP_SLACK, docker.stop_container(&container.0, Some(options))).await {
            Ok(()) => {}
            Err(error) if status(&error) == Some(404) => return Ok(()),
            Err(error) if status(&error).is_some() => {
                warn!(
                    container = container.0,
                    reason = classify(error).to_string(),
                    "stop refused, removing by force"
                );
            }
            Err(error) => return Err(classify(error)),
        }
        remove(&docker, &container.0).await
    }

    /// Every replica of this installation.
    pub(super) async fn list(&self) -> Result<Vec<Observed>, EngineError> {
        let filters = labels::filter(labels::REPLICA, Some(&self.config.installation));
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let rows = within(READ, self.connection.docker()?.list_containers(Some(options)))
            .await
            .map_err(classify)?;
        let observed = rows.into_iter().filter_map(|row| {
            let id = row.id.clone();
            let observed =
                Told::from_summary(row).and_then(|told| told.replica(&self.config.network));
            if observed.is_none() {
                debug!(container = id, "container with damaged labels is left alone");
            }
            observed
        });
        Ok(observed.collect())
    }
}

/// Removes a container, running or not, with its anonymous volumes.
///
/// Storage drivers fail now and then when a container ends as it starts ("directory not empty") and succeed when asked again.
pub(super) async fn remove(docker: &Docker, container: &str) -> Result<(), EngineError> {
    let mut pauses = REMOVE_PAUSES.into_iter();
    loop {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match within(CHANGE, docker.remove_container(container, Some(options))).await {
            // Somebody else is removing it at this moment.
            Err(error) if status(&error) == Some(409) => return Ok(()),
            Err(error) if status(&error) == Some(500) => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(classify(error)),
            },
            other => return gone_is_fine(other),
        }
    }
}

fn refused_create(error: Error, order: &StartOrder) -> EngineError {
    let ReplicaId(name) = &order.replica;
    match status(&error) {
        Some(404)
            if error.to_string().contains("No such image")
                || error.to_string().contains(&order.image.id) =>
        {
            EngineError::ImageUnavailable {
                reference: order.image.reference.clone(),
                reason: "it is no longer present on the engine".into(),
            }
        }
        Some(409) => EngineError::Refused(format!("container name {name} is taken")),
        _ => classify(error),
    }
}
