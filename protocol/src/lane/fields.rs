//! Heads of requests and answers as data, and the summary at a request's end.
//!
//! A list of fields is `count: u16`, then for each `name: u16 + bytes, value: u32 + bytes`. A request's head is
//! `method: u16 + bytes, target: u32 + bytes`, then its fields; an answer's is its fields alone.
//! In: names and values, or bytes. Out: bytes, or views into them.
//! Always: a head is read to its last byte or not at all; reading allocates nothing.

use std::str;

use super::{HEAD_MAX, NOTE_MAX};

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It ends in the middle of something.
    #[error("head ends too soon")]
    Short,
    /// Something follows it.
    #[error("bytes behind the head")]
    Long,
    /// Method or target are no text.
    #[error("head that is no text")]
    Text,
}

/// A request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a str,
    /// The target in origin form.
    pub target: &'a str,
    /// The header lines.
    pub fields: Fields<'a>,
}

impl<'a> Head<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// [`HeadError`] for anything but one whole head.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HeadError> {
        let mut rest = bytes;
        let method = short(&mut rest)?;
        let target = long(&mut rest)?;
        let text = |bytes| str::from_utf8(bytes).map_err(|_| HeadError::Text);
        Ok(Self { method: text(method)?, target: text(target)?, fields: Fields::decode(rest)? })
    }
}

/// Header lines in their order; a view that was checked to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// [`HeadError`] for anything but one whole list.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HeadError> {
        let mut rest = bytes;
        let count = u16::from_le_bytes(*take_array(&mut rest)?);
        let fields = Self { count, bytes: rest };
        for _ in 0..count {
            short(&mut rest)?;
            long(&mut rest)?;
        }
        if rest.is_empty() { Ok(fields) } else { Err(HeadError::Long) }
    }

    /// How many lines.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| Some((short(&mut rest).ok()?, long(&mut rest).ok()?)))
    }
}

/// Appends a request's head; whether it fits. What is appended is of no use if not.
pub fn write_request<'a>(
    into: &mut Vec<u8>,
    method: &str,
    target: &str,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> bool {
    put_short(into, method.as_bytes())
        && put_long(into, target.as_bytes())
        && write_answer(into, fields)
}

/// Appends an answer's head; whether it fits. What is appended is of no use if not.
pub fn write_answer<'a>(
    into: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> bool {
    let at = into.len();
    into.extend_from_slice(&[0; 2]);
    let mut count: u16 = 0;
    for (name, value) in fields {
        let Some(next) = count.checked_add(1) else { return false };
        count = next;
        if !put_short(into, name) || !put_long(into, value) {
            return false;
        }
    }
    into[at..at + 2].copy_from_slice(&count.to_le_bytes());
    true
}

/// What the provider, which has read the answer, says of a request that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The target.
    pub target: &'a [u8],
    /// The value of `X-Call-Id`; empty if there was none.
    pub call_id: &'a [u8],
    /// Bytes of the answer's body as its head told; −1 when it did not.
    pub content_length: i64,
}

impl<'a> Summary<'a> {
    /// Appends it, its texts cut where it would get longer than [`NOTE_MAX`].
    pub fn write(&self, into: &mut Vec<u8>) {
        let most = NOTE_MAX as usize / 4;
        into.extend_from_slice(&self.content_length.to_le_bytes());
        for text in [self.method, self.target, self.call_id] {
            put_short(into, &text[..text.len().min(most)]);
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`HeadError`] for anything but one whole summary.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HeadError> {
        let mut rest = bytes;
        let content_length = i64::from_le_bytes(*take_array(&mut rest)?);
        let (method, target, call_id) = (short(&mut rest)?, short(&mut rest)?, short(&mut rest)?);
        let summary = Self { method, target, call_id, content_length };
        if rest.is_empty() { Ok(summary) } else { Err(HeadError::Long) }
    }
}

fn put_short(into: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let Ok(length) = u16::try_from(bytes.len()) else { return false };
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(bytes);
    true
}

fn put_long(into: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= HEAD_MAX);
    let Some(length) = length else { return false };
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(bytes);
    true
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], HeadError> {
    let (array, after) = rest.split_first_chunk().ok_or(HeadError::Short)?;
    *rest = after;
    Ok(array)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], HeadError> {
    let (bytes, after) = rest.split_at_checked(length).ok_or(HeadError::Short)?;
    *rest = after;
    Ok(bytes)
}

fn short<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], HeadError> {
    let length = u16::from_le_bytes(*take_array(rest)?);
    take(rest, length.into())
}

fn long<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], HeadError> {
    let length = u32::from_le_bytes(*take_array(rest)?);
    take(rest, usize::try_from(length).map_err(|_| HeadError::Short)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(list: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
        list.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    #[test]
    fn a_head_is_whole_or_none() {
        let mut bytes = Vec::new();
        let fields = [(b"Host".as_slice(), b"a".as_slice()), (b"X-A", b"\xff")];
        assert!(write_request(&mut bytes, "GET", "/p?q", fields.into_iter()));
        let head = Head::decode(&bytes).unwrap();
        assert_eq!((head.method, head.target, head.fields.len()), ("GET", "/p?q", 2));
        assert_eq!(head.fields.iter().collect::<Vec<_>>(), fields);
        for end in 0..bytes.len() {
            assert_eq!(Head::decode(&bytes[..end]), Err(HeadError::Short), "{end}");
        }
        bytes.push(0);
        assert_eq!(Head::decode(&bytes), Err(HeadError::Long));
    }

    #[test]
    fn a_summary_fits_whatever_the_target() {
        let long = vec![b'x'; 1 << 20];
        let summary = Summary { method: b"GET", target: &long, call_id: &long, content_length: -1 };
        let mut bytes = Vec::new();
        summary.write(&mut bytes);
        assert!(bytes.len() <= NOTE_MAX as usize);
        let read = Summary::decode(&bytes).unwrap();
        assert_eq!((read.method, read.content_length), (b"GET".as_slice(), -1));
        assert_eq!(read.target.len(), NOTE_MAX as usize / 4);
    }

    #[test]
    fn more_lines_than_can_be_counted_do_not_fit() {
        let lines = std::iter::repeat_n((b"a".as_slice(), b"".as_slice()), 65_536);
        assert!(!write_answer(&mut Vec::new(), lines));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            method in "[A-Z]{1,7}", target in "/[a-z?%é]{0,20}",
            list in proptest::collection::vec((proptest::collection::vec(0_u8..=255, 0..9), proptest::collection::vec(0_u8..=255, 0..40)), 0..9),
        ) {
            let mut bytes = Vec::new();
            prop_assert!(write_request(&mut bytes, &method, &target, pairs(&list)));
            let head = Head::decode(&bytes).unwrap();
            prop_assert_eq!((head.method, head.target), (method.as_str(), target.as_str()));
            prop_assert!(head.fields.iter().eq(pairs(&list)));
        }

        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(0_u8..4, 0..60)) {
            let _ = (Head::decode(&bytes), Fields::decode(&bytes), Summary::decode(&bytes));
        }
    }
}
