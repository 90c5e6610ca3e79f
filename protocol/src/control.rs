//! What provider and watchdog agree on: the boot variable, and the control link's lines.
//!
//! The provider starts a container with [`Boot`] in the variable [`BOOT_VARIABLE`], then dials `control_port`, sends one
//! [`Hello`] line and reads [`Report`] lines: what holds at that moment first, then every change.
//! Lines are JSON, end in `\n`, and are at most [`LINE_MAX`] bytes. A peer with a wrong key or version gets nothing.
//! Always: within one version either side may be the newer one. A watchdog sends what its peer has asked for in its
//! [`Hello`], unknown fields are ignored, and an event or cause nobody knows reads as `Unknown`.

use serde::{Deserialize, Serialize};

use crate::image::FunctionKind;

/// The environment variable that carries [`Boot`] as JSON; it never reaches a worker.
pub const BOOT_VARIABLE: &str = "HYPERFAAS_BOOT";
/// Variables with this prefix are ours and never reach a worker.
pub const VARIABLE_PREFIX: &str = "HYPERFAAS_";
/// Version of the control link spoken here.
pub const LINK_VERSION: u8 = 1;
/// Longest line on the control link, in bytes.
pub const LINE_MAX: usize = 4096;
/// The port every function serves, as OpenFaaS fixes it.
pub const FUNCTION_PORT: u16 = 8080;
/// Where the watchdog serves instead when the image itself owns [`FUNCTION_PORT`]; below the ephemeral range.
pub const RELAY_PORT: u16 = 18080;
/// Where the watchdog listens for the provider's control link; below the ephemeral range.
pub const CONTROL_PORT: u16 = 18079;

/// What a watchdog started by the provider must know beyond its image and environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// [`LINK_VERSION`] of the provider.
    pub version: u8,
    /// What a peer on the control link must present; random to everybody but provider and watchdog.
    pub key: String,
    /// TCP port of the control link, all interfaces.
    pub control_port: u16,
    /// TCP port for plain HTTP, all interfaces: [`FUNCTION_PORT`], or [`RELAY_PORT`] for [`FunctionKind::Server`].
    pub http_port: u16,
    /// How the function is run.
    pub kind: FunctionKind,
    /// The image's own entrypoint.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The image's own command.
    #[serde(default)]
    pub command: Vec<String>,
    /// The image's user in Docker's syntax (`app`, `1000:1000`, `app:staff`); empty is root.
    #[serde(default)]
    pub user: String,
    /// Whether image or deployment set `HOME`; if not, workers get their user's home, as Docker does it.
    #[serde(default)]
    pub has_home: bool,
}

/// The provider's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`LINK_VERSION`] of the provider.
    pub version: u8,
    /// The key of [`Boot`].
    pub key: String,
    /// Whether [`Report::Load`] and [`Report::Watermark`] are wanted; providers that do not know them do not say so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub load: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A line from the watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Report {
    /// The owner's worker entered this state; the newest report is the truth.
    State {
        /// The state now.
        state: OwnerState,
        /// Why, for people: the exit status, the missing command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A watermark was crossed; the newest report is the truth.
    Watermark(Watermark),
    /// How much the container has to do; the newest report is the truth.
    Load(Load),
    /// An event of a newer watchdog; read only, to be ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// On which side of its watermarks a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The side.
    pub level: Level,
    /// What raised it; none while it is low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Pressure>,
    /// Crossings since the watchdog started: 0 before the first, odd while high, even while low. Whoever missed some
    /// knows from it how many.
    pub crossings: u64,
}

impl Watermark {
    /// Before anything has happened.
    pub const CALM: Self = Self { level: Level::Low, reason: None, crossings: 0 };
}

/// The side of the watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is room.
    Low,
    /// More comes than it can do.
    High,
}

impl Level {
    /// Its name in lines, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
        }
    }
}

/// What can raise a container above its high watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// More requests came than `max_inflight` admits.
    Requests,
    /// It uses nearly all of its CPU quota.
    Cpu,
    /// The kernel has stopped it because its CPU quota was used up.
    Throttled,
    /// Its memory is nearly at its limit, or a process was killed for want of it.
    Memory,
    /// Something a newer watchdog knows; read only.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Pressure {
    /// Its name in lines and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Cpu => "cpu",
            Self::Throttled => "throttled",
            Self::Memory => "memory",
            Self::Unknown => "unknown",
        }
    }
}

