//! The scheduler on virtual time.

pub mod burst;
mod chance;
mod check;
pub mod cpu;
pub mod day;
pub mod faults;
pub mod measure;
pub mod node;
pub mod profile;
pub mod provider;
pub mod queue;
pub mod record;
pub mod run;
pub mod scenario;
pub mod service;
pub mod site;
pub mod slab;
pub mod table;
