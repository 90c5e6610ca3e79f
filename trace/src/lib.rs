//! Traces of function calls: who was called how often in which minute, how long a call took, how much memory it held.
//!
//! In: CSV files in the formats of the Azure Functions traces ([`minutes`], [`requests`]), or characteristics
//! ([`generate`]), or a rate over time ([`rate`]). Out: a [`Trace`], or [`Arrival`]s in order of time.
//! Units: offsets count from the trace's start; counts are calls a minute; durations are milliseconds in files and in
//! [`Quantiles`], [`Duration`] elsewhere; memory is MiB.
//! Always: pure and seeded: the same input and seed give the same calls, on every machine and in every version.
//! Touches: nothing; readers take any `Read`, so the caller opens the file.
//! Source: Shahrad et al., "Serverless in the Wild", USENIX ATC '20, and its data set (AzureFunctionsDataset2019);
//! Zhang et al., SOSP '21 (AzureFunctionsInvocationTrace2021).

pub mod arrivals;
pub mod generate;
pub mod minutes;
mod quantiles;
pub mod rate;
pub mod requests;
mod table;

use std::time::Duration;

pub use quantiles::Quantiles;
pub use table::ReadError;

/// One minute, the resolution of the 2019 format.
pub const MINUTE: Duration = Duration::from_secs(60);

/// The generator of random numbers behind every seed: small, fast, and the same sequence in every version.
pub type Random = rand_pcg::Pcg64Mcg;

/// A generator for `seed`.
pub fn random(seed: u64) -> Random {
    <Random as rand::SeedableRng>::seed_from_u64(seed)
}

/// Calls by function and minute.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// In the order of the file; names are unique. Every function has the same number of minutes.
    pub functions: Vec<Function>,
}

/// What a trace says of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Unique in the trace; a hash in the Azure traces.
    pub name: String,
    /// Calls in each minute since the start.
    pub per_minute: Vec<u32>,
    /// Milliseconds a call takes, if known.
    pub duration_ms: Option<Quantiles>,
    /// MiB the function's application holds, if known.
    pub memory_mib: Option<Quantiles>,
}

impl Function {
    /// Calls in the whole trace.
    pub fn calls(&self) -> u64 {
        self.per_minute.iter().map(|count| u64::from(*count)).sum()
    }
}

impl Trace {
    /// Calls of all functions.
    pub fn calls(&self) -> u64 {
        self.functions.iter().map(Function::calls).sum()
    }

    /// Length in minutes.
    pub fn minutes(&self) -> usize {
        self.functions.first().map_or(0, |function| function.per_minute.len())
    }

    /// Only the minutes `from..to` (cut to what there is), counted from the new start.
    #[must_use]
    pub fn cut(&self, from: usize, to: usize) -> Self {
        let to = to.min(self.minutes());
        let from = from.min(to);
        let cut = |function: &Function| Function {
            per_minute: function.per_minute[from..to].to_vec(),
            ..function.clone()
        };
        Self { functions: self.functions.iter().map(cut).collect() }
    }
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Since the trace's start.
    pub at: Duration,
    /// Index into the trace's functions.
    pub function: usize,
    /// How long the call takes, if the trace knows.
    pub duration: Option<Duration>,
}
