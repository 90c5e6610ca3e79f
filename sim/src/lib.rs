//! The scheduler on virtual time.

pub mod chance;
pub mod cpu;
pub mod node;
pub mod profile;
pub mod queue;
pub mod service;
pub mod site;
pub mod slab;
