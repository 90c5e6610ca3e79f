//! Black-box tests: the watchdog as a real process.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a step that fails is a failed test; tests measure real time"
)]

mod conformance;
mod files;
mod guests;
mod improved;
mod jwt;
mod lanes;
mod load;
mod managed;
mod support;
mod trap;
mod workers;
