//! Connections to one upstream: dialled when needed, kept while idle, reused only when provably clean.
//!
//! In: requests in origin form. Out: responses whose bodies stream, or what became of the request.
//! Always: a connection comes back to the pool only after both messages on it ended; [`SendError::Unsent`] returns the
//! request because not a byte of it was written; anything else may have reached the upstream and is never repeated.
//! Touches: sockets; one task a connection, and one that closes idle ones while there are any.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::socket::{SharedStream, is_quiet, tune};

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A fixed address.
    Socket(SocketAddr),
    /// A name, resolved anew for every connection; its addresses are tried in turn, starting one further each time.
    Name {
        /// Host name.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

/// How connections are made and kept.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Time to resolve and connect; default 3 s.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; default 4 s, below the 5 s after which Node.js servers hang up, so that
    /// requests rarely meet a closing connection. Dialling again costs well under a millisecond.
    pub idle_timeout: Duration,
    /// Unused connections kept; default 512.
    pub idle_connections: usize,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(4),
            idle_connections: 512,
        }
    }
}

/// What became of a request that got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was written; it can be sent elsewhere.
    #[error("request not sent: {cause}")]
    Unsent {
        /// The request, body included and untouched.
        request: Box<Request<Body>>,
        /// Why.
        #[source]
        cause: UnsentCause,
    },
    /// The request, or a part of it, may have been received; the upstream closed, broke off or answered nonsense.
    #[error("no valid answer: {0}")]
    Lost(#[source] hyper::Error),
}

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
pub enum UnsentCause {
    /// The name has no address or nobody accepts there.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: Address,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// No connection within the connect timeout.
    #[error("cannot connect to {0}: timed out")]
    Timeout(Address),
    /// The connection closed before the request could be written.
    #[error("connection closed: {0}")]
    Closed(#[source] hyper::Error),
}

/// The connections to one upstream; clones share them.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    host: HeaderValue,
    settings: PoolSettings,
    /// Which of a name's addresses the next connection tries first.
    turn: AtomicUsize,
    idle: Mutex<IdleList>,
}

#[derive(Default)]
struct IdleList {
    /// Oldest first.
    connections: Vec<Idle>,
    /// Whether a task is about to close what is idle for too long.
    has_reaper: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection; dropping it closes the socket once nothing runs on it.
struct Connection {
    sender: SendRequest<Body>,
    stream: Weak<TcpStream>,
}

impl Connection {
    /// Whether it can be dropped from the pool.
    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the next request can go out now: both messages before it ended and the peer has not hung up.
    fn is_usable(&self) -> bool {
        self.sender.is_ready() && self.stream.upgrade().is_some_and(|stream| is_quiet(&stream))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.inner.lock().connections.len();
        f.debug_struct("Pool")
            .field("address", &self.inner.address)
            .field("idle", &idle)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool for `address`; nothing is dialled yet.
    pub fn new(address: impl Into<Address>, settings: PoolSettings) -> Self {
        let address = address.into();
        let host =
            HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static(""));
        let (turn, idle) = (AtomicUsize::new(0), Mutex::default());
        Self { inner: Arc::new(Inner { address, host, settings, turn, idle }) }
    }

    /// Where this pool connects to.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// The upstream's own `Host` value.
    pub fn host(&self) -> &HeaderValue {
        &self.inner.host
    }

    /// Closes all idle connections; running requests are not touched.
    pub fn close_idle(&self) {
        self.inner.lock().connections.clear();
    }

    /// How many idle connections are held.
    pub fn idle(&self) -> usize {
        self.inner.lock().connections.len()
    }

