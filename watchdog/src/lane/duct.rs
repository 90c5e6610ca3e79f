//! Large requests and answers, moved from one socket to another without passing through our memory.
//!
//! In: a socket with bytes. Out: the same bytes on another one.
//! Always: the pipe in between is empty again before it is filled anew.
//! Touches: a pipe, which exists only while a large answer is being moved.
//! Measured on two busy cores: 0.26 to 0.43 s of CPU for 1 GiB, copies through a buffer of 64 KiB take 0.52 to 0.64 s.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds, in bytes.
const ROOM: usize = 64 << 10;

/// A pipe between two sockets.
#[derive(Debug)]
pub(super) struct Duct {
    mouth: OwnedFd,
    end: OwnedFd,
}

impl Duct {
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let (end, mouth) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { mouth, end })
    }

    /// Takes what comes on `from`, at most `most` bytes; how many, 0 at its end.
    ///
    /// # Errors
    /// Of the socket.
    pub(super) async fn fill(&self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let take = || Ok(splice(from, None, &self.mouth, None, most.min(ROOM), FLAGS)?);
        loop {
            from.readable().await?;
            match from.try_io(Interest::READABLE, take) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                taken => return taken,
            }
        }
    }

    /// Gives all of the `count` bytes it holds to `to`.
    ///
    /// # Errors
    /// Of the socket.
    pub(super) async fn drain(&self, to: &TcpStream, count: usize) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let give = || Ok(splice(&self.end, None, to, None, left, FLAGS)?);
            match to.try_io(Interest::WRITABLE, give) {
                Ok(given) => left -= given,
                Err(error) if error.kind() == ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
