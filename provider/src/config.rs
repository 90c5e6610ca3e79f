//! The provider's settings: OpenFaaS' names where OpenFaaS has one, `HYPERFAAS_…` for the rest.
//!
//! In: a lookup by name. Out: a [`Config`], or every mistake at once.
//! Units: durations as OpenFaaS writes them (`60` is seconds, `1m30s`); counts are plain integers.
//! Touches: nothing; the secret files are read by [`Config::auth`].

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_gateway::{
    CallbackPolicy, GatewayConfig, QueueSettings, TraceSettings, Upstream, Users,
};
use hyperfaas_http::Tls;
use hyperfaas_http::auth::{AuthError, BasicAuth};
use hyperfaas_http::config::{Settings, SettingsError};
use hyperfaas_protocol::Namespace;
use hyperfaas_protocol::names::DEFAULT_NAMESPACE;
use hyperfaas_protocol::quantity::Memory;

use crate::api::ApiSettings;
use crate::catalog::CatalogSettings;
use crate::cluster::ParkingBounds;
use crate::dispatch::DispatchSettings;
use crate::engine::PullPolicy;
use crate::engine::docker::{DEFAULT_HOST, DockerConfig};
use crate::node::cgroup::DEFAULT_ROOT;
use crate::node::standby::StandbyPolicy;
use crate::reconcile;
use crate::scheduler::{Mode, Policy};
use crate::spec::{SHARE_RULE, share_group};

/// Port of the provider API: faasd's and the charts', so that a gateway finds it where it looks.
const PORT: u16 = 8081;
/// Longest wait for an answer's head. OpenFaaS' default of 10 s cuts slow functions; its charts set 60 s, and so do we.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Where the credentials are mounted, as in OpenFaaS.
const SECRET_MOUNT_PATH: &str = "/run/secrets/";
/// Where catalog and secrets are kept: the place for a service's state on Linux.
const STATE_DIR: &str = "/var/lib/hyperfaas";
/// The network of functions and of services that call them.
const NETWORK: &str = "hyperfaas-functions";
/// The installation's name on the engine.
const INSTALLATION: &str = "default";
/// Longest name of an installation, in bytes: it becomes part of names on the engine.
const INSTALLATION_MAX: usize = 40;
/// The watchdog's file name beside the provider's program.
const WATCHDOG: &str = "fwatchdog";
/// Most replicas of one function: what one host carries of small containers, and no more from one mistyped number.
const MAX_REPLICAS: u32 = 100;
/// Time for a started container to become ready: a large runtime on a busy host takes tens of seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time a request waits for a replica: the gateway's own patience.
const COLD_START_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of one function that may wait: each holds a connection, about 20 KiB.
const PARKED_MAX: usize = 1000;
/// Requests of all functions that may wait: one function's burst takes half of them at most.
const PARKED_ALL_MAX: usize = 10_000;
/// Time a replica on its way out has for what it serves: as long as an answer may take to begin.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL: the watchdogs' own default to finish in.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Containers started at the same time: Docker starts about eight a second, more at once only wait inside it.
const STARTS_AT_ONCE: usize = 4;
/// Bytes of all images' root file systems together: some dozens of ordinary images.
const ROOTFS_MAX: Memory = Memory(20 << 30);
/// Fewest and most standby containers: one is there for whatever comes first, at 4 MiB each; eight are what Docker starts in a
/// second.
const STANDBY: (u32, u32) = (1, 8);
/// Standby containers started at the same time: functions' own replicas have the rest of what Docker can do.
const STANDBY_STARTS: u32 = 2;
/// Time until a taken one has been replaced: a container's start, on a busy host.
const STANDBY_REFILL: Duration = Duration::from_secs(1);
/// Time after which the pool forgets that it had to be larger.
const STANDBY_QUIET: Duration = Duration::from_secs(300);
/// Time for a management request's body: 4 MiB over a slow line.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything the process needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where both servers listen.
    pub address: IpAddr,
    /// Port of the provider API.
    pub port: u16,
    /// Port of the gateway in this process; `None`: there is none.
    pub gateway_port: Option<u16>,
    /// Port of that gateway's own metrics; `None`: they are not served.
    pub gateway_metrics_port: Option<u16>,
    gateway_queue: Option<QueueSettings>,
    callbacks: CallbackPolicy,
    users: Option<Users>,
    traces: Option<TraceSettings>,
    cron: bool,
    /// The Prometheus server that scrapes that gateway, if one is named.
    pub gateway_prometheus: Option<Upstream>,
    /// Certificate of that gateway, when it speaks TLS.
    pub gateway_tls: Option<Tls>,
    has_basic_auth: bool,
    secret_mount_path: PathBuf,
    read_timeout: Option<Duration>,
    body_timeout: Duration,
    namespace: Namespace,
    state_dir: PathBuf,
    cold_start_timeout: Duration,
    parking: ParkingBounds,
    policy: Policy,
    cgroup_root: PathBuf,
    reconcile: reconcile::Settings,
    has_slots: bool,
    roots_max: Memory,
    standby: StandbyPolicy,
    zygotes: usize,
    share: Option<Arc<str>>,
    docker: DockerConfig,
}

