//! The plain HTTP port: health checks are answered here, everything else goes to the worker.
//!
//! In: connections. Out: answers, and counts in [`Books`].
//! Always: a request is admitted or refused before its body is read; on shutdown nothing new is accepted, idle connections
//! close at once, and requests being served end first.
//! Touches: TCP. Decisions are made by `admission` and `health`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyperfaas_protocol::control::OwnerState;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::admission::{Admission, Load, admit};
use crate::body::Body;
use crate::config::{Config, Dialect, Mode};
use crate::exchange::Books;
use crate::front::Front;
use crate::gate::{self, Turn};
use crate::guarded::Guarded;
use crate::health::{self, LockFile, Verdict};
use crate::jwt::{Denial, Guard};
use crate::log::line;
use crate::metrics;
use crate::state::State;
use crate::worker::{self, Running, Table};

/// Longest queue of connections not yet accepted; the kernel cuts it to its own limit.
const BACKLOG: u32 = 4096;
/// Most connections at once; more wait to be accepted. An idle one takes about 15 KiB.
const CONNECTIONS_MAX: usize = 8192;
/// Longest request line and headers together, in bytes; Go's limit.
const HEAD_MAX: usize = (1 << 20) + 4096;
/// Most header lines; Go's limit.
const HEADERS_MAX: usize = 500;
/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Tells the function that a token was checked, and how long that took.
const X_AUTH_SECONDS: HeaderName = HeaderName::from_static("x-auth-seconds");
/// All deadlines of the metrics port.
const METRICS_PATIENCE: Duration = Duration::from_millis(500);

/// Everything the port needs to answer.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) table: Arc<Table>,
    pub(crate) books: Arc<Books>,
    pub(crate) state: Arc<State>,
    pub(crate) lock: LockFile,
    /// The owner's settings.
    pub(crate) config: Arc<Config>,
    pub(crate) is_managed: bool,
    /// `jwt_auth`.
    pub(crate) guard: Option<Guard>,
}

/// Tells connections to finish, and tells when all have.
#[derive(Debug)]
pub(crate) struct Doors {
    closing: watch::Sender<bool>,
    guest: mpsc::Sender<()>,
    guests: mpsc::Receiver<()>,
    places: Arc<Semaphore>,
}

impl Doors {
    pub(crate) fn open() -> Self {
        let (guest, guests) = mpsc::channel(1);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { closing: watch::Sender::new(false), guest, guests, places }
    }

    /// For those that serve connections of another kind: whether the doors are closing, and what to hold while a request runs.
    pub(crate) fn watch(&self) -> (watch::Receiver<bool>, mpsc::WeakSender<()>) {
        (self.closing.subscribe(), self.guest.downgrade())
    }

    /// Accepts nothing more, and waits until every connection is closed, at most `patience`; whether all were.
    pub(crate) async fn close(self, patience: Duration) -> bool {
        let Self { closing, guest, mut guests, .. } = self;
        closing.send_replace(true);
        drop(guest);
        tokio::time::timeout(patience, guests.recv()).await.is_ok()
    }
}

/// Opens `port` on all addresses of both families, or of the one the system has.
///
/// # Errors
/// When the port is taken or forbidden.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    let open = |address: SocketAddr| {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => open((Ipv4Addr::UNSPECIFIED, port).into()),
    })
}

