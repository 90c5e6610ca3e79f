//! The open loop: calls are made when they are due, whatever became of the calls before.
//!
//! In: targets, arrivals in order of time, [`Limits`]. Out: one [`Sample`] a call. Latency counts from the moment the call was
//! due, so waiting for a place, a connection or this program counts too (no coordinated omission); how late this program
//! itself was is kept beside it, to tell whether the loader or the loaded was slow.
//! Always: at most so many connections, so many calls waiting; a call beyond that is an [`Fault::Overrun`], never silence.
//! Touches: sockets, the clock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::call::{Answer, Connection, Fault};
use crate::failure::Result;
use crate::sample::Sample;
use crate::timer::on_time;

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// The whole request, as sent.
    pub(crate) request: Vec<u8>,
    /// What lanes are opened with there; plain HTTP without one.
    pub(crate) lane_key: Option<Rc<str>>,
}

impl Target {
    /// Over plain HTTP.
    pub(crate) const fn new(address: SocketAddr, request: Vec<u8>) -> Self {
        Self { address, request, lane_key: None }
    }

    /// A fresh connection.
    pub(crate) async fn connect(&self) -> Result<Connection, Fault> {
        match &self.lane_key {
            Some(key) => Connection::open_lane(self.address, key).await,
            None => Connection::open(self.address).await,
        }
    }
}

/// The loader's bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Calls on the wire at once.
    pub(crate) connections: usize,
    /// Calls that are due and unanswered, those on the wire included.
    pub(crate) outstanding: usize,
    /// From the moment a call gets its connection to its answer's end.
    pub(crate) timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, outstanding: 20_000, timeout: Duration::from_secs(30) }
    }
}

/// What a run tells while it runs.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Calls that are over.
    pub(crate) done: Cell<u64>,
    /// Of them, those without an answer below 400.
    pub(crate) failed: Cell<u64>,
}

/// Makes all calls and waits for their answers; samples are in the order in which calls ended.
pub(crate) async fn run(
    targets: Vec<Target>,
    arrivals: impl Iterator<Item = (Duration, usize)> + Send + 'static,
    limits: Limits,
    gauge: Rc<Gauge>,
) -> Result<Vec<Sample>> {
    let clock = SystemClock::start();
    let began = clock.now();
    let mut due = on_time(arrivals, clock, began)?;
    let run = Rc::new(Run {
        targets,
        clock,
        began,
        pool: Pool::new(limits.connections),
        timeout: limits.timeout,
        samples: RefCell::default(),
        outstanding: Cell::new(0),
        gauge,
    });
    let tasks = TaskTracker::new();
    while let Some((at, target)) = due.recv().await {
        let lag = clock.now().since(began.after(at));
        if run.outstanding.get() >= limits.outstanding {
            run.finish(Sample { at, latency: lag, lag, target, end: Err(Fault::Overrun) });
            continue;
        }
        run.outstanding.set(run.outstanding.get() + 1);
        let run = run.clone();
        spawn_local(tasks.track_future(async move { run.one(at, lag, target).await }));
    }
    tasks.close();
    tasks.wait().await;
    Ok(run.samples.take())
}

struct Run {
    targets: Vec<Target>,
    clock: SystemClock,
    began: Moment,
    pool: Pool,
    timeout: Duration,
    samples: RefCell<Vec<Sample>>,
    outstanding: Cell<usize>,
    gauge: Rc<Gauge>,
}

impl Run {
    async fn one(&self, at: Duration, lag: Duration, target: usize) {
        let end = self.pool.call(&self.targets[target], self.timeout).await;
        let latency = self.clock.now().since(self.began.after(at));
        self.outstanding.set(self.outstanding.get() - 1);
        self.finish(Sample { at, latency, lag, target, end: end.map(|answer| answer.status) });
    }

    fn finish(&self, sample: Sample) {
        self.gauge.done.set(self.gauge.done.get() + 1);
        self.gauge.failed.set(self.gauge.failed.get() + u64::from(!sample.is_success()));
        self.samples.borrow_mut().push(sample);
    }
}

/// Connections, kept between calls, the most recently used first.
#[derive(Debug)]
struct Pool {
    places: Semaphore,
    idle: RefCell<HashMap<SocketAddr, Vec<Connection>>>,
}

