//! The settings of `jwt_auth`.

use std::io;

use super::value::Vars;
use super::{ConfigError, Dialect};

/// The gateway of an OpenFaaS cluster.
const AUTHORITY: &str = "http://gateway.openfaas:8080";
/// The same for `jwt_auth_local`.
const AUTHORITY_LOCAL: &str = "http://127.0.0.1:8000";
/// Where Kubernetes tells a container its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Who vouches for callers, and for which function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JwtSettings {
    /// Address of the issuer, without a path.
    pub(crate) authority: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `jwt_auth_debug`: what is found and asked for is logged.
    pub(crate) debug: bool,
}

/// `None` unless `jwt_auth` is on. `read` reads a file.
pub(super) fn settings(
    vars: &Vars<'_>,
    dialect: Dialect,
    read: impl Fn(&'static str) -> io::Result<String>,
) -> Result<Option<JwtSettings>, ConfigError> {
    if !vars.switch("jwt_auth", dialect) {
        return Ok(None);
    }
    let failed =
        |text: String| ConfigError::new(1, format!("error creating JWTAuthMiddleware: {text}"));
    let namespace = match vars.text("OPENFAAS_NAMESPACE") {
        Some(namespace) => namespace,
        None => read(NAMESPACE_FILE).map_err(|error| {
            failed(format!("failed to get function namespace: open {NAMESPACE_FILE}: {error}"))
        })?,
    };
    let name = vars.filled("OPENFAAS_NAME").ok_or_else(|| {
        failed("failed to get function name: env variable 'OPENFAAS_NAME' not set".into())
    })?;
    let usual = if vars.switch("jwt_auth_local", dialect) { AUTHORITY_LOCAL } else { AUTHORITY };
    Ok(Some(JwtSettings {
        authority: vars.filled("HYPERFAAS_JWT_AUTHORITY").unwrap_or_else(|| usual.to_owned()),
        namespace: namespace.trim().to_owned(),
        name,
        debug: vars.switch("jwt_auth_debug", dialect),
    }))
}
