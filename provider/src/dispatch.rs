//! The request path: place, park while there is no room, forward, and try elsewhere what provably reached no worker.
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
use hyperfaas_protocol::moment::Moment;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::catalog::{Catalog, Function, Waking};
use crate::cluster::{Acquired, Cluster, Parked, Parking, Ticket, WorkerRef};
use crate::lanes::{self, LaneError};

/// How long a request waits while the function's process keeps ending: the watchdog's first restarts take less.
const CRASH_PATIENCE: Duration = Duration::from_secs(3);
/// The first pause after all that had room refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// No container: in the list of one who has been sent back, so that it keeps its turn.
const NOBODY: u64 = 0;
/// How many containers a request is offered to before it pauses.
const BOUNCES_MOST: usize = 8;

/// Bounds of the request path.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// Longest wait for an answer's head without progress of the request's body; `None` is for ever.
    pub head_timeout: Option<Duration>,
    /// Longest wait for a place.
    pub cold_start_timeout: Duration,
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
        let mut attempts = Attempts::new(self.settings.cold_start_timeout);
        if self.catalog.function(key).is_none() {
            return Err(InvokeError::UnknownFunction);
        }
        self.cluster.arrived(key);
        loop {
            let ticket = self.ticket(key, &mut attempts).await?;
            let replica = ticket.route().replica.clone();
            match self.hop(key, &ticket, request).await {
                Ok(response) => return Ok(response.map(|body| hold(body, ticket))),
                Err(Hop::Elsewhere { request: unsent, cause }) => {
                    debug!(function = %key, replica = %replica.0, %cause, "request not sent, trying elsewhere");
                    self.cluster.counters().bounces.inc();
                    attempts.sent_back(ticket.host());
                    ticket.bounced();
                    request = *unsent;
                }
                Err(Hop::Over(error)) => {
                    if let InvokeError::Lost(cause) = &error {
                        warn!(function = %key, replica = %ticket.route().replica.0, %cause, "replica broke off");
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends `request` to where `ticket` is for: over a lane where there is one, else over plain HTTP, which leads only to the
    /// container's own function.
    async fn hop(
        &self,
        key: &FunctionKey,
        ticket: &Ticket,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Hop> {
        let (route, WorkerRef { worker, epoch, .. }) = (ticket.route(), ticket.worker());
        let is_guest = route.owner.as_ref() != Some(key);
        let lanes = route.lanes.to(worker, epoch);
        if let Some(lanes) = lanes.filter(|_| is_guest || lanes::carries(&request)) {
            match lanes::call(&lanes, request, &self.forwarding, route.pool.host()).await {
                Ok(response) => return Ok(response),
                Err(LaneError::NoLane { request: unsent, cause }) => {
                    debug!(replica = %route.replica.0, %cause, "no lane");
                    request = *unsent;
                }
                Err(LaneError::Bounced { request, reason, crowd }) => {
                    let cause = format!("{}, {} in flight", reason.name(), crowd.in_flight);
                    return Err(Hop::Elsewhere { request, cause });
                }
                Err(LaneError::Lost(text)) => return Err(Hop::Over(InvokeError::Lost(text))),
                Err(LaneError::BrokenRequest) => return Err(Hop::Over(InvokeError::BrokenRequest)),
                Err(LaneError::Timeout(_)) => return Err(Hop::Over(InvokeError::Timeout)),
            }
        }
        if is_guest {
            let cause = "a guest is reached over lanes alone".to_owned();
            return Err(Hop::Elsewhere { request: Box::new(request), cause });
        }
        forward(&route.pool, request, &self.forwarding).await.map_err(Hop::from)
    }

    /// A place on a worker, waiting for one if need be.
    async fn ticket(
        &self,
        key: &FunctionKey,
        attempts: &mut Attempts,
    ) -> Result<Ticket, InvokeError> {
        loop {
            let function = self.catalog.function(key).ok_or(InvokeError::UnknownFunction)?;
            let has_been_round = attempts.bounced.len() >= BOUNCES_MOST;
            if !has_been_round
                && let Acquired::Placed(ticket) =
                    self.cluster.acquire(key, function.revision, &attempts.bounced)
            {
                if function.replicas == 0 {
                    // Served elsewhere meanwhile: from now on it is to have a replica again, which nobody waits for here.
                    drop(self.wake(key));
                }
                return Ok(ticket);
            }
            if attempts.bounced.iter().any(|host| *host != NOBODY) {
                // Ready by all we know, and yet refused: give them a moment, then ask all of them again.
                self.pause(key, attempts).await?;
                continue;
            }
            match self.cluster.park(key, attempts.deadline(&self.cluster), &attempts.bounced) {
                Parking::Placed(ticket) => return Ok(ticket),
                Parking::Full => return Err(InvokeError::QueueFull),
                Parking::Parked(parked) => return self.wait(key, parked, attempts).await,
            }
        }
    }

    /// Waits in the queue until it is this request's turn, nothing is to be hoped for, or its time is over.
    async fn wait(
        &self,
        key: &FunctionKey,
        mut parked: Parked,
        attempts: &Attempts,
    ) -> Result<Ticket, InvokeError> {
        let standing = self.cluster.standing(key);
        loop {
            let worse = standing.changed();
            tokio::pin!(worse);
            worse.as_mut().enable();
            // A function at zero is woken beside the wait: a guest may be ready before that is on disk, which is then written
            // without this request.
            let function = tokio::select! {
                function = self.function_awake(key) => function?,
                ticket = parked.ticket() => return ticket.ok_or(InvokeError::ColdStartTimeout),
            };
            let deadline = match self.cluster.standing_of(key, function.revision) {
                Acquired::Hopeless { reason } => return Err(InvokeError::Unavailable { reason }),
                Acquired::Crashing { reason } if attempts.waited() >= CRASH_PATIENCE => {
                    return Err(InvokeError::Unavailable { reason });
                }
                Acquired::Crashing { .. } => attempts.end.min(attempts.start + CRASH_PATIENCE),
                Acquired::Placed(_) | Acquired::Wait => attempts.end,
            };
            tokio::select! {
                biased;
                ticket = parked.ticket() => match ticket {
                    Some(ticket) => {
                        debug!(function = %key, wait_ms = attempts.waited().as_millis(), "parked request placed");
                        return Ok(ticket);
                    }
                    // The queue drops only whom nobody waits for any more, or whose deadline has passed.
                    None => return Err(InvokeError::ColdStartTimeout),
                },
                () = worse => {}
                () = sleep_until(deadline) => {
                    if Instant::now() >= attempts.end {
                        return Err(InvokeError::ColdStartTimeout);
                    }
                }
            }
        }
    }

    /// A pause after all that had room refused, longer the more often; it counts as waiting.
    async fn pause(&self, key: &FunctionKey, attempts: &mut Attempts) -> Result<(), InvokeError> {
        let _waiting = self.cluster.hold(key).ok_or(InvokeError::QueueFull)?;
        sleep_until((Instant::now() + attempts.refused_pause()).min(attempts.end)).await;
        if Instant::now() >= attempts.end {
            return Err(InvokeError::ColdStartTimeout);
        }
        attempts.bounced = vec![NOBODY]; // it had its turn once, and goes before those who wait
        Ok(())
    }

    /// The function; one at zero is asked to have a replica again, durably, as a scale call would.
    async fn function_awake(&self, key: &FunctionKey) -> Result<Arc<Function>, InvokeError> {
        let function = self.catalog.function(key).ok_or(InvokeError::UnknownFunction)?;
        if function.replicas > 0 {
            return Ok(function);
        }
        let outcome = self.wake(key).ended().await;
        match (self.catalog.function(key), outcome) {
            (None, _) => Err(InvokeError::UnknownFunction),
            (Some(function), Ok(())) => Ok(function),
            (Some(_), Err(error)) => Err(InvokeError::Unavailable { reason: error.to_string() }),
        }
    }

    /// Begins to wake a function at zero, with its earlier failures forgotten: somebody asks for it anew.
    fn wake(&self, key: &FunctionKey) -> Waking {
        let waking = self.catalog.wake(key);
        if waking.is_first {
            info!(function = %key, "waking a function at zero");
            self.cluster.forgive(key);
        }
        waking
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

impl From<ForwardError> for Hop {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Unsent { request, cause } => {
                Self::Elsewhere { request, cause: cause.to_string() }
            }
            ForwardError::Lost(error) => Self::Over(InvokeError::Lost(error.to_string())),
            ForwardError::UnexpectedUpgrade => {
                Self::Over(InvokeError::Lost("unexpected protocol switch".into()))
            }
            ForwardError::BrokenRequest => Self::Over(InvokeError::BrokenRequest),
            ForwardError::Timeout(_) => Self::Over(InvokeError::Timeout),
        }
    }
}

/// What one request has tried.
struct Attempts {
    start: Instant,
    /// Until when it may wait for places.
    end: Instant,
    /// Containers that did not take it.
    bounced: Vec<u64>,
    /// How often it was sent back in all.
    refusals: u32,
}

impl Attempts {
    fn new(limit: Duration) -> Self {
        let start = Instant::now();
        Self { start, end: start + limit, bounced: Vec::new(), refusals: 0 }
    }

    fn sent_back(&mut self, host: u64) {
        self.bounced.push(host);
        self.refusals += 1;
    }

    /// Longer with every refusal, so that one whom nobody takes is offered around at most twice a second.
    fn refused_pause(&self) -> Duration {
        REFUSED_PAUSE * (1 << (self.refusals / 4).min(5))
    }

    fn waited(&self) -> Duration {
        self.start.elapsed()
    }

    /// The end by the cluster's clock.
    fn deadline(&self, cluster: &Cluster) -> Moment {
        cluster.clock().now().after(self.end.saturating_duration_since(Instant::now()))
    }
}
