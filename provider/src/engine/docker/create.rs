//! A start order as the engine's create request: everything that makes a replica's container what it is.
//!
//! In: an order, clamped bounds, the names of its volumes. Out: the request's body. Touches nothing.
//! Always: nothing a user wrote reaches the host configuration, except numbers that were clamped; no host path, no
//! privilege, no socket, no device. `docs/engine.md` argues each setting.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use hyperfaas_protocol::control::BOOT_VARIABLE;

use super::super::clamp::Clamped;
use super::super::{EngineError, StandbyOrder, StartOrder};
use super::labels::{self, Labels};
use super::{DockerConfig, volume};

/// Where the watchdog's volume is mounted; hidden enough to meet nothing of an image's.
pub(super) const WATCHDOG_DIR: &str = "/.hyperfaas";
/// The watchdog's name in its volume.
pub(super) const WATCHDOG_FILE: &str = "fwatchdog";
/// The directory for slots in its volume, see [`crate::node::slot::SLOTS_DIR`].
pub(super) const SLOTS: &str = "slots/";
/// Where OpenFaaS functions look for their secrets.
const SECRETS_DIR: &str = "/var/openfaas/secrets";
/// Longest host name Linux takes, bytes.
const HOSTNAME_MAX: usize = 63;

/// What the watchdog needs to start workers as other users, to end them, to give their ports to others, and to shut guests
/// in: another root, no capability left.
const WATCHDOG_CAPABILITIES: [&str; 6] =
    ["KILL", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_PTRACE"];
/// What root keeps of Docker's default set where the image itself runs as root: package installs, chown, binding port 80.
/// Left out: `NET_RAW` (packet forging towards neighbours), `MKNOD` (devices), `AUDIT_WRITE` (host's audit log).
const ROOT_CAPABILITIES: [&str; 6] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "NET_BIND_SERVICE", "SETFCAP"];