/// Serves `front`, whenever it is open, until the doors close.
pub(crate) fn serve(server: Arc<Server>, front: Arc<Front>, doors: &Doors) {
    let (mut closing, guest) = (doors.closing.subscribe(), doors.guest.clone());
    let places = doors.places.clone();
    tokio::spawn(async move {
        loop {
            let accept = async {
                let place =
                    places.clone().acquire_owned().await.expect("the semaphore is never closed");
                front.accept().await.map(|(stream, peer)| (stream, peer, place))
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                _ = closing.wait_for(|closing| *closing) => return front.close(),
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let visit = (guest.clone(), place);
                    tokio::spawn(connection(
                        server.clone(),
                        stream,
                        peer.ip(),
                        closing.clone(),
                        visit,
                    ));
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    });
}

async fn accept_failed(error: &io::Error) {
    // A client that left before it was accepted is no reason to wait.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        line!("Error accepting connections: {error}");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn connection(
    server: Arc<Server>,
    stream: TcpStream,
    peer: IpAddr,
    mut closing: watch::Receiver<bool>,
    _visit: (mpsc::Sender<()>, OwnedSemaphorePermit),
) {
    // Without it answers wait for acknowledgements; a failure only costs time.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Guarded::new(stream, server.config.timeouts.write.positive()));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(server.config.timeouts.read.positive());
    builder.title_case_headers(true).max_headers(HEADERS_MAX).max_buf_size(HEAD_MAX);
    // A process that reads its input to the end does not mind a client that has finished sending; a relayed request
    // must be given up when its client is gone, and the two look alike.
    builder.half_close(!matches!(server.config.mode, Mode::Http { .. }));
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(request, peer).await) }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
    let is_over = tokio::select! {
        _ = connection.as_mut() => true,
        _ = closing.wait_for(|closing| *closing) => false,
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        // What went wrong concerns this client only, and it knows.
        let _ = connection.await;
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let turn =
            gate::turn(request.method(), request.uri(), request.version(), request.headers());
        match turn {
            Some(Turn::Redirect(_)) if self.config.is_relay => {}
            Some(turn) => return turned(turn, request.method()),
            None => {}
        }
        if self.config.is_relay {
            return self.function(request, peer).await;
        }
        match request.uri().path() {
            "/_/health" => self.health(&request),
            "/_/ready" => Box::pin(self.ready(request)).await,
            _ => self.function(request, peer).await,
        }
    }

    fn health(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return worker::empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        match health::health(self.owner_state(), self.lock.exists(), self.is_managed) {
            Verdict::Good => worker::sniffed(StatusCode::OK, "OK"),
            Verdict::Bad | Verdict::Busy => worker::empty(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    async fn ready(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return worker::empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let running = self.table.owners();
        let is_full =
            running.as_ref().is_some_and(|it| matches!(admission(it), Admission::Refuse { .. }));
        let state = self.owner_state();
        match health::readiness(state, self.lock.exists(), self.is_managed, is_full) {
            Verdict::Bad => worker::empty(StatusCode::SERVICE_UNAVAILABLE),
            Verdict::Busy => worker::empty(StatusCode::TOO_MANY_REQUESTS),
            Verdict::Good => match (&self.config.ready_path, running) {
                (Some(path), Some(running)) => {
                    worker::empty(running.mode.probe(path, request.into_parts().0.headers).await)
                }
                _ => worker::empty(StatusCode::OK),
            },
        }
    }

    /// The state of the owner's function: that of its first worker, unless a second one makes up for it.
    fn owner_state(&self) -> OwnerState {
        match self.state.now() {
            OwnerState::Starting | OwnerState::Crashed if self.table.is_owner_ready() => {
                OwnerState::Ready
            }
            state => state,
        }
    }

    async fn function(&self, mut request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let Some(running) = self.table.owners() else {
            let text = "this container has no function of its own\n";
            return worker::sniffed(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let admission = admission(&running);
        let mut exchange = self.books.open(&request);
        // The classic watchdog looks at the token first, of-watchdog at the limit.
        let (is_classic, is_free) =
            (self.config.dialect == Dialect::Classic, matches!(admission, Admission::Run));
        if let Some(guard) = self.guard.as_ref().filter(|_| is_classic || is_free) {
            if let Err(denial) = guard.check(request.headers(), Timestamp::now().as_second()) {
                exchange.answered(denial.status.as_u16());
                return denied(&request, &denial, exchange.elapsed());
            }
            request.headers_mut().insert(X_AUTH_SECONDS, worker::seconds(exchange.elapsed()));
        }
        match admission {
            Admission::Run => {
                exchange.hold(running.claim());
                running.mode.clone().serve(request, peer, exchange).await
            }
            // Nobody waits here: the originals refuse at once.
            Admission::Queue { limit } | Admission::Refuse { limit } => {
                exchange.refused();
                exchange.answered(StatusCode::TOO_MANY_REQUESTS.as_u16());
                refused(limit)
            }
        }
    }
}

/// What becomes of one more request in that worker.
fn admission(running: &Running) -> Admission {
    let in_flight = usize::try_from(running.in_flight()).unwrap_or(usize::MAX);
    let limit = running.config.max_inflight.map(NonZeroUsize::get);
    admit(Load { in_flight, limit, queued: 0, queue_max: 0 })
}

fn denied(request: &Request<Incoming>, denial: &Denial, elapsed: Duration) -> Response<Body> {
    let Denial { status, text } = denial;
    let (method, path, code) = (request.method(), request.uri().path(), status.as_u16());
    line!("{method} {path} - {code} ACCESS DENIED - ({}ms)", elapsed.as_millis());
    let mut response = worker::sniffed(*status, format!("{text}\n"));
    let headers = response.headers_mut();
    headers.insert(worker::INTERNAL, HeaderValue::from_static("faas-middleware"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if *status == StatusCode::UNAUTHORIZED {
        let realm = HeaderValue::from_static("Bearer realm=IAM function invoke");
        headers.insert(WWW_AUTHENTICATE, realm);
    }
    response
}

fn turned(turn: Turn, method: &Method) -> Response<Body> {
    match turn {
        Turn::Empty(status) => worker::empty(status),
        Turn::Close(status, text) => {
            let mut response = worker::sniffed(status, text);
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            if status == StatusCode::NOT_FOUND {
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            response
        }
        Turn::Redirect(target) => redirect(&target, method),
    }
}

fn redirect(target: &str, method: &Method) -> Response<Body> {
    let status = StatusCode::TEMPORARY_REDIRECT;
    let escaped = target
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;");
    let mut response = match *method {
        Method::GET | Method::HEAD => {
            let text = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n");
            worker::sniffed(status, text)
        }
        _ => worker::empty(status),
    };
    if let Ok(location) = HeaderValue::try_from(target) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn refused(limit: usize) -> Response<Body> {
    let text = format!("Concurrent request limit exceeded. Max concurrent requests: {limit}\n");
    let mut response = worker::sniffed(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(worker::INTERNAL, HeaderValue::from_static("faas-middleware"));
    response
}

/// Serves the metrics of `books` for as long as the watchdog lives.
pub(crate) fn serve_metrics(books: Arc<Books>, listener: TcpListener) {
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(metrics_connection(books.clone(), stream))),
                Err(error) => accept_failed(&error).await,
            }
        }
    });
}

async fn metrics_connection(books: Arc<Books>, stream: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = match request.uri().path() {
            "/metrics" => {
                let mut response = Response::new(Body::full(books.metrics.render()));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
                response
            }
            _ => worker::sniffed(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(METRICS_PATIENCE).title_case_headers(true);
    let io = TokioIo::new(Guarded::new(stream, Some(METRICS_PATIENCE)));
    // The next scrape tells more than this failure.
    let _ = builder.serve_connection(io, service).await;
}