    /// Sends `request` and waits for the response's head; bodies of both go on streaming at the same time.
    ///
    /// The target must be in origin form; `Host` is set when missing. Dropping the future, or the response's body before
    /// its end, closes the connection, which tells the upstream that nobody waits any more.
    ///
    /// # Errors
    /// [`SendError::Unsent`] gives the request back, [`SendError::Lost`] does not.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, SendError> {
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.inner.host.clone());
        }
        while let Some(connection) = self.inner.take_idle() {
            match self.exchange(connection, request).await {
                Err(SendError::Unsent { request: unsent, .. }) => request = *unsent,
                done => return done,
            }
        }
        match self.inner.dial().await {
            Ok(connection) => self.exchange(connection, request).await,
            Err(cause) => Err(SendError::Unsent { request: Box::new(request), cause }),
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        match connection.sender.try_send_request(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(response.map(Body::new))
            }
            Ok(response) => {
                let (connection, pool) = (Some(connection), Arc::clone(&self.inner));
                Ok(response.map(|incoming| Body::new(PooledBody { incoming, connection, pool })))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::Unsent {
                    request: Box::new(request),
                    cause: UnsentCause::Closed(error.into_error()),
                },
                None => SendError::Lost(error.into_error()),
            }),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, IdleList> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used connection that is clean; dead and expired ones met on the way are dropped.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock();
        let mut place = idle.connections.len();
        while place > 0 {
            place -= 1;
            let Idle { connection, since } = &idle.connections[place];
            if since.elapsed() >= self.settings.idle_timeout {
                // Older ones come before it in the list, so all of them have expired.
                idle.connections.drain(..=place);
                return None;
            }
            if connection.is_usable() {
                return Some(idle.connections.remove(place).connection);
            }
            // One whose request is still being written is not ready but will be.
            if connection.is_closed() || connection.sender.is_ready() {
                idle.connections.remove(place);
            }
        }
        None
    }

    /// Keeps `connection` for the next request, or drops it when enough are kept.
    fn give_back(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.lock();
        if connection.is_closed() || idle.connections.len() >= self.settings.idle_connections {
            return;
        }
        idle.connections.push(Idle { connection, since: Instant::now() });
        if !idle.has_reaper
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            idle.has_reaper = true;
            runtime.spawn(reap(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }

    /// Drops what has been idle for too long; whether anything is left.
    fn prune(&self) -> bool {
        let mut idle = self.lock();
        let limit = self.settings.idle_timeout;
        idle.connections
            .retain(|idle| idle.since.elapsed() < limit && !idle.connection.is_closed());
        idle.has_reaper = !idle.connections.is_empty();
        idle.has_reaper
    }

    async fn dial(&self) -> Result<Connection, UnsentCause> {
        let connect = |error| UnsentCause::Connect { address: self.address.clone(), error };
        let stream = match timeout(self.settings.connect_timeout, self.connect()).await {
            Ok(stream) => stream.map_err(connect)?,
            Err(_) => return Err(UnsentCause::Timeout(self.address.clone())),
        };
        tune(&stream);
        let stream = Arc::new(stream);
        let weak = Arc::downgrade(&stream);
        let io = TokioIo::new(SharedStream(stream));
        let (sender, connection) = http1::handshake(io).await.map_err(UnsentCause::Closed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "upstream connection ended early");
            }
        });
        Ok(Connection { sender, stream: weak })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let (host, port) = match &self.address {
            Address::Socket(address) => return TcpStream::connect(address).await,
            Address::Name { host, port } => (host, *port),
        };
        let mut addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host.as_str(), port)).await?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
        TcpStream::connect(addresses.as_slice()).await
    }
}

/// Closes idle connections as their time comes; ends when none is left or the pool is gone.
async fn reap(pool: Weak<Inner>, period: Duration) {
    loop {
        sleep(period).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.prune() {
            return;
        }
    }
}

/// A response body that returns its connection when it ends, and closes it when it is dropped before.
struct PooledBody {
    incoming: Incoming,
    connection: Option<Connection>,
    pool: Arc<Inner>,
}

impl PooledBody {
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

impl HttpBody for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            None => self.give_back(),
            Some(Err(_)) => self.connection = None,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for PooledBody {
    /// A body that ended without being polled again (no content, exact length) still frees its connection.
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}
