//! Runs containers. Holds no policy: it does what one order says, once, and reports.
//!
//! Two implementations pass the same contract tests: [`docker`] (a real engine over its API) and [`sim`] (virtual time,
//! scripted faults). Everything this provider makes carries `com.hyperfaas.managed=true` and its installation's name, so
//! several providers can share one engine without touching each other's containers.

pub mod clamp;
pub mod docker;
pub mod elf;
pub mod reference;
pub mod sim;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hyperfaas_protocol::control::Boot;
use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use hyperfaas_protocol::{FunctionKey, SecretName};
use jiff::Timestamp;

/// The engine's id of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub String);

/// The name of a replica, also its container's name: `{namespace}.{function}.{random}`; never used twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub String);

/// What the engine is and how large its host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// The engine's own version, such as `20.10.24`.
    pub version: String,
    /// The API version spoken after negotiation, such as `1.41`.
    pub api_version: String,
    /// The host's processors, in nano-CPUs.
    pub cpu: Cpu,
    /// The host's memory, in bytes.
    pub memory: Memory,
}

/// When to ask a registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Only when the image is not present: `faas-cli build` and `deploy` then need no push.
    #[default]
    Missing,
    /// Each deploy asks the registry; a present image serves when that fails.
    Always,
}

/// An image that is present on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As the user wrote it.
    pub reference: String,
    /// The engine's content id.
    pub id: String,
    /// The registry's digest, when the image came from one.
    pub digest: Option<String>,
    /// Environment set in the image.
    pub env: Vec<(String, String)>,
    /// The image's entrypoint.
    pub entrypoint: Vec<String>,
    /// The image's command.
    pub command: Vec<String>,
    /// The image's user in Docker's syntax; empty is root.
    pub user: String,
    /// The image's working directory; empty is the root.
    pub directory: String,
}

/// A secret's bytes on their way into a container; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its name, also the file's.
    pub name: SecretName,
    /// Exactly these bytes.
    pub bytes: Bytes,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One replica to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// Its name.
    pub replica: ReplicaId,
    /// Whose replica it is.
    pub function: FunctionKey,
    /// The revision of the function's specification.
    pub revision: u64,
    /// What to run; its own user is kept for workers, the watchdog itself runs as root.
    pub image: Image,
    /// How the image is run; decides which capabilities and port the container gets.
    pub kind: FunctionKind,
    /// Variables of the deployment, `fprocess` included; they win over the image's.
    pub env: Vec<(String, String)>,
    /// What the watchdog must know.
    pub boot: Boot,
    /// Upper bounds, as asked for; the engine clamps them to what it accepts.
    pub limits: Bounds,
    /// Reservations, as asked for; the engine clamps them to what it accepts.
    pub requests: Bounds,
    /// Whether the root is read-only (`/tmp` stays writable).
    pub read_only_root: bool,
    /// Files at `/var/openfaas/secrets`, read-only; shared by all replicas of one revision.
    pub secrets: Vec<SecretFile>,
}

/// One standby container to be started: it belongs to no function, and its watchdog waits to be given some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyOrder {
    /// The container's name; never used twice.
    pub name: ReplicaId,
    /// What the watchdog must know.
    pub boot: Boot,
    /// Upper bounds, as asked for; the engine clamps them to what it accepts.
    pub limits: Bounds,
}

/// A standby container, as the engine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// The engine's id.
    pub container: ContainerId,
    /// Its name now.
    pub name: ReplicaId,
    /// The port its watchdog serves HTTP on.
    pub http_port: u16,
    /// The port of its control link.
    pub control_port: u16,
    /// Whether its processes run.
    pub is_running: bool,
    /// Its address on the functions' network, while it runs.
    pub address: Option<IpAddr>,
}

/// Memory and processor bounds; `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Bytes.
    pub memory: Option<Memory>,
    /// Nano-CPUs.
    pub cpu: Option<Cpu>,
}

/// A container of ours, as the engine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The engine's id.
    pub container: ContainerId,
    /// The replica's name.
    pub replica: ReplicaId,
    /// Whose replica it is.
    pub function: FunctionKey,
    /// The revision it was started from.
    pub revision: u64,
    /// The port its watchdog serves HTTP on.
    pub http_port: u16,
    /// The port of its control link.
    pub control_port: u16,
    /// Whether its processes run.
    pub is_running: bool,
    /// Its address on the functions' network, while it runs.
    pub address: Option<IpAddr>,
}

