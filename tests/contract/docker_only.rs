//! What only a real engine can show: what a container is like inside, registries, clean-up, an engine that goes away.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::RemoveVolumeOptionsBuilder;
use futures_util::StreamExt;
use futures_util::future::join_all;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use hyperfaas_provider::engine::docker::{DockerConfig, DockerEngine};
use hyperfaas_provider::engine::{Bounds, Engine, EngineError, EngineEvent, LogQuery, PullPolicy};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::lab::{DockerLab, Lab, PATIENCE, lines_until, secret};
use super::registry::Registry;

/// What `/proc` says of each capability set of the watchdog, for an image whose user is not root: KILL, SETGID, SETUID, SETPCAP,
/// SYS_CHROOT, SYS_PTRACE.
const CAPABILITIES: &str = "00000000000c01e0";

#[tokio::test]
async fn a_container_is_closed_as_documented() {
    let lab = DockerLab::new().await;
    let mut order = lab.order("figlet", &[("FACTS", "1")]).await;
    order.env.push(("BOTH".into(), "deployment".into()));
    order.read_only_root = true;
    order.secrets = vec![secret("s", b"x")];
    let started = lab.engine().start(order.clone()).await.unwrap();
    let lines: BTreeSet<String> =
        lines_until(&*lab.engine(), &started, "ready").await.into_iter().collect();
    let boot = format!("env HYPERFAAS_BOOT={}", serde_json::to_string(&order.boot).unwrap());
    let host = format!("host figlet-{}", order.replica.0.rsplit('.').next().unwrap());
    for expected in [
        &format!("CapBnd: {CAPABILITIES}"),
        &format!("CapEff: {CAPABILITIES}"),
        "Uid: 0 0 0 0",
        "pid 1",
        &host,
        "dir /srv",
        "root writable false",
        "tmp writable true",
        "env FROM_IMAGE=yes",
        "env BOTH=deployment",
        &boot,
    ] {
        assert!(lines.contains(expected), "{expected} is not in {lines:#?}");
    }
}

#[tokio::test]
async fn the_host_configuration_is_bounded_and_holds_nothing_of_a_users() {
    let lab = DockerLab::new().await;
    let mut order = lab.order("f", &[]).await;
    order.limits = Bounds { memory: Some(Memory(1)), cpu: Some(Cpu(64_000_000_000)) };
    order.requests = Bounds { memory: Some(Memory(1 << 50)), cpu: Some(Cpu(100_000_000)) };
    let facts = lab.engine().prepare().await.unwrap();
    let started = lab.engine().start(order).await.unwrap();
    let container = lab.corner.docker.inspect_container(&started.container.0, None).await.unwrap();
    let (host, config) = (container.host_config.unwrap(), container.config.unwrap());
    assert_eq!((host.memory, host.memory_reservation), (Some(6 << 20), Some(6 << 20)));
    assert_eq!(host.nano_cpus, i64::try_from(facts.cpu.0).ok());
    assert_eq!((host.cpu_shares, host.pids_limit), (Some(102), Some(4096)));
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "no");
    let log = host.log_config.unwrap();
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    assert_eq!(log.config.unwrap().len(), 2);
    assert_eq!((host.binds, host.devices.unwrap_or_default().len()), (None, 0));
    assert_eq!(config.healthcheck.unwrap().test.unwrap(), ["NONE"]);
    assert_eq!(config.stop_signal.as_deref(), Some("SIGTERM"));
    assert!(container.mounts.unwrap().iter().all(|mount| mount.rw == Some(false)));
    let endpoint = &container.network_settings.unwrap().networks.unwrap()[&lab.corner.network()];
    assert!(endpoint.aliases.as_ref().unwrap().contains(&"f.openfaas-fn".to_owned()));
}

#[tokio::test]
async fn a_line_longer_than_the_engines_pieces_comes_whole() {
    let lab = DockerLab::new().await;
    let started = lab.engine().start(lab.order("f", &[("LONG", "100000")]).await).await.unwrap();
    let lines = lines_until(&*lab.engine(), &started, "ready").await;
    assert_eq!(lines, ["x".repeat(100_000), "ready".to_owned()]);
}

