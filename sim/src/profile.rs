//! What a function is like: what its requests need, what it is allowed, how long it takes to start.

use hyperfaas_protocol::FunctionKey;

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
    /// Requests that one worker's process works on at the same time; the others wait in it. None is without limit.
    pub threads: Option<u32>,
    /// From the container's start to its first answer, and the same for a worker that is specialised.
    pub boot: Nanos,
    /// `requests.cpu`, thousandths of a CPU.
    pub cpu_request: Option<u32>,
    /// `limits.cpu`, thousandths of a CPU.
    pub cpu_limit: Option<u32>,
    /// Memory of an idle worker, bytes.
    pub memory_idle: u64,
    /// `limits.memory`, bytes.
    pub memory_limit: Option<u64>,
    /// Labels of the deployment.
    pub labels: Vec<(String, String)>,
}

impl Profile {
    /// A function whose requests take `duration` of CPU time, one at a time, without limits.
    pub fn burner(name: &str, duration: Duration) -> Self {
        Self {
            key: key(name),
            duration,
            cpu_share: 1.0,
            threads: None,
            boot: 20 * MS,
            cpu_request: None,
            cpu_limit: None,
            memory_idle: 16 << 20,
            memory_limit: None,
            labels: Vec::new(),
        }
    }

    /// The same with a label more.
    #[must_use]
    pub fn with_label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
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
