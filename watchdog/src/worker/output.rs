//! A worker's stdout and stderr as lines of the container's log.
//!
//! In: the reading end of a pipe. Out: whole lines in the log, in order.
//! Always: the pipe is read until its last writer is gone, whatever is written; a line longer than the limit is split,
//! so that no function blocks on a full pipe (the original stops reading for good).

use memchr::memchr;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::config::OutputSettings;
use crate::log::{self, Stream};

/// Read at once, in bytes.
const CHUNK: usize = 8 << 10;

/// Logs everything that comes out of `pipe`, until nobody holds its other end.
pub(crate) async fn follow(mut pipe: pipe::Receiver, stream: Stream, settings: OutputSettings) {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let mut start = 0;
        while let Some((line, next)) = next_line(&buffer, start, settings.line_max) {
            log::forward(stream, settings.prefix, line).await;
            start = next;
        }
        buffer.drain(..start);
        if buffer.is_empty() {
            buffer.shrink_to(CHUNK);
        }
    }
    if !buffer.is_empty() {
        log::forward(stream, settings.prefix, &buffer).await;
    }
}

/// The line that begins at `start`, and where the next one begins; `None` while it is incomplete and not too long.
fn next_line(buffer: &[u8], start: usize, line_max: usize) -> Option<(&[u8], usize)> {
    let rest = &buffer[start..];
    match memchr(b'\n', &rest[..rest.len().min(line_max + 1)]) {
        Some(end) => {
            Some((rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), start + end + 1))
        }
        None if rest.len() > line_max => Some((&rest[..line_max], start + line_max)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8], line_max: usize) -> (Vec<&[u8]>, &[u8]) {
        let (mut lines, mut start) = (Vec::new(), 0);
        while let Some((line, next)) = next_line(text, start, line_max) {
            lines.push(line);
            start = next;
        }
        (lines, &text[start..])
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_limit() {
        assert_eq!(split(b"a\nb\r\n\nc", 4), (vec![&b"a"[..], b"b", b""], &b"c"[..]));
        assert_eq!(split(b"abcd\nef", 4), (vec![&b"abcd"[..]], &b"ef"[..]));
        assert_eq!(split(b"abcdefghij", 4), (vec![&b"abcd"[..], b"efgh"], &b"ij"[..]));
    }
}
