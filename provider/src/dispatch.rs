//! The request path: place, park while nothing is ready, forward, and try elsewhere what provably reached no worker.
//!
//! In: an invocation. Out: the function's answer, streaming, or an [`InvokeError`]; `api::error` gives it a status.
//! Always: a request is counted on its replica before its first byte leaves and until its answer's last; it is sent again only
//! while no byte of it has left; every wait has a deadline and every queue a bound.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{Request, Response, Uri};
use hyperfaas_http::forward::{ForwardError, ForwardOptions, HostPolicy, forward};
use hyperfaas_http::hold;
use hyperfaas_protocol::FunctionKey;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::catalog::{Catalog, Function};
use crate::cluster::{Acquired, Cluster, ParkedGuard, Route, Ticket};
use crate::engine::ReplicaId;
use crate::lanes::{self, LaneError};

/// How long a request waits while the function's process keeps ending: the watchdog's first restarts take less.
const CRASH_PATIENCE: Duration = Duration::from_secs(3);
/// The pause after all replicas refused connections without any change being heard of.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// Bounds of the request path.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// Longest wait for an answer's head without progress of the request's body; `None` is for ever.
    pub head_timeout: Option<Duration>,
    /// Longest wait for a replica.
    pub cold_start_timeout: Duration,
    /// Requests of one function that may wait at the same time.
    pub parked_max: usize,
}

/// Why an invocation has no answer of its function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// No such function.
    #[error("function not found")]
    UnknownFunction,
    /// It exists and nothing that could serve it is coming.
    #[error("no replica available: {reason}")]
    Unavailable {
        /// Why, one line.
        reason: String,
    },
    /// Too many requests wait for it already.
    #[error("too many requests are waiting")]
    QueueFull,
    /// No replica became ready in time.
    #[error("no replica became ready in time")]
    ColdStartTimeout,
    /// Its replica broke off without a valid answer.
    #[error("the function broke off: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("the function did not answer in time")]
    Timeout,
    /// The caller's own body broke off or was malformed.
    #[error("the request body broke off")]
    BrokenRequest,
}

/// The request path.
#[derive(Debug)]
pub struct Dispatch {
    catalog: Arc<Catalog>,
    cluster: Arc<Cluster>,
    settings: DispatchSettings,
    forwarding: ForwardOptions,
}

impl Dispatch {
    /// A request path over what should exist and what does.
    pub fn new(catalog: Arc<Catalog>, cluster: Arc<Cluster>, settings: DispatchSettings) -> Self {
        let forwarding = ForwardOptions {
            host: HostPolicy::UpstreamUnlessStream,
            adds_forwarded: true,
            head_timeout: settings.head_timeout,
            fills_content_type: true,
        };
        Self { catalog, cluster, settings, forwarding }
    }

