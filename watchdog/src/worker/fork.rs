//! A process a request: how it is started, fed, read and, when its time is up, killed. What its output means is up to
//! `classic` and `streaming`.
//!
//! In: the described request. Out: a [`Run`] with the process and its pipes.
//! Always: a deadline kills the process's whole group and is answered at once, whoever still holds the pipes; without one
//! a run is over when the process has ended and nobody holds its output any more, as in the originals.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::cgi::Variable;
use super::output;
use super::program::{ExecError, Program};
use crate::config::{OutputSettings, Timeouts};
use crate::guestlog;
use crate::log::Stream;
use crate::pid1::{Exit, Process, Reaper};

/// Read from a process at once, in bytes.
const CHUNK: usize = 16 << 10;

/// Everything a request needs to become a process.
#[derive(Debug)]
pub(crate) struct Forker {
    pub(super) program: Program,
    pub(super) reaper: Arc<Reaper>,
    pub(super) timeouts: Timeouts,
    pub(super) output: OutputSettings,
    /// The command as the user wrote it, for log lines.
    pub(super) fprocess: String,
}

/// Where a process's stderr goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stderr {
    /// Into the same pipe as stdout.
    Combined,
    /// Into a pipe of its own.
    Separate,
}

/// A running process and our ends of its pipes.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: Process,
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    /// `None` when combined.
    pub(super) stderr: Option<pipe::Receiver>,
}

/// What a process that was read to its end left behind.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) exit: Exit,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Forker {
    /// Starts the function's process.
    ///
    /// # Errors
    /// [`ExecError`] in Go's words.
    pub(super) async fn start(
        &self,
        variables: &[Variable],
        stderr: Stderr,
    ) -> Result<Run, ExecError> {
        let (child_in, stdin) = self.pipe()?;
        let (stdout, child_out) = self.pipe()?;
        let (stderr, child_err) = match stderr {
            Stderr::Combined => (None, child_out.try_clone().map_err(|e| self.no_pipe(&e))?),
            Stderr::Separate => {
                let (reader, writer) = self.pipe()?;
                (Some(reader), writer)
            }
        };
        let ours = |reader: PipeReader| {
            let reader = unblocked(reader)?;
            pipe::Receiver::from_owned_fd_unchecked(reader)
        };
        let stdin = unblocked(stdin).and_then(pipe::Sender::from_owned_fd_unchecked);
        let stdin = stdin.map_err(|e| self.no_pipe(&e))?;
        let stdout = ours(stdout).map_err(|e| self.no_pipe(&e))?;
        let stderr = stderr.map(ours).transpose().map_err(|e| self.no_pipe(&e))?;
        let streams = [child_in.into(), child_out.into(), child_err.into()];
        let process = self.program.start(&self.reaper, variables, streams, None).await?;
        Ok(Run { process, stdin, stdout, stderr })
    }

    fn pipe(&self) -> Result<(PipeReader, PipeWriter), ExecError> {
        io::pipe().map_err(|error| self.no_pipe(&error))
    }

    fn no_pipe(&self, error: &io::Error) -> ExecError {
        ExecError::failed(self.program.words().first().map_or("", String::as_str), error)
    }

    /// Logs what comes out of `stderr` line by line, until nobody holds it any more.
    pub(super) fn log_stderr(&self, stderr: Option<pipe::Receiver>) {
        if let Some(stderr) = stderr {
            guestlog::spawn(output::follow(stderr, Stream::Stderr, self.output));
        }
    }
}

/// Our end of a pipe we have just made, set up as the event loop wants it, which need not look at it again then.
fn unblocked(pipe: impl Into<OwnedFd>) -> io::Result<OwnedFd> {
    let pipe = pipe.into();
    rustix::io::ioctl_fionbio(&pipe, true)?;
    Ok(pipe)
}

impl Run {
    /// Feeds `input`, reads everything, waits for the end; `None` when `limit` passes first, and then all is killed.
    pub(super) async fn collect(
        mut self,
        input: Bytes,
        limit: Option<Duration>,
    ) -> Option<Collected> {
        let mut stdin = self.stdin;
        let feed = async {
            // A process need not read its input: a broken pipe is not an error.
            let _ = stdin.write_all(&input).await;
            drop(stdin);
            std::future::pending::<()>().await;
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read = async {
            let both = async {
                tokio::join!(
                    read_all(Some(self.stdout), &mut stdout),
                    read_all(self.stderr, &mut stderr)
                )
            };
            both.await;
            self.process.wait().await
        };
        let exit = tokio::select! {
            exit = read => Some(exit),
            () = feed => None,
            () = after(limit) => None,
        };
        if exit.is_none() {
            self.process.kill_group();
        }
        exit.map(|exit| Collected { exit, stdout, stderr })
    }
}

/// Passes after `limit`, never without one.
pub(super) async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn read_all(pipe: Option<pipe::Receiver>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    loop {
        into.reserve(CHUNK);
        if !matches!(pipe.read_buf(into).await, Ok(count) if count > 0) {
            return;
        }
    }
}

/// The next piece of a process's output; `None` at its end.
pub(super) async fn read_some(pipe: &mut pipe::Receiver) -> Option<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK);
    matches!(pipe.read_buf(&mut chunk).await, Ok(count) if count > 0).then(|| chunk.into())
}
