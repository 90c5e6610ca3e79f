//! The whole provider on a simulated engine: seeded changes and faults, invariants afterwards, callers all along.

mod convergence;
mod restart;
mod world;
