//! An image's whole file system, out of the engine: a container of it that is never started is exported and removed.
//!
//! Always: the container is removed, whether the export ends, fails or is dropped by its reader; one that a killed provider
//! left goes with the other helpers at the next start. Works with every storage driver and image store of the engine,
//! since it asks for nothing but a container's files. Pieces are read from the engine as fast as the reader takes them.

use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::super::{EngineError, Image};
use super::Inner;
use super::connection::{CHANGE, classify, status, within};
use super::replica::remove;

/// Pieces that wait for the reader.
const WAITING: usize = 4;
/// An export without a further piece for this long has failed.
const STALLED: Duration = Duration::from_secs(120);

type Piece = Result<Bytes, EngineError>;

/// The stream of [`super::super::Engine::export`].
pub(super) fn stream(inner: &Arc<Inner>, image: &Image) -> BoxStream<'static, Piece> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (of, image) = (Arc::clone(inner), image.clone());
    inner.tasks.spawn(async move {
        if let Err(error) = export(&of, &image, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let next = |mut receiver: mpsc::Receiver<Piece>| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    };
    stream::unfold(receiver, next).boxed()
}

async fn export(inner: &Inner, image: &Image, to: &mpsc::Sender<Piece>) -> Result<(), EngineError> {
    let docker = inner.connection.docker()?;
    let name = format!("hyperfaas-export-{}", Uuid::new_v4().simple());
    let body = ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint: Some(vec!["/never-started".to_owned()]),
        labels: Some(inner.helper_labels()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let result = match within(CHANGE, docker.create_container(Some(options), body)).await {
        Ok(_) => pass_on(&docker, &name, to).await,
        Err(error) if status(&error) == Some(404) => Err(EngineError::ImageUnavailable {
            reference: image.reference.clone(),
            reason: "it is no longer present on the engine".into(),
        }),
        Err(error) => Err(classify(error)),
    };
    if let Err(error) = remove(&docker, &name).await {
        warn!(container = name, %error, "helper not removed yet");
    }
    result
}

async fn pass_on(
    docker: &Docker,
    container: &str,
    to: &mpsc::Sender<Piece>,
) -> Result<(), EngineError> {
    let mut pieces = Box::pin(docker.export_container(container));
    while let Some(piece) =
        within(STALLED, async { Ok(pieces.next().await) }).await.map_err(classify)?
    {
        if to.send(Ok(piece.map_err(classify)?)).await.is_err() {
            break;
        }
    }
    Ok(())
}
