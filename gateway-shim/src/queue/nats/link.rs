//! The connection to the servers, and the two streams.

use std::error::Error;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, CreateStreamError, PublishError};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::{Client, Event};
use tracing::{error, info, warn};

use super::{NatsSettings, StreamLimits, names};

/// What a server answers when a stream has no room, in words: its number stands for other failures, too.
const FULL: [&str; 2] = ["maximum messages exceeded", "maximum bytes exceeded"];

/// A connection whose streams are there.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) calls: Stream<()>,
    pub(super) dead: Stream<()>,
}

/// A client that goes on trying to connect for as long as it lives; `None` when it cannot even be made.
pub(super) async fn connect(settings: &NatsSettings) -> Option<Client> {
    let options = settings.options().map(|options| {
        options.event_callback(async |event| match event {
            Event::Connected => info!("connected to NATS"),
            Event::Disconnected => warn!("NATS is away: asynchronous calls are refused meanwhile"),
            Event::ServerError(error) => warn!(%error, "NATS refuses"),
            Event::ClientError(error) => warn!(%error, "NATS cannot be used"),
            _ => {}
        })
    });
    let client = match options {
        Ok(options) => options.connect(settings.servers()).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    client.inspect_err(|error| error!(error, "NATS cannot be used")).ok()
}

impl Link {
    /// Makes the streams, or brings them up to date with the settings.
    ///
    /// # Errors
    /// [`CreateStreamError`] when the server refuses, for instance for lack of space.
    pub(super) async fn make(
        client: &Client,
        settings: &NatsSettings,
        limits: StreamLimits,
    ) -> Result<Self, CreateStreamError> {
        let context = ContextBuilder::new().build(client.clone());
        let dead_name = settings.dead_stream();
        let common = Config {
            storage: StorageType::File,
            num_replicas: settings.replicas,
            ..Config::default()
        };
        let calls = Config {
            name: settings.stream.clone(),
            description: Some("HyperFaaS: asynchronous calls that wait".to_owned()),
            subjects: vec![names::calls(&settings.stream, "*")],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: signed(limits.messages),
            max_bytes: signed(limits.bytes),
            ..common.clone()
        };
        let dead = Config {
            name: dead_name.clone(),
            description: Some("HyperFaaS: asynchronous calls that were given up".to_owned()),
            subjects: vec![names::dead(&settings.stream, "*")],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages: signed(limits.dead.count),
            max_bytes: signed(limits.dead.bytes),
            ..common
        };
        for config in [calls, dead] {
            context.create_or_update_stream(config).await?;
        }
        let stream = async |name: &str| {
            context.get_stream_no_info(name).await.map_err(|error| {
                CreateStreamError::with_source(
                    async_nats::jetstream::context::CreateStreamErrorKind::Response,
                    error,
                )
            })
        };
        let (calls, dead) = (stream(&settings.stream).await?, stream(&dead_name).await?);
        Ok(Self { client: client.clone(), context, calls, dead })
    }
}

/// Whether a stream refused a message for lack of room.
pub(super) fn is_full(error: &PublishError) -> bool {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    FULL.iter().any(|full| text.contains(full))
}

/// A limit as the server takes it; 0 would mean none.
fn signed(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).max(1)
}
