//! One binary for all tests that need more than one crate.

mod contract;
mod e2e;
mod golden;
mod support;
