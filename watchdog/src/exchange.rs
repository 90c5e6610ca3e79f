//! One request from its arrival to the last byte of its answer: its place, its time, its log line, its counts.
//!
//! In: what happens to it. Out: metrics and an access line, written when the [`Exchange`] is dropped.
//! Always: the place is given back and the request counted exactly once, however it ends; whoever still works on the
//! request holds the exchange: the body being sent, or the process that outlives its client.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::{Method, Request};
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::sync::Notify;

use crate::log;
use crate::metrics::Metrics;
use crate::worker::Claim;

/// Code counted for a request whose client left before there was an answer.
const CLIENT_GONE: u16 = 504;

/// Keeps the books of all requests.
#[derive(Debug)]
pub(crate) struct Books {
    limit: Option<NonZeroUsize>,
    running: AtomicUsize,
    arrived: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    service_us: AtomicU64,
    arrival: Notify,
    /// The same for somebody else.
    stir: Notify,
    pub(crate) metrics: Metrics,
    clock: SystemClock,
}

/// Counts since the watchdog started, but for those in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) in_flight: u64,
    pub(crate) arrived: u64,
    /// Those that are over, refused ones included.
    pub(crate) served: u64,
    pub(crate) refused: u64,
    /// The time from arrival to end of all those that are over.
    pub(crate) service_us: u64,
}

impl Books {
    pub(crate) fn new(limit: Option<NonZeroUsize>, clock: SystemClock) -> Self {
        Self {
            limit,
            running: AtomicUsize::new(0),
            arrived: AtomicU64::new(0),
            served: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            service_us: AtomicU64::new(0),
            arrival: Notify::new(),
            stir: Notify::new(),
            metrics: Metrics::default(),
            clock,
        }
    }

    /// Requests admitted and not yet over.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Most requests that may be in flight.
    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit.map(NonZeroUsize::get)
    }

    /// The counts now.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            in_flight: u64::try_from(self.running()).unwrap_or(u64::MAX),
            arrived: self.arrived.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            service_us: self.service_us.load(Ordering::Relaxed),
        }
    }

    /// Waits for a request to arrive while none is in flight; one that did so unwatched counts. For one waiter.
    pub(crate) async fn arrival(&self) {
        self.arrival.notified().await;
    }

    /// Waits until, after some request at least, none has come for `quiet` and none is in flight. For one waiter.
    pub(crate) async fn rest(&self, quiet: Duration) {
        let arrived = || self.arrived.load(Ordering::Relaxed);
        let mut seen = arrived();
        loop {
            self.stir.notified().await;
            // Otherwise one of those that came before has been noticed once more.
            while arrived() != seen || self.running() > 0 {
                seen = arrived();
                tokio::time::sleep(quiet).await;
                if arrived() == seen && self.running() == 0 {
                    return;
                }
            }
        }
    }

    /// Opens the books for a request whose head nobody here has read.
    pub(crate) fn open_unnamed(self: &Arc<Self>) -> Exchange {
        // A token of the right form that no metric has a name for.
        let method = Method::from_bytes(b"UNKNOWN").unwrap_or_default();
        self.begin(method, String::new())
    }

    /// Opens the books for a request, whether it will be admitted or not.
    pub(crate) fn open<B>(self: &Arc<Self>, request: &Request<B>) -> Exchange {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        self.begin(request.method().clone(), target.to_owned())
    }

    fn begin(self: &Arc<Self>, method: Method, target: String) -> Exchange {
        self.metrics.begin();
        self.arrived.fetch_add(1, Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.arrival.notify_one();
            self.stir.notify_one();
        }
        Exchange {
            books: self.clone(),
            method,
            target,
            start: self.clock.now(),
            code: None,
            access: None,
            claim: None,
        }
    }
}

/// One request being served. Dropping it closes the books.
#[derive(Debug)]
pub(crate) struct Exchange {
    books: Arc<Books>,
    method: Method,
    target: String,
    start: Moment,
    code: Option<u16>,
    access: Option<Access>,
    claim: Option<Claim>,
}

/// What the access line says beyond method, target and time.
#[derive(Debug)]
pub(crate) struct Access {
    /// `200` or `200 OK`.
    pub(crate) status: String,
    /// Bytes of the answer; −1 when unknown.
    pub(crate) length: i64,
    /// Text in brackets at the end.
    pub(crate) call_id: Option<String>,
}

impl Exchange {
    /// Time since the request arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        self.books.clock.now().since(self.start)
    }

    /// Keeps its place in a worker until it is over.
    pub(crate) fn hold(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// Notes that it is turned away because too many are in flight.
    pub(crate) fn refused(&self) {
        self.books.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what it was, as soon as that is known.
    pub(crate) fn name(&mut self, method: Method, target: String) {
        self.method = method;
        self.target = target;
    }

    /// Notes the status of the answer.
    pub(crate) fn answered(&mut self, code: u16) {
        self.code = Some(code);
    }

    /// Asks for an access line at the end.
    pub(crate) fn log_at_end(&mut self, access: Access) {
        self.access = Some(access);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let elapsed = self.elapsed();
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.books.service_us.fetch_add(elapsed_us, Ordering::Relaxed);
        self.books.served.fetch_add(1, Ordering::Relaxed);
        self.books.running.fetch_sub(1, Ordering::Relaxed);
        self.claim = None;
        self.books.metrics.end(&self.method, self.code.unwrap_or(CLIENT_GONE), elapsed);
        if let Some(Access { status, length, call_id }) = self.access.take() {
            let tenths_ms = (elapsed_us + 50) / 100;
            let call_id = call_id.map(|id| format!(" [{id}]")).unwrap_or_default();
            log::line!(
                "{} {} - {status} - ContentLength: {} ({}.{:04}s){call_id}",
                self.method,
                self.target,
                HumanSize(length),
                tenths_ms / 10_000,
                tenths_ms % 10_000
            );
        }
    }
}

/// A number of bytes with four significant digits and decimal units, as Go's `units.HumanSize` prints it.
#[derive(Debug, Clone, Copy)]
struct HumanSize(i64);

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return write!(f, "{}B", self.0);
        }
        let (mut whole, mut scale, mut unit) = (self.0.unsigned_abs(), 1_u64, 0);
        while whole >= 1000 {
            whole /= 1000;
            scale *= 1000;
            unit += 1;
        }
        let decimals: u32 = if whole >= 100 {
            1
        } else if whole >= 10 {
            2
        } else {
            3
        };
        let factor = u128::from(10_u64.pow(decimals));
        let value = (u128::from(self.0.unsigned_abs()) * factor + u128::from(scale / 2))
            / u128::from(scale);
        let fraction = format!("{:0width$}", value % factor, width = decimals as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{}{point}{fraction}{}", value / factor, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_the_originals_log() {
        for (bytes, text) in [
            (-1, "-1B"),
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (2049, "2.049kB"),
            (10_485_760, "10.49MB"),
            (123_456, "123.5kB"),
            (i64::MAX, "9.223EB"),
        ] {
            assert_eq!(HumanSize(bytes).to_string(), text);
        }
    }
}
