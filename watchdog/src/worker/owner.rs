//! The long-running process of the container's owner in mode `http`: started, watched, restarted, stopped.
//!
//! In: the command, and the address it will listen on. Out: connections to it, its state for everybody else.
//! Always: a request that arrives before the function listens waits, up to [`HOLD_MAX`]; under a provider the process is
//! started again after every end, with a growing pause; on its own the watchdog ends with it, as of-watchdog does.
//! Touches: the process, its pipes, its port.

use std::io::{self, ErrorKind, PipeReader, PipeWriter};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::{Clock, SystemClock};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

use super::backoff::Backoff;
use super::output;
use super::pool::{Lease, Pool};
use super::program::{ExecError, Program};
use crate::config::{OutputSettings, Upstream};
use crate::log::{Stream, line};
use crate::pid1::{Exit, Process, Reaper};
use crate::state::State;

/// Longest a request waits for the function to listen.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// Shortest and longest pause between two looks at the port.
const LOOK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Between SIGTERM after the drain and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Most header lines in an answer.
const HEADERS_MAX: usize = 500;

/// The process and everything known about it.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) program: Program,
    pub(super) upstream: Upstream,
    pub(super) output: OutputSettings,
    pub(super) reaper: Arc<Reaper>,
    pub(super) state: Arc<State>,
    pub(super) pool: Arc<Pool>,
    pub(super) clock: SystemClock,
    /// Whether a provider looks after the container.
    pub(super) is_managed: bool,
    pub(super) signs: Signs,
}

/// What the parts of this module tell each other.
#[derive(Debug)]
pub(super) struct Signs {
    /// Whether the function accepts connections, as far as we know.
    reachable: watch::Sender<bool>,
    /// A connection was refused although `reachable` said otherwise.
    lost: Notify,
    stop: watch::Sender<bool>,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            reachable: watch::Sender::new(false),
            lost: Notify::new(),
            stop: watch::Sender::new(false),
        }
    }
}

/// How one life of the process ended.
enum End {
    Stopped,
    Exited(Exit),
    NotStarted(ExecError),
}

impl Owner {
    /// Keeps the process alive until [`Owner::stop`]; an exit code when the watchdog must end with it.
    pub(crate) async fn run(self: Arc<Self>) -> Option<u8> {
        let mut backoff = Backoff::default();
        let mut stop = self.signs.stop.subscribe();
        loop {
            self.state.enter(OwnerState::Starting, None);
            let begin = self.clock.now();
            let end = self.live(&mut stop).await;
            self.signs.reachable.send_replace(false);
            self.pool.clear();
            let ended_well = matches!(end, End::Exited(exit) if exit.is_success());
            let reason = match end {
                End::Stopped => return None,
                End::Exited(Exit::Code(0)) => "process exited with status 0".to_owned(),
                End::Exited(exit) => exit.to_string(),
                End::NotStarted(error) => error.to_string(),
            };
            line!("Forked function has terminated: {reason}");
            if !self.is_managed {
                return self.outlive(ended_well, &mut stop).await;
            }
            self.state.enter(OwnerState::Crashed, Some(reason));
            let pause = backoff.after_crash(self.clock.now().since(begin));
            line!("Starting it again in {pause:?}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = raised(&mut stop) => return None,
            }
        }
    }

    /// Ends the process: SIGTERM, then after [`STOP_GRACE`] the whole group is killed.
    pub(crate) fn stop(&self) {
        self.signs.stop.send_replace(true);
    }

