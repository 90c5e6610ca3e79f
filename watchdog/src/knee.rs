//! How many requests a worker should work on at once, found where nobody has set it.
//!
//! In: each request's end, with its time and how many ran. Out: a limit, or none.
//! Units: requests; times are [`Duration`]s and [`Moment`]s.
//! Always: a limit is at least 1. There is none until there is proof that one costs no throughput: it is tried, and stays only
//! if as many requests a second are answered under it as were without. So a function that only waits, whose throughput grows
//! with all that is in flight, is not limited; and a limit goes when nothing ends under it, or when it holds nobody back.
//! Touches: nothing. `worker::queue` counts and acts.
//! Source: the product of the highest rate of answers and the shortest mean time is the number in flight at the knee of
//! throughput over concurrency (Little's law; Kleinrock, "Power and deterministic rules of thumb", 1979). BBR (Cardwell and
//! others, 2016) limits a connection to twice that product, measures the rate as a maximum and the time as a minimum over
//! windows, and now and then goes below and above to measure both anew. Other than there, a mean over a window stands for a
//! time, since requests differ, and a limit must first prove itself.

use std::collections::VecDeque;
use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// A window is at least this long, and longer when fewer than [`WINDOW_ENDS`] requests end in it.
const WINDOW: Duration = Duration::from_millis(200);
/// Requests that must end in a window, unless it gets longer than [`WINDOW_LONGEST`]: the mean of fewer says little.
const WINDOW_ENDS: u64 = 24;
/// A window lasts for this many mean times of the one before: what a limit does to the rate shows only after that.
const WINDOW_TIMES: f64 = 1.5;
/// A window's longest. Requests that take longer than this are nothing a limit could be found for.
const WINDOW_LONGEST: Duration = Duration::from_secs(5);
/// Over how many windows the highest rate is taken: one second of the shortest.
const RATES: usize = 5;
/// Over how long the shortest mean time is taken, at least; at most twice that.
const BASE_FOR: Duration = Duration::from_secs(10);
/// Below this many in flight nothing is limited: a queue as short costs nobody much.
const CROWD: f64 = 4.0;
/// Mean times grown to this multiple of the shortest one are a reason to try a limit.
const STRETCHED: f64 = 2.0;
/// A limit proves itself by this share of the rate without it. Windows differ by chance.
const KEPT: f64 = 0.8;
/// A limit tried without any idea is this share of what runs: it must cost a function that waits more than [`KEPT`] allows,
/// and not much more.
const FIRST_STEP: f64 = 0.7;
/// An attempt at twice the limit shows that it costs throughput when the rate grows to this multiple.
const GAINED: f64 = 1.3;
/// Pause after a limit failed to prove itself, at least; fourfold with each failure in a row, up to [`RETRY_MOST`].
const RETRY: Duration = Duration::from_secs(10);
/// The same as a multiple of what the attempt took: it costs less than a hundredth of the throughput.
const RETRY_TIMES: u32 = 40;
const RETRY_MOST: Duration = Duration::from_secs(300);
/// Between two measurements below and above the limit.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Windows in which those above an attempt's limit may fail to get fewer. Whoever does not end, like an event stream, or came
/// another way, like the requests of port 8080, is not held back, and under those a limit cannot be tried.
const CROWDED_MOST: u32 = 5;
/// Without an end for this long, and twice as long as a window lasts, a limit is no good. Short of CPU, a worker that gets on
/// well may end nothing for some hundred ms.
const STUCK: Duration = Duration::from_secs(2);

/// Finds the limit of one worker.
#[derive(Debug)]
pub(crate) struct Knee {
    phase: Phase,
    window: Window,
    /// Rates of the last windows, requests a second.
    rates: VecDeque<f64>,
    base: Base,
    /// No limit is tried before.
    try_at: Moment,
    retry: Duration,
    /// Since when somebody waits while nothing has ended.
    held_since: Option<Moment>,
    /// Windows of the present attempt with more in flight than its limit and no fewer than before, and how many those were.
    crowded: (u32, f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// No limit.
    Open,
    /// One proves itself, or not, against `rate`; the descent goes on as long as nothing is lost.
    Trying { limit: f64, rate: f64, is_first: bool, descends: bool },
    /// It has proved itself.
    Limited { limit: f64, measure_at: Moment, goes_up: bool },
    /// For one window it is exceeded, or undercut, to measure what it should be.
    Measuring { limit: f64, probe: f64, goes_up: bool },
}

/// What happens between two looks.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Moment,
    least: Duration,
    ends: u64,
    time: Duration,
    most: u32,
}

