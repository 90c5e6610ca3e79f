//! Dead letters in their own stream: their number there is their number in the API.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DeleteMessageErrorKind, RawMessageErrorKind};
use tracing::error;

use super::{Nats, names};
use crate::error::chain;
use crate::queue::QueueError;
use crate::queue::lanes::Place;
use crate::queue::message::{Head, Message};
use crate::queue::store::{DeadLetter, Effect, NewMessage};

impl Nats {
    /// Up to `limit` dead letters with numbers above `after`, of `function` if given, oldest first; fails while no server answers.
    pub(in crate::queue) async fn dead(
        &self,
        after: u64,
        function: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let token = match function {
            None => "*".to_owned(),
            Some(function) => match names::token(function) {
                Some(token) => token,
                None => return Ok(Vec::new()),
            },
        };
        let subject = names::dead(&self.settings.stream, &token);
        let (mut letters, mut after) = (Vec::new(), after);
        while letters.len() < limit {
            let Some(found) = self.next_dead(after, &subject).await? else { break };
            after = found.sequence;
            if let Ok((head, body_bytes)) = Head::decode(&found.payload) {
                letters.push(DeadLetter { id: after, head, body_bytes });
            }
        }
        Ok(letters)
    }

    /// The first message with a number above `after`.
    async fn next_dead(
        &self,
        after: u64,
        subject: &str,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let link = self.link()?;
        let next = link.dead.raw_message_builder().sequence(after.saturating_add(1));
        match next.next_by_subject(subject).send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => {
                error!(error = chain(&error), "queue cannot be read");
                Err(QueueError::Away)
            }
        }
    }

    /// One dead letter; fails while no server answers.
    pub(in crate::queue) async fn dead_letter(
        &self,
        id: u64,
    ) -> Result<Option<Message>, QueueError> {
        let found = self.raw(id).await?;
        Ok(found.and_then(|found| Message::decode(&found.payload).ok()))
    }

    /// A dead letter as it is kept.
    async fn raw(&self, id: u64) -> Result<Option<StreamMessage>, QueueError> {
        match self.link()?.dead.get_raw_message(id).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(_) => Err(QueueError::Away),
        }
    }

    /// Keeps `message`, which waited at `place`, as a dead letter; asked for again, it is kept once all the same.
    pub(super) async fn bury(
        &self,
        place: &Place,
        message: &Message,
        published: i128,
    ) -> Result<(), QueueError> {
        let token = names::token(&place.function).ok_or(QueueError::Name)?;
        let subject = names::dead(&self.settings.stream, &token);
        let number = format!("dead-{}-{published}", place.id);
        self.publish(subject, message.encode(), &number).await.map(|_| ())
    }

    /// Lets a dead letter wait again: first the new message, then the old one goes.
    pub(super) async fn redrive(&self, id: u64, now_ms: u64) -> Result<Effect, QueueError> {
        let Some(found) = self.raw(id).await? else { return Ok(Effect::Nothing) };
        let Ok(mut message) = Message::decode(&found.payload) else { return Ok(Effect::Nothing) };
        message.head.attempts = 0;
        message.head.accepted_ms = now_ms;
        message.head.death = None;
        let number = format!("redrive-{id}-{}", found.time.unix_timestamp_nanos());
        let place = self.put(NewMessage::from(&message), &number).await?;
        self.remove_dead(id).await?;
        Ok(Effect::Waits(place))
    }

    /// Forgets a dead letter; whether there was one.
    pub(super) async fn remove_dead(&self, id: u64) -> Result<bool, QueueError> {
        match self.link()?.dead.delete_message(id).await {
            Ok(was_there) => Ok(was_there),
            // The server answers every other number with an error.
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(_) => Ok(false),
                _ => Err(QueueError::Away),
            },
        }
    }
}
