//! What must be there before the first replica: a shared API version, the network, the watchdog in a volume.
//!
//! Always: running it again, or by several providers at once, changes nothing that is in use.

use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{NetworkCreateRequest, SystemInfo, SystemVersion};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use bytes::Bytes;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use sha2::{Digest, Sha256};
use tracing::{debug, info};

use super::super::elf::static_program;
use super::super::{EngineError, EngineFacts};
use super::connection::{CHANGE, READ, classify, gone_is_fine, status, within};
use super::create::{SLOTS, WATCHDOG_FILE};
use super::labels::{self, INSTALLATION, Labels, RUN};
use super::replica::remove;
use super::volume::{self, Files};
use super::{Inner, Ready};

/// Every watchdog volume's name begins so; parts of its content's and its installation's hashes follow.
const VOLUME_PREFIX: &str = "hyperfaas-watchdog-";

impl Inner {
    /// What [`Inner::prepare`] found, preparing first where that has not happened.
    pub(super) async fn ready(&self) -> Result<Arc<Ready>, EngineError> {
        let known = self.ready.lock().expect("no panic while held").clone();
        match known {
            Some(ready) => Ok(ready),
            None => self.prepare().await,
        }
    }

    /// Makes everything replicas need; callers at the same time wait for each other.
    pub(super) async fn prepare(&self) -> Result<Arc<Ready>, EngineError> {
        let _alone = self.preparing.lock().await;
        self.prepare_alone().await
    }

    /// Prepares anew because what `found` told is no longer so; of many who notice, one does it.
    pub(super) async fn repair(&self, found: &Arc<Ready>) -> Result<Arc<Ready>, EngineError> {
        let _alone = self.preparing.lock().await;
        let known = self.ready.lock().expect("no panic while held").clone();
        match known {
            Some(newer) if !Arc::ptr_eq(&newer, found) => Ok(newer),
            _ => self.prepare_alone().await,
        }
    }

    async fn prepare_alone(&self) -> Result<Arc<Ready>, EngineError> {
        let version = self.connection.negotiate().await?;
        let docker = self.connection.docker()?;
        let info = within(READ, docker.info()).await.map_err(classify)?;
        let facts = facts(&version, &info, self.connection.api_version());
        self.remove_leftovers(&docker).await?;
        self.ensure_network(&docker).await?;
        let watchdog_volume = self.ensure_watchdog(&docker, info.architecture.as_deref()).await?;
        self.remove_old_watchdogs(&docker, &watchdog_volume).await?;
        let ready = Arc::new(Ready { facts, watchdog_volume });
        *self.ready.lock().expect("no panic while held") = Some(Arc::clone(&ready));
        Ok(ready)
    }

    /// Removes helpers that an earlier run of this provider left when it was killed.
    async fn remove_leftovers(&self, docker: &Docker) -> Result<(), EngineError> {
        let filters = labels::filter(labels::FILL, Some(&self.config.installation));
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for helper in within(READ, docker.list_containers(Some(options))).await.map_err(classify)? {
            let is_at_work =
                helper.labels.as_ref().and_then(|labels| labels.get(RUN)) == Some(&self.run);
            if let Some(id) = helper.id.filter(|_| !is_at_work) {
                debug!(container = id, "removing a helper left behind");
                remove(docker, &id).await?;
            }
        }
        Ok(())
    }

    /// Makes the functions' network unless it exists, whoever made it.
    async fn ensure_network(&self, docker: &Docker) -> Result<(), EngineError> {
        let name = &self.config.network;
        match within(READ, docker.inspect_network(name, None)).await {
            // Engines also take the first digits of an id for a name.
            Ok(network) if network.name.as_ref() == Some(name) => return Ok(()),
            Ok(_) => {}
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => {
                let error = classify(error);
                if is_ambiguous(&error) {
                    return self.settle_network(docker).await;
                }
                return Err(error);
            }
        }
        let mut labels = labels::ours("network", None);
        labels.insert(INSTALLATION.to_owned(), self.config.installation.clone());
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        match within(CHANGE, docker.create_network(request)).await {
            Ok(_) => {}
            Err(error) if status(&error) == Some(409) => return Ok(()),
            Err(error) => return Err(classify(error)),
        }
        info!(network = name, "network made");
        self.settle_network(docker).await
    }

