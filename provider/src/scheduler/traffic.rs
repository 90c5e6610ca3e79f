//! What is measured of a function's requests: how many come, how long they take, what they cost.
//!
//! In: an event a request, and load reports. Out: rates and means, each in constant time and memory.
//! Units: requests per second as floats, microseconds, millicores.
//! Always: a clock that stands still, or jumps ahead by hours, changes what is known by what happened and by nothing else; an
//! event from before the newest one counts as of now.
//! Touches: nothing.
//! Source: means are exponentially weighted (Brown 1956); CPU needed is arrival rate × cost, the utilisation law (Denning and
//! Buzen, "The Operational Analysis of Queueing Network Models", 1978).

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// Buckets of each window.
const BUCKETS: usize = 10;
/// Width of the short window's buckets, microseconds: it shows a burst within its first requests.
const SHORT: u64 = 25_000;
/// The middle window's: it shows what a burst settles at, which decides how many replicas it needs.
const MIDDLE: u64 = 200_000;
/// The long window's: it shows what load there is, through the gaps of a Poisson process.
const LONG: u64 = 1_000_000;
/// Fewer requests than this in the short window are chance, not a rate.
const SHORT_LEAST: u64 = 5;
/// How much of an old mean a new value leaves.
const KEEP: f64 = 0.8;
/// The cost of a request is that of about so many of the last ones.
const COST_OVER: f64 = 30.0;
/// How much of the least service time is kept when a larger one comes: forgets an untypical fast answer in a few hundred.
const CREEP: f64 = 0.01;

/// What is known of one function's requests.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    short: Window<SHORT>,
    middle: Window<MIDDLE>,
    long: Window<LONG>,
    /// Mean time from a place to the end of the answer, microseconds.
    service_us: Option<f64>,
    /// The same when there is no queue: follows the least seen, creeping upwards.
    unloaded_us: Option<f64>,
    /// CPU time used, microseconds, and requests it was used for, both the less the older they are.
    spent: (f64, f64),
    /// When something was last asked for or answered.
    busy: Moment,
}

impl Traffic {
    /// A request came.
    pub fn arrived(&mut self, now: Moment) {
        let micros = micros(now);
        self.short.add(micros);
        self.middle.add(micros);
        self.long.add(micros);
        self.busy = self.busy.max(now);
    }

    /// An answer is over, `took` after the request had found its place.
    pub fn answered(&mut self, took: Duration, now: Moment) {
        let us = took.as_secs_f64() * 1e6;
        self.service_us = Some(mean(self.service_us, us));
        self.unloaded_us = Some(match self.unloaded_us {
            Some(least) if us > least => least + (us - least) * CREEP,
            _ => us,
        });
        self.busy = self.busy.max(now);
    }

    /// Its containers used `cpu_us` of CPU time while `served` requests ended.
    ///
    /// Sums are kept, not quotients: a report of few requests would say too much, one of none nothing, and a mean of quotients is
    /// too large, since a request's CPU time and its end may lie in different reports.
    pub fn used(&mut self, cpu_us: f64, served: u64) {
        if !cpu_us.is_finite() || cpu_us < 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of requests in one report")]
        let served = served as f64;
        let kept = COST_OVER / (COST_OVER + served);
        self.spent = (self.spent.0 * kept + cpu_us, self.spent.1 * kept + served);
    }

    /// Requests per second at `now`, as the last quarter of a second shows them, or the last ten, whichever is more.
    pub fn rate(&self, now: Moment) -> f64 {
        let micros = micros(now);
        self.long.rate(micros).max(self.burst_rate(micros))
    }

    /// Requests per second over the last ten seconds.
    pub fn steady_rate(&self, now: Moment) -> f64 {
        self.long.rate(micros(now))
    }

    /// Requests per second over the last two seconds, or the last ten, whichever is more.
    pub fn lasting_rate(&self, now: Moment) -> f64 {
        self.lasting_rates(now).lasting
    }

