//! Functions: create, update, delete, scale, list, status.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use hyperfaas_protocol::openfaas::{
    DeleteFunctionRequest, FunctionDeployment, FunctionStatus, FunctionUsage, ScaleServiceRequest,
};
use hyperfaas_protocol::{FunctionKey, FunctionName};

use super::error::ApiError;
use super::query::Query;
use super::{Api, body, last_segment, usage};
use crate::catalog::{CatalogError, Function};
use crate::cluster::Decision;
use crate::spec::FunctionSpec;

/// The one label the provider adds; the certifier looks for it.
const NAME_LABEL: &str = "faas_function";

/// `POST /system/functions`
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let spec = spec(&api, request).await?;
    api.catalog.create(spec).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `PUT /system/functions`
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let spec = spec(&api, request).await?;
    api.catalog.update(spec).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn spec(api: &Api, request: Request) -> Result<FunctionSpec, ApiError> {
    let deployment: FunctionDeployment = body::decode(request, api.settings.body_timeout).await?;
    Ok(FunctionSpec::parse(deployment, api.catalog.default_namespace())?)
}

/// `DELETE /system/functions`; the namespace comes from the body, else the query.
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let query = Query::of(request.uri());
    let wanted: DeleteFunctionRequest = body::decode(request, api.settings.body_timeout).await?;
    if wanted.function_name.is_empty() {
        return Err(ApiError::Missing("functionName"));
    }
    let namespace = api.namespace([&wanted.namespace, query.last("namespace")])?;
    let key = FunctionKey { namespace, name: FunctionName::parse(&wanted.function_name)? };
    api.catalog.delete(key).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /system/scale-function/{name}`; the name comes from the path, the namespace from the body, else the query.
pub(super) async fn scale(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let query = Query::of(request.uri());
    let name = last_segment(request.uri().path()).to_owned();
    let wanted: ScaleServiceRequest = body::decode(request, api.settings.body_timeout).await?;
    let replicas = wanted.replicas.ok_or(ApiError::Missing("replicas"))?;
    let namespace = api.namespace([&wanted.namespace, query.last("namespace")])?;
    let key = api.key(&name, namespace).ok_or(ApiError::NoFunction(name))?;
    api.catalog.scale(key.clone(), replicas).await?;
    // Somebody wants it now: a back-off after earlier failures ends.
    api.cluster.forgive(&key);
    Ok(StatusCode::ACCEPTED)
}

/// `GET /system/functions`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<Vec<FunctionStatus>>, ApiError> {
    let query = Query::of(request.uri());
    let namespace = api.namespace(["", query.last("namespace")])?;
    if !api.catalog.has_namespace(&namespace) {
        return Err(CatalogError::NamespaceUnknown(namespace).into());
    }
    let functions = api.catalog.functions(&namespace);
    let mut usages = if query.flag("usage") {
        usage::of_functions(&api, functions.iter().map(|function| &function.spec.key)).await
    } else {
        Default::default()
    };
    let status =
        |function: &Arc<Function>| status_of(&api, function, usages.remove(&function.spec.key));
    Ok(Json(functions.iter().map(status).collect()))
}

/// `GET /system/function/{name}`; called for every invocation by the Go gateway, so answered from memory.
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<FunctionStatus>, ApiError> {
    let query = Query::of(request.uri());
    let name = last_segment(request.uri().path());
    let namespace = api.namespace(["", query.last("namespace")])?;
    let key =
        api.key(name, namespace.clone()).ok_or_else(|| ApiError::NoFunction(name.to_owned()))?;
    let Some(function) = api.catalog.function(&key) else {
        return Err(match api.catalog.has_namespace(&namespace) {
            true => CatalogError::FunctionUnknown(key),
            false => CatalogError::NamespaceUnknown(namespace),
        }
        .into());
    };
    let usage = if query.flag("usage") {
        usage::of_functions(&api, [&key]).await.remove(&key)
    } else {
        None
    };
    Ok(Json(status_of(&api, &function, usage)))
}

/// `GET /system/hyperfaas/functions/{name}/decisions`
pub(super) async fn decisions(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Vec<Decision>>, ApiError> {
    let query = Query::of(request.uri());
    let namespace = api.namespace(["", query.last("namespace")])?;
    let key = api.key(&name, namespace).ok_or(ApiError::NoFunction(name))?;
    if api.catalog.function(&key).is_none() {
        return Err(CatalogError::FunctionUnknown(key).into());
    }
    Ok(Json(api.cluster.decisions(&key)))
}

/// What the user deployed, byte for byte, and how it stands now.
fn status_of(api: &Api, function: &Function, usage: Option<FunctionUsage>) -> FunctionStatus {
    let (deployment, key) = (&function.spec.deployment, &function.spec.key);
    let mut labels = deployment.labels.clone();
    labels.insert(NAME_LABEL.to_owned(), key.name.to_string());
    FunctionStatus {
        name: key.name.to_string(),
        image: deployment.image.clone(),
        namespace: key.namespace.to_string(),
        env_process: deployment.env_process.clone(),
        env_vars: deployment.env_vars.clone(),
        constraints: deployment.constraints.clone(),
        secrets: deployment.secrets.clone(),
        labels,
        annotations: deployment.annotations.clone(),
        limits: deployment.limits.clone(),
        requests: deployment.requests.clone(),
        read_only_root_filesystem: deployment.read_only_root_filesystem,
        invocation_count: 0,
        replicas: api.cluster.desired(key, function.call).unwrap_or(function.replicas).into(),
        available_replicas: api.cluster.available(key).into(),
        created_at: function.created_at,
        usage,
    }
}
