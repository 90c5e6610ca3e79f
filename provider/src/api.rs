//! The OpenFaaS provider API over HTTP: parse, call, answer.
//!
//! In: requests. Out: answers from memory, or changes to the catalog. Nothing is decided here, and [`error`] alone knows
//! which mistake has which status.
//! Always: unknown routes are 404 and wrong methods 405 before credentials are looked at; then `/system` asks for them.
//! Source: `docs/compat.md`, route by route.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::names::NameError;
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};

pub use self::routes::{router, router_until};
use crate::catalog::Catalog;
use crate::cluster::Cluster;
use crate::dispatch::Dispatch;
use crate::engine::Engine;
use crate::node::view::NodeView;

mod body;
mod error;
mod functions;
mod invoke;
mod live;
mod logs;
mod namespaces;
mod query;
mod routes;
mod secrets;
mod system;
mod usage;

/// What the handlers work with.
pub struct Api {
    /// What should exist.
    pub catalog: Arc<Catalog>,
    /// What exists.
    pub cluster: Arc<Cluster>,
    /// The way to a function.
    pub dispatch: Arc<Dispatch>,
    /// Asked for logs and usage only.
    pub engine: Arc<dyn Engine>,
    /// What can be done to containers on their host; told only.
    pub node: NodeView,
    /// Bounds.
    pub settings: ApiSettings,
}

/// Bounds of the management API.
#[derive(Debug, Clone, Copy)]
pub struct ApiSettings {
    /// Longest wait for a management request's whole body.
    pub body_timeout: Duration,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Api {
    /// The namespace that the first non-empty of `given` names, else the default one.
    fn namespace(&self, given: [&str; 2]) -> Result<Namespace, NameError> {
        let first = given.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        Namespace::parse_or(first, self.catalog.default_namespace())
    }

    /// The function that a path's segment names; `None` when no function can be called so.
    fn key(&self, segment: &str, namespace: Namespace) -> Option<FunctionKey> {
        FunctionName::parse(segment).ok().map(|name| FunctionKey { namespace, name })
    }
}

/// The last segment of a path, not decoded: names need no encoding, and what is encoded is no name.
fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