impl Pool {
    fn new(connections: usize) -> Self {
        Self { places: Semaphore::new(connections), idle: RefCell::default() }
    }

    async fn call(&self, target: &Target, limit: Duration) -> Result<Answer, Fault> {
        let _place = self.places.acquire().await.map_err(|_| Fault::Connect)?;
        timeout(limit, self.on_the_wire(target)).await.unwrap_or(Err(Fault::Timeout))
    }

    async fn on_the_wire(&self, target: &Target) -> Result<Answer, Fault> {
        // A kept connection may have been closed by its server meanwhile: nothing was answered, so once more on a fresh one.
        if let Some(kept) = self.take(target.address) {
            match self.exchange(kept, target).await {
                Err(Fault::Closed) => {}
                end => return end,
            }
        }
        self.exchange(target.connect().await?, target).await
    }

    async fn exchange(&self, mut on: Connection, target: &Target) -> Result<Answer, Fault> {
        let answer = on.call(&target.request).await?;
        if answer.is_reusable {
            self.idle.borrow_mut().entry(target.address).or_default().push(on);
        }
        Ok(answer)
    }

    fn take(&self, address: SocketAddr) -> Option<Connection> {
        self.idle.borrow_mut().get_mut(&address)?.pop()
    }
}

#[cfg(test)]
mod tests {
    use hyperfaas_trace::rate::{Pacing, Phase, arrivals};
    use tokio::task::LocalSet;

    use super::*;
    use crate::serve;

    async fn samples(rate: f64, seconds: u64, limits: Limits, path: &str) -> Vec<Sample> {
        let server = serve::Server::bind(0).await.unwrap();
        let address = server.address();
        spawn_local(server.run());
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
        let phases = [Phase::constant(rate, Duration::from_secs(seconds))];
        let calls = arrivals(&phases, Pacing::Even, hyperfaas_trace::random(1));
        let targets = vec![Target::new(address, request)];
        run(targets, calls.map(|at| (at, 0)), limits, Rc::default()).await.unwrap()
    }

    #[tokio::test]
    async fn every_call_is_made_and_answered() {
        let local = LocalSet::new();
        let samples = local.run_until(samples(500.0, 1, Limits::default(), "/")).await;
        assert_eq!(samples.len(), 500);
        assert!(samples.iter().all(|s| s.end == Ok(200)), "{samples:?}");
    }

    #[tokio::test]
    async fn a_slow_server_delays_no_call_and_waiting_counts() {
        // 100 calls 10 ms apart, one connection, 20 ms each: the last is due at 995 ms and over after 2 s.
        let limits = Limits { connections: 1, ..Limits::default() };
        let local = LocalSet::new();
        let samples = local.run_until(samples(100.0, 1, limits, "/?sleep_ms=20")).await;
        let last = samples.iter().max_by_key(|s| s.at).unwrap();
        assert!(last.latency >= Duration::from_millis(1000), "{last:?}");
        assert_eq!(samples.len(), 100);
    }

    #[tokio::test]
    async fn beyond_its_bounds_calls_fail_by_name() {
        let limits = Limits { connections: 1, outstanding: 2, timeout: Duration::from_millis(30) };
        let local = LocalSet::new();
        let samples = local.run_until(samples(50.0, 1, limits, "/?sleep_ms=5000")).await;
        assert_eq!(samples.len(), 50);
        let of = |fault| samples.iter().filter(|s| s.end == Err(fault)).count();
        assert!(of(Fault::Timeout) > 0 && of(Fault::Overrun) > 0, "{samples:?}");
        assert_eq!(of(Fault::Timeout) + of(Fault::Overrun), 50);
    }

    #[tokio::test]
    async fn nobody_there_is_no_connection() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let targets = vec![Target::new(gone, b"GET / HTTP/1.1\r\n\r\n".to_vec())];
        let calls = [(Duration::ZERO, 0)].into_iter();
        let local = LocalSet::new();
        let run = run(targets, calls, Limits::default(), Rc::default());
        let samples = local.run_until(run).await.unwrap();
        assert_eq!(samples[0].end, Err(Fault::Connect));
    }
}
