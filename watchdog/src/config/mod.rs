//! The watchdog's settings, from the variables that both OpenFaaS watchdogs read.
//!
//! In: a lookup over the environment, and what the provider said, if there is one. Out: a valid [`Config`], or the line
//! and exit code the original would end with.
//! Always: names are exact and lower case; a value the original would replace by its default is replaced here too.
//! Source: `docs/watchdog.md` lists every variable and where we differ.

mod dialect;
mod jwt;
mod upstream;
mod value;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use hyperfaas_protocol::control::Boot;
use hyperfaas_protocol::duration::GoDuration;
use hyperfaas_protocol::image::FunctionKind;

use crate::cgroup;

pub(crate) use dialect::Dialect;
pub(crate) use jwt::JwtSettings;
pub(crate) use upstream::Upstream;
use value::Vars;

/// Default of `read_timeout` and `write_timeout`, and of of-watchdog's `exec_timeout`, in seconds.
const TIMEOUT_DEFAULT: GoDuration = GoDuration::from_secs(30);
/// Default of `log_buffer_size`, in bytes.
const LINE_MAX_DEFAULT: usize = 64 << 10;
/// What "unlimited" means for `log_buffer_size`: a line must end some time.
const LINE_MAX_HIGHEST: usize = 1 << 20;
/// Default of `static_path`.
const STATIC_PATH: &str = "/home/app/public";
/// Our own settings of the queue in front of a worker.
const QUEUE_MAX: &str = "HYPERFAAS_QUEUE_MAX";
const QUEUE_WAIT: &str = "HYPERFAAS_QUEUE_WAIT";
const FIND_LIMIT: &str = "HYPERFAAS_FIND_LIMIT";
/// Highest value of [`QUEUE_MAX`].
const QUEUE_HIGHEST: usize = 10_000;
/// Metrics port of the originals.
const METRICS_PORT: u16 = 8081;

/// Everything read at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Which original this watchdog stands for.
    pub(crate) dialect: Dialect,
    /// How requests reach the function.
    pub(crate) mode: Mode,
    /// `fprocess` as given, for log lines.
    pub(crate) fprocess: String,
    /// Port for plain HTTP; 0 picks a free one.
    pub(crate) port: u16,
    /// Port for metrics; `None` serves none.
    pub(crate) metrics_port: Option<u16>,
    /// Deadlines.
    pub(crate) timeouts: Timeouts,
    /// `suppress_lock`: no lock file.
    pub(crate) suppress_lock: bool,
    /// `max_inflight`.
    pub(crate) max_inflight: Option<NonZeroUsize>,
    /// How requests on lanes wait.
    pub(crate) queue: QueueSettings,
    /// `ready_path`: the function itself answers `/_/ready`.
    pub(crate) ready_path: Option<String>,
    /// `jwt_auth`: who may call the function.
    pub(crate) jwt: Option<JwtSettings>,
    /// How workers' output is logged.
    pub(crate) output: OutputSettings,
    /// The function is a web server of its own: every path is its own, cleaned or not, health included.
    pub(crate) is_relay: bool,
    /// Where our own cgroup's files are; `HYPERFAAS_CGROUP_ROOT` names another folder for tests.
    pub(crate) cgroup_root: PathBuf,
}

/// How requests reach the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A process a request: `words` is the program with its arguments.
    Fork { kind: ForkKind, words: Vec<String> },
    /// One long-running HTTP server.
    Http { upstream: Upstream, words: Vec<String>, settings: HttpSettings },
    /// The files of a directory.
    Static { root: PathBuf },
    /// No function: the container has no owner, and its workers wait for others.
    Standby,
}

impl Mode {
    /// The value of `mode`; `None` for the classic watchdog, which has no modes.
    pub(crate) const fn of_watchdog_name(&self) -> Option<&'static str> {
        match self {
            Self::Http { .. } => Some("http"),
            Self::Static { .. } => Some("static"),
            Self::Fork { kind: ForkKind::Streaming { .. }, .. } => Some("streaming"),
            Self::Fork { kind: ForkKind::Serializing { .. }, .. } => Some("serializing"),
            Self::Standby => Some("standby"),
            Self::Fork { kind: ForkKind::Classic(_), .. } => None,
        }
    }
}

/// How a forked process is fed and its output returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ForkKind {
    /// The classic watchdog.
    Classic(ClassicSettings),
    /// of-watchdog's `streaming`.
    Streaming { content_type: String },
    /// of-watchdog's `serializing`.
    Serializing { content_type: String },
}

