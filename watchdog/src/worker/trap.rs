//! The bind trap: a function's hard-coded port moves to a loopback address of its own, and its `listen` tells that it is ready.
//!
//! In: stopped `bind` and `listen` calls of a worker's processes. Out: their answers, and [`Sight`]s for the owner.
//! Always: a call on another port, another kind of socket, or after the owner has lost interest takes its course; the
//! newest socket that listens is the one that counts.
//! Touches: the worker's sockets and memory.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, sockopt};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::front::Front;
use crate::log::line;
use crate::sys::{Call, Next, Stopped, TrapFd, duplicate, peek};

/// Most sockets remembered; the oldest is forgotten first.
const SOCKETS_MAX: usize = 1024;
/// Fewest bytes of a socket address, IPv4 and IPv6.
const IPV4_LENGTH: u64 = 16;
const IPV6_LENGTH: u64 = 24;

/// What the trap tells the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Nothing,
    /// A server accepts connections for the function's port here.
    Listening(SocketAddr),
    /// Sockets cannot be had: ports are what the worker says.
    Broken,
}

/// Answers the calls of one life of the worker.
#[derive(Debug)]
pub(super) struct Trap {
    calls: AsyncFd<TrapFd>,
    sockets: Sockets,
    sights: watch::Sender<Sight>,
    /// The function's own port where we hold it; let go when the worker has to have it.
    front: Option<Arc<Front>>,
}

/// What we have done to the sockets of a worker.
#[derive(Debug)]
struct Sockets {
    /// The function's own port.
    port: u16,
    /// Where the worker gets that port: servers that check their port's number find it.
    home: Ipv4Addr,
    /// Kernel's numbers of redirected sockets, which duplicates and children share.
    redirected: VecDeque<u64>,
    /// Those whose caller was interrupted before it had our answer, and will ask again.
    unanswered: VecDeque<u64>,
    newest: Option<SocketAddr>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    LetGo,
    /// Done by us.
    Answer(Result<(), i32>),
    /// The same, and the socket now listens here.
    Ready(SocketAddr),
    /// The same, and the socket of this number is redirected.
    Redirected(u64),
    /// We may not look into the worker.
    Broken(i32),
}

impl Trap {
    /// A trap for `port`, and where its sights are seen; it is on as long as somebody looks.
    ///
    /// # Errors
    /// When the event loop cannot watch it.
    pub(super) fn new(
        calls: TrapFd,
        port: u16,
        front: Option<Arc<Front>>,
    ) -> io::Result<(Self, watch::Receiver<Sight>)> {
        let calls = calls.watch()?;
        let (sights, seen) = watch::channel(Sight::Nothing);
        let sockets = Sockets::new(port);
        Ok((Self { calls, sockets, sights, front }, seen))
    }

    /// Answers until no process of this life is left, which may be long after its first one has ended.
    pub(super) async fn run(mut self) {
        // A descriptor that is watched never fails to be.
        while let Ok(mut ready) = self.calls.readable().await {
            loop {
                match self.calls.get_ref().next() {
                    Next::Call(call) => self.sockets.handle(
                        self.calls.get_ref(),
                        &call,
                        &self.sights,
                        self.front.as_deref(),
                    ),
                    Next::Nothing => break,
                    Next::End => return,
                }
            }
            ready.clear_ready();
        }
    }
}

impl Sockets {
    fn new(port: u16) -> Self {
        let home = random_home();
        Self { port, home, redirected: VecDeque::new(), unanswered: VecDeque::new(), newest: None }
    }

    fn handle(
        &mut self,
        calls: &TrapFd,
        call: &Call,
        sights: &watch::Sender<Sight>,
        front: Option<&Front>,
    ) {
        let is_over = sights.is_closed() || *sights.borrow() == Sight::Broken;
        let verdict = if is_over { Verdict::LetGo } else { self.judge(calls, call) };
        // A caller that is no longer there needs no answer.
        match verdict {
            Verdict::LetGo => drop(calls.let_go(call.id)),
            Verdict::Answer(result) => drop(calls.answer(call.id, result)),
            Verdict::Redirected(cookie) => {
                if calls.answer(call.id, Ok(())).is_err() {
                    remember(&mut self.unanswered, cookie);
                }
            }
            Verdict::Ready(address) => {
                let _ = calls.answer(call.id, Ok(()));
                sights.send_replace(Sight::Listening(address));
            }
            Verdict::Broken(number) => {
                let error = io::Error::from_raw_os_error(number);
                line!("Bind trap off, the port is polled instead: the worker's sockets: {error}");
                if let Some(front) = front {
                    front.close();
                }
                sights.send_replace(Sight::Broken);
                let _ = calls.let_go(call.id);
            }
        }
    }

