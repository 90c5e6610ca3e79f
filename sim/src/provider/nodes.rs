//! What the provider knows of its nodes, and where a new container goes.
//!
//! The scheduler does not choose nodes: on one engine there is nothing to choose, in a swarm Swarm chooses. Here, as Swarm's
//! default strategy does: the node with the fewest containers of the function, then with the fewest of all.

use hyperfaas_provider::scheduler::{Hosts, NodeId, NodeView};

use crate::node::Size;

/// The nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) hosts: Hosts,
    containers: Vec<u32>,
}

impl Nodes {
    pub(crate) fn new(sizes: &[Size]) -> Self {
        let view = |size: &Size| NodeView {
            cpu: size.cpus * 1000,
            memory: size.memory,
            ..NodeView::default()
        };
        let hosts = Hosts::new(sizes.iter().map(view).collect());
        Self { hosts, containers: vec![0; sizes.len()] }
    }

    /// The node for one more container of a function that has one on each of `own` already.
    pub(crate) fn choose(&mut self, own: &[NodeId]) -> usize {
        let of_function =
            |node: usize| own.iter().filter(|other| usize::from(other.0) == node).count();
        let all = 0..self.containers.len();
        let node = all.min_by_key(|node| (of_function(*node), self.containers[*node])).unwrap_or(0);
        self.containers[node] += 1;
        node
    }

    /// A container is gone.
    pub(crate) fn leave(&mut self, node: usize) {
        self.containers[node] -= 1;
    }
}

/// What one container is counted with on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) node: NodeId,
    /// Millicores.
    pub(crate) cpu: u32,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Use {
    /// Counts it in.
    pub(crate) fn join(self, hosts: &mut Hosts) {
        hosts.change(self.node, |view| {
            view.cpu_used = view.cpu_used.saturating_add(self.cpu);
            view.memory_used = view.memory_used.saturating_add(self.memory);
        });
    }

    /// Counts it out.
    pub(crate) fn leave(self, hosts: &mut Hosts) {
        hosts.change(self.node, |view| {
            view.cpu_used = view.cpu_used.saturating_sub(self.cpu);
            view.memory_used = view.memory_used.saturating_sub(self.memory);
        });
    }
}