#[tokio::test]
async fn what_was_pruned_behind_our_back_is_made_again() {
    let lab = DockerLab::new().await;
    let mut order = lab.order("f", &[("SECRETS", "1")]).await;
    order.secrets = vec![secret("s", b"x")];
    let first = lab.engine().start(order.clone()).await.unwrap();
    let mounts = lab
        .corner
        .docker
        .inspect_container(&first.container.0, None)
        .await
        .unwrap()
        .mounts
        .unwrap();
    lab.engine().stop(&first.container, Duration::from_secs(20)).await.unwrap();
    for volume in mounts.into_iter().filter_map(|mount| mount.name) {
        let force = RemoveVolumeOptionsBuilder::default().force(true).build();
        lab.corner.docker.remove_volume(&volume, Some(force)).await.unwrap();
    }
    lab.corner.docker.remove_network(&lab.corner.network()).await.unwrap();
    order.replica = lab.order("f", &[]).await.replica;
    let again = lab.engine().start(order).await.unwrap();
    assert_eq!(lab.secrets_seen(&again).await, [("s".to_owned(), b"x".to_vec())]);
    assert_eq!(lab.engine().list().await.unwrap(), [again]);
}

/// As an engine before 24 makes it for a provider that is killed while it asks, when the next one asks too.
#[tokio::test]
async fn of_two_networks_of_one_name_the_one_in_use_stays() {
    let lab = DockerLab::new().await;
    lab.engine().prepare().await.unwrap();
    let (docker, name) = (&lab.corner.docker, lab.corner.network());
    let mut running = Vec::new();
    for _ in 0..2 {
        let installation = format!("{}-1", lab.corner.name);
        let labels = [("managed", "true"), ("role", "network"), ("installation", &installation)];
        let labels = labels.map(|(key, value)| (format!("com.hyperfaas.{key}"), value.to_owned()));
        let second = bollard::models::NetworkCreateRequest {
            name: name.clone(),
            labels: Some(labels.into()),
            ..Default::default()
        };
        if let Err(error) = docker.create_network(second).await {
            // A newer engine makes no second one.
            let error = error.to_string();
            assert!(error.contains("already exists"), "{error}");
        }
        running.push(lab.engine().start(lab.order("f", &[]).await).await.unwrap());
        let all = docker.list_networks(None).await.unwrap();
        let same = all.into_iter().filter(|network| network.name.as_ref() == Some(&name));
        assert_eq!(same.count(), 1);
    }
    running.sort_by(|one, other| one.replica.cmp(&other.replica));
    let mut listed = lab.engine().list().await.unwrap();
    listed.sort_by(|one, other| one.replica.cmp(&other.replica));
    assert_eq!(listed, running);
}

