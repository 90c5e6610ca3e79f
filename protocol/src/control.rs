//! What provider and watchdog agree on: the boot variable, and the control link's lines.
//!
//! The provider starts a container with [`Boot`] in the variable [`BOOT_VARIABLE`], then dials `control_port`, sends one
//! [`Hello`] line and reads [`Report`] lines: what holds at that moment first, then every change. After its greeting it may
//! send [`Order`] lines; what becomes of an order is a report of the worker it names.
//! Lines are JSON and end in `\n`; reports and greetings are at most [`LINE_MAX`] bytes, orders at most [`ORDER_MAX`]. A peer
//! with a wrong key or version gets nothing.
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
/// Longest order, in bytes: a guest's whole environment travels in one.
pub const ORDER_MAX: usize = 1 << 20;
/// Places for a function's processes in one container; the first is the owner's.
pub const WORKERS: usize = 2;
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
    /// Whether the container has no owner: both its workers are generic and wait for orders; `kind`, `entrypoint` and
    /// `command` mean nothing then.
    #[serde(default, rename = "standby", skip_serializing_if = "is_false")]
    pub is_standby: bool,
    /// Most requests in flight in one worker, as the label `com.hyperfaas.max-inflight` says; a lower `max_inflight` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
}

impl Boot {
    /// That of a container without an owner, whose control link takes `key`.
    pub const fn standby(key: String) -> Self {
        Self {
            version: LINK_VERSION,
            key,
            control_port: CONTROL_PORT,
            http_port: FUNCTION_PORT,
            kind: FunctionKind::Watchdog,
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            has_home: false,
            is_standby: true,
            in_flight_max: None,
        }
    }
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
    /// Whether [`Report::Abilities`], [`Report::Worker`] and [`Report::Refused`] are wanted; a provider that gives orders
    /// says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub workers: bool,
}

/// A line from the provider after its [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// Give a generic worker a function.
    Specialise {
        /// Which worker, below [`WORKERS`].
        worker: u8,
        /// Greater than that of every order this worker has had; reports about the outcome carry it.
        epoch: u64,
        /// What to run.
        work: Work,
    },
    /// Let a function that was to wait in its interpreter ([`Guest::is_held`]) run; one that runs already is left as it is.
    Proceed {
        /// Which worker, below [`WORKERS`].
        worker: u8,
        /// The epoch it was specialised with; any other has no effect and is refused.
        epoch: u64,
    },
    /// Take the function from a worker: admit nothing, finish what runs, end every process, be generic again.
    Release {
        /// Which worker, below [`WORKERS`].
        worker: u8,
        /// The epoch it was specialised with; any other has no effect and is refused.
        epoch: u64,
        /// Longest wait for what runs, in milliseconds; what is not over by then is killed.
        grace_ms: u64,
    },
    /// An order of a newer provider; read only, to be ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a worker is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// The function of the container's owner, exactly as its first worker runs it.
    Own,
    /// Another function.
    Guest(Box<Guest>),
}

