//! One binary for all tests that need more than one crate.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod contract;
mod e2e;
mod golden;
mod lanes;
mod sim;
mod support;