/// Something that happened without being asked for, or after it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// The engine answers (again): everything may have changed, list anew.
    Connected,
    /// The engine stopped answering; the stream goes on and says when it is back.
    Lost {
        /// For the log.
        reason: String,
    },
    /// A container of ours was made, by whatever run of this provider: one that was killed may have sent its order already.
    Created {
        /// Which container.
        container: ContainerId,
        /// The name it was made with.
        name: ReplicaId,
        /// Whose replica it is; `None` for one that belongs to no function.
        function: Option<FunctionKey>,
    },
    /// A container's main process ended.
    Died {
        /// Which container.
        container: ContainerId,
        /// Its exit status; 137 after a kill.
        exit_code: i64,
    },
    /// A container of ours was removed.
    Removed {
        /// Which container.
        container: ContainerId,
    },
}

/// Which log lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Whether to stay for lines yet to come.
    pub follow: bool,
    /// At most this many lines from the end of what there is.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
}

/// One line of a container's output, from either stream, without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the engine received it.
    pub timestamp: Timestamp,
    /// The line; invalid UTF-8 is replaced.
    pub text: String,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ContainerUsage {
    /// Milli-CPUs over the last sampling interval.
    pub cpu_milli: f64,
    /// Bytes, page cache that can be reclaimed not counted.
    pub memory_bytes: u64,
}

/// Why the engine did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The engine cannot be reached.
    #[error("container engine unavailable: {0}")]
    Unavailable(String),
    /// Neither present nor to be had from its registry.
    #[error("image \"{reference}\" cannot be had: {reason}")]
    ImageUnavailable {
        /// The image, as the user wrote it.
        reference: String,
        /// The registry's or engine's words, one line.
        reason: String,
    },
    /// No such container.
    #[error("no such container")]
    NotFound,
    /// The engine refused.
    #[error("container engine refused: {0}")]
    Refused(String),
}

/// A future of an engine call.
pub type Call<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// A container engine on one host. Calls may run at the same time; dropping a call's future gives up waiting only.
pub trait Engine: Send + Sync + 'static {
    /// Reaches the engine and makes sure that what every replica needs is there: network, watchdog volume.
    fn prepare(&self) -> Call<'_, EngineFacts>;

    /// Makes an image present, asking its registry as `policy` says, with the user's logins; progress goes to the log.
    fn image<'a>(&'a self, reference: &'a str, policy: PullPolicy) -> Call<'a, Image>;

    /// Creates and starts one replica; returns when its container runs, which is before it is ready. One that has ended
    /// by then is returned as not running. On an error nothing of it is left behind.
    fn start(&self, order: StartOrder) -> Call<'_, Observed>;

    /// Sends SIGTERM, kills after `grace`, and removes the container. An unknown id is success.
    fn stop<'a>(&'a self, container: &'a ContainerId, grace: Duration) -> Call<'a, ()>;

    /// Every replica of this installation, running or not; standby containers are not among them.
    fn list(&self) -> Call<'_, Vec<Observed>>;

    /// Creates and starts one standby container, which has nothing but a watchdog: no image of a user, no file but the
    /// engine's own. As [`Engine::start`] otherwise; [`Engine::stop`] ends it.
    fn start_standby(&self, order: StandbyOrder) -> Call<'_, Standby>;

    /// Every standby container of this installation, running or not.
    fn list_standby(&self) -> Call<'_, Vec<Standby>>;

    /// Gives a container another name, so that the engine's own list tells what it serves.
    fn rename<'a>(&'a self, container: &'a ContainerId, name: &'a ReplicaId) -> Call<'a, ()>;

    /// The first process of a running container, as the engine's host numbers it.
    fn process<'a>(&'a self, container: &'a ContainerId) -> Call<'a, u32>;

    /// An image's root file system as a tar archive, piece by piece. Ends after an error; dropping it ends the export.
    fn export(&self, image: &Image) -> BoxStream<'static, Result<Bytes, EngineError>>;

    /// What happens from now on; begins with `Connected` or `Lost`, and never ends.
    fn events(&self) -> BoxStream<'static, EngineEvent>;

    /// A container's lines in order; ends when the container has ended or, without `follow`, with the last line there is.
    fn logs(
        &self,
        container: &ContainerId,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogLine, EngineError>>;

    /// Changes what a running container may use, and the engine's record of it; what is `None` stays as it is.
    fn update<'a>(&'a self, container: &'a ContainerId, bounds: Bounds) -> Call<'a, ()>;

    /// What a container uses now.
    fn usage<'a>(&'a self, container: &'a ContainerId) -> Call<'a, ContainerUsage>;

    /// Removes the secrets' files of every revision that is not in `live`.
    fn collect_secrets<'a>(&'a self, live: &'a [(FunctionKey, u64)]) -> Call<'a, ()>;
}
