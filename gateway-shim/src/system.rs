//! `/system/…` and `/healthz`: everything but calls to functions.
//!
//! In: requests whose credentials were checked by the routes. Out: the provider's answers, streamed as they come.
//! Touches: the provider, with the gateway's own credentials.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, Collected, Limited};
use hyperfaas_http::error::plain;
use hyperfaas_protocol::openfaas::{GatewayInfo, ProviderInfo, VersionInfo};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::warn;

use crate::error::{chain, refusal};
use crate::routes::Gateway;
use crate::upstream::Upstream;
use crate::{SHA, VERSION};

/// Longest info of a provider that is read; real ones have a few hundred bytes.
const INFO_MAX: usize = 64 << 10;
/// Longest list of functions that is read, in bytes: tens of thousands of functions.
const LIST_MAX: usize = 64 << 20;

/// Passes a request on to the provider as it is.
pub(crate) async fn pass_on(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    send(&gateway, &gateway.provider, request).await
}

/// The provider's list with this gateway's invocation counts in it; any other answer passes as it is.
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    // The list is read here, so it must not come compressed.
    request.headers_mut().remove(ACCEPT_ENCODING);
    let response = send(&gateway, &gateway.provider, request).await;
    let counts = gateway.metrics.counts();
    if response.status() != StatusCode::OK || counts.is_empty() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Some(body) = read(body, LIST_MAX).await else {
        return plain(
            StatusCode::BAD_GATEWAY,
            "the provider's list of functions broke off or is too large",
        );
    };
    // Whatever is no list of objects is for the client to judge.
    let counted =
        serde_json::from_slice(&body).ok().and_then(|functions| counted(functions, &counts));
    let body = counted.map_or(body, Bytes::from);
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(parts, Body::from(body))
}

/// The functions as JSON, each with its count; all other fields stay as the provider wrote them.
fn counted(
    mut functions: Vec<Map<String, Value>>,
    counts: &HashMap<String, u64>,
) -> Option<Vec<u8>> {
    for function in &mut functions {
        let text = |key| function.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(count) = counts.get(&format!("{}.{}", text("name"), text("namespace"))) {
            function.insert("invocationCount".into(), Value::from(*count));
        }
    }
    serde_json::to_vec(&functions).ok()
}

/// Asks the provider in the gateway's own name; the answer's body, if it is a 200.
pub(crate) async fn ask(gateway: &Gateway, target: Uri) -> Option<Bytes> {
    let mut question = Request::new(Body::empty());
    *question.uri_mut() = target;
    let response = send(gateway, &gateway.provider, question).await;
    if response.status() == StatusCode::OK {
        read(response.into_body(), LIST_MAX).await
    } else {
        None
    }
}

/// All functions of all namespaces, as far as `T` tells of them; `None` when the provider does not tell some of them.
pub(crate) async fn all_functions<T: DeserializeOwned>(gateway: &Gateway) -> Option<Vec<T>> {
    let namespaces = ask(gateway, Uri::from_static("/system/namespaces")).await?;
    let namespaces = serde_json::from_slice::<Vec<String>>(&namespaces).ok()?;
    let mut all = Vec::new();
    for namespace in namespaces {
        let target = Uri::try_from(format!("/system/functions?namespace={namespace}")).ok()?;
        let functions = ask(gateway, target).await?;
        all.extend(serde_json::from_slice::<Vec<T>>(&functions).ok()?);
    }
    Some(all)
}

/// A body of at most `limit` bytes; a longer or broken one is logged and `None`.
pub(crate) async fn read(body: Body, limit: usize) -> Option<Bytes> {
    let read = Limited::new(body, limit).collect().await;
    read.inspect_err(|error| warn!(%error, "provider answer unreadable"))
        .ok()
        .map(Collected::to_bytes)
}

/// Passes a request for logs on; they stream for as long as the provider sends and the client listens.
pub(crate) async fn logs(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    send(&gateway, &gateway.logs, request).await
}

/// Sends `request` to `upstream` with the gateway's own credentials.
pub(crate) async fn send(gateway: &Gateway, upstream: &Upstream, mut request: Request) -> Response {
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
    let body = read(response.into_body(), INFO_MAX).await?;
    serde_json::from_slice(&body)
        .inspect_err(|error| warn!(%error, "provider info unreadable"))
        .ok()
}

/// The provider's health, asked with the gateway's credentials.
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let mut response = send(&gateway, &gateway.provider, request).await;
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