    /// Engines before 24 make two networks of one name when asked at the same time, and one who asked may have been killed meanwhile.
    /// Of those that this installation has made, only the first of all by its id stays, or one that is in use.
    async fn settle_network(&self, docker: &Docker) -> Result<(), EngineError> {
        let name = &self.config.network;
        let filters = std::collections::HashMap::from([("name".to_owned(), vec![name.clone()])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = within(READ, docker.list_networks(Some(options))).await.map_err(classify)?;
        let same = networks.into_iter().filter(|network| network.name.as_ref() == Some(name));
        let mut same: Vec<_> = same
            .filter_map(|network| {
                let installation = network.labels.unwrap_or_default().remove(INSTALLATION);
                Some((network.id?, installation.as_ref() == Some(&self.config.installation)))
            })
            .collect();
        same.sort();
        let mut is_used = false;
        for (id, is_ours) in same.iter().skip(1) {
            is_used |= *is_ours && !remove_unused_network(docker, id).await?;
        }
        match same.first() {
            Some((first, true)) if is_used => remove_unused_network(docker, first).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Makes the volume with this provider's watchdog; its name.
    async fn ensure_watchdog(
        &self,
        docker: &Docker,
        architecture: Option<&str>,
    ) -> Result<String, EngineError> {
        let path = &self.config.watchdog;
        let file = tokio::fs::read(path).await;
        let built_for = check_watchdog(path, &file)?;
        if let Some(architecture) = architecture.filter(|architecture| *architecture != built_for) {
            let what = format!(
                "watchdog {}: built for {built_for}, the engine runs on {architecture}",
                path.display()
            );
            return Err(EngineError::Refused(what));
        }
        let file = file.unwrap_or_default();
        let (content, installation) =
            (Sha256::digest(&file), Sha256::digest(self.config.installation.as_bytes()));
        let name = format!("{VOLUME_PREFIX}{}-{}", hex(&content, 12), hex(&installation, 8));
        let files = Files::from([
            (WATCHDOG_FILE.to_owned(), (0o555, Bytes::from(file))),
            // Where slots are put from outside, in a container that runs.
            (SLOTS.to_owned(), (0o755, Bytes::new())),
        ]);
        let labels = self.watchdog_labels();
        if volume::ensure(docker, &name, labels, self.helper_labels(), &files).await? {
            info!(volume = name, "watchdog put into its volume");
        }
        Ok(name)
    }

    pub(super) fn watchdog_labels(&self) -> Labels {
        labels::ours(labels::WATCHDOG, Some(&self.config.installation))
    }

    /// Removes this installation's watchdogs of other versions that no container has mounted.
    async fn remove_old_watchdogs(
        &self,
        docker: &Docker,
        current: &str,
    ) -> Result<(), EngineError> {
        let filters = labels::filter(labels::WATCHDOG, Some(&self.config.installation));
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let listed = within(READ, docker.list_volumes(Some(options))).await.map_err(classify)?;
        for volume in listed.volumes.unwrap_or_default() {
            if volume.name != current && volume.name.starts_with(VOLUME_PREFIX) {
                remove_unused(docker, &volume.name).await?;
            }
        }
        Ok(())
    }
}

/// The processor the watchdog at `path` is built for.
pub(super) fn check_watchdog(
    path: &Path,
    file: &std::io::Result<Vec<u8>>,
) -> Result<&'static str, EngineError> {
    let refuse = |what: &dyn std::fmt::Display| {
        EngineError::Refused(format!("watchdog {}: {what}", path.display()))
    };
    let file = file.as_ref().map_err(|error| refuse(error))?;
    static_program(file).map_err(|error| refuse(&error))
}

/// Removes `volume` unless a container has it mounted; whether it is gone.
pub(super) async fn remove_unused(docker: &Docker, volume: &str) -> Result<bool, EngineError> {
    let options = RemoveVolumeOptionsBuilder::default().build();
    match within(CHANGE, docker.remove_volume(volume, Some(options))).await {
        Err(error) if status(&error) == Some(409) => Ok(false),
        other => gone_is_fine(other).map(|()| true),
    }
}

/// Removes a network unless a container is in it; whether it is gone.
async fn remove_unused_network(docker: &Docker, id: &str) -> Result<bool, EngineError> {
    match within(CHANGE, docker.remove_network(id)).await {
        Err(error) if status(&error) == Some(403) => Ok(false),
        other => gone_is_fine(other).map(|()| true),
    }
}

/// Whether the engine has found two of something that there is to be one of.
pub(super) fn is_ambiguous(error: &EngineError) -> bool {
    matches!(error, EngineError::Refused(text) if text.contains("is ambiguous"))
}

fn facts(version: &SystemVersion, info: &SystemInfo, api_version: String) -> EngineFacts {
    let count =
        |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    EngineFacts {
        version: version.version.clone().unwrap_or_default(),
        api_version,
        cpu: Cpu(count(info.ncpu).max(1).saturating_mul(1_000_000_000)),
        memory: Memory(count(info.mem_total)),
    }
}

/// The first `digits` hexadecimal digits of `bytes`.
pub(super) fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}
