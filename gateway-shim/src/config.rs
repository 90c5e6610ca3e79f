//! The gateway's settings, named as the OpenFaaS gateway names them.
//!
//! In: a lookup by name. Out: a [`ProcessConfig`], or every mistake at once.
//! Touches: the secret files, when basic auth is on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hyperfaas_http::auth::BasicAuth;
use hyperfaas_http::config::{Settings, SettingsError};
use hyperfaas_http::{PoolSettings, ServeLimits, Tls};
use hyperfaas_protocol::names::DEFAULT_NAMESPACE;

use crate::callback::CallbackPolicy;
use crate::queue::{NatsSettings, QueueSettings};
use crate::trace::TraceSettings;
use crate::upstream::Upstream;
use crate::users::Users;

/// Port of the gateway; the OpenFaaS gateway has the same one fixed.
const PORT: u16 = 8080;
/// Default of all timeouts, as in the OpenFaaS gateway.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for running requests at shutdown; within the 30 s that orchestrators commonly grant, with room to exit.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// Where secrets are mounted.
const SECRET_MOUNT_PATH: &str = "/run/secrets/";

/// Port of the gateway's metrics; the OpenFaaS gateway has the same one fixed.
const METRICS_PORT: u16 = 8082;

/// Where the queue of a gateway that is a process of its own is kept.
const QUEUE_DIR: &str = "/var/lib/hyperfaas-gateway";
/// Names that directory, or turns asynchronous calls off.
const QUEUE_DIR_NAME: &str = "HYPERFAAS_ASYNC_DIR";
/// Names the users file.
const USERS_FILE_NAME: &str = "HYPERFAAS_USERS_FILE";
/// Name the files of certificate chain and key, PEM.
const TLS_CERT_NAME: &str = "HYPERFAAS_TLS_CERT";
const TLS_KEY_NAME: &str = "HYPERFAAS_TLS_KEY";
/// Largest limit of an asynchronous call's body, in bytes: each is in memory while it is delivered.
const ASYNC_BODY_MAX: usize = 16 << 20;

/// What the gateway's routes need.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Who may use `/system`; `None` leaves it open.
    pub auth: Option<BasicAuth>,
    /// Further users of `/system`, beside the one of `auth`; without effect when that is `None`.
    pub users: Option<Users>,
    /// Longest wait for a provider's answer to begin, while the request's body makes no progress; `None` waits for ever.
    pub upstream_timeout: Option<Duration>,
    /// Where answers of asynchronous calls may be sent.
    pub callbacks: CallbackPolicy,
    /// Where spans go; `None`: trace context just passes.
    pub traces: Option<TraceSettings>,
    /// Whether functions are called by the schedules in their annotations.
    pub cron: bool,
}

/// What the gateway as a process needs.
#[derive(Debug)]
pub struct ProcessConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Where to serve metrics; `None` when they are off.
    pub metrics_address: Option<SocketAddr>,
    /// Whether the metrics' port was asked for, so that the gateway must not start without it.
    pub needs_metrics: bool,
    /// Namespace of functions that are called without one.
    pub namespace: String,
    /// The routes' settings.
    pub gateway: GatewayConfig,
    /// The provider.
    pub provider: Upstream,
    /// Where logs come from, when that is not the provider.
    pub logs: Option<Upstream>,
    /// Limits of the server.
    pub limits: ServeLimits,
    /// The certificate, when the gateway speaks TLS.
    pub tls: Option<Tls>,
    /// The queue of asynchronous calls; `None` when it is off.
    pub queue: Option<QueueSettings>,
    /// A Prometheus server that scrapes this gateway, if one is named.
    pub prometheus: Option<Upstream>,
    /// Whether the queue was asked for, so that the gateway must not start without it.
    pub needs_queue: bool,
}

