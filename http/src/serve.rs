//! The server loop: accepts, bounds, serves and drains HTTP/1.1 connections.
//!
//! In: a listener and a router. Every request carries its peer as `ConnectInfo<SocketAddr>`.
//! Always: at most [`ServeLimits::connections`] are open (further ones wait in the kernel's backlog), a peer that sends
//! no complete request head in time is dropped, and failing accepts are retried without spinning.
//! Touches: sockets; one task a connection, all of them awaited before [`serve`] returns.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, warn};

use crate::hold::Held;
use crate::nap::{Lent, Open, Traffic, first_byte};
use crate::socket::tune;
use crate::spare::Spare;
use crate::tls::Tls;

/// Connections the kernel may hold before we accept them; the Go gateway opens one for each of its status calls.
const BACKLOG: u32 = 4096;
/// First pause after a failed accept; doubled up to [`ACCEPT_PAUSE_MAX`].
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause after failed accepts: short enough that freed descriptors are used at once.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Room beside the header block in hyper's read buffer.
const BUFFER_EXTRA: usize = 8192;

/// What a server grants its peers.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Open connections; default 16,384.
    pub connections: usize,
    /// Time for a complete request head, counted from the end of the answer before or, where a connection had been silent for
    /// some seconds, from its first byte; so also the idle limit of a kept-alive connection. Default 30 s.
    pub header_read_timeout: Duration,
    /// How long a connection without requests keeps its buffers, at least; at most twice as long. Default 2 s: making them anew
    /// takes microseconds.
    pub nap_after: Duration,
    /// Size of a request head in bytes; default 1 MiB as in Go, answered with 431 when exceeded.
    pub header_bytes: usize,
    /// Time for running requests once the shutdown has begun; default 30 s.
    pub drain_timeout: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            header_read_timeout: Duration::from_secs(30),
            nap_after: Duration::from_secs(2),
            header_bytes: 1 << 20,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Listens on `address` with address reuse and a backlog of 4,096.
///
/// # Errors
/// The system's error when the address is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Raises the limit of open files to what the system allows this process; returns the limit then in force.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "open-file limit stays as it is");
            limit.current
        }
    }
}

/// Serves `router` on `listener` until `shutdown`, then lets running requests finish within the drain timeout.
///
/// Returns when no connection is left. Dropping the future cuts none of them; cancel `shutdown` instead.
/// Connections that were upgraded (WebSockets) are no longer counted here and end with the process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: CancellationToken,
) {
    serve_with(listener, router, limits, None, shutdown).await;
}

/// As [`serve`], over TLS when `tls` is given; a handshake has as long as a request's head.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    let server = Arc::new(Server {
        http: http(&limits),
        router,
        tls,
        limits,
        shutdown: shutdown.clone(),
        cut: CancellationToken::new(),
        spare: Spare::default(),
    });
    let mut is_full = false;
    while let Some(accepted) =
        shutdown.run_until_cancelled(accept(&listener, &places, &mut is_full)).await
    {
        tasks.spawn(Arc::clone(&server).connection(accepted));
    }
    drop(listener);
    tasks.close();
    if timeout(limits.drain_timeout, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "requests still running at the drain deadline are cut");
        server.cut.cancel();
        tasks.wait().await;
    }
}

fn http(limits: &ServeLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes + BUFFER_EXTRA);
    http
}

/// A connection and the place it takes; dropping it frees the place.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    _place: OwnedSemaphorePermit,
}

