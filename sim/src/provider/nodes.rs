//! What the provider knows of its nodes, and where a new container goes.
//!
//! The scheduler does not choose nodes: on one engine there is nothing to choose, in a swarm Swarm chooses. Here, as Swarm's
//! default strategy does: the node with the fewest containers of the function, then with the fewest of all.

use hyperfaas_provider::scheduler::{NodeId, NodeView};

use crate::node::Size;

/// The nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) views: Vec<NodeView>,
    containers: Vec<u32>,
}

impl Nodes {
    pub(crate) fn new(sizes: &[Size]) -> Self {
        let view = |size: &Size| NodeView {
            cpu: size.cpus * 1000,
            memory: size.memory,
            cpu_used: 0,
            memory_used: 0,
        };
        Self { views: sizes.iter().map(view).collect(), containers: vec![0; sizes.len()] }
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

    /// The last report of a container changed from `before` to `after`: millicores and bytes.
    pub(crate) fn used(&mut self, node: usize, before: (u32, u64), after: (u32, u64)) {
        let view = &mut self.views[node];
        view.cpu_used = view.cpu_used.saturating_sub(before.0).saturating_add(after.0);
        view.memory_used = view.memory_used.saturating_sub(before.1).saturating_add(after.1);
    }
}
