//! A machine: its size, and how fast its threads get on when there are more than CPUs.
//!
//! Model: every running thread gets the same share of the CPUs, and never more than one. Left out: the weights of cgroups
//! (`cpu.shares`), which containers of HyperFaaS all leave alike.

use crate::slab::Id;

/// What a machine has.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// CPUs.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
}

/// A machine at work.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) size: Size,
    /// Threads that run or want to.
    pub(crate) threads: usize,
    /// Containers with jobs, in no order.
    pub(crate) busy: Vec<Id>,
    /// What it does per time, of what it should: 1.0 unless something is wrong with it.
    pub(crate) health: f64,
    /// Bytes held by its containers.
    pub(crate) memory: u64,
}

impl Node {
    pub(crate) fn new(size: Size) -> Self {
        Self { size, threads: 0, busy: Vec::new(), health: 1.0, memory: 0 }
    }

    /// CPU time per time of each thread.
    pub(crate) fn speed(&self) -> f64 {
        let share = f64::from(self.size.cpus) / self.threads.max(1) as f64;
        self.health * share.min(1.0)
    }
}
