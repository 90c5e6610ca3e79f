//! Volumes with secrets: one for each revision of a function, and another when a secret's bytes change under it.
//!
//! Always: a container that was created with a volume sees the bytes it held then; a volume is pinned from before it is
//! filled until its container exists, so collecting never takes it away in between; no name or label tells content.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bollard::Docker;
use bollard::models::Volume;
use bollard::query_parameters::ListVolumesOptionsBuilder;
use hyperfaas_protocol::FunctionKey;
use sha2::{Digest, Sha256};
use tracing::debug;
use uuid::Uuid;

use super::super::{EngineError, StartOrder};
use super::Inner;
use super::connection::{READ, classify, status, within};
use super::labels::{self, Labels};
use super::prepare::remove_unused;
use super::volume::{self, Files};

/// How secret files are readable: by every user of the container, writable by none.
const FILE_MODE: u32 = 0o444;

type Key = (FunctionKey, u64);

/// Which volumes hold what.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    state: Arc<Mutex<State>>,
    /// Held while volumes are filled or collected.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    current: HashMap<Key, Current>,
    pins: HashMap<String, usize>,
}

#[derive(Debug, Clone)]
struct Current {
    volume: String,
    content: [u8; 32],
}

/// Keeps one volume from being collected.
#[derive(Debug)]
pub(super) struct Pin {
    volume: String,
    state: Arc<Mutex<State>>,
}

impl Pin {
    pub(super) fn volume(&self) -> &str {
        &self.volume
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.state.lock().expect("no panic while held");
        if let Some(count) = state.pins.get_mut(&self.volume) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.volume);
            }
        }
    }
}

impl Secrets {
    /// A volume that holds exactly the secrets of `order`; none when it has none.
    pub(super) async fn provide(
        &self,
        engine: &Inner,
        docker: &Docker,
        order: &StartOrder,
    ) -> Result<Option<Pin>, EngineError> {
        if order.secrets.is_empty() {
            return Ok(None);
        }
        let files: Files = order
            .secrets
            .iter()
            .map(|file| (file.name.to_string(), (FILE_MODE, file.bytes.clone())))
            .collect();
        let key = (order.function.clone(), order.revision);
        let content = digest(&files);
        if let Some(pin) = self.known(&key, content)
            && exists(docker, pin.volume()).await?
        {
            return Ok(Some(pin));
        }
        let _alone = self.changing.lock().await;
        if let Some(pin) = self.known(&key, content)
            && exists(docker, pin.volume()).await?
        {
            return Ok(Some(pin));
        }
        self.fill(engine, docker, key, content, &files).await.map(Some)
    }

    /// The volume known to hold `content`, pinned.
    fn known(&self, key: &Key, content: [u8; 32]) -> Option<Pin> {
        let mut state = self.state.lock().expect("no panic while held");
        let volume =
            state.current.get(key).filter(|current| current.content == content)?.volume.clone();
        Some(self.pin(&mut state, volume))
    }

    fn pin(&self, state: &mut State, volume: String) -> Pin {
        *state.pins.entry(volume.clone()).or_default() += 1;
        Pin { volume, state: Arc::clone(&self.state) }
    }

    /// Finds a volume from an earlier run that holds `files`, or makes one.
    async fn fill(
        &self,
        engine: &Inner,
        docker: &Docker,
        key: Key,
        content: [u8; 32],
        files: &Files,
    ) -> Result<Pin, EngineError> {
        let labels = engine.secret_labels(&key.0, key.1);
        let mut found = None;
        for (volume, _) in volumes(engine, docker).await?.into_iter().filter(|(_, of)| *of == key) {
            if volume::holds(docker, &volume, labels.clone(), engine.helper_labels(), files).await?
            {
                found = Some(volume);
                break;
            }
        }
        let volume = match found {
            Some(volume) => volume,
            None => {
                let name = format!("hyperfaas-secrets-{}", Uuid::new_v4().simple());
                volume::ensure(docker, &name, labels, engine.helper_labels(), files).await?;
                name
            }
        };
        let mut state = self.state.lock().expect("no panic while held");
        state.current.insert(key, Current { volume: volume.clone(), content });
        Ok(self.pin(&mut state, volume))
    }

    /// Removes the volumes of revisions that are not in `live`, and superseded ones; those still mounted stay for later.
    pub(super) async fn collect(
        &self,
        engine: &Inner,
        live: &HashSet<Key>,
    ) -> Result<(), EngineError> {
        let docker = engine.connection.docker()?;
        let _alone = self.changing.lock().await;
        for (volume, key) in volumes(engine, &docker).await? {
            if self.is_free(&volume, &key, live.contains(&key))
                && remove_unused(&docker, &volume).await?
            {
                debug!(volume, function = key.0.to_string(), revision = key.1, "secrets removed");
            }
        }
        Ok(())
    }

    /// Whether `volume` may go; if so it is forgotten at once, so that no new start takes it.
    fn is_free(&self, volume: &str, key: &Key, is_live: bool) -> bool {
        let mut state = self.state.lock().expect("no panic while held");
        let current = state.current.get(key).map(|current| current.volume == volume);
        if state.pins.contains_key(volume) || (is_live && current != Some(false)) {
            return false;
        }
        if current == Some(true) {
            state.current.remove(key);
        }
        true
    }
}

/// This installation's volumes with secrets, and whose they are.
async fn volumes(engine: &Inner, docker: &Docker) -> Result<Vec<(String, Key)>, EngineError> {
    let filters = labels::filter(labels::SECRETS, Some(&engine.config.installation));
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let listed = within(READ, docker.list_volumes(Some(options))).await.map_err(classify)?;
    let owned = |volume: Volume| labels::revision(&volume.labels).map(|key| (volume.name, key));
    Ok(listed.volumes.unwrap_or_default().into_iter().filter_map(owned).collect())
}

async fn exists(docker: &Docker, volume: &str) -> Result<bool, EngineError> {
    match within(READ, docker.inspect_volume(volume)).await {
        Ok(_) => Ok(true),
        Err(error) if status(&error) == Some(404) => Ok(false),
        Err(error) => Err(classify(error)),
    }
}

/// A digest of names and contents, lengths included so that no two sets of files share one.
fn digest(files: &Files) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (name, (_, bytes)) in files {
        for part in [name.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

impl Inner {
    pub(super) fn secret_labels(&self, function: &FunctionKey, revision: u64) -> Labels {
        labels::with_revision(
            labels::ours(labels::SECRETS, Some(&self.config.installation)),
            function,
            revision,
        )
    }
}
