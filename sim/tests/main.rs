//! The scheduler in simulated worlds.

mod bursts;
mod replay;
mod worlds;
