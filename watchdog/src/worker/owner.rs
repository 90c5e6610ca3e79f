//! The long-running process of one worker's function in mode `http`: started, watched, restarted, stopped.
//!
//! In: the command, and the address it will listen on. Out: connections to it, its state for everybody else.
//! Always: a request that arrives before the function listens waits, up to [`HOLD_MAX`]; under a provider the process is
//! started again after every end, with a growing pause; on its own the watchdog ends with it, as of-watchdog does.
//! Touches: the process, its pipes, its port.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::{Clock, SystemClock};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

use super::backoff::Backoff;
use super::hold;
use super::output;
use super::plain::{Line, Replay};
use super::pool::{Lease, Pool};
use super::program::{ExecError, Program};
use super::trap::{Sight, Trap};
use crate::config::{OutputSettings, Upstream};
use crate::front::Front;
use crate::guestlog;
use crate::http;
use crate::log::{Stream, line};
use crate::pid1::{Exit, Process, Reaper};
use crate::state::State;
use crate::sys::Snare;

/// Longest a request waits for the function to listen.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// Shortest and longest pause between two looks at the port.
const LOOK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Between two looks at the port while the bind trap is on: only for servers that it cannot see.
const LOOK_SLOW: Duration = Duration::from_secs(1);
/// A server that lives this long has accepted its port.
const TRAP_TRIAL: Duration = Duration::from_secs(10);
/// Between SIGTERM after the drain and SIGKILL, when the container is stopped.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same when only the worker is given up, which another function waits for. Servers without a handler end at SIGTERM at
/// once, those that clean up mostly within some 100 ms. OpenFaaS' Go templates leave their port open for whole seconds first,
/// so that a load balancer can notice: here nothing is sent to them any more, and longer patience would gain nothing.
const RELEASE_GRACE: Duration = Duration::from_millis(250);
/// Most header lines in an answer.
const HEADERS_MAX: usize = 500;

/// The process and everything known about it.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) program: Program,
    /// The words that start the program's interpreter and have it wait, for as long as it is not to run.
    pub(super) held: Option<Vec<String>>,
    pub(super) upstream: Upstream,
    pub(super) output: OutputSettings,
    pub(super) reaper: Arc<Reaper>,
    pub(super) state: Arc<State>,
    pub(super) pool: Arc<Pool>,
    pub(super) clock: SystemClock,
    /// Whether a provider looks after the container.
    pub(super) is_managed: bool,
    /// Whether the worker's own port is trapped where the system can do it; no longer once the worker seems to mind.
    pub(super) is_trapped: AtomicBool,
    /// Whether the worker's port, untrapped, is surely none that the watchdog itself or another worker listens on.
    pub(super) is_port_foreign: bool,
    /// Whether the process must not run without its trap, since another worker may have the real port.
    pub(super) must_move: bool,
    /// Whether the trap has worked as far as it was tried.
    pub(super) has_moved: AtomicBool,
    /// The worker's own port where nobody but the worker has it: open while the trap is on.
    pub(super) front: Option<(Arc<Front>, u16)>,
    pub(super) signs: Signs,
}

/// What the parts of this module tell each other.
#[derive(Debug)]
pub(super) struct Signs {
    /// Where the function accepts connections, as far as we know.
    reachable: watch::Sender<Option<Place>>,
    /// A connection was refused although `reachable` said otherwise.
    lost: Notify,
    /// Whether a program that waits in its interpreter may run.
    may_run: watch::Sender<bool>,
    stop: watch::Sender<Stop>,
}

/// Whether, and how, the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// It is asked to, and killed after this time.
    Within(Duration),
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            reachable: watch::Sender::new(None),
            lost: Notify::new(),
            may_run: watch::Sender::new(false),
            stop: watch::Sender::new(Stop::No),
        }
    }
}

/// Where connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the settings say.
    Upstream,
    /// Where the trap has put the function's port.
    Trapped(SocketAddr),
}

