//! The gateway in front of a recording provider, over HTTP and in one process.

#![expect(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

mod access;
mod alerts;
mod calls;
mod hostile;
mod keep;
mod later;
mod nats;
mod page;
mod path;
mod program;
mod support;
mod system;
