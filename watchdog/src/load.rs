//! Watches what the container has to do, and tells the provider: crossings of a watermark at once, the load once a second.
//!
//! In: the books of requests and the cgroup's files. Out: the newest [`Told`], and a wake-up for each change.
//! Always: while requests are in flight or have just been, a sample is taken every [`SAMPLE_EVERY`]; an idle container that is
//! below its watermarks sets no timer and is told once more how it ended. Only the newest of each kind is kept, so a reader that
//! is slow or comes late costs nothing and still learns what holds; [`Watermark::crossings`] says what it missed.
//! Touches: files, the clock. What the samples mean is `watermark`'s to say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{Level, Load, WORKERS, Watermark};
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::sync::watch;

use crate::cgroup::{Cgroup, Usage};
use crate::exchange::{Books, Tally};
use crate::watermark::{Gauge, Sample, Thresholds, judge};
use crate::worker::{Table, WorkerTally};

/// Time between samples of a busy container: a condition is told within twice that.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);
/// Time between load reports of a busy container.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Without a request for this long it is idle. Not shorter than [`REPORT_EVERY`], which so bounds all reports.
const IDLE_AFTER: Duration = REPORT_EVERY;
/// Time between samples of one that is above its watermark and has just become idle: a window of CPU use.
const SETTLE_EVERY: Duration = Duration::from_millis(100);
/// Time between samples of an idle container that is above its watermark all the same, as with memory that stays full.
const RECHECK_EVERY: Duration = Duration::from_secs(5);

/// What the provider should know; the newest is the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) mark: Watermark,
    /// The last report; `None` before the first.
    pub(crate) load: Option<Load>,
    /// Reports so far.
    pub(crate) reports: u64,
}

impl Told {
    pub(crate) const START: Self = Self { mark: Watermark::CALM, load: None, reports: 0 };
}

/// Watches the cgroup at `root` for as long as the watchdog lives.
pub(crate) fn start(
    books: Arc<Books>,
    table: Arc<Table>,
    root: &Path,
    clock: SystemClock,
) -> watch::Receiver<Told> {
    let (sender, receiver) = watch::channel(Told::START);
    let (cgroup, now) = (Cgroup::open(root), clock.now());
    let (tally, workers) = (books.tally(), table.tallies());
    let usage = cgroup.sample();
    let watcher = Watcher {
        books,
        table,
        cgroup,
        clock,
        thresholds: Thresholds::default(),
        gauge: Gauge::START,
        last: Taken { at: now, usage, tally, workers },
        reported: Taken { at: now, usage, tally, workers },
        busy_at: now,
        is_busy: false,
        is_settled: true,
        told: sender,
    };
    tokio::spawn(watcher.run());
    receiver
}

/// One sample.
#[derive(Debug, Clone, Copy)]
struct Taken {
    at: Moment,
    usage: Usage,
    tally: Tally,
    workers: [WorkerTally; WORKERS],
}

impl Taken {
    fn sample(&self) -> Sample {
        let beyond = self.workers.iter().map(|worker| worker.bounced + worker.waited);
        Sample { usage: self.usage, refused: self.tally.refused + beyond.sum::<u64>() }
    }
}

