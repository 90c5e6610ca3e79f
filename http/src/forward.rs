//! One request passed on to an upstream, and its answer passed back.
//!
//! In: a request whose target is already the one to send, and a [`Pool`]. Out: the response, streaming, or a
//! [`ForwardError`] that says whether the request can still go elsewhere.
//! Always: hop-by-hop headers stop here in both directions; bodies are never collected; upgrades become tunnels.
//! Units: the timeout counts from the last sign of progress of the request to the head of the response.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use crate::client::{Pool, SendError, UnsentCause};
use crate::headers::{accepts_stream, add_forwarded, requested_upgrade, strip_hop_by_hop};
use crate::progress::{stalled, watch};
use crate::target::origin_form;
use crate::tunnel::tunnel;

/// Which `Host` the upstream sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPolicy {
    /// The caller's.
    Keep,
    /// The upstream's own address.
    Upstream,
    /// The caller's for streams and upgrades, the upstream's for all others, as faas-provider's proxy does it.
    UpstreamUnlessStream,
}

/// How a request is passed on.
#[derive(Debug, Clone, Copy)]
pub struct ForwardOptions {
    /// Which `Host` the upstream sees.
    pub host: HostPolicy,
    /// Whether `X-Forwarded-Host` and `X-Forwarded-For` are added when absent.
    pub adds_forwarded: bool,
    /// Longest wait for the response's head without progress of the request's body; `None` waits for ever.
    ///
    /// Never applied to callers that accept an event stream or ask for an upgrade.
    pub head_timeout: Option<Duration>,
    /// Whether a response without `Content-Type` gets the request's, else `text/plain`, as faas-provider does it.
    pub fills_content_type: bool,
}

