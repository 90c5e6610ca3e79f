//! Making images present: what the engine has is used as it is, the rest is pulled.
//!
//! Always: callers that want the same image at the same time share one pull, which goes on should they leave; a pull that
//! makes no progress ends; an error names the image and fits on one line.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::reference::Reference;
use super::super::{EngineError, Image, PullPolicy};
use super::Inner;
use super::connection::{READ, classify, one_line, status, within};
use super::login::login;

/// A pull without any sign of progress for this long has failed.
const STALLED: Duration = Duration::from_secs(300);
/// Between two progress lines in the log.
const PROGRESS: Duration = Duration::from_secs(3);

type Pull = Shared<BoxFuture<'static, Result<(), EngineError>>>;

/// Pulls under way, by what is pulled.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<String, Pull>>);

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulls")
    }
}

impl Inner {
    /// The image `text` names, made present as `policy` says.
    pub(super) async fn image(
        self: &Arc<Self>,
        text: &str,
        policy: PullPolicy,
    ) -> Result<Image, EngineError> {
        let unavailable =
            |reason: String| EngineError::ImageUnavailable { reference: text.to_owned(), reason };
        let reference =
            Reference::parse(text).ok_or_else(|| unavailable("invalid reference format".into()))?;
        let docker = self.connection.docker()?;
        let present = inspect(&docker, text, &reference).await?;
        let is_enough = policy == PullPolicy::Missing;
        let reason = match present {
            Some(image) if is_enough => return Ok(image),
            Some(image) => match self.pull(&reference).await {
                Ok(()) => return Ok(inspect(&docker, text, &reference).await?.unwrap_or(image)),
                Err(error) => {
                    warn!(
                        image = text,
                        reason = error.to_string(),
                        "pull failed, using the image that is present"
                    );
                    return Ok(image);
                }
            },
            None => match self.pull(&reference).await {
                Ok(()) => match inspect(&docker, text, &reference).await? {
                    Some(image) => return Ok(image),
                    None => "pulled, but not present afterwards".to_owned(),
                },
                Err(EngineError::Refused(reason)) => reason,
                Err(other) => return Err(other),
            },
        };
        Err(unavailable(reason))
    }

    /// Joins the pull of `reference` under way, or begins it.
    fn pull(self: &Arc<Self>, reference: &Reference) -> Pull {
        let key = format!("{} {}", reference.name(), reference.version());
        let mut pulls = self.pulls.0.lock().expect("no panic while held");
        if let Some(pull) = pulls.get(&key) {
            return pull.clone();
        }
        let (inner, reference, finished) = (Arc::clone(self), reference.clone(), key.clone());
        let task = self.tasks.spawn(async move {
            let result = inner.pull_now(&reference).await;
            inner.pulls.0.lock().expect("no panic while held").remove(&finished);
            result
        });
        let ended = |_| EngineError::Unavailable("shutting down".into());
        let pull = async move { task.await.map_err(ended)? }.boxed().shared();
        pulls.insert(key, pull.clone());
        pull
    }

    async fn pull_now(&self, reference: &Reference) -> Result<(), EngineError> {
        let (name, version) = (reference.name(), reference.version());
        let login = login(self.config.login_file.clone(), reference.login_server()).await;
        info!(image = name, version, has_login = login.is_some(), "pulling image");
        let began = Instant::now();
        let options = CreateImageOptionsBuilder::default().from_image(&name).tag(version).build();
        let mut answers =
            Box::pin(self.connection.docker()?.create_image(Some(options), None, login));
        let mut progress = Progress::default();
        let mut told = began;
        while let Some(answer) =
            within(STALLED, async { Ok(answers.next().await) }).await.map_err(stalled)?
        {
            progress.add(answer.map_err(classify)?);
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let (layers, done, megabytes) = progress.summary();
                info!(image = name, layers, done, megabytes, "still pulling");
            }
        }
        info!(image = name, version, seconds = began.elapsed().as_secs_f64(), "image pulled");
        Ok(())
    }
}

