//! `/system/…`, `/healthz` and `/`: everything but calls to functions.
//!
//! In: requests whose credentials were checked by the routes. Out: the provider's answers, streamed as they come.
//! Touches: the provider, with the gateway's own credentials.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyperfaas_http::error::PLAIN_TEXT;
use hyperfaas_protocol::openfaas::{GatewayInfo, ProviderInfo, VersionInfo};
use tracing::warn;

use crate::error::{chain, refusal};
use crate::routes::Gateway;
use crate::upstream::Upstream;
use crate::{SHA, VERSION};

/// Longest info of a provider that is read; real ones have a few hundred bytes.
const INFO_MAX: usize = 64 << 10;

/// Passes a request on to the provider as it is.
pub(crate) async fn pass_on(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    send(&gateway, &gateway.provider, request).await
}

/// Passes a request for logs on; they stream for as long as the provider sends and the client listens.
pub(crate) async fn logs(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    send(&gateway, &gateway.logs, request).await
}

async fn send(gateway: &Gateway, upstream: &Upstream, mut request: Request) -> Response {
    if let Some(auth) = &gateway.auth {
        request.headers_mut().insert(AUTHORIZATION, auth.header());
    }
    let path = request.uri().path().to_owned();
    match upstream.call(request, gateway.upstream_timeout).await {
        Ok(response) => response,
        Err(error) => {
            warn!(path, error = chain(&error), "provider call failed");
            refusal(&error)
        }
    }
}

/// The provider's info within the gateway's own; empty strings when the provider gives none, as clients need the object.
pub(crate) async fn info(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let mut question = Request::new(Body::empty());
    *question.uri_mut() = Uri::from_static("/system/info");
    if let Some(credentials) = request.headers().get(AUTHORIZATION) {
        question.headers_mut().insert(AUTHORIZATION, credentials.clone());
    }
    let response = send(&gateway, &gateway.provider, question).await;
    let provider = provider_info(response).await.unwrap_or_default();
    let version =
        VersionInfo { commit_message: String::new(), sha: SHA.into(), release: VERSION.into() };
    Json(GatewayInfo { provider, version, arch: std::env::consts::ARCH.into() }).into_response()
}

async fn provider_info(response: Response) -> Option<ProviderInfo> {
    let status = response.status();
    if status != StatusCode::OK {
        warn!(%status, "provider gave no info");
        return None;
    }
    let body = Limited::new(response.into_body(), INFO_MAX).collect().await;
    let body = body.inspect_err(|error| warn!(%error, "provider info unreadable")).ok()?.to_bytes();
    serde_json::from_slice(&body)
        .inspect_err(|error| warn!(%error, "provider info unreadable"))
        .ok()
}

/// What this is, for whoever opens the address in a browser.
pub(crate) async fn welcome() -> Response {
    let text = format!(
        "HyperFaaS gateway {VERSION}\n\n\
         An OpenFaaS gateway. Log in and deploy with faas-cli or with hyperfaas:\n\n\
         \x20 faas-cli login --gateway URL --password-stdin\n\
         \x20 faas-cli deploy --gateway URL -f stack.yml\n\n\
         Call a function:        POST /function/NAME\n\
         List functions:         GET  /system/functions (basic auth)\n\
         Health:                 GET  /healthz\n"
    );
    ([(CONTENT_TYPE, PLAIN_TEXT)], text).into_response()
}

/// The provider's health, asked with the gateway's credentials.
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let mut response = send(&gateway, &gateway.provider, request).await;
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