/// Switches of the classic watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassicSettings {
    /// `content_type`: for every good answer.
    pub(crate) content_type: Option<String>,
    /// `combine_output`: stderr is part of the answer.
    pub(crate) combine_output: bool,
    /// `cgi_headers`: requests are described to the process by `Http_*` variables.
    pub(crate) cgi_headers: bool,
    /// `marshal_request`: stdin is a JSON object with headers and body.
    pub(crate) marshal_request: bool,
    /// `write_debug`: answers are printed to stdout.
    pub(crate) write_debug: bool,
    /// `debug_headers`: headers are printed to stdout.
    pub(crate) debug_headers: bool,
}

/// Switches of mode `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    /// Whether the request's body is read whole before the function is called.
    pub(crate) buffer_body: bool,
    /// Status when the function cannot be reached: 500 as of-watchdog, 502 for an image that never had a watchdog.
    pub(crate) unreachable_status: u16,
    /// `log_callid`: the access line ends with the request's `X-Call-Id`.
    pub(crate) log_call_id: bool,
}

/// Deadlines as given and as they act; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// `read_timeout`: for a request's headers, then for its body; also how long a connection may idle.
    pub(crate) read: GoDuration,
    /// `write_timeout`: from the headers read to the answer written.
    pub(crate) write: GoDuration,
    /// `exec_timeout`: the function's run time.
    pub(crate) exec: GoDuration,
    /// `healthcheck_interval`: how long SIGTERM leaves the port open.
    pub(crate) health: GoDuration,
}

/// How requests on lanes wait for a place in a worker; those on port 8080 never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueSettings {
    /// `HYPERFAAS_QUEUE_MAX`: most that wait for one worker.
    pub(crate) most: usize,
    /// `HYPERFAAS_QUEUE_WAIT`: longest wait.
    pub(crate) wait: Duration,
    /// `HYPERFAAS_FIND_LIMIT`: whether a limit is looked for where `max_inflight` sets none.
    pub(crate) finds_limit: bool,
}

impl Default for QueueSettings {
    /// 16 requests, 20 ms: long enough for a place that is about to be free, far shorter than a place elsewhere takes to make.
    fn default() -> Self {
        Self { most: 16, wait: Duration::from_millis(20), finds_limit: true }
    }
}

/// How the lines of workers are written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputSettings {
    /// `prefix_logs`: time and stream name in front of each line.
    pub(crate) prefix: bool,
    /// `log_buffer_size`: longer lines are split, in bytes.
    pub(crate) line_max: usize,
}

/// A setting nothing can be done with; the watchdog prints the line and exits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ConfigError {
    /// Exit code of the original for this mistake.
    pub(crate) exit: u8,
    /// One line.
    pub(crate) text: String,
}