    /// What lasts for seconds.
    pub(super) fn lasting_rates(&self, now: Moment) -> Rates {
        let micros = micros(now);
        let steady = self.long.rate(micros);
        Rates { steady, lasting: steady.max(self.middle.rate(micros)) }
    }

    fn burst_rate(&self, micros: u64) -> f64 {
        if self.short.count(micros) < SHORT_LEAST { 0.0 } else { self.short.rate(micros) }
    }

    /// CPU time of one request in microseconds; `None` before the first report of one that ended.
    pub fn cost_us(&self) -> Option<f64> {
        (self.spent.1 > 0.0).then(|| self.spent.0 / self.spent.1)
    }

    /// Mean time of one request in microseconds; `None` before the first answer.
    pub fn service_us(&self) -> Option<f64> {
        self.service_us
    }

    /// Time of one request without a queue in microseconds; `None` before the first answer.
    pub fn unloaded_us(&self) -> Option<f64> {
        self.unloaded_us
    }

    /// How many times longer a request takes than one that does not wait; 1 while that is unknown.
    pub fn slowdown(&self) -> f64 {
        match (self.service_us, self.unloaded_us) {
            (Some(service), Some(least)) if least > 0.0 => (service / least).max(1.0),
            _ => 1.0,
        }
    }

    /// When something was last asked for or answered.
    pub fn last_busy(&self) -> Moment {
        self.busy
    }
}

fn mean(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old * KEEP + new * (1.0 - KEEP))
}

/// Requests per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Over the last ten seconds.
    pub(super) steady: f64,
    /// Over the last two seconds, or the last ten, whichever is more.
    pub(super) lasting: f64,
}

/// Events of the last while, in buckets of `WIDTH` microseconds that follow one another; all moments in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Window<const WIDTH: u64> {
    counts: [u32; BUCKETS],
    /// All counts together.
    sum: u64,
    /// Number of the newest bucket since the start of time.
    newest: u64,
    /// Number of the bucket of the first event ever, plus one; 0 before it.
    first: u64,
}

impl<const WIDTH: u64> Window<WIDTH> {
    fn add(&mut self, micros: u64) {
        let number = self.number(micros);
        for gone in (self.newest + 1..=number).rev().take(BUCKETS) {
            self.sum -= u64::from(std::mem::take(&mut self.counts[slot(gone)]));
        }
        self.newest = number;
        if self.first == 0 {
            self.first = number + 1;
        }
        let count = &mut self.counts[slot(number)];
        if let Some(more) = count.checked_add(1) {
            *count = more;
            self.sum += 1;
        }
    }

    fn count(&self, micros: u64) -> u64 {
        let passed = self.number(micros) - self.newest;
        if passed >= BUCKETS as u64 {
            return 0;
        }
        // The slots after the newest one hold the oldest counts, which are out of sight by now.
        let gone = (1..=passed).map(|later| u64::from(self.counts[slot(self.newest + later)]));
        self.sum - gone.sum::<u64>()
    }

    /// Over the whole span, or since the first event where that is less, but never over less than half of the span: two events
    /// that come together are no rate.
    fn rate(&self, micros: u64) -> f64 {
        /// Microseconds of a second.
        const SECOND: f64 = 1e6;
        let count = self.count(micros);
        if count == 0 {
            return 0.0;
        }
        let known = self.number(micros) + 2 - self.first;
        let known = known.clamp(BUCKETS as u64 / 2, BUCKETS as u64);
        #[expect(clippy::cast_precision_loss, reason = "counts, and at most a whole span")]
        let (count, seconds) = (count as f64, (WIDTH * known) as f64 / SECOND);
        count / seconds
    }

    /// The number of the bucket at a moment; an event from before the newest one counts as of now.
    fn number(&self, micros: u64) -> u64 {
        (micros / WIDTH).min(LAST).max(self.newest)
    }
}