impl Default for ForwardOptions {
    /// Upstream's host, forwarding headers, 60 s, content type left alone.
    fn default() -> Self {
        Self {
            host: HostPolicy::Upstream,
            adds_forwarded: true,
            head_timeout: Some(Duration::from_secs(60)),
            fills_content_type: false,
        }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No byte reached the upstream; the request can be forwarded again, to the same or another one.
    #[error("request not sent: {cause}")]
    Unsent {
        /// The request, body and pending upgrade included.
        request: Box<Request<Body>>,
        /// Why.
        #[source]
        cause: UnsentCause,
    },
    /// The upstream may have received the request but gave no valid answer.
    #[error("no valid answer: {0}")]
    Lost(#[source] hyper::Error),
    /// The upstream switched protocols without being asked.
    #[error("unexpected protocol switch")]
    UnexpectedUpgrade,
    /// The caller's own body broke off or was malformed.
    #[error("request body broke off")]
    BrokenRequest,
    /// No response head in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Passes `request` on through `pool`.
///
/// The upstream's answer comes back whatever its status; dropping the future or the response's body cancels the call.
///
/// # Errors
/// See [`ForwardError`]; only [`ForwardError::Unsent`] may be retried.
pub async fn forward(
    pool: &Pool,
    mut request: Request<Body>,
    options: &ForwardOptions,
) -> Result<Response<Body>, ForwardError> {
    let Kept { is_stream, content_type, caller } = prepare(&mut request, options, pool.host());
    let (request, progress) = watch(request);
    let head_timeout = options.head_timeout.filter(|_| !is_stream);
    let sent = match head_timeout {
        None => pool.send(request).await,
        Some(limit) => tokio::select! {
            sent = pool.send(request) => sent,
            () = stalled(&progress, limit) => return Err(ForwardError::Timeout(limit)),
        },
    };
    match sent {
        Ok(response) => answer(response, caller, content_type, options),
        Err(SendError::Unsent { mut request, cause }) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            Err(ForwardError::Unsent { request, cause })
        }
        Err(SendError::Lost(_)) if progress.has_failed() => Err(ForwardError::BrokenRequest),
        Err(SendError::Lost(error)) => Err(ForwardError::Lost(error)),
    }
}

/// Sends `request` by `send` and waits for its answer for as long as `limit` without progress of the request's body.
///
/// For ways to an upstream that are no [`forward`], with its rules: no limit for event streams and upgrades.
///
/// # Errors
/// [`ForwardError::Timeout`] when there was no answer in time; dropping `send`'s future has cancelled the call then.
pub async fn within<F>(
    request: Request<Body>,
    limit: Duration,
    send: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, ForwardError>
where
    F: Future<Output = Response<Body>>,
{
    let headers = request.headers();
    if requested_upgrade(headers).is_some() || accepts_stream(headers) {
        return Ok(send(request).await);
    }
    let (request, progress) = watch(request);
    tokio::select! {
        response = send(request) => Ok(response),
        () = stalled(&progress, limit) => Err(ForwardError::Timeout(limit)),
    }
}

/// What the answer's treatment depends on, of a request that is on its way.
#[derive(Debug)]
pub struct Kept {
    /// Whether the caller waits for an event stream or another protocol.
    pub is_stream: bool,
    /// The request's own type, for answers without one.
    pub content_type: Option<HeaderValue>,
    /// Where the caller's connection goes when protocols are switched.
    pub caller: Option<OnUpgrade>,
}

/// Makes the request fit for the next hop, at `host`.
pub fn prepare(request: &mut Request<Body>, options: &ForwardOptions, host: &HeaderValue) -> Kept {
    let upgrade = requested_upgrade(request.headers());
    let is_stream = upgrade.is_some() || accepts_stream(request.headers());
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let caller = request.extensions_mut().remove::<OnUpgrade>().filter(|_| upgrade.is_some());
    *request.uri_mut() = origin_form(request.uri());
    *request.version_mut() = Version::HTTP_11;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let headers = request.headers_mut();
    if options.adds_forwarded {
        add_forwarded(headers, peer);
    }
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        set_upgrade(headers, protocol);
    }
    let keeps_host = match options.host {
        HostPolicy::Keep => true,
        HostPolicy::Upstream => false,
        HostPolicy::UpstreamUnlessStream => is_stream,
    };
    if !keeps_host {
        headers.insert(HOST, host.clone());
    }
    Kept { is_stream, content_type, caller }
}

fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes the response fit for the caller, or joins the two connections when the upstream switched protocols.
fn answer(
    mut response: Response<Body>,
    caller: Option<OnUpgrade>,
    content_type: Option<HeaderValue>,
    options: &ForwardOptions,
) -> Result<Response<Body>, ForwardError> {
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(caller), Some(upstream)) =
            (caller, response.extensions_mut().remove::<OnUpgrade>())
        else {
            return Err(ForwardError::UnexpectedUpgrade);
        };
        finish_switch(&mut response);
        tokio::spawn(tunnel(caller, upstream));
        return Ok(response.map(|_| Body::empty()));
    }
    response.extensions_mut().clear();
    finish(&mut response, content_type, options);
    Ok(response)
}

/// Makes the headers of an answer fit for the caller, whose request had `content_type`.
pub fn finish<B>(
    response: &mut Response<B>,
    content_type: Option<HeaderValue>,
    options: &ForwardOptions,
) {
    strip_hop_by_hop(response.headers_mut());
    if options.fills_content_type
        && has_content(response.status())
        && !response.headers().contains_key(CONTENT_TYPE)
    {
        let content_type = content_type.unwrap_or(HeaderValue::from_static("text/plain"));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
}

/// Turns the headers of a switch of protocols into those for the caller.
pub fn finish_switch<B>(response: &mut Response<B>) {
    let protocol = response.headers().get(UPGRADE).cloned();
    strip_hop_by_hop(response.headers_mut());
    if let Some(protocol) = protocol {
        set_upgrade(response.headers_mut(), protocol);
    }
}

fn has_content(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}