impl ConfigError {
    fn new(exit: u8, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

impl Config {
    /// Reads `vars`; `boot` is present when the provider started us.
    ///
    /// `scan` looks into the image's own watchdog; it is asked only where the variables leave the dialect open.
    ///
    /// # Errors
    /// [`ConfigError`] for what the originals exit on, and for settings that must not be ignored.
    pub(crate) fn from_vars(
        vars: impl Fn(&str) -> Option<String>,
        boot: Option<&Boot>,
        scan: impl FnOnce() -> Option<Dialect>,
    ) -> Result<Self, ConfigError> {
        let vars = Vars(&vars);
        let is_standby = boot.is_some_and(|boot| boot.is_standby);
        let is_server = !is_standby && boot.is_some_and(|boot| boot.kind == FunctionKind::Server);
        let dialect = if is_server || is_standby {
            Dialect::OfWatchdog
        } else {
            dialect::decide(&vars, scan)
        };
        let (mode, fprocess) = match boot {
            _ if is_standby => (Mode::Standby, String::new()),
            Some(boot) if is_server => server_mode(&vars, boot)?,
            _ => mode(&vars, dialect)?,
        };
        let metrics_port = if is_server { None } else { metrics_port(&vars)? };
        let port = boot.map_or_else(|| port(&vars, dialect), |boot| Ok(boot.http_port))?;
        Ok(Self {
            dialect,
            mode,
            fprocess,
            port,
            metrics_port,
            timeouts: timeouts(&vars, dialect)?,
            suppress_lock: vars.switch("suppress_lock", dialect),
            max_inflight: max_inflight(&vars, boot),
            queue: queue(&vars)?,
            ready_path: ready_path(&vars, dialect)?,
            jwt: jwt::settings(&vars, dialect, std::fs::read_to_string)?,
            is_relay: is_server,
            cgroup_root: vars
                .filled("HYPERFAAS_CGROUP_ROOT")
                .unwrap_or_else(|| cgroup::ROOT.into())
                .into(),
            output: OutputSettings {
                prefix: !is_server && vars.go_bool("prefix_logs").unwrap_or(true),
                line_max: line_max(&vars, dialect)?,
            },
        })
    }
}

fn mode(vars: &Vars<'_>, dialect: Dialect) -> Result<(Mode, String), ConfigError> {
    match dialect {
        Dialect::Classic => classic_mode(vars),
        Dialect::OfWatchdog => of_watchdog_mode(vars),
    }
}

fn classic_mode(vars: &Vars<'_>) -> Result<(Mode, String), ConfigError> {
    let Some(fprocess) = vars.filled("fprocess") else {
        return Err(ConfigError::new(
            2,
            "provide a valid process via fprocess environmental variable",
        ));
    };
    let settings = ClassicSettings {
        content_type: vars.filled("content_type"),
        combine_output: vars.is_true_or_unset("combine_output"),
        cgi_headers: vars.is_true_or_unset("cgi_headers"),
        marshal_request: vars.is_true("marshal_request"),
        write_debug: vars.is_true("write_debug"),
        debug_headers: vars.is_true("debug_headers"),
    };
    Ok((Mode::Fork { kind: ForkKind::Classic(settings), words: words(&fprocess) }, fprocess))
}

fn of_watchdog_mode(vars: &Vars<'_>) -> Result<(Mode, String), ConfigError> {
    let name = vars.filled("mode").unwrap_or_else(|| "streaming".into());
    let unserved = match name.as_str() {
        "streaming" | "serializing" | "http" | "static" => None,
        "inproc" => Some(
            "mode inproc needs of-watchdog compiled into the function: start the function itself",
        ),
        _ => Some("unknown watchdog mode"),
    };
    if let Some(text) = unserved {
        return Err(ConfigError::new(2, format!("{text}: {name:?}")));
    }
    let fprocess =
        vars.text("function_process").or_else(|| vars.text("fprocess")).unwrap_or_default();
    if name == "static" {
        return Ok((Mode::Static { root: static_path(vars)? }, fprocess));
    }
    if fprocess.is_empty() {
        let text = "Error loading config: provide a \"function_process\" or \"fprocess\" environmental variable";
        return Err(ConfigError::new(1, text));
    }
    let words = words(&fprocess);
    let content_type =
        vars.text("content_type").unwrap_or_else(|| "application/octet-stream".into());
    let mode = match name.as_str() {
        "http" => {
            Mode::Http { upstream: upstream(vars)?, words, settings: http_settings(vars, 500) }
        }
        "serializing" => Mode::Fork { kind: ForkKind::Serializing { content_type }, words },
        _ => Mode::Fork { kind: ForkKind::Streaming { content_type }, words },
    };
    Ok((mode, fprocess))
}

fn static_path(vars: &Vars<'_>) -> Result<PathBuf, ConfigError> {
    match vars.text("static_path") {
        None => Ok(STATIC_PATH.into()),
        Some(path) if path.is_empty() => {
            Err(ConfigError::new(1, "for mode=static a value must be supplied for static_path"))
        }
        Some(path) => Ok(path.into()),
    }
}

/// An image that serves port 8080 by itself: its own command is the upstream.
fn server_mode(vars: &Vars<'_>, boot: &Boot) -> Result<(Mode, String), ConfigError> {
    let words: Vec<String> = boot.entrypoint.iter().chain(&boot.command).cloned().collect();
    if words.first().is_none_or(String::is_empty) {
        return Err(ConfigError::new(
            1,
            "the image has neither entrypoint nor command, and fprocess is not set",
        ));
    }
    let fprocess = words.join(" ");
    Ok((
        Mode::Http {
            upstream: Upstream::function_port(),
            words,
            settings: http_settings(vars, 502),
        },
        fprocess,
    ))
}

fn upstream(vars: &Vars<'_>) -> Result<Upstream, ConfigError> {
    let Some(url) = vars.filled("http_upstream_url").or_else(|| vars.filled("upstream_url")) else {
        return Err(ConfigError::new(1, "for mode=http a value must be supplied for upstream_url"));
    };
    Upstream::parse(&url)
        .map_err(|reason| ConfigError::new(1, format!("invalid upstream_url {url:?}: {reason}")))
}

fn http_settings(vars: &Vars<'_>, unreachable_status: u16) -> HttpSettings {
    let on = |name| vars.switch(name, Dialect::OfWatchdog);
    HttpSettings {
        buffer_body: on("http_buffer_req_body") || on("buffer_http"),
        unreachable_status,
        log_call_id: vars.go_bool("log_callid").unwrap_or(false),
    }
}

/// Splits as the originals do: at every single space, so that two spaces give an empty argument.
fn words(fprocess: &str) -> Vec<String> {
    fprocess.split(' ').map(str::to_owned).collect()
}

fn port(vars: &Vars<'_>, dialect: Dialect) -> Result<u16, ConfigError> {
    let number = match (vars.text("port"), dialect) {
        (None, _) => 8080,
        (Some(text), Dialect::Classic) => value::int(&text).filter(|n| *n >= 0).unwrap_or(8080),
        (Some(text), Dialect::OfWatchdog) => value::int(&text).unwrap_or(0),
    };
    u16::try_from(number)
        .map_err(|_| ConfigError::new(1, format!("invalid port {number}: must be 0 to 65535")))
}

/// `HYPERFAAS_METRICS_PORT` exists for tests and for containers that own 8081: a port, 0 for a free one, or `off`.
fn metrics_port(vars: &Vars<'_>) -> Result<Option<u16>, ConfigError> {
    match vars.text("HYPERFAAS_METRICS_PORT").as_deref() {
        None => Ok(Some(METRICS_PORT)),
        Some("off") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            ConfigError::new(
                1,
                format!("invalid HYPERFAAS_METRICS_PORT {text:?}: a port or \"off\""),
            )
        }),
    }
}

