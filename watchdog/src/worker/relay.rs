//! Mode `http`: requests are relayed to the function's own HTTP server.
//!
//! In: a request. Out: the function's answer, streamed both ways at the same time.
//! Always: never a good status without the function's word; a request waits for a function that does not listen yet, up
//! to a deadline; it is sent a second time only when it provably reached nobody, or is one that may be repeated and met a
//! connection the function had just closed.
//! Source: of-watchdog's http mode; `docs/watchdog.md` lists where we differ.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::TrySendError;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::answer::{self, DURATION, INTERNAL};
use super::owner::Owner;
use super::plain::{self, Heard, Line};
use super::pool::Lease;
use super::relayed::{Flow, Relayed};
use super::sockets::Sockets;
use super::{headers, upgrade};
use crate::body::{Body, Cut};
use crate::config::{HttpSettings, Timeouts, Upstream};
use crate::exchange::{Access, Exchange};
use crate::inbound::{Fault, FaultCell, Inbound};
use crate::log::line;

const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

/// Requests that go by way of the full client after one whose answer was not plain: most servers give the same kind each time, and
/// a connection that changes hands costs more than it saves.
const DETOUR: u32 = 64;

/// Relays requests to one function's server.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(super) owner: Arc<Owner>,
    pub(super) upstream: Upstream,
    pub(super) settings: HttpSettings,
    pub(super) timeouts: Timeouts,
    /// Connections that lanes and plain requests use.
    pub(crate) sockets: Arc<Sockets>,
    /// How many requests are still to go by way of the full client.
    pub(super) detour: AtomicU32,
}

/// Why there is no answer to send on.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("upstream not listening: {0}")]
    Unreachable(std::io::Error),
    #[error("{0}")]
    Broken(hyper::Error),
    #[error("{0}")]
    Cut(Cut),
    /// The client looks at lengths only where a body follows, and our own server sends nothing of such an answer.
    #[error("the answer has several lengths")]
    Lengths,
    #[error("request body: {0}")]
    Inbound(Fault),
    #[error("deadline exceeded")]
    Deadline,
    #[error("invalid target")]
    Target,
}

/// How one request is treated.
struct Plan {
    /// Whether the client waits for a stream or another protocol: only `write_timeout` applies then.
    is_stream: bool,
    /// For the head of the answer, then for its body.
    deadline: Option<Instant>,
    exec_limit: Option<Duration>,
}

impl Relay {
    /// The status of answers to requests that the function left unanswered.
    pub(crate) const fn unreachable_status(&self) -> u16 {
        self.settings.unreachable_status
    }

    /// Whether the access line tells the call's id.
    pub(crate) const fn logs_call_id(&self) -> bool {
        self.settings.log_call_id
    }