/// A function that runs in a container it does not own. Paths are those of the slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// `{name}.{namespace}`, for log lines.
    pub function: String,
    /// How the function is run.
    pub kind: FunctionKind,
    /// The image's own entrypoint.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The image's own command.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its whole environment, the watchdog's settings (`fprocess`, `mode` …) among it, each name once.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// Its root directory, as the watchdog sees it: where the slot is mounted.
    pub root: String,
    /// Its working directory within `root`.
    pub directory: String,
    /// The user it runs as; never 0, and never used before in this container.
    pub uid: u32,
    /// Its group; never 0.
    pub gid: u32,
    /// Most requests in flight; none is without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
    /// Most processes and threads of `uid`.
    pub processes_max: u32,
    /// Most open descriptors of one process.
    pub descriptors_max: u32,
    /// Whether its interpreter is to load what the function imports, and to wait with the function itself for
    /// [`Order::Proceed`]; refused where [`Abilities::holds`] or the command does not allow it.
    #[serde(default, rename = "held", skip_serializing_if = "is_false")]
    pub is_held: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
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
    Load(Box<Load>),
    /// What this watchdog can do; the first line for whoever asked for worker reports.
    Abilities(Abilities),
    /// A worker entered this state; the newest report of each worker is the truth.
    Worker(WorkerReport),
    /// An order that was not carried out and changed nothing.
    Refused {
        /// The worker it named.
        worker: u8,
        /// The epoch it carried.
        epoch: u64,
        /// Why, one line for people.
        reason: String,
    },
    /// A line of a guest's log; the owner's are the container's own log. For one reader: the last that asked for `workers`.
    Log(LogLine),
    /// An event of a newer watchdog; read only, to be ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// A line of a guest's log. Lines of one worker come in order and once, but those under way when the link breaks are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Which worker, below [`WORKERS`].
    pub worker: u8,
    /// The epoch of the guest that said it.
    pub epoch: u64,
    /// `{name}.{namespace}` of that guest, as its order had it.
    pub function: String,
    /// Where it was said.
    pub stream: LogStream,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// What, without the line's end; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// Whether the line was too long and goes on in the next report of the same worker and stream.
    #[serde(default, rename = "cut", skip_serializing_if = "is_false")]
    pub is_cut: bool,
    /// Lines dropped before this one because nobody read them in time, both workers together.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

/// One of a function's two streams; what the watchdog itself says about a guest is on `stderr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a watchdog can do here; what is absent it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// How many workers it has that take orders; 0 where it cannot specialise any.
    pub workers: u8,
    /// Whether a second process of the owner's function can serve beside the first: ports can be moved, or none is used.
    pub second_own: bool,
    /// Whether it serves guests: everything their sealing needs is there.
    pub guests: bool,
    /// Version of the lanes it serves; 0 for none.
    pub lanes: u8,
    /// Whether a guest's interpreter can wait before it runs the function.
    pub holds: bool,
}

/// Where one worker stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Which worker, below [`WORKERS`].
    pub worker: u8,
    /// The epoch of the order it follows; 0 for the owner's worker as the container began.
    pub epoch: u64,
    /// The state.
    pub state: WorkerState,
    /// `{name}.{namespace}` of the guest it has, as its order had it; none for the owner's function and a generic worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often its process ended unasked, since the watchdog started. Whoever missed some knows from it how many.
    #[serde(default)]
    pub crashes: u64,
}

/// The states of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// A process waits for an order; no function is there and nothing of an earlier one is left.
    Generic,
    /// Its function starts and cannot answer yet.
    Specialising,
    /// Able to answer now.
    Ready,
    /// Its function's process ended and will be started again after a back-off.
    Crashed,
    /// Admits nothing and finishes what runs, after which it is generic.
    Draining,
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
    /// CPU time used since the container started, in microseconds; older watchdogs do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
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
    /// The same by worker, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<[WorkerLoad; WORKERS]>,
}