    /// A connection that can take a request, as soon as the function accepts one.
    ///
    /// # Errors
    /// When it does not within [`HOLD_MAX`], or the connection fails for another reason.
    pub(super) async fn connection(&self) -> io::Result<Lease> {
        match self.pool.take() {
            Some(lease) => Ok(lease),
            None => tokio::time::timeout(HOLD_MAX, self.open())
                .await
                .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())),
        }
    }

    async fn open(&self) -> io::Result<Lease> {
        let mut reachable = self.signs.reachable.subscribe();
        let stream = loop {
            raised(&mut reachable).await;
            match connect(&self.upstream).await {
                Ok(stream) => break stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.signs.reachable.send_replace(false);
                    self.signs.lost.notify_one();
                }
                Err(error) => return Err(error),
            }
        };
        stream.set_nodelay(true)?;
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_headers(HEADERS_MAX);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Whoever uses the connection sees its failure too.
            let _ = connection.with_upgrades().await;
        });
        Ok(self.pool.lease(sender))
    }

    /// One life of the process.
    async fn live(&self, stop: &mut watch::Receiver<bool>) -> End {
        let (mut process, _stdin) = match self.start().await {
            Ok(started) => started,
            Err(error) => return End::NotStarted(error),
        };
        tokio::select! {
            exit = process.wait() => {
                // What it left behind may hold the port that its successor needs.
                process.kill_group();
                End::Exited(exit)
            }
            () = self.watch_port() => End::Stopped,
            () = raised(stop) => {
                process.signal(Signal::TERM);
                let _ = tokio::time::timeout(STOP_GRACE, process.wait()).await;
                process.kill_group();
                End::Stopped
            }
        }
    }

    /// Starts the process; its input is a pipe that stays silent and open as long as the second value lives.
    async fn start(&self) -> Result<(Process, PipeWriter), ExecError> {
        let words = self.program.words();
        line!("Forking: {}, arguments: [{}]", words[0], words[1..].join(" "));
        let pipe = || io::pipe().map_err(|error| ExecError::failed(&words[0], &error));
        let ((child_in, stdin), (stdout, child_out), (stderr, child_err)) =
            (pipe()?, pipe()?, pipe()?);
        let streams = [child_in.into(), child_out.into(), child_err.into()];
        let process = self.program.start(&self.reaper, &[], streams).await?;
        for (pipe, stream) in [(stderr, Stream::Stderr), (stdout, Stream::Stdout)] {
            line!("Started logging: {} from function.", stream.name());
            self.follow(pipe, stream);
        }
        Ok((process, stdin))
    }

    fn follow(&self, pipe: PipeReader, stream: Stream) {
        match pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)) {
            Ok(pipe) => drop(tokio::spawn(output::follow(pipe, stream, self.output))),
            Err(error) => line!("Error reading {}: {error}", stream.name()),
        }
    }

    /// Looks at the port until it accepts, and again whenever a connection was refused; never ends.
    async fn watch_port(&self) {
        loop {
            let begin = self.clock.now();
            while connect(&self.upstream).await.is_err() {
                let (shortest, longest) = LOOK_PAUSES;
                let waited = self.clock.now().since(begin);
                tokio::time::sleep((waited / 16).clamp(shortest, longest)).await;
            }
            self.signs.reachable.send_replace(true);
            self.state.enter(OwnerState::Ready, None);
            self.signs.lost.notified().await;
            self.signs.reachable.send_replace(false);
            self.state.enter(OwnerState::Starting, Some("its port refuses connections".into()));
        }
    }

    /// Without a provider: a failed process takes the watchdog with it, unless it is already draining; one that ended
    /// well may have left a server running in the background.
    async fn outlive(&self, ended_well: bool, stop: &mut watch::Receiver<bool>) -> Option<u8> {
        if !ended_well && !self.state.is(OwnerState::Draining) {
            return Some(1);
        }
        tokio::select! {
            () = self.watch_port() => {}
            () = raised(stop) => {}
        }
        None
    }
}

/// Waits until `flag` is set; its sender lives as long as the owner.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|is_set| *is_set).await;
}

async fn connect(upstream: &Upstream) -> io::Result<TcpStream> {
    if upstream.host == "localhost" {
        let addresses: [SocketAddr; 2] = [
            (Ipv4Addr::LOCALHOST, upstream.port).into(),
            (Ipv6Addr::LOCALHOST, upstream.port).into(),
        ];
        return TcpStream::connect(&addresses[..]).await;
    }
    TcpStream::connect((upstream.host.as_str(), upstream.port)).await
}
