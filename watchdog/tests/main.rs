//! Black-box tests: the watchdog as a real process.

mod conformance;
mod support;
