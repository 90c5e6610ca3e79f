//! What runs in a simulated container: where it answers, what it says, how it ends.

use std::net::IpAddr;
use std::time::Duration;

use super::super::ContainerUsage;

/// Where a replica is answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Such as a loopback address.
    pub address: IpAddr,
    /// Where HTTP is served.
    pub http_port: u16,
    /// Where the control link is served.
    pub control_port: u16,
}

/// An end that comes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How long after the start; zero is at once.
    pub after: Duration,
    /// The exit status.
    pub code: i64,
}

/// What a container does when told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminates {
    /// Ends with status 0 after this long, saying these lines.
    After(Duration, Vec<String>),
    /// Goes on until it is killed.
    Never,
}

/// What runs in a started container.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Where it can be reached; `None` is an address nothing can connect to.
    pub place: Option<Place>,
    /// What it says when it starts.
    pub lines: Vec<String>,
    /// When it ends by itself.
    pub exit: Option<Exit>,
    /// How it ends when told to.
    pub terminates: Terminates,
    /// What it uses.
    pub usage: ContainerUsage,
}

impl Default for Program {
    /// Runs silently, ends at once when told to, and cannot be reached.
    fn default() -> Self {
        Self {
            place: None,
            lines: Vec::new(),
            exit: None,
            terminates: Terminates::After(Duration::ZERO, Vec::new()),
            usage: ContainerUsage { cpu_milli: 1.0, memory_bytes: 2 << 20 },
        }
    }
}