/// The last bucket there is: what comes later comes then.
const LAST: u64 = u64::MAX / 2;

fn micros(now: Moment) -> u64 {
    let time = now.since(Moment::ZERO);
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below the number of buckets")]
fn slot(number: u64) -> usize {
    (number % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }

    fn steady(per_second: u64, from_ms: u64, to_ms: u64, traffic: &mut Traffic) {
        let gap = 1000 / per_second;
        (from_ms..to_ms)
            .step_by(usize::try_from(gap).unwrap())
            .for_each(|ms| traffic.arrived(at(ms)));
    }

    #[test]
    fn a_burst_shows_within_a_tenth_of_a_second_and_a_trickle_is_none() {
        let mut traffic = Traffic::default();
        steady(4, 0, 20_000, &mut traffic);
        assert!((traffic.rate(at(20_000)) - 4.0).abs() < 0.5, "{}", traffic.rate(at(20_000)));
        steady(100, 20_000, 20_100, &mut traffic);
        assert!(traffic.rate(at(20_100)) > 35.0, "{}", traffic.rate(at(20_100)));
        assert_eq!(traffic.rate(at(40_000)), 0.0);
    }

    #[test]
    fn a_clock_that_stands_or_jumps_breaks_nothing() {
        let mut traffic = Traffic::default();
        (0..1000).for_each(|_| traffic.arrived(at(5)));
        assert!(traffic.rate(at(5)).is_finite());
        traffic.arrived(Moment::ZERO.after(Duration::MAX));
        traffic.arrived(at(6));
        assert!(traffic.rate(Moment::ZERO.after(Duration::MAX)).is_finite());
        assert!(traffic.rate(at(6)).is_finite());
    }

    #[test]
    fn what_a_request_costs_is_learned_and_nonsense_ignored() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.cost_us(), None);
        traffic.used(f64::NAN, 1);
        traffic.used(-1.0, 1);
        traffic.used(30_000.0, 0);
        assert_eq!(traffic.cost_us(), None);
        traffic.used(10_000.0, 1);
        let cost = traffic.cost_us().unwrap();
        assert!((39_000.0..=40_000.0).contains(&cost), "what it used before it ended is its too");
        (0..60).for_each(|_| traffic.used(40_000.0, 4));
        assert!((traffic.cost_us().unwrap() - 10_000.0).abs() < 100.0);
    }

    #[test]
    fn reports_that_cut_requests_in_two_do_not_make_them_dearer() {
        let mut traffic = Traffic::default();
        for _ in 0..60 {
            traffic.used(15_000.0, 1);
            traffic.used(45_000.0, 2);
            traffic.used(0.0, 3);
        }
        assert!((traffic.cost_us().unwrap() - 10_000.0).abs() < 1_000.0, "{:?}", traffic.cost_us());
    }

    #[test]
    fn slowdown_is_service_time_over_the_unloaded_one() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.slowdown(), 1.0);
        (0..10).for_each(|_| traffic.answered(Duration::from_millis(10), at(1)));
        assert!((traffic.slowdown() - 1.0).abs() < 0.01);
        (0..20).for_each(|_| traffic.answered(Duration::from_millis(100), at(2)));
        assert!(traffic.slowdown() > 3.0, "{}", traffic.slowdown());
    }

    proptest! {
        #[test]
        fn rates_are_finite_and_never_more_than_what_came(gaps in prop::collection::vec(0..40_000_u64, 1..60)) {
            let (mut traffic, mut now) = (Traffic::default(), 0);
            for gap in &gaps {
                now += gap;
                traffic.arrived(at(now));
            }
            let most = gaps.len() as f64 / (SHORT as f64 * BUCKETS as f64 / 2e6);
            let rate = traffic.rate(at(now));
            prop_assert!(rate.is_finite() && rate >= 0.0 && rate <= most);
        }
    }
}