/// What a container has to do and what it uses. A value that its cgroup does not tell, or that has no limit, is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Requests that have arrived and are not over.
    pub in_flight: u64,
    /// Most that are admitted at once: `max_inflight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u64>,
    /// Requests that are over, since the watchdog started; refused ones are among them.
    pub served: u64,
    /// Requests refused for `in_flight_max`, since the watchdog started.
    pub refused: u64,
    /// Mean time from arrival to the answer's last byte of those that ended since the report before, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_us: Option<u64>,
    /// CPU used since the report before, in thousandths of one CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u64>,
    /// Its quota, in thousandths of one CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max_millicores: Option<u64>,
    /// Periods of the quota in which it was stopped, since the container started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_periods: Option<u64>,
    /// How long it was stopped, summed over its CPUs, since the container started, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// Memory used, without file pages the kernel can take back at once, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its memory limit, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// Processes killed for want of memory, since the container started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Share of the last ten seconds in which some task waited for CPU (PSI), in hundredths of a percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stalled_basis_points: Option<u64>,
    /// Share of the last ten seconds in which some task waited for memory (PSI), in hundredths of a percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stalled_basis_points: Option<u64>,
}

/// Where the worker of the container's owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerState {
    /// Started, not yet able to answer.
    Starting,
    /// Able to answer now.
    Ready,
    /// Its process ended and will be started again after a back-off.
    Crashed,
    /// Finishing what runs; admits nothing new from the provider.
    Draining,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Report {
        serde_json::from_str(line).expect("a line both sides understand")
    }

    #[test]
    fn lines_are_as_documented() {
        let high =
            Watermark { level: Level::High, reason: Some(Pressure::Throttled), crossings: 3 };
        let line = r#"{"event":"watermark","level":"high","reason":"throttled","crossings":3}"#;
        assert_eq!(serde_json::to_string(&Report::Watermark(high)).unwrap(), line);
        assert_eq!(read(line), Report::Watermark(high));
        let load = Load { in_flight: 2, cpu_millicores: Some(99), ..Load::default() };
        let line = r#"{"event":"load","in_flight":2,"served":0,"refused":0,"cpu_millicores":99}"#;
        assert_eq!(serde_json::to_string(&Report::Load(load)).unwrap(), line);
        assert_eq!(read(line), Report::Load(load));
    }

    #[test]
    fn what_a_newer_watchdog_says_breaks_nothing() {
        assert_eq!(read(r#"{"event":"bounced","count":[7],"why":{"a":null}}"#), Report::Unknown);
        assert_eq!(
            read(r#"{"event":"state","state":"ready","since":"then"}"#),
            Report::State { state: OwnerState::Ready, reason: None }
        );
        let line = r#"{"event":"watermark","level":"high","reason":"disk","crossings":1,"by":9}"#;
        let Report::Watermark(mark) = read(line) else { panic!("not a watermark") };
        assert_eq!((mark.level, mark.reason), (Level::High, Some(Pressure::Unknown)));
        assert_eq!(read(r#"{"event":"load","gpu":1}"#), Report::Load(Load::default()));
    }

    #[test]
    fn an_older_side_neither_asks_for_load_nor_is_asked() {
        let hello = Hello { version: LINK_VERSION, key: "k".into(), load: false };
        let line = r#"{"version":1,"key":"k"}"#;
        assert_eq!(serde_json::to_string(&hello).unwrap(), line);
        assert_eq!(serde_json::from_str::<Hello>(line).unwrap(), hello);
    }

    #[test]
    fn the_longest_load_is_far_below_the_bound() {
        let text = serde_json::to_string(&Load::default()).unwrap();
        let names = "in_flight_max service_us cpu_millicores cpu_max_millicores throttled_periods throttled_us \
                     memory_bytes memory_max_bytes oom_kills cpu_stalled_basis_points memory_stalled_basis_points";
        assert!(text.len() + names.len() + 15 * 24 < LINE_MAX / 2);
    }
}
