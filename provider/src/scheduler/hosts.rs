//! The hosts, and what they come to together.
//!
//! A plan asks what all hosts have left; with a hundred hosts adding that up would be most of its work, so the sums are kept.
//! Always: the sums are those of the views, whatever was done to them.
//! Units: millicores, bytes.

use super::snapshot::{NodeId, NodeView};

/// The hosts, by [`NodeId`].
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    views: Vec<NodeView>,
    cpu: u64,
    cpu_used: u64,
    cpu_busy: u64,
    /// Hosts of which nobody knows how large they are.
    unknown: usize,
}

impl Hosts {
    /// In the order of their [`NodeId`]s.
    pub fn new(views: Vec<NodeView>) -> Self {
        let mut hosts = Self { views, ..Self::default() };
        for index in 0..hosts.views.len() {
            hosts.count(hosts.views[index], true);
        }
        hosts
    }

    /// All of them.
    pub fn views(&self) -> &[NodeView] {
        &self.views
    }

    /// One of them, if there is one of that number.
    pub fn view(&self, node: NodeId) -> Option<&NodeView> {
        self.views.get(usize::from(node.0))
    }

    /// Changes one of them, if there is one of that number.
    pub fn change(&mut self, node: NodeId, change: impl FnOnce(&mut NodeView)) {
        let Some(view) = self.views.get_mut(usize::from(node.0)) else { return };
        let before = *view;
        change(view);
        let after = *view;
        self.count(before, false);
        self.count(after, true);
    }

    /// Takes over what `other` says, without making room anew.
    pub fn copy_from(&mut self, other: &Self) {
        self.views.clone_from(&other.views);
        let Self { cpu, cpu_used, cpu_busy, unknown, .. } = *other;
        (self.cpu, self.cpu_used, self.cpu_busy, self.unknown) = (cpu, cpu_used, cpu_busy, unknown);
    }

    /// Millicores that one may use of all hosts who is counted in them with `own`, and measured with `measured`: what others,
    /// functions or not, do not use. All there can be where the size of one host is unknown.
    pub(super) fn cpu_beside(&self, own: u32, measured: u32) -> u32 {
        if self.views.is_empty() || self.unknown > 0 {
            return u32::MAX;
        }
        let others = self.cpu_busy.saturating_sub(u64::from(measured));
        let left =
            self.cpu.saturating_sub(others.max(self.cpu_used.saturating_sub(u64::from(own))));
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    fn count(&mut self, view: NodeView, is_more: bool) {
        let add = |sum: &mut u64, part: u32| {
            *sum = if is_more { *sum + u64::from(part) } else { *sum - u64::from(part) };
        };
        add(&mut self.cpu, view.cpu);
        add(&mut self.cpu_used, view.cpu_used);
        add(&mut self.cpu_busy, view.cpu_busy);
        if view.cpu == 0 {
            self.unknown = if is_more { self.unknown + 1 } else { self.unknown - 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view((cpu, cpu_used, cpu_busy): (u32, u32, u32)) -> NodeView {
        NodeView { cpu, cpu_used, cpu_busy, ..NodeView::default() }
    }

    #[test]
    fn what_is_left_is_what_others_do_not_use() {
        let hosts = Hosts::new(vec![view((4000, 1000, 0)), view((4000, 500, 3000))]);
        assert_eq!(hosts.cpu_beside(500, 0), 5000, "others use 3000 of 8000, whoever they are");
        assert_eq!(hosts.cpu_beside(500, 3000), 7000, "1000 are promised to other functions");
        assert_eq!(Hosts::default().cpu_beside(0, 0), u32::MAX);
        assert_eq!(
            Hosts::new(vec![view((4000, 0, 0)), view((0, 0, 0))]).cpu_beside(0, 0),
            u32::MAX
        );
    }

    proptest! {
        #[test]
        fn the_sums_are_those_of_the_views(
            first in prop::collection::vec((0..3_u32, 0..9_u32, 0..9_u32), 1..5),
            changes in prop::collection::vec((0..6_u16, (0..3_u32, 0..9_u32, 0..9_u32)), 0..20),
        ) {
            let mut hosts = Hosts::new(first.into_iter().map(view).collect());
            for (node, to) in changes {
                hosts.change(NodeId(node), |one| *one = view(to));
            }
            let anew = Hosts::new(hosts.views().to_vec());
            prop_assert_eq!((hosts.cpu, hosts.cpu_used, hosts.cpu_busy), (anew.cpu, anew.cpu_used, anew.cpu_busy));
            prop_assert_eq!(hosts.unknown, anew.unknown);
        }
    }
}
