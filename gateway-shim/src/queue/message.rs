//! A call that waits, in memory and as it is kept.
//!
//! In: what the caller sent. Out: bytes, and the same message from them.
//! Units: times are Unix milliseconds, because they have to mean the same after a restart.
//! Always: what [`Message::encode`] writes, [`Message::decode`] reads; header values keep every byte.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::retry::Reason;

/// One asynchronous call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// All but the body.
    pub(crate) head: Head,
    /// What the function gets; never logged.
    pub(crate) body: Bytes,
}

/// All of a message but its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The function, as `name.namespace`.
    pub(crate) function: String,
    /// Path and query of the call, beginning with `/function/`.
    pub(crate) target: String,
    /// The caller's headers, without those of the connection.
    #[serde(with = "header_list")]
    pub(crate) headers: HeaderMap,
    /// Where the answer goes, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) callback: Option<String>,
    /// Identifies the call from end to end.
    pub(crate) call_id: String,
    /// When it was accepted.
    pub(crate) accepted_ms: u64,
    /// Attempts that have ended so far.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// Why it was given up; `None` while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) death: Option<Death>,
}

/// Why and when a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Death {
    /// When.
    pub(crate) at_ms: u64,
    /// Why.
    pub(crate) reason: Reason,
    /// The last answer's status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
}

/// A stored message that this program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("stored message is damaged or was written by a newer version")]
pub(crate) struct Damaged;

impl Message {
    /// Length of the head, head as JSON, body.
    pub(crate) fn encode(&self) -> Bytes {
        let head = serde_json::to_vec(&self.head).expect("texts and numbers are always JSON");
        let length = u32::try_from(head.len()).expect("heads are bounded far below 4 GiB");
        let mut bytes = BytesMut::with_capacity(4 + head.len() + self.body.len());
        bytes.put_u32_le(length);
        bytes.put_slice(&head);
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`Damaged`] when they are no message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let (head, body) = split(bytes).ok_or(Damaged)?;
        let head = serde_json::from_slice(head).map_err(|_| Damaged)?;
        Ok(Self { head, body: Bytes::copy_from_slice(body) })
    }
}

impl Head {
    /// The head of the message in `bytes`, and the length of its body.
    ///
    /// # Errors
    /// [`Damaged`] when they are no message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), Damaged> {
        let (head, body) = split(bytes).ok_or(Damaged)?;
        Ok((serde_json::from_slice(head).map_err(|_| Damaged)?, body.len()))
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// Headers as a list of names and values; a value's bytes become the characters of the same numbers (Latin-1).
mod header_list {
    use super::{HeaderMap, HeaderName, HeaderValue};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(headers: &HeaderMap, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(headers.iter().map(|(name, value)| {
            (name.as_str(), value.as_bytes().iter().map(|b| char::from(*b)).collect::<String>())
        }))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<HeaderMap, D::Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in Vec::<(String, String)>::deserialize(from)? {
            let bytes: Result<Vec<u8>, _> = value.chars().map(u8::try_from).collect();
            let value = HeaderValue::from_bytes(&bytes.map_err(D::Error::custom)?);
            let name: HeaderName = name.parse().map_err(D::Error::custom)?;
            headers.append(name, value.map_err(D::Error::custom)?);
        }
        Ok(headers)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A message for `function`, accepted at `accepted_ms`.
    pub(crate) fn message(function: &str, accepted_ms: u64) -> Message {
        let head = Head {
            function: function.to_owned(),
            target: format!("/function/{function}/a%2Fb?x=1"),
            headers: HeaderMap::from_iter([(
                "x-a".parse().unwrap(),
                HeaderValue::from_static("1"),
            )]),
            callback: None,
            call_id: "id".to_owned(),
            accepted_ms,
            attempts: 0,
            death: None,
        };
        Message { head, body: Bytes::from_static(b"body") }
    }

    #[test]
    fn a_message_survives_with_every_byte() {
        let mut kept = message("f.ns", 7);
        kept.head.headers.append("x-a", HeaderValue::from_bytes(b"\xe4 \xff").unwrap());
        kept.head.callback = Some("http://there/".to_owned());
        kept.head.death = Some(Death { at_ms: 9, reason: Reason::Gone, status: Some(404) });
        kept.body = Bytes::from((0..=255).collect::<Vec<u8>>());
        assert_eq!(Message::decode(&kept.encode()).unwrap(), kept);
        assert_eq!(Head::decode(&kept.encode()).unwrap(), (kept.head, 256));
    }

    #[test]
    fn what_is_no_message_is_damage_not_a_panic() {
        for bytes in [&b""[..], b"abc", b"\xff\xff\xff\xffx", b"\x02\0\0\0{}", b"\x01\0\0\0{}"] {
            assert!(Message::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