#[derive(Debug)]
struct Watcher {
    books: Arc<Books>,
    table: Arc<Table>,
    cgroup: Cgroup,
    clock: SystemClock,
    thresholds: Thresholds,
    gauge: Gauge,
    last: Taken,
    /// Where the report before ended, or, if it was idle since, where this busy time began.
    reported: Taken,
    /// The last sample that was busy.
    busy_at: Moment,
    /// Whether requests were in flight at the last sample, or came since the one before.
    is_busy: bool,
    /// Whether the last report of this busy time has been made.
    is_settled: bool,
    told: watch::Sender<Told>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let low_at = self.gauge.low_at(&self.thresholds);
            let is_high = self.gauge.mark.level == Level::High;
            match pace(self.is_busy, self.is_settled, is_high, low_at, self.busy_at, self.last.at) {
                Pace::Tick => {}
                Pace::Doze(None) => self.books.arrival().await,
                Pace::Doze(Some(until)) => {
                    let nap = until.since(self.clock.now());
                    let _ = tokio::time::timeout(nap, self.books.arrival()).await;
                }
            }
            let due = self.last.at.after(SAMPLE_EVERY);
            tokio::time::sleep(due.since(self.clock.now())).await;
            self.take();
        }
    }

    fn take(&mut self) {
        let (usage, tally, now) = (self.cgroup.sample(), self.books.tally(), self.clock.now());
        let taken = Taken { at: now, usage, tally, workers: self.table.tallies() };
        let mut before = std::mem::replace(&mut self.last, taken);
        if self.is_settled && self.gauge.mark.level == Level::Low {
            // It slept. What happened meanwhile, its own start for one, says nothing about now.
            self.gauge = self.gauge.resumed();
            before.usage = usage;
        }
        self.gauge = judge(&self.gauge, &self.thresholds, &before.sample(), &taken.sample(), now);
        self.is_busy = tally.in_flight > 0 || tally.arrived != before.tally.arrived;
        if self.is_busy {
            self.busy_at = now;
            if std::mem::take(&mut self.is_settled) {
                // What was used while idle is not this busy time's; its first request is.
                self.reported = Taken { tally: before.tally, workers: before.workers, ..taken };
            }
        }
        let is_over = !self.is_busy && !self.is_settled && now.since(self.busy_at) >= IDLE_AFTER;
        let is_due = self.is_busy && now.since(self.reported.at) >= REPORT_EVERY;
        self.is_settled |= is_over;
        let report = (is_over || is_due).then(|| {
            let from = std::mem::replace(&mut self.reported, taken);
            load(&from, &taken, self.books.limit())
        });
        let mark = self.gauge.mark;
        self.told.send_if_modified(|told| {
            let is_news = told.mark != mark || report.is_some();
            told.mark = mark;
            if report.is_some() {
                (told.load, told.reports) = (report, told.reports + 1);
            }
            is_news
        });
    }
}

/// How long until the next sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// [`SAMPLE_EVERY`] after the last one.
    Tick,
    /// As soon as a request arrives, or at this moment, if there is one; never sooner than [`Pace::Tick`].
    Doze(Option<Moment>),
}

fn pace(
    is_busy: bool,
    is_settled: bool,
    is_high: bool,
    low_at: Option<Moment>,
    busy_at: Moment,
    now: Moment,
) -> Pace {
    if is_busy {
        return Pace::Tick;
    }
    let settled_at = (!is_settled).then(|| busy_at.after(IDLE_AFTER));
    let checked_at =
        is_high.then(|| now.after(if is_settled { RECHECK_EVERY } else { SETTLE_EVERY }));
    Pace::Doze([settled_at, checked_at, low_at].into_iter().flatten().min())
}

