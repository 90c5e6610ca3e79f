//! Which of the two originals an image expects: they share a name and a variable, and differ in nearly everything else.
//!
//! In: the environment, and the image's own watchdog file where the environment decides nothing. Out: a [`Dialect`].
//! Source: the variables each original reads; Go's build information, which survives stripping.

use super::value::Vars;

/// The original a watchdog stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `openfaas/classic-watchdog`: a process a request.
    Classic,
    /// `openfaas/of-watchdog`: modes http, streaming, serializing.
    OfWatchdog,
}

/// Only of-watchdog reads these.
const OF_WATCHDOG_ONLY: [&str; 9] = [
    "mode",
    "http_upstream_url",
    "upstream_url",
    "function_process",
    "static_path",
    "prefix_logs",
    "ready_path",
    "http_buffer_req_body",
    "buffer_http",
];
/// Only the classic watchdog reads these. `write_debug` is not here: many images of either kind set it by habit.
const CLASSIC_ONLY: [&str; 3] = ["combine_output", "marshal_request", "debug_headers"];

/// Decides by the variables, then by `scan`, and without any evidence for the classic watchdog.
pub(super) fn decide(vars: &Vars<'_>, scan: impl FnOnce() -> Option<Dialect>) -> Dialect {
    let any = |names: &[&str]| names.iter().any(|name| vars.filled(name).is_some());
    if any(&OF_WATCHDOG_ONLY) {
        Dialect::OfWatchdog
    } else if any(&CLASSIC_ONLY) {
        Dialect::Classic
    } else {
        scan().unwrap_or(Dialect::Classic)
    }
}
