//! The two places where the contract is tried: a corner of a real Docker engine, and a simulated host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyperfaas_protocol::control::{Boot, CONTROL_PORT, FUNCTION_PORT, LINK_VERSION};
use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::names::Namespace;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use hyperfaas_protocol::{FunctionKey, FunctionName, SecretName};
use hyperfaas_provider::engine::sim::{Exit, Program, SimEngine, SimHost, Terminates};
use hyperfaas_provider::engine::{
    Bounds, ContainerId, ContainerUsage, Engine, Image, LogQuery, Observed, PullPolicy, ReplicaId,
    SecretFile, StartOrder,
};
use uuid::Uuid;

use crate::support::docker::Corner;

/// How long anything may take on a busy machine before it counts as never.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A place with two providers on one engine.
pub(super) trait Lab {
    /// Makes the place; gone when dropped.
    async fn new() -> Self;
    /// The engine of provider 1.
    fn engine(&self) -> Arc<dyn Engine>;
    /// The engine of provider 2, on the same host.
    fn neighbour(&self) -> Arc<dyn Engine>;
    /// The reference of an image that is present.
    fn present(&self) -> String;
    /// Kills a container's main process from outside.
    async fn crash(&self, container: &Observed);
    /// The same, of a container that is no replica.
    async fn kill(&self, container: &ContainerId);
    /// Waits until no container that only carries files is left.
    async fn no_helpers_left(&self);
    /// Removes a container behind the engine's users.
    async fn snatch(&self, container: &Observed);
    /// The secrets a container sees, by name.
    async fn secrets_seen(&self, container: &Observed) -> Vec<(String, Vec<u8>)>;
    /// What a container may use, as its host has it.
    async fn bounds(&self, container: &Observed) -> Bounds;
    /// How many sets of secrets the host keeps.
    async fn secrets_kept(&self) -> usize;

    /// An order for a replica of `name` whose program does what `script` says, as variables of the stand-in.
    async fn order(&self, name: &str, script: &[(&str, &str)]) -> StartOrder {
        let image = self.engine().image(&self.present(), PullPolicy::Missing).await.unwrap();
        let variables =
            script.iter().map(|(key, value)| (format!("STAND_IN_{key}"), (*value).to_owned()));
        StartOrder {
            replica: ReplicaId(format!(
                "openfaas-fn.{name}.{}",
                &Uuid::new_v4().simple().to_string()[..10]
            )),
            function: function(name),
            revision: 7,
            env: variables.collect(),
            boot: Boot {
                version: LINK_VERSION,
                key: "key".into(),
                control_port: CONTROL_PORT,
                http_port: FUNCTION_PORT,
                kind: FunctionKind::Server,
                entrypoint: image.entrypoint.clone(),
                command: image.command.clone(),
                user: image.user.clone(),
                has_home: false,
                is_standby: false,
                in_flight_max: None,
            },
            image,
            kind: FunctionKind::Server,
            limits: Bounds::default(),
            requests: Bounds::default(),
            read_only_root: false,
            secrets: Vec::new(),
        }
    }
}

/// A function's key in the default namespace.
pub(super) fn function(name: &str) -> FunctionKey {
    FunctionKey {
        namespace: Namespace::parse("openfaas-fn").unwrap(),
        name: FunctionName::parse(name).unwrap(),
    }
}

/// A secret.
pub(super) fn secret(name: &str, bytes: &[u8]) -> SecretFile {
    SecretFile { name: SecretName::parse(name).unwrap(), bytes: Bytes::copy_from_slice(bytes) }
}