/// What one worker has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerLoad {
    /// The epoch the numbers are about; they begin anew with each.
    pub epoch: u64,
    /// Requests it works on.
    pub in_flight: u64,
    /// Requests that wait for it in the watchdog.
    pub queued: u64,
    /// Most it works on at once, as set or as found; none is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u64>,
    /// Requests that are over.
    pub served: u64,
    /// Requests sent back to the provider.
    pub bounced: u64,
    /// Mean time from arrival to the answer's last byte of those that ended since the report before, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_us: Option<u64>,
    /// CPU used since the report before by its processes that still run and by what they have waited for, in thousandths of one
    /// CPU; told of guests alone, from their second report on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u64>,
    /// Memory that its processes have as their own, without files, in bytes; told of guests alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
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
        assert_eq!(serde_json::to_string(&Report::Load(Box::new(load))).unwrap(), line);
        assert_eq!(read(line), Report::Load(Box::new(load)));
        let load = Load { cpu_us: Some(7), ..load };
        let newer = line.replace("99}", r#"99,"cpu_us":7}"#);
        assert_eq!(serde_json::to_string(&Report::Load(Box::new(load))).unwrap(), newer);
        assert_eq!(read(&newer), Report::Load(Box::new(load)));
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
        assert_eq!(read(r#"{"event":"load","gpu":1}"#), Report::Load(Box::default()));
    }

    #[test]
    fn orders_are_as_documented() {
        let order = Order::Specialise { worker: 1, epoch: 7, work: Work::Own };
        let line = r#"{"order":"specialise","worker":1,"epoch":7,"work":"own"}"#;
        assert_eq!(serde_json::to_string(&order).unwrap(), line);
        assert_eq!(serde_json::from_str::<Order>(line).unwrap(), order);
        let release = Order::Release { worker: 1, epoch: 7, grace_ms: 500 };
        let line = r#"{"order":"release","worker":1,"epoch":7,"grace_ms":500}"#;
        assert_eq!(serde_json::to_string(&release).unwrap(), line);
        assert_eq!(serde_json::from_str::<Order>(line).unwrap(), release);
        let proceed = Order::Proceed { worker: 1, epoch: 7 };
        let line = r#"{"order":"proceed","worker":1,"epoch":7}"#;
        assert_eq!(serde_json::to_string(&proceed).unwrap(), line);
        assert_eq!(serde_json::from_str::<Order>(line).unwrap(), proceed);
        let newer = r#"{"order":"freeze","worker":{"id":1}}"#;
        assert_eq!(serde_json::from_str::<Order>(newer).unwrap(), Order::Unknown);
        let report = WorkerReport {
            worker: 1,
            epoch: 7,
            state: WorkerState::Specialising,
            guest: None,
            reason: None,
            crashes: 0,
        };
        let line = r#"{"event":"worker","worker":1,"epoch":7,"state":"specialising","crashes":0}"#;
        assert_eq!(serde_json::to_string(&Report::Worker(report.clone())).unwrap(), line);
        assert_eq!(read(line), Report::Worker(report));
        let said = LogLine {
            worker: 1,
            epoch: 7,
            function: "f.ns".into(),
            stream: LogStream::Stdout,
            time_ms: 5,
            text: "a\"b".into(),
            is_cut: false,
            lost: 0,
        };
        let line = r#"{"event":"log","worker":1,"epoch":7,"function":"f.ns","stream":"stdout","time_ms":5,"text":"a\"b"}"#;
        assert_eq!(serde_json::to_string(&Report::Log(said.clone())).unwrap(), line);
        assert_eq!(read(line), Report::Log(said));
        assert_eq!(
            read(r#"{"event":"abilities","workers":2,"zygotes":3}"#),
            Report::Abilities(Abilities { workers: 2, ..Abilities::default() })
        );
    }

    #[test]
    fn an_older_side_neither_asks_for_load_nor_is_asked() {
        let hello = Hello { version: LINK_VERSION, key: "k".into(), load: false, workers: false };
        let line = r#"{"version":1,"key":"k"}"#;
        assert_eq!(serde_json::to_string(&hello).unwrap(), line);
        assert_eq!(serde_json::from_str::<Hello>(line).unwrap(), hello);
    }

    #[test]
    fn the_longest_load_is_far_below_the_bound() {
        let workers = Some([WorkerLoad::default(); WORKERS]);
        let text = serde_json::to_string(&Load { workers, ..Load::default() }).unwrap();
        let names = "in_flight_max service_us cpu_millicores cpu_us cpu_max_millicores throttled_periods throttled_us \
                     memory_bytes memory_max_bytes oom_kills cpu_stalled_basis_points memory_stalled_basis_points";
        assert!(text.len() + names.len() + 34 * 24 < LINE_MAX / 2);
    }
}
