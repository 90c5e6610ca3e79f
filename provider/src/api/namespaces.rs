//! Namespaces: list, create, read, replace, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hyperfaas_protocol::Namespace;
use hyperfaas_protocol::openfaas::FunctionNamespace;

use super::error::ApiError;
use super::{Api, body, last_segment};
use crate::catalog::CatalogError;

/// `GET /system/namespaces`
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Namespace>> {
    Json(api.catalog.namespaces())
}

/// `GET /system/namespace/{name}`
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<FunctionNamespace>, ApiError> {
    let name = Namespace::parse(last_segment(request.uri().path()))?;
    match api.catalog.namespace(&name) {
        Some(namespace) => Ok(Json(FunctionNamespace::clone(&namespace))),
        None => Err(CatalogError::NamespaceNotFound(name).into()),
    }
}

/// `POST /system/namespace/`; the name comes from the body, and may be repeated in the path.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let path = last_segment(request.uri().path()).to_owned();
    let namespace: FunctionNamespace = body::decode(request, api.settings.body_timeout).await?;
    let name = same_name(&path, &namespace.name)?;
    api.catalog.create_namespace(name, namespace).await?;
    Ok(StatusCode::CREATED)
}

/// `PUT /system/namespace/{name}`
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let path = last_segment(request.uri().path()).to_owned();
    let namespace: FunctionNamespace = body::decode(request, api.settings.body_timeout).await?;
    let name = same_name(&path, &namespace.name)?;
    api.catalog.update_namespace(name, namespace).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `DELETE /system/namespace/{name}`; a body is not needed.
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let path = last_segment(request.uri().path()).to_owned();
    let namespace: FunctionNamespace =
        body::decode_optional(request, api.settings.body_timeout).await?;
    let name = same_name(&path, &namespace.name)?;
    api.catalog.delete_namespace(name).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The name that path or body gives; where both do, they must agree.
fn same_name(path: &str, body: &str) -> Result<Namespace, ApiError> {
    if !path.is_empty() && !body.is_empty() && path != body {
        // Both are checked first, so that what is echoed is short and printable.
        let (path, body) = (Namespace::parse(path)?, Namespace::parse(body)?);
        return Err(ApiError::NamespaceDiffers { path: path.to_string(), body: body.to_string() });
    }
    Ok(Namespace::parse(if path.is_empty() { body } else { path })?)
}
