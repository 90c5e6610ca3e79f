//! The chunked coding, read piece by piece and written.
//!
//! In: pieces of a body as they come. Out: its bytes, its trailers, its end.
//! Always: a size that does not fit, a line that does not end and a byte where none belongs are errors; no more is held than a
//! size's digits and the trailers, both bounded.
//! Touches: nothing.
//! Source: RFC 9112, section 7.1.

use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Buf, Bytes};

/// Longest size line, extensions included, in bytes.
const LINE_MAX: usize = 4096;
/// Most bytes of trailers.
const TRAILERS_MAX: usize = 16 << 10;
/// Most lines of trailers.
const TRAILER_LINES: usize = 64;

/// The body breaks the coding's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk")]
pub struct ChunkError;

/// What a piece holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of the body.
    Data(Bytes),
    /// The body is over; what is left of the piece belongs to nobody.
    End(Option<HeaderMap>),
    /// The piece is used up.
    More,
}

/// Where in the coding the reader is.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    /// The line end behind a chunk.
    Behind,
    Trailers,
    Over,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size, line: Vec::new() }
    }
}

impl Decoder {
    /// Takes the next part from `piece`.
    ///
    /// # Errors
    /// When the coding is broken; the body cannot be completed then.
    pub fn next(&mut self, piece: &mut Bytes) -> Result<Chunk, ChunkError> {
        loop {
            match self.state {
                State::Data(0) => self.state = State::Behind,
                State::Data(left) => {
                    if piece.is_empty() {
                        return Ok(Chunk::More);
                    }
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    self.state = State::Data(left - count as u64);
                    return Ok(Chunk::Data(piece.split_to(count)));
                }
                State::Over => return Ok(Chunk::End(None)),
                State::Size | State::Behind | State::Trailers => {
                    let most = if self.state == State::Trailers { TRAILERS_MAX } else { LINE_MAX };
                    if !self.read_line(piece, most)? {
                        return Ok(Chunk::More);
                    }
                    if let Some(end) = self.lined()? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Collects a line; whether it is complete. Trailers are collected together, up to their empty line.
    fn read_line(&mut self, piece: &mut Bytes, most: usize) -> Result<bool, ChunkError> {
        while !piece.is_empty() {
            let byte = piece.get_u8();
            self.line.push(byte);
            if self.line.len() > most {
                return Err(ChunkError);
            }
            // A line ends in CR LF and nothing else, so that no two readers disagree.
            if byte == b'\n' {
                if !self.line.ends_with(b"\r\n") {
                    return Err(ChunkError);
                }
                if self.state != State::Trailers
                    || self.line == b"\r\n"
                    || self.line.ends_with(b"\r\n\r\n")
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn lined(&mut self) -> Result<Option<Chunk>, ChunkError> {
        let line = std::mem::take(&mut self.line);
        match self.state {
            State::Size => {
                let size = size(&line[..line.len() - 2])?;
                self.state = if size == 0 { State::Trailers } else { State::Data(size) };
            }
            State::Behind if line == b"\r\n" => self.state = State::Size,
            State::Trailers => {
                self.state = State::Over;
                return Ok(Some(Chunk::End(trailers(&line)?)));
            }
            _ => return Err(ChunkError),
        }
        Ok(None)
    }
}

/// The number at the beginning of a size line; an extension is passed over.
fn size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let is_number =
        !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number && !line.contains(&b'\r'));
    u64::from_str_radix(text.ok_or(ChunkError)?, 16).map_err(|_| ChunkError)
}

fn trailers(text: &[u8]) -> Result<Option<HeaderMap>, ChunkError> {
    if text == b"\r\n" {
        return Ok(None);
    }
    let mut lines = [httparse::EMPTY_HEADER; TRAILER_LINES];
    let parsed = httparse::parse_headers(text, &mut lines).map_err(|_| ChunkError)?;
    let httparse::Status::Complete((_, lines)) = parsed else { return Err(ChunkError) };
    let mut map = HeaderMap::new();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| ChunkError)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| ChunkError)?;
        map.append(name, value);
    }
    Ok(Some(map))
}

/// Appends one chunk; an empty one would be the end and is left out.
pub fn write_chunk(into: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        into.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        into.extend_from_slice(data);
        into.extend_from_slice(b"\r\n");
    }
}

/// Appends the last chunk and the trailers.
pub fn write_end(into: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    into.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        into.extend_from_slice(name.as_str().as_bytes());
        into.extend_from_slice(b": ");
        into.extend_from_slice(value.as_bytes());
        into.extend_from_slice(b"\r\n");
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body, its trailers if it ended, and how much was used.
    type Piecewise = (Vec<u8>, Option<Option<HeaderMap>>, usize);

    /// Feeds `text` in pieces of `size` bytes: the body, the trailers if it ended, and what is left then.
    fn read(text: &[u8], size: usize) -> Result<Piecewise, ChunkError> {
        let (mut decoder, mut body, mut used) = (Decoder::default(), Vec::new(), 0);
        for piece in text.chunks(size) {
            let mut piece = Bytes::copy_from_slice(piece);
            used += piece.len();
            loop {
                match decoder.next(&mut piece)? {
                    Chunk::Data(data) => body.extend_from_slice(&data),
                    Chunk::End(trailers) => {
                        return Ok((body, Some(trailers), text.len() - used + piece.len()));
                    }
                    Chunk::More => break,
                }
            }
        }
        Ok((body, None, 0))
    }

    #[test]
    fn a_body_is_read_however_it_is_cut() {
        let text = b"4\r\nWiki\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nrest";
        for size in 1..text.len() {
            let (body, trailers, left) = read(text, size).unwrap();
            assert_eq!((body.as_slice(), left), (b"Wiki0123456789".as_slice(), 4), "{size}");
            assert_eq!(trailers.unwrap().unwrap()["x-sum"], "1");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "1 1\r\n",
            "0x1\r\n",
            "4\nWiki",
            "4\r\nWikiX\r\n",
            "4\r\nWiki\n",
            "11111111111111111\r\n",
            "1\r1\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(read(text.as_bytes(), 100).err(), Some(ChunkError), "{text:?}");
        }
        let long = format!("1;{}", "x".repeat(LINE_MAX));
        assert_eq!(read(long.as_bytes(), 100).err(), Some(ChunkError));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            pieces in proptest::collection::vec(proptest::collection::vec(0_u8..=255, 0..30), 0..9), size in 1_usize..40,
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                write_chunk(&mut text, piece);
            }
            write_end(&mut text, None);
            let (body, end, left) = read(&text, size).unwrap();
            prop_assert_eq!((body, end, left), (pieces.concat(), Some(None), 0));
        }

        #[test]
        fn reading_never_panics(text in "([0-9a-fx]{0,3}|[;\r\n]|\r\n|0\r\n){0,12}", size in 1_usize..9) {
            let _ = read(text.as_bytes(), size);
        }
    }
}