impl Config {
    /// Reads all settings through `lookup`.
    ///
    /// # Errors
    /// [`SettingsError`] with one line for every mistake.
    pub fn from_vars(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let s = &mut settings;
        // Accepted so that existing set-ups start; nothing here cuts an answer that is still being written.
        s.optional_duration("write_timeout", READ_TIMEOUT);
        let state_dir = PathBuf::from(s.text_or("HYPERFAAS_STATE_DIR", STATE_DIR));
        let standby_min = s.integer("HYPERFAAS_STANDBY_MIN", STANDBY.0);
        let config = Self {
            address: parsed(
                s,
                "HYPERFAAS_ADDRESS",
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                "must be an IP address",
            ),
            port: s.integer("port", PORT),
            gateway_port: optional_port(s, "HYPERFAAS_GATEWAY_PORT"),
            gateway_metrics_port: optional_port(s, "HYPERFAAS_GATEWAY_METRICS_PORT"),
            has_basic_auth: s.flag("basic_auth"),
            secret_mount_path: s.text_or("secret_mount_path", SECRET_MOUNT_PATH).into(),
            read_timeout: s.optional_duration("read_timeout", READ_TIMEOUT),
            body_timeout: s.duration("HYPERFAAS_BODY_TIMEOUT", BODY_TIMEOUT),
            namespace: namespace(s),
            gateway_queue: hyperfaas_gateway::config::queue(s, &state_dir.join("async")),
            callbacks: hyperfaas_gateway::config::callbacks(s),
            users: hyperfaas_gateway::config::users(s),
            traces: hyperfaas_gateway::config::traces(s),
            cron: hyperfaas_gateway::config::cron(s),
            gateway_prometheus: hyperfaas_gateway::config::prometheus(s),
            gateway_tls: hyperfaas_gateway::config::tls(s),
            state_dir,
            cold_start_timeout: s.duration("HYPERFAAS_COLD_START_TIMEOUT", COLD_START_TIMEOUT),
            parking: ParkingBounds {
                one: at_least_one(s, "HYPERFAAS_PARKED_MAX", PARKED_MAX),
                all: at_least_one(s, "HYPERFAAS_PARKED_ALL_MAX", PARKED_ALL_MAX),
            },
            policy: policy(s),
            cgroup_root: s.text_or("HYPERFAAS_CGROUP_ROOT", DEFAULT_ROOT).into(),
            reconcile: reconcile_settings(s),
            has_slots: s.flag("HYPERFAAS_SLOTS"),
            roots_max: roots_max(s),
            standby: standby(s, standby_min),
            zygotes: zygotes(s, standby_min),
            share: share(s),
            docker: docker_config(s),
        };
        settings.finish(config)
    }

    /// The credentials of `/system`; `None` when basic auth is off.
    ///
    /// # Errors
    /// [`AuthError`] when basic auth is on and a file is missing or says nothing.
    pub fn auth(&self) -> Result<Option<BasicAuth>, AuthError> {
        self.has_basic_auth.then(|| BasicAuth::from_files(&self.secret_mount_path)).transpose()
    }