#[tokio::test]
async fn secrets_of_an_earlier_run_are_used_again_and_helpers_go() {
    let lab = DockerLab::new().await;
    let mut order = lab.order("f", &[("SECRETS", "1")]).await;
    order.secrets = vec![secret("s", b"x")];
    lab.engine().start(order.clone()).await.unwrap();
    // What a killed provider leaves: here an ordinary container with a helper's labels.
    let left = bollard::models::ContainerCreateBody {
        image: Some(lab.corner.image()),
        labels: Some(
            [
                ("managed", "true"),
                ("role", "fill"),
                ("installation", &format!("{}-1", lab.corner.name)),
                ("run", "earlier"),
            ]
            .into_iter()
            .map(|(key, value)| (format!("com.hyperfaas.{key}"), value.to_owned()))
            .collect(),
        ),
        ..Default::default()
    };
    lab.corner.docker.create_container(None, left).await.unwrap();
    let later = lab.corner.engine(1);
    later.prepare().await.unwrap();
    order.replica = lab.order("f", &[]).await.replica;
    let second = later.start(order).await.unwrap();
    assert_eq!(lab.secrets_seen(&second).await, [("s".to_owned(), b"x".to_vec())]);
    assert_eq!(lab.secrets_kept().await, 1);
    assert_eq!(lab.corner.containers().await.len(), 2, "the helper left behind is gone");
    assert_eq!(later.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_watchdog_that_cannot_run_everywhere_is_refused_in_one_line() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"#!/bin/sh\n").unwrap();
    for (path, text) in [
        (file.path().to_owned(), "not a 64-bit Linux program"),
        (PathBuf::from("/no/such/file"), "No such file"),
    ] {
        let config = DockerConfig::new("unix:///var/run/docker.sock", "n", "i", path.clone());
        let error = DockerEngine::new(config).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    let config =
        DockerConfig::new("ssh://host", "n", "i", PathBuf::from(env!("CARGO_BIN_EXE_stand-in")));
    assert!(DockerEngine::new(config).unwrap_err().to_string().contains("ssh://host"));
}

#[tokio::test]
async fn an_image_is_pulled_once_with_the_users_login() {
    let mut lab = DockerLab::new().await;
    // `me:p~~~?>` in the standard alphabet holds a `/`, which the engine takes for a broken login.
    let registry = Registry::start(Some("bWU6cH5+fj8+")).await;
    let mut logins = tempfile::NamedTempFile::new().unwrap();
    write!(logins, r#"{{"auths":{{"{}":{{"auth":"bWU6cH5+fj8+"}}}}}}"#, registry.address).unwrap();
    let config =
        DockerConfig { login_file: Some(logins.path().to_owned()), ..lab.corner.config(1) };
    let engine = DockerEngine::new(config).unwrap();
    let reference = registry.image();
    lab.corner.pulled = vec![reference.clone()];
    let same = (0..4).map(|_| engine.image(&reference, PullPolicy::Missing));
    for image in join_all(same).await {
        assert_eq!(image.unwrap().digest.as_deref(), Some(registry.digest.as_str()));
    }
    assert_eq!(registry.pulls(), 1);
    let pinned = format!("{}/test/image@{}", registry.address, registry.digest);
    assert!(engine.image(&pinned, PullPolicy::Always).await.is_ok());
    let missing = format!("{}/test/image:v2", registry.address);
    let error = engine.image(&missing, PullPolicy::Missing).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::ImageUnavailable { reference, .. } if *reference == missing),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_wrong_login_is_an_image_error_without_the_login() {
    let lab = DockerLab::new().await;
    let registry = Registry::start(Some("bWU6cGFzcw==")).await;
    let mut logins = tempfile::NamedTempFile::new().unwrap();
    write!(logins, r#"{{"auths":{{"{}":{{"auth":"bWU6d3Jvbmc="}}}}}}"#, registry.address).unwrap();
    let config =
        DockerConfig { login_file: Some(logins.path().to_owned()), ..lab.corner.config(1) };
    let error = DockerEngine::new(config)
        .unwrap()
        .image(&registry.image(), PullPolicy::Missing)
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::ImageUnavailable { .. }), "{error:?}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// A socket that passes everything on to the engine until it is dropped.
struct Relay(tokio::task::JoinHandle<()>);

impl Relay {
    fn listen(path: &std::path::Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let engine = crate::support::docker::host()
            .strip_prefix("unix://")
            .expect("the tests' engine is local")
            .to_owned();
        Self(tokio::spawn(async move {
            // Dropped with this task, so ending the relay cuts every connection.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut inward, _)) = listener.accept().await {
                let mut outward = UnixStream::connect(&engine).await.unwrap();
                connections.spawn(async move {
                    let _ = copy_bidirectional(&mut inward, &mut outward).await;
                });
            }
        }))
    }

    async fn end(self, path: &std::path::Path) {
        self.0.abort();
        let _ = self.0.await;
        std::fs::remove_file(path).unwrap();
    }
}

#[tokio::test]
async fn an_engine_that_goes_away_is_waited_for() {
    let lab = DockerLab::new().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let host = format!("unix://{}", socket.display());
    let engine = DockerEngine::new(DockerConfig { host, ..lab.corner.config(1) }).unwrap();
    let mut events = engine.events();
    let Some(EngineEvent::Lost { reason }) = events.next().await else {
        panic!("there is no engine yet")
    };
    assert!(reason.contains("engine.sock does not exist"), "{reason}");
    assert!(matches!(engine.prepare().await, Err(EngineError::Unavailable(_))));
    let relay = Relay::listen(&socket);
    assert_eq!(timeout(PATIENCE, events.next()).await.unwrap(), Some(EngineEvent::Connected));
    let replica = engine.start(lab.order("f", &[]).await).await.unwrap();
    let made = timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(made, Some(EngineEvent::Created { .. })), "{made:?}");
    let mut lines =
        engine.logs(&replica.container, LogQuery { follow: true, ..LogQuery::default() });
    assert!(lines.next().await.unwrap().is_ok());
    relay.end(&socket).await;
    assert!(matches!(
        timeout(PATIENCE, events.next()).await.unwrap(),
        Some(EngineEvent::Lost { .. })
    ));
    assert!(matches!(engine.list().await, Err(EngineError::Unavailable(_))));
    let end = timeout(PATIENCE, lines.next()).await.expect("following does not hang");
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    // Dies while the engine is out of reach: seen in the list made after `Connected`.
    lab.crash(&replica).await;
    let relay = Relay::listen(&socket);
    assert_eq!(timeout(PATIENCE, events.next()).await.unwrap(), Some(EngineEvent::Connected));
    assert!(!engine.list().await.unwrap()[0].is_running);
    engine.stop(&replica.container, Duration::from_secs(5)).await.unwrap();
    let Some(EngineEvent::Removed { container }) = timeout(PATIENCE, events.next()).await.unwrap()
    else {
        panic!("not the removal")
    };
    assert_eq!(container, replica.container);
    relay.end(&socket).await;
}
