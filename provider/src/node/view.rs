//! What is told of this host: which of the things beyond the engine's API can be done here, and how the roots stand.
//!
//! In: abilities found at start, the roots. Out: what `/system/info` says. Touches nothing.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rights::Ability;
use super::rootfs::{Roots, Summary};

/// What this provider can do to containers on its host; told by `/system/info`.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Abilities by name.
    pub abilities: BTreeMap<&'static str, Ability>,
    /// The roots, if they are kept.
    pub roots: Option<Roots>,
}

/// [`NodeView`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Abilities by name.
    pub abilities: BTreeMap<&'static str, Ability>,
    /// The roots, if they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots: Option<Summary>,
}

impl NodeView {
    /// How it stands now.
    pub fn report(&self) -> NodeReport {
        NodeReport {
            abilities: self.abilities.clone(),
            roots: self.roots.as_ref().map(Roots::summary),
        }
    }
}
