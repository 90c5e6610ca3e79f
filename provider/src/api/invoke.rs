//! Invocations: the path's name, and the rest of the target kept byte for byte.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::response::{IntoResponse, Response};
use hyperfaas_http::target::{FunctionPath, function_path, with_path};
use hyperfaas_protocol::FunctionKey;

use super::Api;
use super::error::{ApiError, invoke_failed};
use crate::dispatch::InvokeError;

/// `/function/{name}`, `/function/{name}/{rest}`; `name.namespace` is a function of that namespace.
pub(super) async fn invoke(State(api): State<Arc<Api>>, request: Request) -> Response {
    let uri = request.uri().clone();
    let Some(FunctionPath { reference, rest }) = function_path(uri.path(), "/function/") else {
        return ApiError::NoRoute.into_response();
    };
    let target = with_path(&uri, rest).ok().and_then(|target| target.path_and_query().cloned());
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let answer = match FunctionKey::parse_reference(reference, api.catalog.default_namespace()) {
        Ok(key) => api.dispatch.invoke(&key, target, request).await,
        // What cannot be a name is nobody's name.
        Err(_) => Err(InvokeError::UnknownFunction),
    };
    answer.unwrap_or_else(|error| invoke_failed(reference, &error))
}
