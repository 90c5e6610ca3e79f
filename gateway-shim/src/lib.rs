//! An OpenFaaS gateway: function calls and the `/system` API, passed on to a provider.
//!
//! In: HTTP requests of faas-cli, callers and connectors. Out: the provider's answers, streamed.
//! [`router`] is the whole gateway; `main.rs` serves it as its own process, our provider can serve it beside its own API.
//! Always: the path's bytes and all bodies pass unchanged, credentials for `/system` are checked here and replaced by the
//! gateway's own, and a failure of the provider is a 502 or 504 with one line, never a 200.

mod access;
mod alert;
mod audit;
mod callback;
pub mod config;
mod cron;
mod error;
mod functions;
mod invoke;
mod later;
mod live;
mod metrics;
mod openapi;
mod past;
mod queue;
mod queue_api;
mod routes;
mod scope;
mod system;
mod trace;
mod ui;
pub mod upstream;
pub mod users;

pub use callback::CallbackPolicy;
pub use config::{GatewayConfig, ProcessConfig};
pub use queue::{NatsSettings, Queue, QueueSettings, StoreError};
pub use routes::{Backends, Routers, Work, router, routers};
pub use trace::TraceSettings;
pub use upstream::Upstream;
pub use users::Users;

/// This gateway's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit this gateway was built from, or `unknown`.
pub const SHA: &str = env!("HYPERFAAS_SHA");
