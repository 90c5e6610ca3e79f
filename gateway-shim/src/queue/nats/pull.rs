//! Messages of one function, fetched from its consumer.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::{AckKind, Message as Delivered};
use futures_util::StreamExt;
use tokio::time::timeout;
use tracing::warn;

use super::leases::{Delivery, Lease};
use super::{Nats, names};
use crate::error::chain;
use crate::queue::lanes::Place;
use crate::queue::message::Message;
use crate::queue::now_ms;
use crate::queue::store::Fetched;

/// Silence after which a fetch is given up: the server went away within it.
const SILENCE: Duration = Duration::from_secs(3);
/// A consumer that no gateway has asked for this long is forgotten by the server.
const IDLE: Duration = Duration::from_secs(3600);
/// For this long after a message was put, a fetch that finds none looks again, each time after the pause: consumers learn
/// of a new message a moment after its acknowledgement.
const SETTLING_MS: u64 = 200;
const SETTLING_PAUSE_MS: u64 = 5;
/// When a message that cannot be read is delivered again: a newer gateway may know it.
const UNREADABLE_WAIT: Duration = Duration::from_secs(3600);

/// What is known of one function's messages.
#[derive(Debug, Default)]
pub(super) struct Feed {
    consumer: Option<Arc<PullConsumer>>,
    /// The last message that this gateway has put, and when.
    put: u64,
    put_ms: u64,
    /// The last message that the consumer has delivered.
    seen: u64,
}

impl Nats {
    /// At most `limit` messages of `function` that may be delivered now; `None` when the server does not answer.
    pub(in crate::queue) async fn fetch(
        &self,
        function: &Arc<str>,
        limit: usize,
    ) -> Option<Fetched> {
        let mut fetched = Fetched::default();
        if limit == 0 {
            return Some(fetched);
        }
        let consumer = self.consumer(function).await?;
        let mut batch = consumer.fetch().max_messages(limit).messages().await.ok()?;
        let mut left = 0;
        loop {
            match timeout(SILENCE, batch.next()).await {
                Ok(Some(Ok(delivered))) => left = self.take(function, delivered, &mut fetched)?,
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => {
                    // Gone with an hour of rest, or with its stream: made anew by the next fetch.
                    if let Some(feed) = self.feeds().get_mut(function) {
                        feed.consumer = None;
                    }
                    if fetched.messages.is_empty() {
                        return None;
                    }
                    break;
                }
            }
        }
        fetched.next_ms = if left > 0 {
            Some(now_ms())
        } else {
            let feeds = self.feeds();
            let is_due = |feed: &Feed| {
                feed.put > feed.seen && now_ms().saturating_sub(feed.put_ms) < SETTLING_MS
            };
            feeds.get(function).is_some_and(is_due).then(|| now_ms() + SETTLING_PAUSE_MS)
        };
        Some(fetched)
    }

    /// Notes that this gateway has put message `id`.
    pub(super) fn expect(&self, function: &Arc<str>, id: u64) {
        let mut feeds = self.feeds();
        let feed = feeds.entry(Arc::clone(function)).or_default();
        (feed.put, feed.put_ms) = (id, now_ms());
    }

    /// Takes one message in; how many the consumer has left.
    fn take(
        &self,
        function: &Arc<str>,
        delivered: Delivered,
        fetched: &mut Fetched,
    ) -> Option<u64> {
        let info = delivered.info().ok()?;
        let (id, left) = (info.stream_sequence, info.pending);
        let ended = u32::try_from(info.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
        let published = info.published.unix_timestamp_nanos();
        if let Some(feed) = self.feeds().get_mut(function) {
            feed.seen = feed.seen.max(id);
        }
        let (reply, payload) = (delivered.message.reply?, delivered.message.payload);
        let lease = Lease { reply: reply.clone(), payload: payload.clone(), published };
        let Ok(mut message) = Message::decode(&payload) else {
            warn!(function = &**function, id, "stored message cannot be read");
            self.answer_later(reply, AckKind::Nak(Some(UNREADABLE_WAIT)));
            return Some(left);
        };
        match self.leases().take(id, lease) {
            Delivery::New => {
                message.head.attempts = ended;
                let place =
                    Place { function: Arc::clone(function), due_ms: message.head.accepted_ms, id };
                fetched.messages.push((place, message));
            }
            Delivery::Held => {}
            Delivery::Settled => self.answer_later(reply, AckKind::Ack),
        }
        Some(left)
    }

    /// Sends an acknowledgement that nobody waits for; a lost one only means another delivery.
    fn answer_later(&self, reply: async_nats::Subject, kind: AckKind) {
        let Ok(link) = self.link() else { return };
        let client = link.client.clone();
        tokio::spawn(async move { client.publish(reply, kind.into()).await });
    }

    /// The consumer of `function`, made where it is missing.
    async fn consumer(&self, function: &Arc<str>) -> Option<Arc<PullConsumer>> {
        let known = self.feeds().get(function).and_then(|feed| feed.consumer.clone());
        if known.is_some() {
            return known;
        }
        let link = self.link().ok()?;
        let token = names::token(function)?;
        let config = Config {
            durable_name: Some(token.clone()),
            filter_subject: names::calls(&self.settings.stream, &token),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.settings.ack_wait,
            // The pump counts attempts by the function's own labels.
            max_deliver: -1,
            // What waits for its next attempt counts as pending, and must not hold up the others.
            max_ack_pending: -1,
            inactive_threshold: IDLE,
            ..Config::default()
        };
        let made = link.calls.create_consumer(config).await;
        let made = made.inspect_err(|error| {
            warn!(function = &**function, error = chain(error), "consumer cannot be made");
        });
        let consumer = Arc::new(made.ok()?);
        let mut feeds = self.feeds();
        // Names that nobody calls any more must not be remembered for ever.
        if feeds.len() >= crate::queue::FUNCTIONS_MAX {
            feeds.clear();
        }
        feeds.entry(Arc::clone(function)).or_default().consumer = Some(Arc::clone(&consumer));
        Some(consumer)
    }
}