/// Every line a container has said once it has said `last`.
pub(super) async fn lines_until(
    engine: &dyn Engine,
    container: &Observed,
    last: &str,
) -> Vec<String> {
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut stream = engine.logs(&container.container, query);
    let reading = async {
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await {
            let text = line.unwrap().text;
            let is_last = text == last;
            lines.push(text);
            if is_last {
                break;
            }
        }
        lines
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the container says it")
}

/// A corner of the real engine.
pub(super) struct DockerLab {
    pub(super) corner: Corner,
    engines: [Arc<dyn Engine>; 2],
}

impl Lab for DockerLab {
    async fn new() -> Self {
        let corner = Corner::new().await;
        let engines: [Arc<dyn Engine>; 2] =
            [Arc::new(corner.engine(1)), Arc::new(corner.engine(2))];
        for engine in &engines {
            engine.prepare().await.unwrap();
        }
        Self { corner, engines }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engines[0])
    }

    fn neighbour(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engines[1])
    }

    fn present(&self) -> String {
        self.corner.image()
    }

    async fn crash(&self, container: &Observed) {
        self.kill(&container.container).await;
    }

    async fn kill(&self, container: &ContainerId) {
        self.corner.docker.kill_container(&container.0, None).await.unwrap();
    }

    async fn no_helpers_left(&self) {
        let gone = async {
            while !self.corner.containers().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("helpers are removed");
    }

    async fn snatch(&self, container: &Observed) {
        let force =
            bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).build();
        self.corner.docker.remove_container(&container.container.0, Some(force)).await.unwrap();
    }

    async fn secrets_seen(&self, container: &Observed) -> Vec<(String, Vec<u8>)> {
        let lines = lines_until(&*self.engine(), container, "ready").await;
        assert!(lines.contains(&"secrets writable false".to_owned()), "{lines:?}");
        let seen = lines.iter().filter_map(|line| line.strip_prefix("secret ")).map(|line| {
            let mut words = line.split(' ');
            let (name, mode, hex) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert_eq!(mode, "444");
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            (name.to_owned(), bytes.collect())
        });
        seen.collect()
    }

    async fn bounds(&self, container: &Observed) -> Bounds {
        let found = self.corner.docker.inspect_container(&container.container.0, None).await;
        let host = found.unwrap().host_config.unwrap();
        let set = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        Bounds { cpu: set(host.nano_cpus).map(Cpu), memory: set(host.memory).map(Memory) }
    }

    async fn secrets_kept(&self) -> usize {
        self.corner.secret_volumes().await.len()
    }
}

/// A simulated host that understands the stand-in's variables.
pub(super) struct SimLab {
    pub(super) host: SimHost,
}

const SIM_REFERENCE: &str = "functions/sim:v1";

impl Lab for SimLab {
    async fn new() -> Self {
        let host = SimHost::default();
        host.add_image(Image {
            reference: SIM_REFERENCE.into(),
            id: "sha256:51".into(),
            digest: None,
            env: vec![("FROM_IMAGE".into(), "yes".into()), ("BOTH".into(), "image".into())],
            entrypoint: vec!["/server".into()],
            command: vec!["a".into(), "b c".into()],
            user: "1000:1000".into(),
            directory: "/srv".into(),
        });
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        archive.append_data(&mut header, "srv/it", &b"it\n"[..]).unwrap();
        host.add_archive("sha256:51", archive.into_inner().unwrap());
        host.run_programs(stand_in);
        Self { host }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(SimEngine::new(&self.host, "one"))
    }

    fn neighbour(&self) -> Arc<dyn Engine> {
        Arc::new(SimEngine::new(&self.host, "two"))
    }

    fn present(&self) -> String {
        SIM_REFERENCE.into()
    }

    async fn crash(&self, container: &Observed) {
        self.kill(&container.container).await;
    }

    async fn kill(&self, container: &ContainerId) {
        self.host.exit(container, 137);
    }

    /// There are none.
    async fn no_helpers_left(&self) {}

    async fn snatch(&self, container: &Observed) {
        self.host.remove(&container.container);
    }

    async fn secrets_seen(&self, container: &Observed) -> Vec<(String, Vec<u8>)> {
        let files =
            self.host.secrets("one", &container.function, container.revision).unwrap_or_default();
        files.into_iter().map(|file| (file.name.to_string(), file.bytes.to_vec())).collect()
    }

    async fn bounds(&self, container: &Observed) -> Bounds {
        self.host.bounds(&container.container).unwrap()
    }

    async fn secrets_kept(&self) -> usize {
        ["f", "g"]
            .iter()
            .filter(|name| self.host.secrets("one", &function(name), 7).is_some())
            .count()
    }
}

/// What the stand-in does, simulated.
fn stand_in(order: &StartOrder) -> Program {
    let variable = |name: &str| {
        let mut found = order.env.iter().filter(|(key, _)| *key == format!("STAND_IN_{name}"));
        found.next().map(|(_, value)| value.clone())
    };
    let lines = |name: &str| {
        variable(name).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let exit =
        variable("EXIT").map(|code| Exit { after: Duration::ZERO, code: code.parse().unwrap() });
    let ready = if exit.is_none() { vec!["ready".to_owned()] } else { Vec::new() };
    Program {
        lines: [lines("OUT"), lines("ERR"), ready].concat(),
        exit,
        terminates: match variable("STUBBORN") {
            Some(_) => Terminates::Never,
            None => Terminates::After(Duration::ZERO, lines("BYE")),
        },
        usage: ContainerUsage {
            cpu_milli: if variable("BURN").is_some() { 900.0 } else { 0.5 },
            memory_bytes: 2 << 20,
        },
        ..Program::default()
    }
}