    /// Settings of the catalog.
    pub fn catalog(&self) -> CatalogSettings {
        CatalogSettings {
            state_dir: self.state_dir.clone(),
            default_namespace: self.namespace.clone(),
            max_replicas: self.policy.max_replicas,
        }
    }

    /// Settings of the engine.
    pub fn docker(&self) -> DockerConfig {
        self.docker.clone()
    }

    /// Settings of the request path.
    pub fn dispatch(&self) -> DispatchSettings {
        DispatchSettings {
            head_timeout: self.read_timeout,
            cold_start_timeout: self.cold_start_timeout,
        }
    }

    /// How many requests may wait.
    pub fn parking(&self) -> ParkingBounds {
        self.parking
    }

    /// What the scheduler decides by.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Where the host's cgroups are mounted, if this process sees them.
    pub fn cgroup_root(&self) -> &std::path::Path {
        &self.cgroup_root
    }

    /// Settings of the reconciler.
    pub fn reconcile(&self) -> reconcile::Settings {
        self.reconcile
    }

    /// Where images' root file systems are kept, and how many bytes they may have; `None`: no function is to be a guest.
    pub fn roots(&self) -> Option<(PathBuf, u64)> {
        self.has_slots.then(|| (self.state_dir.join("rootfs"), self.roots_max.0))
    }

    /// How many standby containers there are to be, where guests are possible.
    pub fn standby(&self) -> StandbyPolicy {
        self.standby
    }

    /// Most functions at zero whose interpreter waits in a standby container.
    pub fn zygotes(&self) -> usize {
        self.zygotes
    }

    /// The share group of functions whose deployment names none; `None`: they share with nobody.
    pub fn share(&self) -> Option<&Arc<str>> {
        self.share.as_ref()
    }

    /// Settings of the management API.
    pub fn api(&self) -> ApiSettings {
        ApiSettings { body_timeout: self.body_timeout }
    }

    /// Settings of the gateway in this process, which trusts whom the provider trusts.
    pub fn gateway(&self, auth: Option<BasicAuth>) -> GatewayConfig {
        GatewayConfig {
            auth,
            users: self.users.clone(),
            upstream_timeout: self.read_timeout,
            callbacks: self.callbacks,
            traces: self.traces.clone(),
            cron: self.cron,
        }
    }

    /// Settings of that gateway's queue of asynchronous calls, in the state directory unless another one is named;
    /// `None`: there is none.
    pub fn gateway_queue(&self) -> Option<QueueSettings> {
        self.gateway_queue.clone()
    }
}

fn reconcile_settings(s: &mut Settings<'_>) -> reconcile::Settings {
    reconcile::Settings {
        pull: pull(s),
        drain_timeout: s.duration("HYPERFAAS_DRAIN_TIMEOUT", DRAIN_TIMEOUT),
        stop_grace: s.duration("HYPERFAAS_STOP_GRACE", STOP_GRACE),
    }
}

fn roots_max(s: &mut Settings<'_>) -> Memory {
    let Some(text) = s.text("HYPERFAAS_ROOTFS_MAX") else { return ROOTFS_MAX };
    match Memory::parse(&text) {
        Ok(bytes) if bytes.0 > 0 => bytes,
        _ => {
            s.mistake("HYPERFAAS_ROOTFS_MAX", "must be a size such as 20Gi");
            ROOTFS_MAX
        }
    }
}

fn share(s: &mut Settings<'_>) -> Option<Arc<str>> {
    let text = s.text("HYPERFAAS_SHARE").filter(|text| !text.is_empty())?;
    let group = share_group(&text);
    if group.is_none() {
        s.mistake("HYPERFAAS_SHARE", SHARE_RULE);
    }
    group
}

fn zygotes(s: &mut Settings<'_>, standby_min: u32) -> usize {
    let most = s.integer("HYPERFAAS_ZYGOTES", 0);
    if most > 0 && standby_min == 0 {
        s.mistake("HYPERFAAS_ZYGOTES", "needs a HYPERFAAS_STANDBY_MIN of at least 1");
    }
    most
}

