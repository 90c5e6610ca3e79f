//! The body of an answer that comes out of a file: all of it, a range, or several with a head each.
//!
//! In: an open file and its parts. Out: frames, read as they are sent.
//! Always: exactly the length announced; a file that has shrunk meanwhile cuts the answer.
//! Touches: the file. Reads are short and happen in the event loop, which serves nothing but files in this mode.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use http_body::SizeHint;

use super::ranges::Part;

/// Read at once, in bytes.
const CHUNK: u64 = 64 << 10;

/// What is still to be sent.
#[derive(Debug)]
pub(crate) struct Pieces {
    file: File,
    parts: VecDeque<Part>,
    /// For several parts: what stands between them.
    frame: Option<Frame>,
    /// Whether the head of the first part has been sent.
    has_begun: bool,
    left: u64,
}

/// What stands around the parts of `multipart/byteranges`.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) boundary: String,
    pub(super) kind: String,
    pub(super) size: u64,
}

impl Frame {
    fn head(&self, part: Part, is_first: bool) -> String {
        let break_before = if is_first { "" } else { "\r\n" };
        let range = part.describe(self.size);
        format!(
            "{break_before}--{}\r\nContent-Range: {range}\r\nContent-Type: {}\r\n\r\n",
            self.boundary, self.kind
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

impl Pieces {
    /// One part of `file` as it is.
    pub(super) fn one(file: File, part: Part) -> Self {
        Self { file, parts: [part].into(), frame: None, has_begun: true, left: part.length }
    }

    /// Several parts of `file`, each with its head.
    pub(super) fn several(file: File, parts: Vec<Part>, frame: Frame) -> Self {
        let heads = parts
            .iter()
            .enumerate()
            .map(|(at, part)| part.length + frame.head(*part, at == 0).len() as u64);
        let left = heads.sum::<u64>() + frame.end().len() as u64;
        Self { file, parts: parts.into(), frame: Some(frame), has_begun: false, left }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let (Some(frame), Some(part), false) = (&self.frame, self.parts.front(), self.has_begun)
        {
            self.has_begun = true;
            let head = frame.head(*part, true);
            return self.sent(head.into());
        }
        let Some(part) = self.parts.front_mut().filter(|part| part.length > 0) else {
            return self.between();
        };
        let mut chunk = vec![0; usize::try_from(part.length.min(CHUNK)).unwrap_or(0)];
        let count = match self.file.read_at(&mut chunk, part.start) {
            Ok(0) => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) => return Some(Err(error)),
        };
        chunk.truncate(count);
        part.start += count as u64;
        part.length -= count as u64;
        self.sent(chunk.into())
    }

    /// What follows a part that has been sent: the head of the next one, or the end.
    fn between(&mut self) -> Option<io::Result<Bytes>> {
        self.parts.pop_front()?;
        let frame = self.frame.as_ref()?;
        let text = self.parts.front().map_or_else(|| frame.end(), |part| frame.head(*part, false));
        self.sent(text.into())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape of every piece")]
    fn sent(&mut self, bytes: Bytes) -> Option<io::Result<Bytes>> {
        self.left -= bytes.len() as u64;
        Some(Ok(bytes))
    }

    pub(crate) const fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