/// A worker that runs.
struct Life {
    process: Process,
    /// Its input, a pipe that stays silent and open, but for the word that lets it run.
    stdin: PipeWriter,
    /// Whether it waits for that word.
    is_held: bool,
    /// What its trap sees, if it has one.
    sights: Option<watch::Receiver<Sight>>,
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
            let last = self.signs.reachable.send_replace(None);
            self.pool.clear();
            self.judge_trap(last, self.clock.now().since(begin));
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
                _ = raised(&mut stop) => return None,
            }
        }
    }

    /// Ends the process: SIGTERM, then after [`STOP_GRACE`] the whole group is killed.
    pub(crate) fn stop(&self) {
        self.signs.stop.send_replace(Stop::Within(STOP_GRACE));
    }

    /// The same with [`RELEASE_GRACE`]: somebody else needs the worker.
    pub(super) fn release(&self) {
        self.signs.stop.send_replace(Stop::Within(RELEASE_GRACE));
    }

    /// Lets a program that waits in its interpreter run, now and whenever it is started again.
    pub(super) fn proceed(&self) {
        self.signs.may_run.send_replace(true);
    }

    /// Whether a second process with the same port can serve beside this one.
    pub(super) fn can_move(&self) -> bool {
        self.is_trapped.load(Ordering::Relaxed) && self.has_moved.load(Ordering::Relaxed)
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

    /// A raw connection, as soon as the function accepts one, and the generation it belongs to.
    ///
    /// # Errors
    /// As [`Owner::connection`].
    pub(super) async fn dial(&self) -> io::Result<(TcpStream, u64)> {
        tokio::time::timeout(HOLD_MAX, self.reached())
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Goes up whenever the server behind the connections changes.
    pub(super) fn generation(&self) -> u64 {
        self.pool.generation()
    }

    async fn reached(&self) -> io::Result<(TcpStream, u64)> {
        let mut reachable = self.signs.reachable.subscribe();
        loop {
            let place = known(&mut reachable).await;
            let generation = self.pool.generation();
            match self.connect(place).await {
                // Whatever answers at that address now, it is not who was meant.
                Ok(_) if generation != self.pool.generation() => {}
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok((stream, generation));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.lose(place),
                Err(error) => return Err(error),
            }
        }
    }

    /// A client for `line`, over which its first request has been sent already; `ahead` has been read from it.
    ///
    /// # Errors
    /// None in practice: nothing is sent or read.
    pub(super) async fn replayed(&self, line: Line, ahead: Bytes) -> io::Result<Lease> {
        let Line { socket, generation, .. } = line;
        self.client(Replay::new(socket, ahead), generation).await
    }

    async fn open(&self) -> io::Result<Lease> {
        let (stream, generation) = self.reached().await?;
        self.client(stream, generation).await
    }

    async fn client<S>(&self, stream: S, generation: u64) -> io::Result<Lease>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_headers(HEADERS_MAX);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Whoever uses the connection sees its failure too.
            let _ = connection.with_upgrades().await;
        });
        Ok(self.pool.lease(sender, generation))
    }

    /// Notes that `place` refused a connection, unless a better one is known by now.
    fn lose(&self, place: Place) {
        let is_lost =
            self.signs.reachable.send_if_modified(|now| now.take_if(|now| *now == place).is_some());
        if is_lost {
            self.signs.lost.notify_one();
        }
    }

    async fn connect(&self, place: Place) -> io::Result<TcpStream> {
        match place {
            Place::Upstream => connect(&self.upstream).await,
            Place::Trapped(address) => TcpStream::connect(address).await,
        }
    }

    /// One life of the process.
    async fn live(&self, stop: &mut watch::Receiver<Stop>) -> End {
        let Life { mut process, stdin, is_held, sights } = match self.start().await {
            Ok(started) => started,
            Err(error) => return End::NotStarted(error),
        };
        tokio::select! {
            exit = process.wait() => {
                // What it left behind may hold the port that its successor needs.
                process.kill_group();
                End::Exited(exit)
            }
            error = self.watch(sights) => {
                process.kill_group();
                End::NotStarted(error)
            }
            never = self.let_run(&stdin), if is_held => never,
            grace = raised(stop) => {
                // A server may wait for its clients to go, and we are one.
                self.pool.clear();
                process.signal(Signal::TERM);
                let _ = tokio::time::timeout(grace, process.wait()).await;
                process.kill_group();
                End::Stopped
            }
        }
    }

    /// Says the word that a waiting program runs at, once it may.
    async fn let_run(&self, mut stdin: &PipeWriter) -> ! {
        // The sender lives as long as this.
        let _ = self.signs.may_run.subscribe().wait_for(|may| *may).await;
        // A pipe that nothing has been written to takes it; a program that has ended is noticed by its end.
        let _ = stdin.write_all(hold::GO);
        std::future::pending().await
    }

    async fn start(&self) -> Result<Life, ExecError> {
        let words = self.program.words();
        let held = self.held.as_deref().filter(|_| !*self.signs.may_run.borrow());
        line!("Forking: {}, arguments: [{}]", words[0], words[1..].join(" "));
        let pipe = || io::pipe().map_err(|error| ExecError::failed(&words[0], &error));
        let ((child_in, stdin), (stdout, child_out), (stderr, child_err)) =
            (pipe()?, pipe()?, pipe()?);
        let streams = [child_in.into(), child_out.into(), child_err.into()];
        let (snare, theirs) = match self.is_trapped.load(Ordering::Relaxed).then(Snare::new) {
            Some(Ok((ours, theirs))) => (Some(ours), Some(theirs)),
            Some(Err(error)) => (self.untrapped(&error), None),
            None => (None, None),
        };
        if self.must_move && snare.is_none() {
            return Err(ExecError::Unmovable("there is no bind trap".into()));
        }
        let all = held.unwrap_or(words);
        let process = self.program.start_with(all, &self.reaper, &[], streams, theirs).await?;
        let sights = match snare.map(|snare| self.set_trap(snare)) {
            Some(Err(error)) => {
                process.kill_group();
                return Err(ExecError::failed(&words[0], &error));
            }
            Some(Ok(sights)) => sights,
            None => None,
        };
        if self.must_move && sights.is_none() {
            process.kill_group();
            return Err(ExecError::Unmovable("the bind trap could not be set".into()));
        }
        for (pipe, stream) in [(stderr, Stream::Stderr), (stdout, Stream::Stdout)] {
            line!("Started logging: {} from function.", stream.name());
            self.follow(pipe, stream);
        }
        Ok(Life { process, stdin, is_held: held.is_some(), sights })
    }

    /// Gives up the trap when a server ended soon after it had got another port's number: some check what they got.
    fn judge_trap(&self, last: Option<Place>, lived: Duration) {
        let is_other = matches!(last, Some(Place::Trapped(at)) if at.port() != self.upstream.port);
        if is_other && lived < TRAP_TRIAL {
            self.is_trapped.store(false, Ordering::Relaxed);
            let error = io::Error::other("the function ended soon after it had got another port");
            self.untrapped::<()>(&error);
        }
    }

    /// Says why there is no trap, and leaves the worker its port.
    fn untrapped<T>(&self, error: &io::Error) -> Option<T> {
        line!("Bind trap off, the port is polled instead: {error}");
        self.has_moved.store(false, Ordering::Relaxed);
        if let Some((front, _)) = &self.front {
            front.close();
        }
        None
    }

    /// Takes over the trap of a worker that has just started, and the port that is ours as long as it holds.
    ///
    /// # Errors
    /// When the worker is trapped but nobody can answer it.
    fn set_trap(&self, snare: Snare) -> io::Result<Option<watch::Receiver<Sight>>> {
        let calls = match snare.receive()? {
            Ok(calls) => calls,
            Err(error) => return Ok(self.untrapped(&error)),
        };
        let front = self.front.as_ref().map(|(front, _)| front.clone());
        let (trap, sights) = Trap::new(calls, self.upstream.port, front)?;
        if let Some((front, port)) = &self.front
            && !front.is_open()
            && !self.state.is(OwnerState::Draining)
        {
            match http::listen(*port).and_then(|door| Ok((door.local_addr()?.port(), door))) {
                Ok((port, door)) => {
                    front.open(door);
                    line!("Direct calls on port: {port}");
                }
                Err(error) => line!("Warning: no direct calls on port {port}: {error}"),
            }
        }
        guestlog::spawn(trap.run());
        Ok(Some(sights))
    }

    fn follow(&self, pipe: PipeReader, stream: Stream) {
        match pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)) {
            Ok(pipe) => drop(guestlog::spawn(output::follow(pipe, stream, self.output))),
            Err(error) => line!("Error reading {}: {error}", stream.name()),
        }
    }

    /// Knows where the function accepts connections; ends only where it must not run on.
    async fn watch(&self, sights: Option<watch::Receiver<Sight>>) -> ExecError {
        if let Some(sights) = sights {
            self.watch_trap(sights).await;
            self.has_moved.store(false, Ordering::Relaxed);
            if self.must_move {
                return ExecError::Unmovable("its sockets cannot be had".into());
            }
        }
        self.watch_port().await
    }

    /// Follows the trap; ends when it breaks.
    async fn watch_trap(&self, mut sights: watch::Receiver<Sight>) {
        // Where the function may be found without having told the trap.
        let mut place = self.is_port_foreign.then_some(Place::Upstream);
        loop {
            let is_lost = self.signs.reachable.borrow().is_none();
            let seen = tokio::select! {
                biased;
                changed = sights.changed() => changed.map(|()| *sights.borrow_and_update()),
                () = self.signs.lost.notified() => Ok(Sight::Nothing),
                () = tokio::time::sleep(LOOK_SLOW), if is_lost => Ok(Sight::Nothing),
            };
            match (seen, place) {
                (Ok(Sight::Listening(address)), _) => {
                    place = Some(Place::Trapped(address));
                    self.reach(Place::Trapped(address));
                }
                (Ok(Sight::Broken), _) => return,
                (Ok(Sight::Nothing), None) => {}
                (Ok(Sight::Nothing), Some(place)) => match self.connect(place).await {
                    Ok(_) => self.reach(place),
                    Err(_) => self.refused(),
                },
                // No process is left that could be trapped, which is about to be noticed.
                (Err(_), _) => return std::future::pending().await,
            }
        }
    }

    fn reach(&self, place: Place) {
        let before = self.signs.reachable.send_replace(Some(place));
        if before != Some(place) {
            self.pool.clear();
        }
        self.state.enter(OwnerState::Ready, None);
    }

    /// The port no longer accepts.
    fn refused(&self) {
        self.signs.reachable.send_replace(None);
        if self.state.is(OwnerState::Ready) {
            let reason = "its port refuses connections";
            self.state.enter(OwnerState::Starting, Some(reason.into()));
        }
    }

    /// Looks at the port until it accepts, and again whenever a connection was refused; never ends.
    async fn watch_port(&self) -> ! {
        loop {
            let begin = self.clock.now();
            while connect(&self.upstream).await.is_err() {
                let (shortest, longest) = LOOK_PAUSES;
                let waited = self.clock.now().since(begin);
                tokio::time::sleep((waited / 16).clamp(shortest, longest)).await;
            }
            self.reach(Place::Upstream);
            self.signs.lost.notified().await;
            self.refused();
        }
    }

    /// Without a provider: a failed process takes the watchdog with it, unless it is already draining; one that ended
    /// well may have left a server running in the background.
    async fn outlive(&self, ended_well: bool, stop: &mut watch::Receiver<Stop>) -> Option<u8> {
        if !ended_well && !self.state.is(OwnerState::Draining) {
            return Some(1);
        }
        tokio::select! {
            never = self.watch_port() => never,
            _ = raised(stop) => None,
        }
    }
}

/// Waits until the process is to end, and within which time; the sender lives as long as the owner.
async fn raised(stop: &mut watch::Receiver<Stop>) -> Duration {
    match stop.wait_for(|stop| *stop != Stop::No).await.map(|stop| *stop) {
        Ok(Stop::Within(grace)) => grace,
        _ => Duration::ZERO,
    }
}

/// Waits until a place is known.
async fn known(reachable: &mut watch::Receiver<Option<Place>>) -> Place {
    match reachable.wait_for(Option::is_some).await.map(|place| *place) {
        Ok(Some(place)) => place,
        _ => std::future::pending().await,
    }
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