/// One window's result.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Requests a second.
    rate: f64,
    /// Mean time of a request in seconds.
    time: f64,
    /// Most that ran.
    most: f64,
    /// Mean number that ran, by Little's law.
    mean: f64,
}

/// The shortest mean time, of the present stretch and the one before, each with the mean number in flight it was seen at.
#[derive(Debug, Clone, Copy)]
struct Base {
    now: Option<(f64, f64)>,
    before: Option<(f64, f64)>,
    since: Moment,
}

impl Base {
    fn see(&mut self, seen: &Seen, now: Moment) {
        if now.since(self.since) >= BASE_FOR {
            (self.before, self.now, self.since) = (self.now, None, now);
        }
        if self.now.is_none_or(|(time, _)| seen.time < time) {
            self.now = Some((seen.time, seen.mean));
        }
    }

    fn shortest(&self) -> Option<(f64, f64)> {
        match (self.now, self.before) {
            (Some(now), Some(before)) if before.0 < now.0 => Some(before),
            (now, before) => now.or(before),
        }
    }
}

impl Knee {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            phase: Phase::Open,
            window: Window::from(now),
            rates: VecDeque::with_capacity(RATES),
            base: Base { now: None, before: None, since: now },
            try_at: now,
            retry: RETRY,
            held_since: None,
            crowded: (0, f64::INFINITY),
        }
    }

    /// Most that should run at once; none where no limit is known to do no harm.
    pub(crate) fn limit(&self) -> Option<usize> {
        let limit = match self.phase {
            Phase::Open => return None,
            Phase::Trying { limit, .. } | Phase::Limited { limit, .. } => limit,
            Phase::Measuring { probe, .. } => probe,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is clamped"
        )]
        Some(limit.round().clamp(1.0, 1e6) as usize)
    }

    /// A request has to wait because of the limit.
    pub(crate) fn held(&mut self, now: Moment) {
        self.held_since.get_or_insert(now);
    }

    /// One that had to wait has waited for as long as it may. Takes the limit back, and says so, if nothing has ended for long:
    /// those that run do not end soon, so waiting for their places is in vain.
    pub(crate) fn gave_up(&mut self, now: Moment) -> bool {
        let longest = STUCK.max(self.window.least * 2);
        let is_stuck = self.held_since.is_some_and(|since| now.since(since) >= longest);
        if is_stuck && self.phase != Phase::Open {
            self.phase = self.failed(now);
        }
        self.phase == Phase::Open
    }

    /// A request has ended after `time`; `in_flight` ran until then, it included.
    pub(crate) fn ended(&mut self, time: Duration, in_flight: u32, now: Moment) {
        self.held_since = None;
        self.window.ends += 1;
        self.window.time += time;
        self.window.most = self.window.most.max(in_flight);
        let span = now.since(self.window.began);
        if span < self.window.least || (self.window.ends < WINDOW_ENDS && span < WINDOW_LONGEST) {
            return;
        }
        let seen = self.window.seen(span);
        let least = Duration::from_secs_f64(WINDOW_TIMES * seen.time);
        self.window = Window { least: least.clamp(WINDOW, WINDOW_LONGEST), ..Window::from(now) };
        if self.rates.len() == RATES {
            self.rates.pop_front();
        }
        self.rates.push_back(seen.rate);
        self.base.see(&seen, now);
        self.phase = self.next(&seen, now);
    }

    fn next(&mut self, seen: &Seen, now: Moment) -> Phase {
        match self.phase {
            Phase::Open => self.open(seen, now),
            Phase::Trying { limit, rate, is_first, descends } => {
                self.tried(seen, (limit, rate, is_first, descends), now)
            }
            // Half of it would do: whoever came has gone.
            Phase::Limited { limit, .. } if seen.most < limit / 2.0 => Phase::Open,
            Phase::Limited { limit, measure_at, goes_up } if now >= measure_at => {
                let below = (self.product() / 2.0).max(1.0).min(limit / 2.0);
                let probe = if goes_up { limit * 2.0 } else { below.max(1.0) };
                Phase::Measuring { limit, probe, goes_up }
            }
            Phase::Limited { limit, measure_at, goes_up } => {
                let target = self.product().clamp(limit / 2.0, limit * 2.0);
                Phase::Limited { limit: target.max(1.0), measure_at, goes_up }
            }
            Phase::Measuring { goes_up: true, .. } if seen.rate >= GAINED * self.rate_before() => {
                self.failed(now)
            }
            Phase::Measuring { limit, goes_up, .. } => {
                Phase::Limited { limit, measure_at: now.after(MEASURE_EVERY), goes_up: !goes_up }
            }
        }
    }

    fn open(&self, seen: &Seen, now: Moment) -> Phase {
        let Some((shortest, at)) = self.base.shortest() else { return Phase::Open };
        let is_slow = seen.time * WINDOW_TIMES >= WINDOW_LONGEST.as_secs_f64();
        if seen.mean < CROWD || now < self.try_at || is_slow {
            return Phase::Open;
        }
        let product = self.product();
        let is_stretched = seen.time >= STRETCHED * shortest && product < seen.mean;
        let is_unknown = at * 2.0 >= seen.mean && seen.mean >= 2.0 * CROWD;
        let limit = match (is_stretched, is_unknown) {
            (true, _) => product,
            (false, true) => seen.mean * FIRST_STEP,
            (false, false) => return Phase::Open,
        };
        Phase::Trying { limit, rate: seen.rate, is_first: true, descends: !is_stretched }
    }

    fn tried(
        &mut self,
        seen: &Seen,
        (limit, rate, is_first, descends): (f64, f64, bool, bool),
        now: Moment,
    ) -> Phase {
        let limited =
            |limit| Phase::Limited { limit, measure_at: now.after(MEASURE_EVERY), goes_up: true };
        // Nobody was held back, so nothing was tried.
        if seen.most < limit.floor() {
            return Phase::Open;
        }
        if seen.rate < KEPT * rate {
            return if is_first { self.failed(now) } else { limited(limit * 2.0) };
        }
        // Those admitted before are still there: what is seen is not yet what the limit does.
        if seen.most > limit * 1.25 + 1.0 {
            let (windows, before) = self.crowded;
            self.crowded = if seen.most < before { (0, seen.most) } else { (windows + 1, before) };
            if self.crowded.0 > CROWDED_MOST {
                return self.failed(now);
            }
            return Phase::Trying { limit, rate, is_first, descends };
        }
        self.crowded = (0, f64::INFINITY);
        if descends && limit >= CROWD {
            let rate = rate.max(seen.rate);
            return Phase::Trying { limit: limit / 2.0, rate, is_first: false, descends };
        }
        self.retry = RETRY;
        limited(self.product().max(1.0))
    }

    fn failed(&mut self, now: Moment) -> Phase {
        self.crowded = (0, f64::INFINITY);
        self.held_since = None;
        self.try_at = now.after(self.retry.max(self.window.least * RETRY_TIMES));
        self.retry = (self.retry * 4).min(RETRY_MOST);
        Phase::Open
    }

    /// Twice the number in flight at the knee, and a little: enough that the worker never waits for us.
    fn product(&self) -> f64 {
        let rate = self.rates.iter().copied().fold(0.0, f64::max);
        2.0 * rate * self.base.shortest().map_or(0.0, |(time, _)| time) + 1.0
    }

    /// The highest rate but for the last window's.
    fn rate_before(&self) -> f64 {
        self.rates.iter().rev().skip(1).copied().fold(0.0, f64::max)
    }
}

impl Window {
    const fn from(began: Moment) -> Self {
        Self { began, least: WINDOW, ends: 0, time: Duration::ZERO, most: 0 }
    }

    fn seen(&self, span: Duration) -> Seen {
        #[expect(clippy::cast_precision_loss, reason = "counts of one window")]
        let ends = self.ends as f64;
        let rate = ends / span.as_secs_f64();
        let time = self.time.as_secs_f64() / ends;
        Seen { rate, time, most: self.most.into(), mean: rate * time }
    }
}

#[cfg(test)]
mod tests;
