//! What happens to our containers, as one stream that outlives the engine's absences.
//!
//! Out: `Connected` or `Lost` first; after a `Lost` the next thing is always `Connected`.
//! Always: nothing falls between a list made after `Connected` and the events that follow. The engine keeps its newest
//! 256 events, and each subscription asks for those since a moment of the engine's own clock that was read before
//! `Connected` was told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::super::{ContainerId, EngineError, EngineEvent, ReplicaId};
use super::connection::{READ, classify, within};
use super::{Inner, labels};

/// First and longest pause between attempts to reach the engine.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

type Messages = BoxStream<'static, Result<EventMessage, Error>>;

enum Phase {
    /// Before the first attempt.
    New,
    /// `Lost` was told.
    Away(Duration),
    Subscribed(Messages),
}

/// The stream of [`super::super::Engine::events`].
pub(super) fn stream(inner: Arc<Inner>) -> BoxStream<'static, EngineEvent> {
    stream::unfold((inner, Phase::New), |(inner, mut phase)| async move {
        loop {
            phase = match phase {
                Phase::New => match subscribe(&inner).await {
                    Ok(messages) => {
                        return Some((
                            EngineEvent::Connected,
                            (inner, Phase::Subscribed(messages)),
                        ));
                    }
                    Err(error) => return Some((lost(error), (inner, Phase::Away(PAUSES.0)))),
                },
                Phase::Away(pause) => {
                    tokio::time::sleep(pause).await;
                    match subscribe(&inner).await {
                        Ok(messages) => {
                            return Some((
                                EngineEvent::Connected,
                                (inner, Phase::Subscribed(messages)),
                            ));
                        }
                        Err(_) => Phase::Away((pause * 2).min(PAUSES.1)),
                    }
                }
                Phase::Subscribed(mut messages) => match messages.next().await {
                    Some(Ok(message)) => match event(message, &inner.run) {
                        Some(event) => return Some((event, (inner, Phase::Subscribed(messages)))),
                        None => Phase::Subscribed(messages),
                    },
                    Some(Err(error)) => {
                        return Some((lost(classify(error)), (inner, Phase::Away(PAUSES.0))));
                    }
                    None => {
                        let ended =
                            EngineError::Unavailable("the engine ended its event stream".into());
                        return Some((lost(ended), (inner, Phase::Away(PAUSES.0))));
                    }
                },
            };
        }
    })
    .boxed()
}

#[expect(clippy::needless_pass_by_value, reason = "ends the error's life in every arm")]
fn lost(error: EngineError) -> EngineEvent {
    EngineEvent::Lost { reason: error.to_string() }
}

/// Subscribes from the engine's present moment on; the engine may have been replaced, so the version is settled anew.
async fn subscribe(inner: &Inner) -> Result<Messages, EngineError> {
    inner.connection.negotiate().await?;
    let docker = inner.connection.docker()?;
    let info = within(READ, docker.info()).await.map_err(classify)?;
    let now = info.system_time.and_then(|text| text.parse::<Timestamp>().ok());
    let now =
        now.ok_or_else(|| EngineError::Refused("the engine does not tell its time".into()))?;
    let mut filters: HashMap<String, Vec<String>> =
        labels::filter_installation(&inner.config.installation);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert(
        "event".to_owned(),
        vec!["create".to_owned(), "die".to_owned(), "destroy".to_owned()],
    );
    let since = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
    let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
    Ok(docker.events(Some(options)).boxed())
}

/// What a message means to the run of this provider called `run`.
fn event(message: EventMessage, run: &str) -> Option<EngineEvent> {
    let actor = message.actor?;
    let labels = actor.attributes?;
    let container = ContainerId(actor.id?);
    match message.action?.as_str() {
        "create" => {
            let function = labels::owner(&labels, run)?;
            let name = ReplicaId(labels.get("name")?.clone());
            Some(EngineEvent::Created { container, name, function })
        }
        "die" if labels::serves(&labels) => {
            let exit_code = labels.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(-1);
            Some(EngineEvent::Died { container, exit_code })
        }
        "destroy" if labels::serves(&labels) => Some(EngineEvent::Removed { container }),
        _ => None,
    }
}
