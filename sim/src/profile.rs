//! What a function is like: what its requests need, what it is allowed, how long it takes to start.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_provider::scheduler::Scaling;

use crate::queue::{MS, Nanos};
use crate::service::Duration;

/// One function.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub key: FunctionKey,
    /// How long its requests take, undisturbed; a request that brings its own duration takes that.
    pub duration: Duration,
    /// How much of that is CPU time, 0 to 1.
    pub cpu_share: f64,
    /// Most CPU time of one request.
    pub cpu_most: Nanos,
    /// Requests that one worker's process works on at the same time; the others wait in it. None is without limit.
    pub threads: Option<u32>,
    /// From the container's start to its first answer, and the same for a worker that is specialised.
    pub boot: Nanos,
    /// Memory of an idle worker, bytes.
    pub memory_idle: u64,
    /// Whether a second process of it may run beside the first.
    pub has_second: bool,
    /// Replicas that its deployment asks for.
    pub replicas: u32,
    /// What the scheduler is told of it.
    pub scaling: Scaling,
}

impl Profile {
    /// A function whose requests take `duration` of CPU time, one at a time, without limits.
    pub fn burner(name: &str, duration: Duration) -> Self {
        Self {
            key: key(name),
            duration,
            cpu_share: 1.0,
            cpu_most: Nanos::MAX,
            threads: None,
            boot: 20 * MS,
            memory_idle: 16 << 20,
            has_second: true,
            replicas: 1,
            scaling: Scaling::default(),
        }
    }
}

/// The function `name` of the default namespace.
///
/// # Panics
/// If it is no valid name.
pub fn key(name: &str) -> FunctionKey {
    FunctionKey {
        namespace: hyperfaas_protocol::Namespace::parse("openfaas-fn").expect("a valid name"),
        name: hyperfaas_protocol::FunctionName::parse(name).expect("a valid name"),
    }
}