/// The volumes of one replica.
pub(super) struct Volumes<'a> {
    /// The watchdog's volume with its labels.
    pub(super) watchdog: (&'a str, Labels),
    /// The secrets' volume with its labels, if the function has secrets.
    pub(super) secrets: Option<(&'a str, Labels)>,
}

/// The create request of `order`.
pub(super) fn body(
    config: &DockerConfig,
    order: &StartOrder,
    bounds: Clamped,
    volumes: Volumes<'_>,
) -> Result<ContainerCreateBody, EngineError> {
    let boot = serde_json::to_string(&order.boot)
        .map_err(|error| EngineError::Refused(error.to_string()))?;
    let mut env: Vec<String> =
        order.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.push(format!("{BOOT_VARIABLE}={boot}"));
    let endpoint = EndpointSettings {
        aliases: Some(vec![order.function.to_string()]),
        ..EndpointSettings::default()
    };
    Ok(ContainerCreateBody {
        image: Some(order.image.id.clone()),
        hostname: Some(hostname(order)),
        user: Some("0".to_owned()),
        env: Some(env),
        entrypoint: Some(vec![format!("{WATCHDOG_DIR}/{WATCHDOG_FILE}")]),
        cmd: Some(Vec::new()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        stop_signal: Some("SIGTERM".to_owned()),
        labels: Some(labels::of_replica(&config.installation, order)),
        host_config: Some(host_config(config, order, bounds, volumes)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(config.network.clone(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    config: &DockerConfig,
    order: &StartOrder,
    bounds: Clamped,
    volumes: Volumes<'_>,
) -> HostConfig {
    let (watchdog, labels) = volumes.watchdog;
    let mut mounts = vec![volume::mount(watchdog, WATCHDOG_DIR, labels, true)];
    mounts.extend(
        volumes.secrets.map(|(volume, labels)| volume::mount(volume, SECRETS_DIR, labels, true)),
    );
    HostConfig {
        mounts: Some(mounts),
        tmpfs: order.read_only_root.then(|| tmp(config, bounds.memory)),
        readonly_rootfs: Some(order.read_only_root),
        cap_add: Some(capabilities(&order.image.user)),
        ..common_host_config(config, bounds)
    }
}

/// The create request of a standby container.
pub(super) fn standby_body(
    config: &DockerConfig,
    order: &StandbyOrder,
    bounds: Clamped,
    image: &str,
    (watchdog, labels): (&str, Labels),
) -> Result<ContainerCreateBody, EngineError> {
    let boot = serde_json::to_string(&order.boot)
        .map_err(|error| EngineError::Refused(error.to_string()))?;
    let host = HostConfig {
        mounts: Some(vec![volume::mount(watchdog, WATCHDOG_DIR, labels, true)]),
        tmpfs: Some(tmp(config, bounds.memory)),
        readonly_rootfs: Some(true),
        cap_add: Some(WATCHDOG_CAPABILITIES.map(str::to_owned).to_vec()),
        // No image of a user is here, and guests never gain a right.
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        ..common_host_config(config, bounds)
    };
    let endpoints = HashMap::from([(config.network.clone(), EndpointSettings::default())]);
    Ok(ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some("0".to_owned()),
        env: Some(vec![format!("{BOOT_VARIABLE}={boot}")]),
        entrypoint: Some(vec![format!("{WATCHDOG_DIR}/{WATCHDOG_FILE}")]),
        cmd: Some(Vec::new()),
        stop_signal: Some("SIGTERM".to_owned()),
        labels: Some(labels::of_standby(&config.installation, order)),
        host_config: Some(host),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..ContainerCreateBody::default()
    })
}

/// A writable `/tmp` where the root is read-only.
fn tmp(config: &DockerConfig, memory: Option<i64>) -> HashMap<String, String> {
    let options = format!("rw,exec,nosuid,nodev,mode=1777,size={}", tmp_bytes(config, memory));
    HashMap::from([("/tmp".to_owned(), options)])
}

/// What every container of ours has in common.
fn common_host_config(config: &DockerConfig, bounds: Clamped) -> HostConfig {
    HostConfig {
        network_mode: Some(config.network.clone()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        memory: bounds.memory,
        memory_swap: bounds.memory,
        memory_reservation: bounds.memory_reservation,
        nano_cpus: bounds.nano_cpus,
        cpu_shares: bounds.cpu_shares,
        pids_limit: Some(i64::from(config.pids_limit)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), format!("{}k", config.log_file_kib)),
                ("max-file".to_owned(), config.log_files.max(1).to_string()),
            ])),
        }),
        ..HostConfig::default()
    }
}

/// What a temporary directory in memory may hold: half of the limit at most. What is in there stays when the kernel kills the
/// process that wrote it, so a full one must leave the container room to go on.
fn tmp_bytes(config: &DockerConfig, memory: Option<i64>) -> u64 {
    let half = memory.and_then(|bytes| u64::try_from(bytes / 2).ok());
    half.map_or(config.tmp_bytes, |half| half.min(config.tmp_bytes))
}

/// What the container's bounding set holds when the image's own user is `user`.
fn capabilities(user: &str) -> Vec<String> {
    let own: &[&str] = if is_root(user) { &ROOT_CAPABILITIES } else { &[] };
    WATCHDOG_CAPABILITIES.iter().chain(own).map(|name| (*name).to_owned()).collect()
}

/// Whether `user`, in Docker's syntax, is root whatever the image's user database says.
fn is_root(user: &str) -> bool {
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    name.is_empty() || name == "root" || (name.bytes().all(|b| b == b'0'))
}

/// A host name that tells replicas apart: the function's name, shortened, and the replica's own last part.
fn hostname(order: &StartOrder) -> String {
    let unique: String = order
        .replica
        .0
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let unique = &unique[..unique.len().min(HOSTNAME_MAX / 2)];
    let name = order.function.name.as_str();
    let name = &name[..name.len().min(HOSTNAME_MAX - unique.len() - 1)];
    format!("{}-{unique}", name.trim_end_matches('-')).trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::Boot;
    use hyperfaas_protocol::image::FunctionKind;
    use hyperfaas_protocol::names::Namespace;
    use hyperfaas_protocol::{FunctionKey, FunctionName};

    use super::super::super::{Bounds, Image, ReplicaId};
    use super::*;

    fn order(name: &str, user: &str) -> StartOrder {
        StartOrder {
            replica: ReplicaId(format!("openfaas-fn.{name}.a1b2c3d4")),
            function: FunctionKey {
                namespace: Namespace::parse("openfaas-fn").unwrap(),
                name: FunctionName::parse(name).unwrap(),
            },
            revision: 3,
            image: Image {
                reference: "functions/x:1".into(),
                id: "sha256:0".into(),
                digest: None,
                env: Vec::new(),
                entrypoint: Vec::new(),
                command: Vec::new(),
                user: user.into(),
                directory: String::new(),
            },
            kind: FunctionKind::Watchdog,
            env: vec![("fprocess".into(), "cat".into())],
            boot: Boot {
                version: 1,
                key: "k".into(),
                control_port: 18079,
                http_port: 8080,
                kind: FunctionKind::Watchdog,
                entrypoint: Vec::new(),
                command: Vec::new(),
                user: user.into(),
                has_home: false,
                is_standby: false,
                in_flight_max: None,
            },
            limits: Bounds::default(),
            requests: Bounds::default(),
            read_only_root: false,
            secrets: Vec::new(),
        }
    }

    fn body_of(order: &StartOrder) -> ContainerCreateBody {
        let config = DockerConfig::new("unix:///x", "net", "inst", "/w".into());
        body(
            &config,
            order,
            Clamped::default(),
            Volumes { watchdog: ("w", Labels::new()), secrets: None },
        )
        .unwrap()
    }

    #[test]
    fn a_container_gets_no_more_than_its_image_needs() {
        let host = |user| body_of(&order("figlet", user)).host_config.unwrap();
        assert_eq!(host("app").cap_drop.unwrap(), ["ALL"]);
        let watchdogs = ["KILL", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_PTRACE"];
        assert_eq!(host("app").cap_add.unwrap(), watchdogs);
        assert_eq!(host("1000:0").cap_add.unwrap(), watchdogs);
        for user in ["", "root", "0", "0:0", "root:app", "000"] {
            let added = host(user).cap_add.unwrap();
            assert!(added.contains(&"CHOWN".to_owned()), "{user}");
            assert!(!added.iter().any(|name| {
                ["NET_RAW", "MKNOD", "AUDIT_WRITE", "SYS_ADMIN"].contains(&name.as_str())
            }));
        }
        let host = host("app");
        assert_eq!((host.privileged, host.binds, host.devices), (None, None, None));
        assert_eq!((host.pids_limit, host.memory, host.tmpfs), (Some(4096), None, None));
    }

    #[test]
    fn a_read_only_root_keeps_a_writable_tmp() {
        let mut order = order("figlet", "app");
        order.read_only_root = true;
        let host = body_of(&order).host_config.unwrap();
        assert_eq!(host.readonly_rootfs, Some(true));
        assert!(host.tmpfs.unwrap()["/tmp"].starts_with("rw,exec,nosuid,nodev,mode=1777,size="));
    }

    #[test]
    fn a_tmp_in_memory_leaves_half_of_it() {
        let config = DockerConfig::new("unix:///x", "net", "inst", "/w".into());
        assert_eq!(tmp_bytes(&config, None), config.tmp_bytes);
        assert_eq!(tmp_bytes(&config, Some(256 << 20)), 128 << 20);
        assert_eq!(tmp_bytes(&config, Some(i64::MAX)), config.tmp_bytes);
    }

    #[test]
    fn the_watchdog_is_the_entrypoint_and_learns_how_to_boot() {
        let body = body_of(&order("figlet", "app"));
        assert_eq!(body.entrypoint.unwrap(), ["/.hyperfaas/fwatchdog"]);
        assert_eq!(body.user.unwrap(), "0");
        let env = body.env.unwrap();
        assert_eq!(env[0], "fprocess=cat");
        let boot: Boot =
            serde_json::from_str(env[1].strip_prefix("HYPERFAAS_BOOT=").unwrap()).unwrap();
        assert_eq!(boot, order("figlet", "app").boot);
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["net"].aliases.as_ref().unwrap(), &["figlet.openfaas-fn"]);
    }

    #[test]
    fn host_names_are_short_and_end_in_a_letter_or_digit() {
        assert_eq!(hostname(&order("figlet", "")), "figlet-a1b2c3d4");
        let longest = hostname(&order(&"a".repeat(63), ""));
        assert_eq!(longest.len(), HOSTNAME_MAX);
        assert!(longest.ends_with("-a1b2c3d4"));
        assert_eq!(
            hostname(&order(&format!("{}-b{}", "a".repeat(53), "c".repeat(8)), "")),
            format!("{}-a1b2c3d4", "a".repeat(53))
        );
    }
}
