//! What provider and gateway share in speaking HTTP.
//!
//! [`serve`] accepts connections, [`client`] owns those to one upstream, [`forward`] takes a request from the one to
//! the other. [`headers`], [`target`] and [`error`] are pure. Bodies stream, they are never collected here.
//! Always: an error is never turned into a 200, and a request that may have reached the upstream is never sent twice.

pub mod auth;
pub mod client;
pub mod config;
pub mod error;
pub mod forward;
pub mod headers;
pub mod hold;
mod nap;
pub mod progress;
pub mod reload;
pub mod serve;
mod socket;
mod spare;
pub mod target;
pub mod telemetry;
pub mod throttle;
pub mod tls;
mod tunnel;

pub use client::{Address, Pool, PoolSettings, SendError};
pub use forward::{ForwardError, ForwardOptions, HostPolicy, forward, within};
pub use hold::hold;
pub use serve::{ServeLimits, listen, serve, serve_with};
pub use tls::Tls;
