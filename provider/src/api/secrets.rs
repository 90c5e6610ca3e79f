//! Secrets: list without values, create, replace, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hyperfaas_protocol::openfaas::Secret;
use hyperfaas_protocol::{Namespace, SecretName};

use super::body::BodyError;
use super::error::ApiError;
use super::query::Query;
use super::{Api, body};
use crate::secrets::value;

/// `GET /system/secrets`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<Vec<Secret>>, ApiError> {
    let namespace = api.namespace(["", Query::of(request.uri()).last("namespace")])?;
    let names = api.catalog.secrets(namespace.clone()).await?;
    let bare = |name: SecretName| Secret {
        name: name.into(),
        namespace: namespace.to_string(),
        ..Secret::default()
    };
    Ok(Json(names.into_iter().map(bare).collect()))
}

/// `POST /system/secrets`
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let (namespace, name, secret) = parse(&api, request).await?;
    api.catalog.create_secret(namespace, name, value(&secret)?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `PUT /system/secrets`
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let (namespace, name, secret) = parse(&api, request).await?;
    api.catalog.update_secret(namespace, name, value(&secret)?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `DELETE /system/secrets`
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let (namespace, name, _) = parse(&api, request).await?;
    api.catalog.delete_secret(namespace, name).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The body with its names checked; the namespace comes from the body, else the query.
async fn parse(api: &Api, request: Request) -> Result<(Namespace, SecretName, Secret), ApiError> {
    let query = Query::of(request.uri());
    // A decoder's complaint quotes what it read, and that may be the value.
    let quiet = |error| match error {
        BodyError::Decode(_) => BodyError::DecodeSecret,
        other => other,
    };
    let secret: Secret = body::decode(request, api.settings.body_timeout).await.map_err(quiet)?;
    let name = SecretName::parse(&secret.name)?;
    let namespace = api.namespace([&secret.namespace, query.last("namespace")])?;
    Ok((namespace, name, secret))
}
