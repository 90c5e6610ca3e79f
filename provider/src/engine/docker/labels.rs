//! The labels that say what is ours, and how a container's labels become an [`Observed`].
//!
//! Always: users' labels never reach the engine, so nobody can pass for a replica of another function.

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings,
};
use hyperfaas_protocol::names::Namespace;
use hyperfaas_protocol::{FunctionKey, FunctionName};

use super::super::{ContainerId, Observed, ReplicaId, StartOrder};

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
/// [`ROLE`] of a container that only carries files into a volume.
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

/// One row of the engine's list; `None` when its labels are damaged.
pub(super) fn from_summary(summary: ContainerSummary, network: &str) -> Option<Observed> {
    let is_running = summary.state == Some(ContainerSummaryStateEnum::RUNNING);
    let networks = summary.network_settings.and_then(|settings| settings.networks);
    let name = summary.names?.into_iter().next()?;
    observed(summary.id?, &name, &summary.labels?, is_running, networks, network)
}

/// What the engine tells about one container; `None` when its labels are damaged.
pub(super) fn from_inspect(container: ContainerInspectResponse, network: &str) -> Option<Observed> {
    let is_running = container.state.and_then(|state| state.running).unwrap_or(false);
    let networks = container.network_settings.and_then(|settings| settings.networks);
    observed(
        container.id?,
        &container.name?,
        &container.config?.labels?,
        is_running,
        networks,
        network,
    )
}

fn observed(
    id: String,
    name: &str,
    labels: &Labels,
    is_running: bool,
    networks: Option<HashMap<String, EndpointSettings>>,
    network: &str,
) -> Option<Observed> {
    let (function, revision) = revision(labels)?;
    let address = |endpoint: &EndpointSettings| {
        endpoint.ip_address.as_ref().and_then(|text| text.parse().ok())
    };
    let networks = networks.unwrap_or_default();
    let endpoint = networks.get(network).or_else(|| networks.values().next());
    Some(Observed {
        container: ContainerId(id),
        replica: ReplicaId(name.trim_start_matches('/').to_owned()),
        function,
        revision,
        http_port: labels.get(HTTP_PORT)?.parse().ok()?,
        control_port: labels.get(CONTROL_PORT)?.parse().ok()?,
        is_running,
        address: endpoint.filter(|_| is_running).and_then(address),
    })
}