fn standby(s: &mut Settings<'_>, min: u32) -> StandbyPolicy {
    let bounds = (min, s.integer("HYPERFAAS_STANDBY_MAX", STANDBY.1));
    let quiet = s.duration("HYPERFAAS_STANDBY_QUIET", STANDBY_QUIET);
    let policy = StandbyPolicy::new(bounds, STANDBY_STARTS, STANDBY_REFILL, quiet);
    let policy = policy.unwrap_or_else(|error| {
        s.mistake("HYPERFAAS_STANDBY_MIN", &error.to_string());
        StandbyPolicy::OFF
    });
    policy.returning(s.flag("HYPERFAAS_STANDBY_RETURN"))
}

fn policy(s: &mut Settings<'_>) -> Policy {
    let default = Policy::default();
    Policy {
        mode: mode(s),
        max_replicas: at_least_one(s, "HYPERFAAS_MAX_REPLICAS", MAX_REPLICAS),
        starts_at_once: at_least_one(s, "HYPERFAAS_STARTS_AT_ONCE", STARTS_AT_ONCE),
        start_timeout: s.duration("HYPERFAAS_START_TIMEOUT", START_TIMEOUT),
        quiet_for: s.duration("HYPERFAAS_SCALE_QUIET", default.quiet_for),
        cool_for: s.duration("HYPERFAAS_SCALE_COOL", default.cool_for),
        persist_for: s.duration("HYPERFAAS_SCALE_PERSIST", default.persist_for),
        floor_for: s.duration("HYPERFAAS_SCALE_FLOOR", default.floor_for),
        ..default
    }
}

fn mode(s: &mut Settings<'_>) -> Mode {
    let text = s.text_or("HYPERFAAS_SCALING", Mode::default().name());
    Mode::parse(&text).unwrap_or_else(|| {
        s.mistake("HYPERFAAS_SCALING", "must be off, out, up+out or full");
        Mode::default()
    })
}

fn docker_config(s: &mut Settings<'_>) -> DockerConfig {
    let network = name(s, "HYPERFAAS_NETWORK", NETWORK);
    let installation = name(s, "HYPERFAAS_INSTALLATION", INSTALLATION);
    let watchdog = s.text("HYPERFAAS_WATCHDOG").map_or_else(watchdog_beside_us, PathBuf::from);
    DockerConfig::new(&s.text_or("DOCKER_HOST", DEFAULT_HOST), &network, &installation, watchdog)
}

/// The watchdog that was installed with this program.
fn watchdog_beside_us() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.with_file_name(WATCHDOG)
}

fn namespace(s: &mut Settings<'_>) -> Namespace {
    let text = s.text_or("function_namespace", DEFAULT_NAMESPACE);
    Namespace::parse(&text).unwrap_or_else(|error| {
        s.mistake("function_namespace", &error.to_string());
        Namespace::parse(DEFAULT_NAMESPACE).expect("the default is a valid name")
    })
}

fn pull(s: &mut Settings<'_>) -> PullPolicy {
    match s.text_or("HYPERFAAS_PULL", "missing").as_str() {
        "missing" => PullPolicy::Missing,
        "always" => PullPolicy::Always,
        _ => {
            s.mistake("HYPERFAAS_PULL", "must be missing or always");
            PullPolicy::Missing
        }
    }
}

/// A name that may become part of names on the engine.
fn name(s: &mut Settings<'_>, key: &str, default: &str) -> String {
    let text = s.text_or(key, default);
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let is_name =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(is_inner);
    if !is_name || text.len() > INSTALLATION_MAX {
        s.mistake(key, "must be 1 to 40 of letters, digits, '_', '.' and '-', beginning with a letter or digit");
    }
    text
}

fn optional_port(s: &mut Settings<'_>, key: &str) -> Option<u16> {
    s.text(key).map(|_| s.integer(key, 0))
}