/// The report about the time between two samples.
fn load(from: &Taken, to: &Taken, limit: Option<usize>) -> Load {
    let span_us = u64::try_from(to.at.since(from.at).as_micros()).unwrap_or(u64::MAX);
    let (usage, tally) = (&to.usage, &to.tally);
    let cpu_us = from.usage.cpu_us.zip(usage.cpu_us).map(|(from, to)| to.saturating_sub(from));
    let millicores = |used_us: u64, of_us| used_us.saturating_mul(1000).checked_div(of_us);
    let served = tally.served.saturating_sub(from.tally.served);
    Load {
        in_flight: tally.in_flight,
        in_flight_max: limit.and_then(|limit| u64::try_from(limit).ok()),
        served: tally.served,
        refused: tally.refused,
        service_us: tally.service_us.saturating_sub(from.tally.service_us).checked_div(served),
        cpu_millicores: cpu_us.and_then(|us| millicores(us, span_us)),
        cpu_us: usage.cpu_us,
        cpu_max_millicores: usage.quota.and_then(|q| millicores(q.quota_us, q.period_us)),
        throttled_periods: usage.throttled_periods,
        throttled_us: usage.throttled_us,
        memory_bytes: usage.memory_bytes,
        memory_max_bytes: usage.memory_max_bytes,
        oom_kills: usage.oom_kills,
        cpu_stalled_basis_points: usage.cpu_stalled_basis_points,
        memory_stalled_basis_points: usage.memory_stalled_basis_points,
        workers: Some(std::array::from_fn(|at| to.workers[at].load(&from.workers[at]))),
    }
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::WorkerLoad;

    use super::*;
    use crate::cgroup::Quota;

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    #[test]
    fn an_idle_container_below_its_watermark_sets_no_timer() {
        assert_eq!(pace(false, true, false, None, at(0), at(9)), Pace::Doze(None));
    }

    #[test]
    fn a_busy_one_ticks_and_one_that_has_just_been_busy_is_told_of_once_more() {
        assert_eq!(pace(true, false, false, None, at(9), at(9)), Pace::Tick);
        assert_eq!(pace(true, true, true, Some(at(3)), at(9), at(9)), Pace::Tick);
        assert_eq!(pace(false, false, false, None, at(9), at(50)), Pace::Doze(Some(at(1009))));
        assert_eq!(pace(false, false, true, Some(at(70)), at(9), at(50)), Pace::Doze(Some(at(70))));
    }

    #[test]
    fn one_above_its_watermark_is_watched_for_a_second_after_it_was_busy() {
        assert_eq!(pace(false, false, true, None, at(9), at(50)), Pace::Doze(Some(at(150))));
        assert_eq!(pace(false, false, true, None, at(9), at(950)), Pace::Doze(Some(at(1009))));
    }

    #[test]
    fn one_that_stays_above_its_watermark_while_idle_is_looked_at_rarely() {
        assert_eq!(pace(false, true, true, None, at(9), at(2000)), Pace::Doze(Some(at(7000))));
    }

    #[test]
    fn a_report_is_about_the_time_since_the_one_before() {
        let tally = Tally { in_flight: 3, arrived: 14, served: 11, refused: 1, service_us: 9000 };
        let worker = WorkerTally { served: 1, service_us: 200, ..WorkerTally::default() };
        let usage = Usage {
            cpu_us: Some(250_000),
            quota: Some(Quota { quota_us: 50_000, period_us: 100_000 }),
            ..Usage::default()
        };
        let from = Taken {
            at: at(1000),
            usage: Usage { cpu_us: Some(50_000), ..usage },
            tally: Tally { served: 1, service_us: 4000, ..tally },
            workers: [worker, WorkerTally { epoch: 3, served: 9, ..worker }],
        };
        let workers = [
            WorkerTally { served: 5, service_us: 1000, ..worker },
            WorkerTally { epoch: 4, served: 2, service_us: 50, ..worker },
        ];
        let told = load(&from, &Taken { at: at(2000), usage, tally, workers }, Some(4));
        let expected = Load {
            in_flight: 3,
            in_flight_max: Some(4),
            served: 11,
            refused: 1,
            service_us: Some(500),
            cpu_millicores: Some(200),
            cpu_us: Some(250_000),
            cpu_max_millicores: Some(500),
            workers: Some([
                WorkerLoad { served: 5, service_us: Some(200), ..WorkerLoad::default() },
                WorkerLoad { epoch: 4, served: 2, service_us: Some(25), ..WorkerLoad::default() },
            ]),
            ..Load::default()
        };
        assert_eq!(told, expected);
        let nothing = Taken { at: at(2000), usage: Usage::default(), tally, workers };
        let told = load(&nothing, &nothing, None);
        assert_eq!((told.service_us, told.cpu_millicores, told.cpu_us), (None, None, None));
    }

    /// A debug build on a machine that may be busy: the bound is 20 times what it takes.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    fn a_sample_of_the_real_files_is_cheap() {
        let cgroup = Cgroup::open(Path::new(crate::cgroup::ROOT));
        let begin = std::time::Instant::now();
        for _ in 0..200 {
            std::hint::black_box(cgroup.sample());
        }
        let each = begin.elapsed() / 200;
        println!("a sample takes {each:?}");
        assert!(each < Duration::from_millis(1), "{each:?}");
    }
}
