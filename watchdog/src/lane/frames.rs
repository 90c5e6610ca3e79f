//! Frames on a lane: read as they come, written whole.
//!
//! In: a stream. Out: headers, and the bytes behind them.
//! Always: a header that has begun, and the bytes it announces, are waited for no longer than [`STALL`] at a time; at most
//! [`BUFFER`] bytes are read ahead; an idle lane holds no buffer.

use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;

use hyperfaas_protocol::lane::{HEADER_LEN, Header};
use tokio::net::TcpStream;

use super::duct::Duct;

/// Longest silence within a frame.
const STALL: Duration = Duration::from_secs(10);
/// Read at once, in bytes.
const BUFFER: usize = 16 << 10;
/// The same in the middle of a large body.
const BUFFER_LARGE: usize = 64 << 10;

/// What has been read from a lane and not yet used.
#[derive(Debug, Default)]
pub(super) struct Inlet {
    buffer: Vec<u8>,
    at: usize,
}

impl Inlet {
    /// The next header, however long it takes to come; `None` when the peer has closed instead.
    pub(super) async fn header(&mut self, stream: &TcpStream) -> io::Result<Option<Header>> {
        if self.ahead().is_empty() && !self.fill(stream, BUFFER).await? {
            return Ok(None);
        }
        while self.ahead().len() < HEADER_LEN {
            self.more(stream, BUFFER).await?;
        }
        let Some(bytes) = self.ahead().first_chunk::<HEADER_LEN>() else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        let header =
            Header::decode(bytes).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        self.at += HEADER_LEN;
        Ok(Some(header))
    }

    /// The next of the `left` bytes behind a header, at least one.
    pub(super) async fn piece(&mut self, stream: &TcpStream, left: &mut u32) -> io::Result<&[u8]> {
        let wanted = usize::try_from(*left).unwrap_or(usize::MAX);
        if self.ahead().is_empty() {
            let size = if wanted > BUFFER { BUFFER_LARGE } else { BUFFER };
            self.more(stream, size).await?;
        }
        let count = self.ahead().len().min(wanted);
        *left -= u32::try_from(count).unwrap_or(*left);
        self.at += count;
        Ok(&self.buffer[self.at - count..self.at])
    }

    /// The next `count` bytes, which the caller knows to be a bearable number.
    pub(super) async fn exactly(&mut self, stream: &TcpStream, count: u32) -> io::Result<Vec<u8>> {
        let mut left = count;
        let mut whole = Vec::new();
        while left > 0 {
            whole.extend_from_slice(self.piece(stream, &mut left).await?);
        }
        Ok(whole)
    }

    /// Whether the peer has hung up by now, as far as the event loop has heard.
    pub(super) fn is_gone(&mut self, stream: &TcpStream) -> bool {
        self.buffer.reserve(HEADER_LEN);
        stream.try_read_buf(&mut self.buffer).is_ok_and(|count| count == 0)
    }

    /// Reads past `count` bytes.
    pub(super) async fn skip(&mut self, stream: &TcpStream, count: u32) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            self.piece(stream, &mut left).await?;
        }
        Ok(())
    }

    /// Whether all that was read has been used.
    pub(super) fn is_empty(&self) -> bool {
        self.ahead().is_empty()
    }

    /// Gives the buffer back if nothing is in it.
    pub(super) fn rest_if_idle(&mut self) {
        if self.ahead().is_empty() {
            *self = Self::default();
        }
    }

    fn ahead(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Reads more within a frame.
    async fn more(&mut self, stream: &TcpStream, size: usize) -> io::Result<()> {
        match tokio::time::timeout(STALL, self.fill(stream, size)).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }

    /// Reads what there is, at least a byte; whether there will ever be one. Nothing is lost when it is dropped.
    async fn fill(&mut self, stream: &TcpStream, size: usize) -> io::Result<bool> {
        if self.ahead().is_empty() {
            self.buffer.clear();
            self.at = 0;
        } else if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        loop {
            // Not before there is something: an idle lane needs no memory.
            stream.readable().await?;
            self.buffer.reserve_exact(size.saturating_sub(self.buffer.len()));
            match stream.try_read_buf(&mut self.buffer) {
                Ok(count) => return Ok(count > 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes some of the `left` bytes behind a header into `duct`, at least one; how many. Nothing must have been read ahead.
pub(super) async fn pass(duct: &Duct, stream: &TcpStream, left: &mut u32) -> io::Result<usize> {
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    match tokio::time::timeout(STALL, duct.fill(stream, most)).await? {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            *left -= u32::try_from(count).unwrap_or(*left);
            Ok(count)
        }
        Err(error) => Err(error),
    }
}

/// Writes one frame. When it is dropped before its end the lane is of no use any more.
pub(super) async fn send(stream: &TcpStream, header: &Header, payload: &[u8]) -> io::Result<()> {
    let head = header.encode();
    let mut written = 0;
    while written < head.len() + payload.len() {
        let slices = if written < head.len() {
            [IoSlice::new(&head[written..]), IoSlice::new(payload)]
        } else {
            [IoSlice::new(&payload[written - head.len()..]), IoSlice::new(&[])]
        };
        match stream.try_write_vectored(&slices) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes`.
pub(super) async fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
