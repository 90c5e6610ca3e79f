//! Who may do what with `/system`.
//!
//! In: requests to `/system`. Out: the same requests, or 401, 403, 429.
//! Always: whoever has failed too often waits, whatever it sends; a user of namespaces reaches nothing elsewhere, see
//! [`scope`]; every change leaves a line in the log, see [`audit`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyperfaas_http::auth::{self, credentials, is_guess};
use hyperfaas_http::error::plain;
use tokio::time::Instant;

use crate::routes::Gateway;
use crate::users::Role;
use crate::{audit, scope};

/// Who sent a request.
struct Caller {
    name: Arc<str>,
    role: Role,
}

/// Lets through whoever may do what a request asks for; a layer of every route under `/system`.
pub(crate) async fn guard(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = match identify(&gateway, request.headers(), auth::peer(&request)).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal,
    };
    if is_of_another_site(&request) {
        return plain(StatusCode::FORBIDDEN, "another site's page may change nothing here");
    }
    let permitted = permit(&caller.role, request, gateway.metrics.namespace()).await;
    let request = match permitted {
        Ok(request) => request,
        Err(Denial { status, reason }) => return plain(status, reason),
    };
    if is_read(request.method()) {
        return next.run(request).await;
    }
    audit::change(&caller.name, request, next).await
}

async fn identify(
    gateway: &Gateway,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Caller, Response> {
    let Some(basic) = &gateway.auth else {
        return Ok(Caller { name: "anonymous".into(), role: Role::Admin });
    };
    let now = Instant::now();
    let may_try = basic.throttle().check(peer, now);
    if let Err(wait) = may_try {
        return Err(auth::too_many_failures(wait));
    }
    let caller = if basic.accepts(headers) {
        Some(Caller { name: basic.user(), role: Role::Admin })
    } else {
        user(gateway, headers).await
    };
    match caller {
        Some(caller) => {
            basic.throttle().succeeded(peer);
            Ok(caller)
        }
        None => {
            if is_guess(headers) {
                basic.throttle().failed(peer, now);
            }
            Err(auth::challenge())
        }
    }
}

/// The user of the users file whose credentials `headers` carry.
async fn user(gateway: &Gateway, headers: &HeaderMap) -> Option<Caller> {
    let users = gateway.users.as_ref()?;
    let given = headers.get(AUTHORIZATION).and_then(credentials)?;
    let colon = given.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&given[..colon]).ok()?;
    let role = users.role(name, &given[colon + 1..]).await?;
    Some(Caller { name: name.into(), role })
}

/// Why a request may not be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Denial {
    /// The caller is known, and may not do this.
    pub(crate) const fn forbidden(reason: &'static str) -> Self {
        Self { status: StatusCode::FORBIDDEN, reason }
    }

    /// The request cannot be understood well enough to be permitted.
    pub(crate) const fn malformed(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

/// Whether a request of this method changes nothing.
pub(crate) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Whether it would change something, and a browser sends it, with the credentials it has kept, for a page of another site.
fn is_of_another_site(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    !is_read(request.method()) && matches!(site, Some(b"cross-site" | b"same-site"))
}

/// The namespaces that whoever sends the request is kept within; an extension of requests of such users.
#[derive(Debug, Clone)]
pub(crate) struct Within(pub(crate) Arc<[String]>);

/// The request as whoever has `role` may send it.
async fn permit(
    role: &Role,
    mut request: Request,
    default_namespace: &str,
) -> Result<Request, Denial> {
    if let Role::Namespaces(allowed) = role {
        request.extensions_mut().insert(Within(allowed.iter().cloned().collect()));
    }
    match role {
        Role::Admin => Ok(request),
        Role::ReadOnly if is_read(request.method()) => Ok(request),
        Role::ReadOnly => Err(Denial::forbidden("this user may change nothing")),
        Role::Namespaces(allowed) => scope::within(request, allowed, default_namespace).await,
    }
}