impl ProcessConfig {
    /// Reads all settings through `lookup`.
    ///
    /// # Errors
    /// [`SettingsError`] with one line for every mistake.
    pub fn from_vars(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let ip = settings.text("bind_address").unwrap_or_default();
        let ip = if ip.is_empty() { Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) } else { ip.parse() };
        if ip.is_err() {
            settings.mistake("bind_address", "must be an IP address");
        }
        let port = settings.integer("port", PORT);
        let metrics_port = metrics_port(&mut settings);
        let needs_metrics = settings.text("metrics_port").is_some();
        let namespace = settings.text_or("function_namespace", DEFAULT_NAMESPACE);
        let limits = limits(&mut settings);
        let upstream_timeout = settings.optional_duration("upstream_timeout", TIMEOUT);
        let pool = pool(&mut settings);
        let provider = upstream(&mut settings, "functions_provider_url", pool);
        if settings.text("functions_provider_url").is_none() {
            settings
                .mistake("functions_provider_url", "must be set, such as http://provider:8081/");
        }
        let logs = upstream(&mut settings, "logs_provider_url", pool);
        let auth = auth(&mut settings);
        let users = users(&mut settings);
        let tls = tls(&mut settings);
        let queue = queue(&mut settings, Path::new(QUEUE_DIR));
        let needs_queue = settings.text(QUEUE_DIR_NAME).is_some();
        let callbacks = callbacks(&settings);
        let traces = traces(&mut settings);
        let cron = cron(&mut settings);
        let prometheus = prometheus(&mut settings);
        match (ip, provider) {
            (Ok(ip), Some(provider)) => settings.finish(Self {
                address: SocketAddr::new(ip, port),
                metrics_address: metrics_port.map(|port| SocketAddr::new(ip, port)),
                needs_metrics,
                namespace,
                gateway: GatewayConfig { auth, users, upstream_timeout, callbacks, traces, cron },
                provider,
                logs,
                limits,
                tls,
                queue,
                prometheus,
                needs_queue,
            }),
            _ => Err(settings.finish(()).expect_err("whatever is missing was recorded")),
        }
    }
}

/// The queue's settings, kept in `directory` unless another one, or NATS, is named; `off` turns it off.
pub fn queue(settings: &mut Settings<'_>, directory: &Path) -> Option<QueueSettings> {
    let directory = match settings.text(QUEUE_DIR_NAME) {
        None => directory.to_owned(),
        Some(text) if text == "off" => return None,
        Some(text) => text.into(),
    };
    let defaults = QueueSettings::new(directory);
    let queue = QueueSettings {
        nats: NatsSettings::read(settings),
        depth_max: settings.integer("HYPERFAAS_ASYNC_DEPTH_MAX", defaults.depth_max),
        bytes_max: settings.integer("HYPERFAAS_ASYNC_BYTES_MAX", defaults.bytes_max),
        body_max: settings.integer("HYPERFAAS_ASYNC_BODY_MAX", defaults.body_max),
        workers: settings.integer("HYPERFAAS_ASYNC_WORKERS", defaults.workers),
        concurrency: settings.integer("HYPERFAAS_ASYNC_CONCURRENCY", defaults.concurrency),
        dead_max: settings.integer("HYPERFAAS_ASYNC_DEAD_MAX", defaults.dead_max),
        ..defaults
    };
    if queue.body_max > ASYNC_BODY_MAX {
        settings.mistake("HYPERFAAS_ASYNC_BODY_MAX", "must be at most 16777216 (16 MiB)");
    }
    for (name, value) in [
        ("HYPERFAAS_ASYNC_WORKERS", queue.workers),
        ("HYPERFAAS_ASYNC_CONCURRENCY", queue.concurrency),
    ] {
        if value == 0 {
            settings.mistake(name, "must be at least 1");
        }
    }
    Some(queue)
}

/// The Prometheus server that the OpenFaaS gateway's variables name, if they are set.
pub fn prometheus(settings: &mut Settings<'_>) -> Option<Upstream> {
    let host = settings.text("faas_prometheus_host")?;
    let port: u16 = settings.integer("faas_prometheus_port", 9090);
    match Upstream::from_url(&format!("http://{host}:{port}"), PoolSettings::default()) {
        Ok(prometheus) => Some(prometheus),
        Err(_) => {
            settings.mistake("faas_prometheus_host", "must be a host name or an address");
            None
        }
    }
}

/// Whether functions are called by their schedules; `off` turns that off.
pub fn cron(settings: &mut Settings<'_>) -> bool {
    match settings.text("HYPERFAAS_CRON").as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(_) => {
            settings.mistake("HYPERFAAS_CRON", "must be on or off");
            false
        }
    }
}

/// Where spans go, by OpenTelemetry's own variables.
pub fn traces(settings: &mut Settings<'_>) -> Option<TraceSettings> {
    let exact = settings.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let (name, url) = match (exact, settings.text("OTEL_EXPORTER_OTLP_ENDPOINT")) {
        (Some(url), _) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url),
        (None, Some(url)) => {
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}/v1/traces", url.trim_end_matches('/')))
        }
        (None, None) => return None,
    };
    let service = settings.text_or("OTEL_SERVICE_NAME", "hyperfaas-gateway");
    match Upstream::from_url(&url, PoolSettings::default()) {
        Ok(collector) => Some(TraceSettings { collector, service }),
        Err(error) => {
            settings.mistake(name, &error.to_string());
            None
        }
    }
}

/// The users file that is named, if any.
pub fn users(settings: &mut Settings<'_>) -> Option<Users> {
    let path = settings.text(USERS_FILE_NAME)?;
    if !settings.flag("basic_auth") {
        settings.mistake(USERS_FILE_NAME, "needs basic_auth, or everything is open");
    }
    match Users::from_file(Path::new(&path)) {
        Ok(users) => Some(users),
        Err(error) => {
            settings.mistake(USERS_FILE_NAME, &error.to_string());
            None
        }
    }
}

