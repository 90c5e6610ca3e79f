//! The hosts and what can be done on them, as it is sent.

use serde::Serialize;

use super::super::Api;
use crate::cluster::StandbySight;

/// All that is not about one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct SystemSight {
    nodes: Vec<Node>,
    abilities: Vec<Able>,
    /// Containers without an owner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    standbys: Vec<StandbySight>,
    /// The mode of scaling.
    scaling: &'static str,
    /// What went wrong and concerns all functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'static str>,
}

/// A host; what nobody knows is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Node {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_milli: Option<u32>,
    /// In use by whatever runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_used_milli: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// In use by functions.
    memory_used_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Able {
    name: &'static str,
    on: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
}

impl SystemSight {
    pub(super) fn of(api: &Api) -> Self {
        let known = |value: u32| Some(value).filter(|value| *value > 0);
        let nodes = api.cluster.nodes().into_iter().map(|node| Node {
            cpu_milli: known(node.cpu),
            cpu_used_milli: known(node.cpu_busy),
            memory_bytes: Some(node.memory).filter(|bytes| *bytes > 0),
            memory_used_bytes: node.memory_used,
        });
        let abilities = api.node.abilities.iter().map(|(name, ability)| Able {
            name,
            on: ability.on,
            why: ability.missing.join("; "),
        });
        Self {
            nodes: nodes.collect(),
            abilities: abilities.collect(),
            standbys: api.cluster.standbys(),
            scaling: api.cluster.policy().mode.name(),
            trouble: (!api.cluster.is_engine_up()).then_some("the Docker engine does not answer"),
        }
    }
}
