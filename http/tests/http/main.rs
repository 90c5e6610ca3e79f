//! The crate against real sockets on loopback.

#![expect(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

mod client;
mod forward;
mod serve;
mod support;