/// The certificate and key that are named, if any.
pub fn tls(settings: &mut Settings<'_>) -> Option<Tls> {
    let (certificate, key) = (settings.text(TLS_CERT_NAME), settings.text(TLS_KEY_NAME));
    let (Some(certificate), Some(key)) = (&certificate, &key) else {
        if certificate.is_some() || key.is_some() {
            settings.mistake(TLS_CERT_NAME, &format!("and {TLS_KEY_NAME} belong together"));
        }
        return None;
    };
    match Tls::from_files(Path::new(certificate), Path::new(key)) {
        Ok(tls) => Some(tls),
        Err(error) => {
            settings.mistake(TLS_CERT_NAME, &error.to_string());
            None
        }
    }
}

/// Where callbacks may go.
pub fn callbacks(settings: &Settings<'_>) -> CallbackPolicy {
    CallbackPolicy { allows_loopback: settings.flag("HYPERFAAS_CALLBACK_LOOPBACK") }
}

/// The metrics' port; `off` turns them off.
fn metrics_port(settings: &mut Settings<'_>) -> Option<u16> {
    match settings.text("metrics_port").as_deref() {
        Some("off") => None,
        _ => Some(settings.integer("metrics_port", METRICS_PORT)),
    }
}

fn limits(settings: &mut Settings<'_>) -> ServeLimits {
    // Accepted so that existing set-ups start; nothing here cuts an answer that is still being written.
    settings.duration("write_timeout", TIMEOUT);
    let defaults = ServeLimits::default();
    ServeLimits {
        header_read_timeout: settings.duration("read_timeout", TIMEOUT),
        connections: settings.integer("max_connections", defaults.connections).max(1),
        drain_timeout: settings.duration("drain_timeout", DRAIN_TIMEOUT),
        ..defaults
    }
}

fn pool(settings: &mut Settings<'_>) -> PoolSettings {
    let defaults = PoolSettings::default();
    PoolSettings {
        idle_connections: settings.integer("max_idle_conns_per_host", defaults.idle_connections),
        ..defaults
    }
}

/// The upstream whose URL is in `name`, if set.
fn upstream(settings: &mut Settings<'_>, name: &str, pool: PoolSettings) -> Option<Upstream> {
    let url = settings.text(name)?;
    match Upstream::from_url(&url, pool) {
        Ok(upstream) => Some(upstream),
        Err(error) => {
            settings.mistake(name, &error.to_string());
            None
        }
    }
}

fn auth(settings: &mut Settings<'_>) -> Option<BasicAuth> {
    if !settings.flag("basic_auth") {
        return None;
    }
    let directory = settings.text_or("secret_mount_path", SECRET_MOUNT_PATH);
    match BasicAuth::from_files(Path::new(&directory)) {
        Ok(auth) => Some(auth),
        Err(error) => {
            settings.mistake("basic_auth", &error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ProcessConfig, SettingsError> {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        ProcessConfig::from_vars(&move |name| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn the_provider_url_is_all_that_is_needed() {
        let config = read(&[("functions_provider_url", "http://provider:8081/")]).unwrap();
        assert_eq!(config.address, "0.0.0.0:8080".parse().unwrap());
        assert!(config.gateway.auth.is_none() && config.logs.is_none());
        assert_eq!(config.gateway.upstream_timeout, Some(Duration::from_secs(60)));
    }

    #[test]
    fn every_mistake_is_named_once() {
        let wrong = read(&[
            ("bind_address", "here"),
            ("port", "99999"),
            ("read_timeout", "soon"),
            ("basic_auth", "true"),
            ("secret_mount_path", "/nowhere/at/all"),
            ("functions_provider_url", "https://provider/"),
        ]);
        let lines = wrong.unwrap_err().0;
        for name in
            ["bind_address:", "port:", "read_timeout:", "basic_auth:", "functions_provider_url:"]
        {
            assert_eq!(
                lines.iter().filter(|line| line.starts_with(name)).count(),
                1,
                "{name} in {lines:?}"
            );
        }
        assert_eq!(read(&[]).unwrap_err().0.len(), 1);
    }

    #[test]
    fn the_original_gateways_settings_are_accepted() {
        let config = read(&[
            ("functions_provider_url", "http://provider:8081/base/"),
            ("read_timeout", "65s"),
            ("write_timeout", "65"),
            ("upstream_timeout", "1m"),
            ("scale_from_zero", "true"),
            ("direct_functions", "false"),
            ("faas_nats_port", "4222"),
            ("basic_auth", "false"),
            ("logs_provider_url", "http://logs:8080"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.limits.header_read_timeout, Duration::from_secs(65));
        assert!(config.logs.is_some());
    }
}