    /// Serves one request of the client at `peer`.
    pub(crate) async fn serve(
        &self,
        request: Request<Inbound>,
        peer: IpAddr,
        exchange: Exchange,
    ) -> Response<Body> {
        let mut exchange = exchange;
        let mut request = request;
        let protocol = headers::upgrade(request.headers());
        let plan = self.plan(request.headers(), protocol.is_some());
        let on_upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let call_id = self.call_id(request.headers());
        let (mut parts, inbound) = request.into_parts();
        headers::strip(&mut parts.headers, protocol);
        if plan.is_stream {
            headers::append_forwarded_for(&mut parts.headers, peer);
        }
        let is_probe = parts
            .headers
            .get("user-agent")
            .is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe"));
        let method = parts.method.clone();
        let cell = inbound.fault_cell();
        let result = {
            // In one place from the beginning: it is large, and moving it costs more than what it does.
            let mut work = pin!(self.exchange(parts, inbound, cell, !plan.is_stream));
            match plan.deadline {
                Some(deadline) => {
                    let timed = tokio::time::timeout_at(deadline, work.as_mut()).await;
                    timed.unwrap_or(Err(RelayError::Deadline))
                }
                None => work.as_mut().await,
            }
        };
        let (response, flow) = match result {
            Ok(answered) => answered,
            Err(error) => return self.refuse(&error, &plan, exchange),
        };
        exchange.answered(response.status().as_u16());
        if !is_probe {
            exchange.log_at_end(access(response.status(), flow.left(), call_id));
        }
        match on_upgrade {
            Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                exchange.answered(200);
                upgrade::join(client, response, flow, exchange)
            }
            _ => self.send_on(response, flow, (&method, &plan), exchange).await,
        }
    }

    /// Asks the function itself whether it is ready; `headers` are the probe's.
    pub(crate) async fn probe(&self, path: &str, mut probe: HeaderMap) -> StatusCode {
        headers::strip(&mut probe, None);
        probe.remove("content-length");
        let Ok(mut parts) = Request::get(path).body(()).map(|request| request.into_parts().0)
        else {
            return StatusCode::INTERNAL_SERVER_ERROR;
        };
        probe.remove(HOST);
        parts.headers = probe;
        let work = self.exchange(parts, Inbound::empty(), FaultCell::default(), true);
        let limit = self.timeouts.exec.positive().unwrap_or(PROBE_PATIENCE);
        match tokio::time::timeout(limit, work).await {
            Ok(Ok((response, _))) => response.status(),
            Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn plan(&self, asked: &HeaderMap, is_upgrade: bool) -> Plan {
        let is_stream = is_upgrade || headers::wants_stream(asked);
        let write = self.timeouts.write.positive();
        let exec_limit =
            headers::exec_limit(asked, self.timeouts.exec.positive()).filter(|_| !is_stream);
        let limit = [write, exec_limit].into_iter().flatten().min();
        Plan { is_stream, deadline: limit.map(|limit| Instant::now() + limit), exec_limit }
    }

    fn call_id(&self, asked: &HeaderMap) -> Option<String> {
        let id = || {
            asked
                .get(X_CALL_ID)
                .map_or_else(|| "none".into(), |id| String::from_utf8_lossy(id.as_bytes()).into())
        };
        self.settings.log_call_id.then(id)
    }

    /// Sends the request and waits for the head of the answer. `may_be_plain`: neither a stream nor another protocol is asked for.
    async fn exchange(
        &self,
        mut parts: Parts,
        inbound: Inbound,
        cell: FaultCell,
        may_be_plain: bool,
    ) -> Result<(Response<()>, Flow), RelayError> {
        self.address(&mut parts)?;
        let mut inbound = if self.settings.buffer_body && !inbound.is_empty() {
            Inbound::whole(inbound.read_whole().await.map_err(RelayError::Inbound)?)
        } else {
            inbound
        };
        if may_be_plain && plain::may_be(&parts.method) && self.is_way_plain() {
            let whole = inbound.whole_if_here(plain::BODY_MAX).await;
            if let Some(body) = whole.map_err(RelayError::Inbound)? {
                return self.exchange_plain(parts, body).await;
            }
        }
        // On the heap, so that the usual request does not carry room for it about.
        Box::pin(self.exchange_by_client(parts, inbound, cell)).await
    }

    async fn exchange_by_client(
        &self,
        mut parts: Parts,
        mut inbound: Inbound,
        cell: FaultCell,
    ) -> Result<(Response<()>, Flow), RelayError> {
        loop {
            let lease = self.owner.connection().await.map_err(RelayError::Unreachable)?;
            let again = (lease.is_reused && inbound.is_empty() && is_repeatable(&parts.method))
                .then(|| parts.clone());
            let mut error = match ask(lease, Request::from_parts(parts, inbound)).await {
                Ok(answered) => return answered,
                Err(error) => *error,
            };
            if let Some(unsent) = error.take_message() {
                (parts, inbound) = unsent.into_parts();
                continue;
            }
            let error = error.into_error();
            if let Some(fault) = cell.fault() {
                return Err(RelayError::Inbound(fault));
            }
            match again {
                Some(copy) if !error.is_parse() => (parts, inbound) = (copy, Inbound::empty()),
                _ => return Err(RelayError::Broken(error)),
            }
        }
    }

    /// Whether the answer may be expected to be plain.
    fn is_way_plain(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.detour.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    /// The same for a request whose whole body is `body`, without a client unless the answer needs one.
    async fn exchange_plain(
        &self,
        parts: Parts,
        body: Bytes,
    ) -> Result<(Response<()>, Flow), RelayError> {
        let request = plain::compose(&parts, &body);
        let is_repeatable = body.is_empty() && is_repeatable(&parts.method);
        let (line, ahead) = loop {
            let generation = self.owner.generation();
            let kept = self.sockets.take(generation);
            let is_reused = kept.is_some();
            let (socket, generation) = match kept {
                Some(socket) => (socket, generation),
                None => self.owner.dial().await.map_err(RelayError::Unreachable)?,
            };
            if !plain::send(&socket, &request).await && is_reused {
                continue;
            }
            let line = Line { socket, generation, sockets: self.sockets.clone() };
            match plain::hear(line).await {
                Heard::Plain(response, plain) => return Ok((response, Flow::Plain(plain))),
                Heard::Other(_, ahead) if ahead.is_empty() && is_reused && is_repeatable => {}
                Heard::Other(line, ahead) => break (line, ahead),
            }
        };
        self.detour.store(DETOUR, Ordering::Relaxed);
        let inbound = if body.is_empty() { Inbound::empty() } else { Inbound::whole(body) };
        Box::pin(self.replay(line, ahead, Request::from_parts(parts, inbound))).await
    }

    /// Lets a full client read the answer to `request`, which has been sent over `line`; `ahead` has been read of it.
    async fn replay(
        &self,
        line: Line,
        ahead: Bytes,
        request: Request<Inbound>,
    ) -> Result<(Response<()>, Flow), RelayError> {
        let lease = self.owner.replayed(line, ahead).await.map_err(RelayError::Unreachable)?;
        let asked = ask(lease, request).await;
        asked.unwrap_or_else(|error| Err(RelayError::Broken(error.into_error())))
    }

    /// Turns the request towards the upstream: its base in front of the path, a host if the client named none.
    fn address(&self, parts: &mut Parts) -> Result<(), RelayError> {
        parts.version = Version::HTTP_11;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        if !self.upstream.base.is_empty() || parts.uri.authority().is_some() {
            let uri: Result<Uri, _> = format!("{}{target}", self.upstream.base).parse();
            parts.uri = uri.map_err(|_| RelayError::Target)?;
        }
        if parts.headers.get(HOST).is_none_or(HeaderValue::is_empty) {
            let host =
                HeaderValue::try_from(self.upstream.authority()).map_err(|_| RelayError::Target)?;
            parts.headers.insert(HOST, host);
        }
        Ok(())
    }

    async fn send_on(
        &self,
        response: Response<()>,
        flow: Flow,
        (method, plan): (&Method, &Plan),
        exchange: Exchange,
    ) -> Response<Body> {
        let (mut parts, ()) = response.into_parts();
        headers::strip_answer(&mut parts.headers);
        if !plan.is_stream {
            parts.headers.insert(DURATION, answer::seconds(exchange.elapsed()));
        }
        let untyped = !parts.headers.contains_key(CONTENT_TYPE)
            && !parts.headers.contains_key(CONTENT_ENCODING);
        let mut relayed = Relayed::new(flow, plan.deadline.map(tokio::time::sleep_until));
        if untyped && *method != Method::HEAD {
            match relayed.peek().await {
                Ok(Some(first)) => {
                    let kind = hyperfaas_protocol::sniff::content_type(first);
                    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                }
                Ok(None) => {}
                Err(Cut::Deadline) => return self.refuse(&RelayError::Deadline, plan, exchange),
                Err(cut) => return self.refuse(&RelayError::Cut(cut), plan, exchange),
            }
        }
        Response::from_parts(parts, Body::relayed(relayed).with(exchange))
    }

    fn refuse(&self, error: &RelayError, plan: &Plan, mut exchange: Exchange) -> Response<Body> {
        line!("Upstream HTTP request error: {error}");
        let unreachable = StatusCode::from_u16(self.settings.unreachable_status)
            .unwrap_or(StatusCode::BAD_GATEWAY);
        let status = match error {
            RelayError::Deadline | RelayError::Inbound(Fault::Late | Fault::Short) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            RelayError::Inbound(Fault::Malformed) | RelayError::Target => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            RelayError::Unreachable(_)
            | RelayError::Broken(_)
            | RelayError::Cut(_)
            | RelayError::Lengths => {
                if plan.is_stream {
                    StatusCode::BAD_GATEWAY
                } else {
                    unreachable
                }
            }
        };
        if let (RelayError::Deadline, Some(limit)) = (error, plan.exec_limit) {
            line!("Upstream HTTP killed due to exec_timeout: {limit:?}");
        }
        exchange.answered(status.as_u16());
        let mut response = answer::empty(status);
        response.headers_mut().insert(DURATION, answer::seconds(exchange.elapsed()));
        response.headers_mut().insert(INTERNAL, HeaderValue::from_static("of-watchdog"));
        response.map(|body| body.with(exchange))
    }
}

/// How long a readiness probe may take when `exec_timeout` sets no limit.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// Whether all lengths that are said are the same.
fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.all(|length| Some(length) == first)
}

/// Methods of which a second copy does no harm.
fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

fn access(status: StatusCode, length: Option<u64>, call_id: Option<String>) -> Access {
    let status = match status.canonical_reason() {
        Some(_) if status == StatusCode::OK => "200 OK".to_owned(),
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    Access {
        status,
        length: length.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)),
        call_id,
    }
}

/// Sends one request by way of a full client.
async fn ask(
    mut lease: Lease,
    request: Request<Inbound>,
) -> Result<Result<(Response<()>, Flow), RelayError>, Box<TrySendError<Request<Inbound>>>> {
    let response = lease.sender.try_send_request(request).await?;
    if !has_one_length(response.headers()) {
        return Ok(Err(RelayError::Lengths));
    }
    let (parts, incoming) = response.into_parts();
    let flow = Flow::Client { incoming, lease: Some(lease) };
    Ok(Ok((Response::from_parts(parts, ()), flow)))
}
