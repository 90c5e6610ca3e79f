//! The queue in NATS JetStream: one stream of waiting calls for any number of gateways, one of dead letters.
//!
//! In: [`Change`]s. Out: what they did, once the server has acknowledged them; messages of one function.
//! Always: a call is accepted after the server's acknowledgement; what a gateway holds is kept from the others by
//! in-progress acknowledgements, and goes to another one [`NatsSettings::ack_wait`] after they end; a message leaves the
//! stream only by the acknowledgement of its settlement, or after its copy in the dead letters was acknowledged.
//! Shape: a work-queue stream with a subject, and a durable pull consumer, for each function, so that one that is slow holds
//! up no other. Attempts are the server's count of deliveries: one that was cut by a gateway's death counts.
//! Touches: the servers that the settings name.

mod dead;
mod leases;
mod link;
mod names;
mod pull;
mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::lanes::Place;
use super::message::{Head, Message};
use super::store::{Change, DeadLimits, Effect, NewMessage, Totals};
use super::{Queue, QueueError, now_ms};
use crate::error::chain;

use self::leases::Leases;
use self::link::Link;
use self::pull::Feed;

pub use self::settings::NatsSettings;

/// How often the stream is looked at for what other gateways have put there or left.
const LOOK: Duration = Duration::from_secs(1);
/// A publication whose acknowledgement was lost is sent again, under the same number, so that it is kept once.
const PUBLISH_ATTEMPTS: u32 = 2;
/// A message grows by this much at most when it becomes a dead letter.
const GROWTH: usize = 1024;
/// Requests under way at a time for the ages of many functions.
const LOOKUPS: usize = 32;

/// What the streams may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamLimits {
    /// Waiting messages.
    pub(super) messages: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Dead letters.
    pub(super) dead: DeadLimits,
}

