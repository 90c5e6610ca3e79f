//! The labels that say what is ours, and how a container's labels become an [`Observed`].
//!
//! Always: users' labels never reach the engine, so nobody can pass for a replica of another function.

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings,
};
use hyperfaas_protocol::names::Namespace;
use hyperfaas_protocol::{FunctionKey, FunctionName};

use super::super::{ContainerId, Observed, ReplicaId, Standby, StandbyOrder, StartOrder};

/// On everything this provider makes: containers, volumes, networks, images.
pub(super) const MANAGED: &str = "com.hyperfaas.managed";
/// Which provider's it is.
pub(super) const INSTALLATION: &str = "com.hyperfaas.installation";
/// What it is for: one of the constants below.
pub(super) const ROLE: &str = "com.hyperfaas.role";
/// Which run of the provider made it; tells a helper at work from one left behind.
pub(super) const RUN: &str = "com.hyperfaas.run";
const NAMESPACE: &str = "com.hyperfaas.namespace";
const FUNCTION: &str = "com.hyperfaas.function";
const REVISION: &str = "com.hyperfaas.revision";
const HTTP_PORT: &str = "com.hyperfaas.http-port";
const CONTROL_PORT: &str = "com.hyperfaas.control-port";

/// [`ROLE`] of a function's container.
pub(super) const REPLICA: &str = "replica";
/// [`ROLE`] of a container without a function.
pub(super) const STANDBY: &str = "standby";
/// [`ROLE`] of a container that only carries files into a volume, or out of an image.
pub(super) const FILL: &str = "fill";
/// [`ROLE`] of the volume with the watchdog.
pub(super) const WATCHDOG: &str = "watchdog";
/// [`ROLE`] of a volume with secrets.
pub(super) const SECRETS: &str = "secrets";

pub(super) type Labels = HashMap<String, String>;

/// Labels of something of `role`; `installation` is left out of what installations share.
pub(super) fn ours(role: &str, installation: Option<&str>) -> Labels {
    let mut labels = Labels::from([(MANAGED.into(), "true".into()), (ROLE.into(), role.into())]);
    if let Some(installation) = installation {
        labels.insert(INSTALLATION.into(), installation.into());
    }
    labels
}

/// Adds which function and revision something belongs to.
pub(super) fn with_revision(mut labels: Labels, function: &FunctionKey, revision: u64) -> Labels {
    labels.insert(NAMESPACE.into(), function.namespace.to_string());
    labels.insert(FUNCTION.into(), function.name.to_string());
    labels.insert(REVISION.into(), revision.to_string());
    labels
}

/// Labels of a replica.
pub(super) fn of_replica(installation: &str, order: &StartOrder) -> Labels {
    let mut labels =
        with_revision(ours(REPLICA, Some(installation)), &order.function, order.revision);
    labels.insert(HTTP_PORT.into(), order.boot.http_port.to_string());
    labels.insert(CONTROL_PORT.into(), order.boot.control_port.to_string());
    labels
}

/// Labels of a standby container.
pub(super) fn of_standby(installation: &str, order: &StandbyOrder) -> Labels {
    let mut labels = ours(STANDBY, Some(installation));
    labels.insert(HTTP_PORT.into(), order.boot.http_port.to_string());
    labels.insert(CONTROL_PORT.into(), order.boot.control_port.to_string());
    labels
}

/// Whether a container with `labels` is one that functions are served from.
pub(super) fn serves(labels: &Labels) -> bool {
    labels.get(ROLE).is_some_and(|role| role == REPLICA || role == STANDBY)
}

/// Whose a container with `labels` is, where somebody must know of it: a replica's function, `None` for a standby container
/// and for a helper that another run than `run` has left. No answer for what nobody needs to know of.
pub(super) fn owner(labels: &Labels, run: &str) -> Option<Option<FunctionKey>> {
    match labels.get(ROLE)?.as_str() {
        REPLICA => revision(labels).map(|(function, _)| Some(function)),
        STANDBY => Some(None),
        FILL if labels.get(RUN).is_none_or(|of| of != run) => Some(None),
        _ => None,
    }
}

/// An engine filter that matches everything of `installation`.
pub(super) fn filter_installation(installation: &str) -> HashMap<String, Vec<String>> {
    let pairs = [format!("{MANAGED}=true"), format!("{INSTALLATION}={installation}")];
    HashMap::from([("label".to_owned(), pairs.to_vec())])
}

/// An engine filter that matches everything of `role` in `installation`.
pub(super) fn filter(role: &str, installation: Option<&str>) -> HashMap<String, Vec<String>> {
    let pairs = ours(role, installation);
    HashMap::from([(
        "label".to_owned(),
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect(),
    )])
}

/// The function and revision in `labels`, if they are complete and valid.
pub(super) fn revision(labels: &Labels) -> Option<(FunctionKey, u64)> {
    let namespace = Namespace::parse(labels.get(NAMESPACE)?).ok()?;
    let name = FunctionName::parse(labels.get(FUNCTION)?).ok()?;
    Some((FunctionKey { namespace, name }, labels.get(REVISION)?.parse().ok()?))
}

/// What the engine tells about one container, from whichever of its answers.
pub(super) struct Told {
    id: String,
    name: String,
    labels: Labels,
    is_running: bool,
    networks: HashMap<String, EndpointSettings>,
}

impl Told {
    /// One row of the engine's list.
    pub(super) fn from_summary(summary: ContainerSummary) -> Option<Self> {
        Some(Self {
            id: summary.id?,
            name: summary.names?.into_iter().next()?,
            labels: summary.labels?,
            is_running: summary.state == Some(ContainerSummaryStateEnum::RUNNING),
            networks: summary.network_settings.and_then(|s| s.networks).unwrap_or_default(),
        })
    }

    /// The answer about one container.
    pub(super) fn from_inspect(container: ContainerInspectResponse) -> Option<Self> {
        Some(Self {
            id: container.id?,
            name: container.name?,
            labels: container.config?.labels?,
            is_running: container.state.and_then(|state| state.running).unwrap_or(false),
            networks: container.network_settings.and_then(|s| s.networks).unwrap_or_default(),
        })
    }

    /// As a replica; `None` when its labels are damaged.
    pub(super) fn replica(self, network: &str) -> Option<Observed> {
        let (function, revision) = revision(&self.labels)?;
        Some(Observed {
            address: self.address(network),
            replica: self.name(),
            function,
            revision,
            http_port: self.port(HTTP_PORT)?,
            control_port: self.port(CONTROL_PORT)?,
            is_running: self.is_running,
            container: ContainerId(self.id),
        })
    }

    /// As a standby container; `None` when its labels are damaged.
    pub(super) fn standby(self, network: &str) -> Option<Standby> {
        Some(Standby {
            address: self.address(network),
            name: self.name(),
            http_port: self.port(HTTP_PORT)?,
            control_port: self.port(CONTROL_PORT)?,
            is_running: self.is_running,
            container: ContainerId(self.id),
        })
    }

    fn name(&self) -> ReplicaId {
        ReplicaId(self.name.trim_start_matches('/').to_owned())
    }

    fn port(&self, label: &str) -> Option<u16> {
        self.labels.get(label)?.parse().ok()
    }

    fn address(&self, network: &str) -> Option<std::net::IpAddr> {
        let endpoint = self.networks.get(network).or_else(|| self.networks.values().next());
        endpoint.filter(|_| self.is_running)?.ip_address.as_ref()?.parse().ok()
    }
}