fn parsed<T: FromStr>(s: &mut Settings<'_>, key: &str, default: T, rule: &str) -> T {
    let Some(text) = s.text(key) else { return default };
    text.parse().unwrap_or_else(|_| {
        s.mistake(key, rule);
        default
    })
}

fn at_least_one<T: FromStr + Default + PartialEq + Copy>(
    s: &mut Settings<'_>,
    key: &str,
    default: T,
) -> T {
    let count = s.integer(key, default);
    if count == T::default() {
        s.mistake(key, "must be at least 1");
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, SettingsError> {
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Config::from_vars(&find)
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let config = read(&[]).unwrap();
        assert_eq!((config.port, config.gateway_port), (8081, None));
        assert_eq!(config.dispatch().head_timeout, Some(READ_TIMEOUT));
        assert_eq!(config.catalog().default_namespace.as_str(), "openfaas-fn");
        assert_eq!(config.docker().watchdog.file_name().unwrap(), "fwatchdog");
        assert!(config.auth().unwrap().is_none());
        assert_eq!(config.roots(), None);
    }

    #[test]
    fn openfaas_names_and_ours_are_read() {
        let config = read(&[
            ("port", "9000"),
            ("read_timeout", "0"),
            ("write_timeout", "65s"),
            ("function_namespace", "fns"),
            ("HYPERFAAS_GATEWAY_PORT", "8080"),
            ("HYPERFAAS_PULL", "always"),
            ("HYPERFAAS_MAX_REPLICAS", "7"),
            ("HYPERFAAS_STOP_GRACE", "5s"),
            ("HYPERFAAS_ADDRESS", "::1"),
            ("max_idle_conns", "1024"),
            ("HYPERFAAS_SLOTS", "true"),
            ("HYPERFAAS_ROOTFS_MAX", "3Gi"),
            ("HYPERFAAS_STATE_DIR", "/s"),
        ]);
        let config = config.unwrap();
        assert_eq!(
            (config.port, config.gateway_port, config.address),
            (9000, Some(8080), "::1".parse().unwrap())
        );
        assert_eq!(config.dispatch().head_timeout, None);
        assert_eq!(
            (config.catalog().max_replicas, config.catalog().default_namespace.as_str()),
            (7, "fns")
        );
        assert_eq!(config.reconcile().stop_grace, Duration::from_secs(5));
        assert_eq!(config.reconcile().pull, PullPolicy::Always);
        assert_eq!(config.roots(), Some(("/s/rootfs".into(), 3 << 30)));
    }

    #[test]
    fn every_mistake_is_reported_by_name() {
        let wrong = [
            ("port", "99999"),
            ("HYPERFAAS_GATEWAY_PORT", "http"),
            ("read_timeout", "soon"),
            ("write_timeout", "1x"),
            ("function_namespace", "Fns"),
            ("HYPERFAAS_ADDRESS", "here"),
            ("HYPERFAAS_PULL", "never"),
            ("HYPERFAAS_MAX_REPLICAS", "0"),
            ("HYPERFAAS_PARKED_MAX", "-1"),
            ("HYPERFAAS_NETWORK", "a b"),
            ("HYPERFAAS_INSTALLATION", "../x"),
            ("HYPERFAAS_START_TIMEOUT", "0"),
            ("HYPERFAAS_ROOTFS_MAX", "much"),
            ("HYPERFAAS_SCALING", "sometimes"),
        ];
        let lines = read(&wrong).unwrap_err().0;
        for (name, _) in wrong {
            assert_eq!(
                lines.iter().filter(|line| line.starts_with(&format!("{name}: "))).count(),
                1,
                "{name} in {lines:?}"
            );
        }
        assert_eq!(lines.len(), wrong.len());
    }

    #[test]
    fn basic_auth_without_its_files_does_not_start_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let config = read(&[("basic_auth", "true"), ("secret_mount_path", path)]).unwrap();
        assert!(config.auth().is_err());
        std::fs::write(directory.path().join("basic-auth-user"), "admin").unwrap();
        std::fs::write(directory.path().join("basic-auth-password"), "pw\n").unwrap();
        assert!(config.auth().unwrap().is_some());
    }
}