/// One gateway's part in the shared queue.
pub(super) struct Nats {
    settings: NatsSettings,
    limits: StreamLimits,
    /// Set once a server has answered and the streams are there.
    link: OnceLock<Link>,
    feeds: Mutex<HashMap<Arc<str>, Feed>>,
    leases: Mutex<Leases>,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Nats {
    /// A queue without a connection; [`Self::run`] makes it.
    pub(super) fn new(settings: NatsSettings, limits: StreamLimits) -> Self {
        Self {
            settings,
            limits,
            link: OnceLock::new(),
            feeds: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    /// Connects, looks at the stream every second and holds on to what is being delivered, until `end`.
    ///
    /// What is not settled then is given back to be delivered at once by another gateway.
    pub(super) async fn run(&self, queue: &Queue, end: CancellationToken) {
        let work = async {
            let Some(client) = link::connect(&self.settings).await else {
                return std::future::pending().await;
            };
            let looking = async {
                loop {
                    if client.connection_state() == State::Connected {
                        self.look(queue, &client).await;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            };
            let holding = async {
                loop {
                    tokio::time::sleep(self.settings.ack_wait / 3).await;
                    self.acknowledge_all(AckKind::Progress).await;
                }
            };
            tokio::join!(looking, holding);
        };
        end.run_until_cancelled(work).await;
        self.acknowledge_all(AckKind::Nak(None)).await;
        if let Some(link) = self.link.get() {
            // What does not arrive is delivered again after the wait for an acknowledgement.
            let _ = tokio::time::timeout(Duration::from_secs(2), link.client.flush()).await;
        }
    }

    /// Makes the streams where they are missing, and notes what they hold.
    async fn look(&self, queue: &Queue, client: &async_nats::Client) {
        if self.link.get().is_some() && self.observe(queue).await {
            return;
        }
        match Link::make(client, &self.settings, self.limits).await {
            Ok(link) => {
                if self.link.set(link).is_ok() {
                    info!(stream = self.settings.stream, "queue of asynchronous calls in NATS");
                }
                // Consumers of a stream that was made anew are gone.
                self.feeds().clear();
                self.observe(queue).await;
            }
            Err(error) => warn!(error = chain(&error), "the queue's streams cannot be made"),
        }
    }

    /// Notes what all gateways together have waiting; whether the server told.
    pub(super) async fn observe(&self, queue: &Queue) -> bool {
        let Ok(link) = self.link() else { return false };
        let all = names::calls(&self.settings.stream, "*");
        let Ok(mut info) = link.calls.info_builder().subjects(all).fetch().await else {
            return false;
        };
        let Ok(dead) = link.dead.get_info().await else { return false };
        let state = &info.info.state;
        let totals =
            Totals { messages: state.messages, bytes: state.bytes, dead: dead.state.messages };
        let mut depths = Vec::new();
        while let Some(subject) = info.next().await {
            let Ok((subject, depth)) = subject else { return false };
            let token = subject.rsplit('.').next().unwrap_or_default();
            if let Some(function) = names::function(token) {
                depths.push((function.into(), u64::try_from(depth).unwrap_or(u64::MAX)));
            }
        }
        queue.observed(&depths, totals);
        true
    }

    /// Carries out `change`; returns once the server has acknowledged it.
    ///
    /// # Errors
    /// [`QueueError`]; a settlement may be asked for again then, a new message was not kept.
    pub(super) async fn change(&self, change: Change) -> Result<Effect, QueueError> {
        match change {
            Change::Put(message) => {
                self.put(message, &Uuid::new_v4().to_string()).await.map(Effect::Waits)
            }
            Change::Done(place) => {
                self.acknowledge(place.id).await?;
                Ok(Effect::Settled(place, None))
            }
            Change::Retry { place, attempts: _, due_ms } => {
                self.give_back(place.id, due_ms.saturating_sub(now_ms())).await?;
                Ok(Effect::Settled(place, Some(due_ms)))
            }
            Change::Bury { place, attempts, death } => {
                let lease = self.leases().of(place.id);
                if let Some(lease) = lease
                    && let Ok(mut message) = Message::decode(&lease.payload)
                {
                    message.head.attempts = attempts;
                    message.head.death = Some(death);
                    self.bury(&place, &message, lease.published).await?;
                }
                self.acknowledge(place.id).await?;
                Ok(Effect::Settled(place, None))
            }
            Change::Redrive { id, now_ms } => self.redrive(id, now_ms).await,
            Change::RemoveDead(id) => {
                Ok(if self.remove_dead(id).await? { Effect::Removed } else { Effect::Nothing })
            }
        }
    }

    /// When the oldest message of each of `functions` was accepted.
    pub(super) async fn oldest(&self, functions: Vec<Arc<str>>) -> Vec<Option<u64>> {
        let Ok(link) = self.link() else { return Vec::new() };
        let stream = &self.settings.stream;
        let oldest = |function: Arc<str>| async move {
            let subject = names::calls(stream, &names::token(&function)?);
            let first = link.calls.raw_message_builder().sequence(1).next_by_subject(subject);
            let (head, _) = Head::decode(&first.send().await.ok()?.payload).ok()?;
            Some(head.accepted_ms)
        };
        iter(functions).map(oldest).buffered(LOOKUPS).collect().await
    }

    /// Puts `message` into the stream, once for each `number` within two minutes.
    async fn put(&self, message: NewMessage, number: &str) -> Result<Place, QueueError> {
        let NewMessage { function, accepted_ms: due_ms, bytes } = message;
        let token = names::token(&function).ok_or(QueueError::Name)?;
        let subject = names::calls(&self.settings.stream, &token);
        let id = self.publish(subject, bytes, number).await?;
        self.expect(&function, id);
        Ok(Place { function, due_ms, id })
    }

    /// Publishes and waits for the acknowledgement; the message's number in its stream.
    async fn publish(
        &self,
        subject: String,
        payload: Bytes,
        number: &str,
    ) -> Result<u64, QueueError> {
        let link = self.link()?;
        if payload.len() + GROWTH > link.client.max_payload() {
            return Err(QueueError::TooLarge);
        }
        for _ in 0..PUBLISH_ATTEMPTS {
            // While it is away, the client would keep the message and send it after the caller was refused.
            if link.client.connection_state() != State::Connected {
                return Err(QueueError::Away);
            }
            let publish = PublishMessage::build().payload(payload.clone()).message_id(number);
            let sent = link.context.send_publish(subject.clone(), publish).await;
            let acknowledged = match sent {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            let error = match acknowledged {
                Ok(acknowledged) => return Ok(acknowledged.sequence),
                Err(error) => error,
            };
            match error.kind() {
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {}
                PublishErrorKind::MaxPayloadExceeded => return Err(QueueError::TooLarge),
                PublishErrorKind::StreamNotFound => return Err(QueueError::Away),
                _ if link::is_full(&error) => return Err(QueueError::Full),
                _ => {
                    warn!(error = chain(&error), "the queue cannot be written");
                    return Err(QueueError::Store);
                }
            }
        }
        Err(QueueError::Away)
    }

    /// Takes a message out of the stream for good.
    async fn acknowledge(&self, id: u64) -> Result<(), QueueError> {
        let Some(lease) = self.leases().of(id) else { return Ok(()) };
        let link = self.link()?;
        let sent = link.client.request(lease.reply, AckKind::Ack.into()).await;
        sent.map_err(|_| QueueError::Away)?;
        self.leases().settle(id);
        Ok(())
    }

    /// Lets the server deliver a message again, to whomever, after `wait_ms`.
    async fn give_back(&self, id: u64, wait_ms: u64) -> Result<(), QueueError> {
        let Some(lease) = self.leases().of(id) else { return Ok(()) };
        let link = self.link()?;
        let wait = AckKind::Nak(Some(Duration::from_millis(wait_ms)));
        let sent = link.client.request(lease.reply, wait.into()).await;
        sent.map_err(|_| QueueError::Away)?;
        self.leases().give_back(id);
        Ok(())
    }

    /// Tells the server the same of everything that is held.
    async fn acknowledge_all(&self, kind: AckKind) {
        let Ok(link) = self.link() else { return };
        let replies = self.leases().replies();
        for reply in replies {
            // While the server is away the client keeps what it can; what is lost is delivered again.
            if link.client.publish(reply, kind.into()).await.is_err() {
                return;
            }
        }
    }

    fn link(&self) -> Result<&Link, QueueError> {
        self.link.get().ok_or(QueueError::Away)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<Arc<str>, Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