    fn judge(&mut self, calls: &TrapFd, call: &Call) -> Verdict {
        match call.stopped {
            Stopped::Bind { address, length } => match read_port(call.thread, address, length) {
                Ok(Some(port)) if port == self.port => {}
                Ok(_) => return Verdict::LetGo,
                Err(error) => return failure(&error),
            },
            Stopped::Listen { .. } if self.redirected.is_empty() => return Verdict::LetGo,
            Stopped::Listen { .. } => {}
        }
        let socket = match duplicate(call.thread, call.socket) {
            Ok(socket) => socket,
            Err(error) => return failure(&error),
        };
        if !calls.is_stopped(call.id) {
            // What we have read and duplicated may be another process's.
            return Verdict::LetGo;
        }
        let result = match call.stopped {
            Stopped::Bind { .. } => self.bind(&socket),
            Stopped::Listen { backlog } => self.listen(&socket, backlog),
        };
        result.unwrap_or_else(|error| Verdict::Answer(Err(error.raw_os_error())))
    }

    fn bind(&mut self, socket: &OwnedFd) -> Result<Verdict, Errno> {
        // No socket, or none that a request could come through: the kernel has the word for it.
        let Ok(family @ (AddressFamily::INET | AddressFamily::INET6)) =
            sockopt::socket_domain(socket)
        else {
            return Ok(Verdict::LetGo);
        };
        if sockopt::socket_type(socket)? != SocketType::STREAM {
            return Ok(Verdict::LetGo);
        }
        let cookie = sockopt::socket_cookie(socket)?;
        if let Some(at) = self.unanswered.iter().position(|known| *known == cookie) {
            self.unanswered.remove(at);
            return Ok(Verdict::Redirected(cookie));
        }
        self.redirect(socket, family)?;
        self.newest = Some(local_address(socket)?);
        remember(&mut self.redirected, cookie);
        Ok(Verdict::Redirected(cookie))
    }

    /// Binds to the same port of this life's loopback address, or else to a free port; or to that of the newest socket
    /// where both want to share one.
    fn redirect(&self, socket: &OwnedFd, family: AddressFamily) -> Result<(), Errno> {
        let is_ipv6 = family == AddressFamily::INET6;
        if let Some(newest) = self.newest.filter(|newest| newest.is_ipv6() == is_ipv6)
            && sockopt::socket_reuseport(socket)?
            && bind(socket, &newest).is_ok()
        {
            return Ok(());
        }
        let (own, any) = ((self.home, self.port), (Ipv4Addr::LOCALHOST, 0));
        if !is_ipv6 {
            return bind_first(socket, &[own.into(), any.into()]);
        }
        // Containers often have no IPv6 address, and there is only one on loopback: an IPv4 address as IPv6 has it.
        sockopt::set_ipv6_v6only(socket, false)?;
        let mapped = |(ip, port): (Ipv4Addr, u16)| SocketAddr::from((ip.to_ipv6_mapped(), port));
        bind_first(socket, &[mapped(own), mapped(any), (Ipv6Addr::LOCALHOST, 0).into()])
    }

    fn listen(&self, socket: &OwnedFd, backlog: i32) -> Result<Verdict, Errno> {
        match sockopt::socket_cookie(socket) {
            Ok(cookie) if self.redirected.contains(&cookie) => {}
            _ => return Ok(Verdict::LetGo),
        }
        listen(socket, backlog)?;
        let address = local_address(socket)?;
        Ok(Verdict::Ready((IpAddr::to_canonical(&address.ip()), address.port()).into()))
    }
}

/// Binds to the first address that can be had.
fn bind_first(socket: &OwnedFd, addresses: &[SocketAddr]) -> Result<(), Errno> {
    let mut result = Ok(());
    for address in addresses {
        result = bind(socket, address);
        // Bound already: the caller's mistake.
        if matches!(result, Ok(()) | Err(Errno::INVAL)) {
            break;
        }
    }
    result
}

/// A loopback address that nobody else has picked, most probably.
fn random_home() -> Ipv4Addr {
    let [_, _, _, _, _, a, b, c] = RandomState::new().build_hasher().finish().to_ne_bytes();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254))
}

fn remember(list: &mut VecDeque<u64>, cookie: u64) {
    if list.len() == SOCKETS_MAX {
        list.pop_front();
    }
    list.push_back(cookie);
}

/// What an error on the way to the socket means: the caller's own mistake, our limits, or that nothing will ever work.
fn failure(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(number @ (libc::EPERM | libc::EACCES | libc::ENOSYS)) => Verdict::Broken(number),
        Some(number @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => Verdict::Answer(Err(number)),
        _ => Verdict::LetGo,
    }
}

fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    getsockname(socket)?.try_into().map_err(|_| Errno::AFNOSUPPORT)
}

/// The port in a socket address of the worker's; nothing for other kinds of address.
fn read_port(thread: Pid, address: u64, length: u64) -> io::Result<Option<u16>> {
    if length < IPV4_LENGTH {
        return Ok(None);
    }
    let [first, second, high, low] = peek(thread, address)?;
    let family = u16::from_ne_bytes([first, second]);
    let is_internet = family == AddressFamily::INET.as_raw()
        || (family == AddressFamily::INET6.as_raw() && length >= IPV6_LENGTH);
    Ok(is_internet.then(|| u16::from_be_bytes([high, low])))
}