    /// Sends `request` to a replica of `key` under `target`; a function at zero is woken.
    ///
    /// Dropping the future, or the answer's body before its end, cancels the call.
    ///
    /// # Errors
    /// See [`InvokeError`]; none of them means that the function ran, except `Lost` and `Timeout`, where it may have.
    pub async fn invoke(
        &self,
        key: &FunctionKey,
        target: PathAndQuery,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, InvokeError> {
        *request.uri_mut() = Uri::from(target);
        let mut tried = Vec::new();
        let mut wait = Wait::new(self.settings.cold_start_timeout);
        loop {
            let ticket = self.ticket(key, &mut tried, &wait).await?;
            let replica = ticket.route().replica.clone();
            match self.hop(ticket.route(), request).await {
                Ok(response) => return Ok(response.map(|body| hold(body, ticket))),
                Err(Hop::Elsewhere { request: unsent, cause }) => {
                    debug!(function = %key, replica = %replica.0, %cause, "request not sent, trying elsewhere");
                    tried.push(replica);
                    wait.refusals += 1;
                    request = *unsent;
                }
                Err(Hop::Over(error)) => {
                    if let InvokeError::Lost(cause) = &error {
                        warn!(function = %key, replica = %replica.0, %cause, "replica broke off");
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends `request` along `route`: over a lane where there is one, else over plain HTTP.
    async fn hop(&self, route: &Route, mut request: Request<Body>) -> Result<Response<Body>, Hop> {
        if let Some(lanes) = route.lanes.to(0, 0).filter(|_| lanes::carries(&request)) {
            match lanes::call(&lanes, request, &self.forwarding, route.pool.host()).await {
                Ok(response) => return Ok(response),
                Err(LaneError::NoLane { request: unsent, cause }) => {
                    debug!(replica = %route.replica.0, %cause, "no lane, plain HTTP instead");
                    request = *unsent;
                }
                Err(LaneError::Bounced { request, reason, crowd }) => {
                    let cause =
                        format!("bounced: {}, {} in flight", reason.name(), crowd.in_flight);
                    return Err(Hop::Elsewhere { request, cause });
                }
                Err(LaneError::Lost(text)) => return Err(Hop::Over(InvokeError::Lost(text))),
                Err(LaneError::BrokenRequest) => return Err(Hop::Over(InvokeError::BrokenRequest)),
                Err(LaneError::Timeout(_)) => return Err(Hop::Over(InvokeError::Timeout)),
            }
        }
        let error = match forward(&route.pool, request, &self.forwarding).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        Err(match error {
            ForwardError::Unsent { request, cause } => {
                Hop::Elsewhere { request, cause: cause.to_string() }
            }
            ForwardError::Lost(error) => Hop::Over(InvokeError::Lost(error.to_string())),
            ForwardError::UnexpectedUpgrade => {
                Hop::Over(InvokeError::Lost("unexpected protocol switch".into()))
            }
            ForwardError::BrokenRequest => Hop::Over(InvokeError::BrokenRequest),
            ForwardError::Timeout(_) => Hop::Over(InvokeError::Timeout),
        })
    }

    /// A place on a replica, waiting for one if need be.
    async fn ticket(
        &self,
        key: &FunctionKey,
        tried: &mut Vec<ReplicaId>,
        wait: &Wait,
    ) -> Result<Ticket, InvokeError> {
        let function = self.function_awake(key).await?;
        if let Acquired::Placed(ticket) = self.cluster.acquire(key, function.revision, tried) {
            return Ok(ticket);
        }
        let mut parked = None;
        let parking = self.cluster.parking(key);
        loop {
            let changed = parking.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let function = self.function_awake(key).await?;
            let deadline = match self.cluster.acquire(key, function.revision, tried) {
                Acquired::Placed(ticket) => {
                    if parked.is_some() {
                        debug!(function = %key, wait_ms = wait.since_start().as_millis(), "parked request placed");
                    }
                    return Ok(ticket);
                }
                Acquired::Hopeless { reason } => return Err(InvokeError::Unavailable { reason }),
                Acquired::Crashing { reason } if wait.since_start() >= CRASH_PATIENCE => {
                    return Err(InvokeError::Unavailable { reason });
                }
                Acquired::Crashing { .. } => wait.deadline.min(wait.start + CRASH_PATIENCE),
                Acquired::Wait if !tried.is_empty() => {
                    // Ready by all we know, and yet refused: give them a moment, then ask all of them again.
                    tried.clear();
                    wait.deadline.min(Instant::now() + wait.refused_pause())
                }
                Acquired::Wait => wait.deadline,
            };
            if parked.is_none() {
                parked = Some(self.park(&parking)?);
            }
            let woken = timeout_at(deadline, changed).await;
            if woken.is_err() && Instant::now() >= wait.deadline {
                return Err(InvokeError::ColdStartTimeout);
            }
        }
    }

    fn park(&self, parking: &crate::cluster::Parking) -> Result<ParkedGuard, InvokeError> {
        parking.enter(self.settings.parked_max).ok_or(InvokeError::QueueFull)
    }

    /// The function; one at zero is asked to have a replica again, durably, as a scale call would.
    async fn function_awake(&self, key: &FunctionKey) -> Result<Arc<Function>, InvokeError> {
        let function = self.catalog.function(key).ok_or(InvokeError::UnknownFunction)?;
        if function.replicas > 0 {
            return Ok(function);
        }
        info!(function = %key, "waking a function at zero");
        self.cluster.forgive(key);
        let replicas = function.spec.initial_replicas();
        if let Err(error) = self.catalog.scale(key.clone(), u64::from(replicas)).await {
            return match self.catalog.function(key) {
                None => Err(InvokeError::UnknownFunction),
                Some(_) => Err(InvokeError::Unavailable { reason: error.to_string() }),
            };
        }
        self.catalog.function(key).ok_or(InvokeError::UnknownFunction)
    }
}

/// How one attempt to serve a request failed.
enum Hop {
    /// It has run nowhere.
    Elsewhere {
        request: Box<Request<Body>>,
        cause: String,
    },
    Over(InvokeError),
}

/// How long one request has waited for replicas, and may.
struct Wait {
    start: Instant,
    deadline: Instant,
    /// How often it was sent back.
    refusals: u32,
}

impl Wait {
    fn new(limit: Duration) -> Self {
        let start = Instant::now();
        Self { start, deadline: start + limit, refusals: 0 }
    }

    /// Longer with every refusal, so that one whom nobody takes is offered around at most twice a second.
    fn refused_pause(&self) -> Duration {
        REFUSED_PAUSE * (1 << (self.refusals / 4).min(5))
    }

    fn since_start(&self) -> Duration {
        self.start.elapsed()
    }
}