/// The lower of the variable and the label.
fn max_inflight(vars: &Vars<'_>, boot: Option<&Boot>) -> Option<NonZeroUsize> {
    let variable = vars.int("max_inflight").and_then(|number| usize::try_from(number).ok());
    let label = boot.and_then(|boot| boot.in_flight_max).and_then(|max| usize::try_from(max).ok());
    [variable, label].into_iter().flatten().filter_map(NonZeroUsize::new).min()
}

fn queue(vars: &Vars<'_>) -> Result<QueueSettings, ConfigError> {
    let invalid = |name: &str, text: &str, what: &str| {
        ConfigError::new(1, format!("invalid {name} {text:?}: {what}"))
    };
    let mut settings = QueueSettings::default();
    if let Some(text) = vars.filled(QUEUE_MAX) {
        settings.most = text
            .parse()
            .ok()
            .filter(|most| *most <= QUEUE_HIGHEST)
            .ok_or_else(|| invalid(QUEUE_MAX, &text, "a number of requests, at most 10000"))?;
    }
    if let Some(text) = vars.filled(QUEUE_WAIT) {
        let wait = GoDuration::parse(&text).filter(|wait| *wait >= GoDuration::from_secs(0));
        let wait = wait.ok_or_else(|| invalid(QUEUE_WAIT, &text, "a duration such as 20ms"))?;
        settings.wait = wait.positive().unwrap_or_default();
    }
    if let Some(text) = vars.filled(FIND_LIMIT) {
        settings.finds_limit = match text.as_str() {
            "on" => true,
            "off" => false,
            _ => return Err(invalid(FIND_LIMIT, &text, "on or off")),
        };
    }
    Ok(settings)
}

fn timeouts(vars: &Vars<'_>, dialect: Dialect) -> Result<Timeouts, ConfigError> {
    let zero = GoDuration::from_secs(0);
    let exec_default = if dialect == Dialect::Classic { zero } else { TIMEOUT_DEFAULT };
    let write = vars.duration("write_timeout", TIMEOUT_DEFAULT);
    if dialect == Dialect::OfWatchdog && write == zero {
        return Err(ConfigError::new(
            1,
            "Error loading config: HTTP write timeout must be over 0s",
        ));
    }
    Ok(Timeouts {
        read: vars.duration("read_timeout", TIMEOUT_DEFAULT),
        write,
        exec: vars.duration("exec_timeout", exec_default),
        health: vars.duration("healthcheck_interval", write),
    })
}

fn ready_path(vars: &Vars<'_>, dialect: Dialect) -> Result<Option<String>, ConfigError> {
    let Some(path) = vars.filled("ready_path").filter(|_| dialect == Dialect::OfWatchdog) else {
        return Ok(None);
    };
    if path.starts_with('/') && path.parse::<hyper::Uri>().is_ok() {
        Ok(Some(path))
    } else {
        Err(ConfigError::new(
            1,
            format!("invalid ready_path {path:?}: must be a path that begins with /"),
        ))
    }
}

fn line_max(vars: &Vars<'_>, dialect: Dialect) -> Result<usize, ConfigError> {
    let Some(text) = vars.text("log_buffer_size").filter(|_| dialect == Dialect::OfWatchdog) else {
        return Ok(LINE_MAX_DEFAULT);
    };
    match value::int(&text) {
        Some(size) => {
            Ok(usize::try_from(size)
                .map_or(LINE_MAX_HIGHEST, |size| size.clamp(1, LINE_MAX_HIGHEST)))
        }
        None => Err(ConfigError::new(
            1,
            format!("Error loading config: invalid log_buffer_size value: {text:?}"),
        )),
    }
}

impl Timeouts {
    /// The longest a drain may take: no request takes longer than this to be answered.
    pub(crate) fn drain(&self) -> Duration {
        let fallback = Duration::from_secs(30);
        self.write.positive().or_else(|| self.exec.positive()).unwrap_or(fallback)
    }
}

#[cfg(test)]
mod tests;