/// A registry that stalls is the image's trouble, not the engine's.
fn stalled(error: Error) -> EngineError {
    match error {
        Error::RequestTimeoutError => {
            EngineError::Refused(format!("no progress for {} s", STALLED.as_secs()))
        }
        other => classify(other),
    }
}

/// How far a pull is.
#[derive(Default)]
struct Progress {
    bytes: HashMap<String, i64>,
    done: HashSet<String>,
}

impl Progress {
    fn add(&mut self, answer: CreateImageInfo) {
        let Some(layer) = answer.id else { return };
        match answer.status.as_deref() {
            Some("Downloading") => {
                let current = answer.progress_detail.and_then(|detail| detail.current).unwrap_or(0);
                self.bytes.insert(layer, current);
            }
            Some("Pull complete" | "Already exists") => {
                self.done.insert(layer);
            }
            _ => {}
        }
    }

    /// Layers seen, layers done, megabytes loaded.
    fn summary(&self) -> (usize, usize, i64) {
        let layers = self.bytes.keys().chain(&self.done).collect::<HashSet<_>>().len();
        (layers, self.done.len(), self.bytes.values().sum::<i64>() / 1_000_000)
    }
}

/// The image as the engine has it; `None` when it does not.
async fn inspect(
    docker: &Docker,
    text: &str,
    reference: &Reference,
) -> Result<Option<Image>, EngineError> {
    match within(READ, docker.inspect_image(text)).await {
        Ok(found) => described(found, text, reference).map(Some),
        Err(error) if status(&error) == Some(404) => Ok(None),
        // The engine's grammar is narrower than ours in its age.
        Err(error) if status(&error) == Some(400) => Err(EngineError::ImageUnavailable {
            reference: text.to_owned(),
            reason: "invalid reference format".into(),
        }),
        Err(error) => Err(classify(error)),
    }
}

fn described(found: ImageInspect, text: &str, reference: &Reference) -> Result<Image, EngineError> {
    let id = found
        .id
        .ok_or_else(|| EngineError::Refused(one_line(&format!("image {text} has no id"))))?;
    let config = found.config.unwrap_or_default();
    let variable = |line: String| {
        line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    Ok(Image {
        reference: text.to_owned(),
        id,
        digest: digest(&found.repo_digests.unwrap_or_default(), reference),
        env: config.env.unwrap_or_default().into_iter().filter_map(variable).collect(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        directory: config.working_dir.unwrap_or_default(),
    })
}

/// The digest under which `reference`'s own repository knows the image, else any other's.
fn digest(known: &[String], reference: &Reference) -> Option<String> {
    let is_same =
        |name: &str| Reference::parse(name).is_some_and(|other| other.name() == reference.name());
    let pairs = || known.iter().filter_map(|entry| entry.split_once('@'));
    pairs()
        .find(|(name, _)| is_same(name))
        .or_else(|| pairs().next())
        .map(|(_, digest)| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_the_references_own_repository_wins() {
        let known = ["ghcr.io/a/alpine@sha256:1".to_owned(), "alpine@sha256:2".to_owned()];
        let of = |text| digest(&known, &Reference::parse(text).unwrap());
        assert_eq!(of("docker.io/library/alpine:3").as_deref(), Some("sha256:2"));
        assert_eq!(of("ghcr.io/a/alpine").as_deref(), Some("sha256:1"));
        assert_eq!(of("other/alpine").as_deref(), Some("sha256:1"));
        assert_eq!(digest(&[], &Reference::parse("alpine").unwrap()), None);
    }

    #[test]
    fn progress_counts_layers_once() {
        let answer = |id: &str, status: &str, current| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(bollard::models::ProgressDetail { current, total: None }),
            ..CreateImageInfo::default()
        };
        let mut progress = Progress::default();
        for (id, status, current) in [
            ("latest", "Pulling from library/alpine", None),
            ("a", "Downloading", Some(1_000_000)),
            ("a", "Downloading", Some(3_000_000)),
            ("b", "Already exists", None),
            ("a", "Pull complete", None),
        ] {
            progress.add(answer(id, status, current));
        }
        assert_eq!(progress.summary(), (2, 2, 3));
    }
}
