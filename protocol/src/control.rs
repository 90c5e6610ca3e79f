//! What provider and watchdog agree on: the boot variable, and the control link's lines.
//!
//! The provider starts a container with [`Boot`] in the variable [`BOOT_VARIABLE`], then dials `control_port`, sends one
//! [`Hello`] line and reads one [`Report`] line for each change of the watchdog's state, the present one first.
//! Lines are JSON, end in `\n`, and are at most [`LINE_MAX`] bytes. A peer with a wrong key or version gets nothing.

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