/// The next connection, once a place is free for it; `is_full` remembers whether the last one had to wait, so that a
/// server at its limit says so once, not for every connection.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, is_full: &mut bool) -> Accepted {
    let place = if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        *is_full = false;
        place
    } else {
        if !std::mem::replace(is_full, true) {
            warn!("connection limit reached, new connections wait");
        }
        Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
    };
    let mut pause = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tune(&stream);
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                return Accepted { stream, peer, _place: place };
            }
            Err(error) if is_about_one_connection(&error) => {
                debug!(%error, "connection lost before it was accepted");
            }
            Err(error) => {
                warn!(%error, pause_ms = pause.as_millis(), "accept failed, trying again");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What every connection's task needs.
struct Server {
    http: http1::Builder,
    router: Router,
    tls: Option<Tls>,
    limits: ServeLimits,
    /// Finish what runs, take nothing new.
    shutdown: CancellationToken,
    /// End now.
    cut: CancellationToken,
    spare: Spare,
}

impl Server {
    /// Serves one connection to its end.
    async fn connection(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, _place } = accepted;
        let Some(tls) = &self.tls else { return self.exchange(stream, peer).await };
        // Boxed, as all that only few connections are in at a time: a task takes the room of its largest state for ever.
        let handshake = Box::pin(timeout(self.limits.header_read_timeout, tls.accept(stream)));
        match self.shutdown.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.exchange(stream, peer).await,
            Some(Ok(Err(error))) => debug!(%peer, %error, "TLS handshake failed"),
            Some(Err(_)) => debug!(%peer, "TLS handshake timed out"),
            None => {}
        }
    }

    /// Serves a connection's requests; while none comes for some seconds, only its stream is kept.
    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
    ) {
        let mut patience = self.limits.header_read_timeout;
        loop {
            let first = timeout(patience, first_byte(&mut stream));
            let first = match self.shutdown.run_until_cancelled(first).await {
                Some(Ok(Ok(Some(first)))) => first,
                Some(Ok(Ok(None)) | Err(_)) | None => return,
                Some(Ok(Err(error))) => return debug!(%peer, %error, "connection ended early"),
            };
            let Some(idle) = Box::pin(self.requests(stream, first, peer)).await else { return };
            self.spare.add();
            stream = idle;
            patience = self.limits.header_read_timeout.saturating_sub(self.limits.nap_after);
        }
    }

    /// Serves requests, the first of which begins with `first`; the stream when none has come for a while, `None` at its end.
    async fn requests<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        first: u8,
        peer: SocketAddr,
    ) -> Option<S> {
        let traffic = Arc::new(Traffic::default());
        let (stream, mut returned) = Lent::new(stream, first, Arc::clone(&traffic));
        let service = service_fn(|request| answer(self.router.clone(), request, peer, &traffic));
        let connection = self.http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        // On the heap, so that it can be dropped and its stream comes back.
        let mut connection = Box::pin(connection);
        let mut shutdown = pin!(self.shutdown.cancelled());
        let mut nap = pin!(sleep(self.limits.nap_after));
        let mut reads = 0;
        let served = loop {
            tokio::select! {
                biased;
                served = connection.as_mut() => break served,
                () = shutdown.as_mut() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        served = connection.as_mut() => break served,
                        () = self.cut.cancelled() => return None,
                    }
                }
                () = nap.as_mut() => {
                    let now = traffic.reads();
                    if now == std::mem::replace(&mut reads, now) && traffic.is_idle() {
                        traffic.recall();
                        connection.as_mut().graceful_shutdown();
                    }
                    nap.as_mut().reset(Instant::now() + self.limits.nap_after);
                }
            }
        };
        if let Err(error) = served {
            debug!(%peer, %error, "connection ended early");
            return None;
        }
        drop(connection);
        returned.try_recv().ok()
    }
}

async fn answer(
    mut router: Router,
    request: Request<Incoming>,
    peer: SocketAddr,
    traffic: &Arc<Traffic>,
) -> Result<Response<Held<Body, Open>>, Infallible> {
    let open = traffic.begin(request.body().size_hint().exact());
    let mut request = request.map(|body| Body::new(Held::new(body, open.clone())));
    request.extensions_mut().insert(ConnectInfo(peer));
    let Ok(response) = router.call(request).await;
    Ok(response.map(|body| Held::new(body, open)))
}

#[cfg(test)]
mod tests {
    use axum::routing::any;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn server() -> Server {
        let limits = ServeLimits { nap_after: Duration::from_millis(10), ..ServeLimits::default() };
        let echo = async |body: String| format!("<{body}>");
        Server {
            http: http(&limits),
            router: Router::new().route("/", any(echo)),
            tls: None,
            limits,
            shutdown: CancellationToken::new(),
            cut: CancellationToken::new(),
            spare: Spare::default(),
        }
    }

    async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(stream.read_u8().await.expect("the connection stays open"));
        }
        String::from_utf8(text).unwrap()
    }

    /// Sends `text`, whose first byte is taken away before, reads the answer, and waits for the stream to come back.
    async fn served(server: &Server, text: &str, answer: &str) -> Option<DuplexStream> {
        let (mut caller, mut stream) = duplex(1 << 16);
        caller.write_all(text.as_bytes()).await.unwrap();
        let first = first_byte(&mut stream).await.unwrap().unwrap();
        let requests = server.requests(stream, first, ([127, 0, 0, 1], 1).into());
        let (stream, head) = tokio::join!(requests, read_until(&mut caller, answer));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream
    }

    #[tokio::test]
    async fn a_connection_without_requests_lets_go_of_its_buffers() {
        for (text, answer) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "<>"),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody", "<body>"),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
                "<body>",
            ),
        ] {
            assert!(served(&server(), text, answer).await.is_some(), "{text}");
        }
        let closing = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert!(served(&server(), closing, "<>").await.is_none(), "it was closed instead");
    }
}
