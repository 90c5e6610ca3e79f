//! How fast the requests of one container get on: threads that share a node's CPUs under a quota per period.
//!
//! In: jobs (CPU time each needs), a [`Quota`], the speed the node gives a thread. Out: when the next thing happens, and which
//! jobs are done by then.
//! Model: each job is one thread. All running threads of a container get on equally fast; a container that has used its quota
//! stands still until the period ends, as under the kernel's CFS bandwidth control (`Documentation/scheduler/sched-bwc.rst`).
//! A period begins with the first work after an idle one. Raising a quota fills it up at once and lets the container go on, as
//! `tg_set_cfs_bandwidth` does. Left out: the slices in which CPUs take their share of a quota (5 ms), and what it costs to
//! switch between threads.
//! Units: nanoseconds; speed is CPU time per time, 1.0 for a whole CPU of an unimpaired node.
//! Always: within one period no more than the quota is used; no job gets more CPU time than it needs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::queue::Nanos;

/// Rounding of a whole run stays far below this, and this far below anything that matters.
const EPSILON: f64 = 1e-2;

/// CPU time that may be used in each period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// CPU time per period, ns.
    pub budget: f64,
    /// The period, ns.
    pub period: Nanos,
}

impl Quota {
    /// As many thousandths of a CPU over periods of this length.
    pub fn from_millicores(millicores: f64, period: Nanos) -> Self {
        Self { budget: millicores / 1000.0 * period as f64, period }
    }

    /// CPUs on average.
    pub fn cpus(&self) -> f64 {
        self.budget / self.period as f64
    }
}

/// A job's place in the order in which jobs end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Finish(f64, u32);

impl Eq for Finish {}

impl PartialOrd for Finish {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Finish {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// The threads of one container.
#[derive(Debug)]
pub struct Group {
    jobs: BinaryHeap<Reverse<Finish>>,
    /// CPU time that a job has had which has run since the group was last idle.
    progress: f64,
    quota: Option<Quota>,
    /// CPU time used in the period that began at `period_start`.
    used: f64,
    period_start: Nanos,
    is_throttled: bool,
    speed: f64,
    at: Nanos,
    used_total: f64,
    throttled_periods: u64,
}

impl Group {
    /// A group without jobs.
    pub fn new(quota: Option<Quota>, now: Nanos) -> Self {
        Self {
            jobs: BinaryHeap::new(),
            progress: 0.0,
            quota,
            used: 0.0,
            period_start: now,
            is_throttled: false,
            speed: 1.0,
            at: now,
            used_total: 0.0,
            throttled_periods: 0,
        }
    }

    /// Threads that want to run and may.
    pub fn running(&self) -> usize {
        if self.is_throttled { 0 } else { self.jobs.len() }
    }

    /// Whether it has jobs.
    pub fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether it waits for its next period.
    pub fn is_throttled(&self) -> bool {
        self.is_throttled
    }

    /// Periods in which it was stopped.
    pub fn throttled_periods(&self) -> u64 {
        self.throttled_periods
    }

    /// The quota in force.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// CPU time used until `now`, ns; `now` must not lie before the last call of any method.
    pub fn used_total(&self, now: Nanos) -> f64 {
        let since = now.saturating_sub(self.at) as f64;
        self.used_total + since * self.speed * self.running() as f64
    }

    /// Share of its quota used in the present period, 0 without quota.
    pub fn used_share(&self) -> f64 {
        self.quota.map_or(0.0, |quota| self.used / quota.budget)
    }

    /// Adds a job that needs `cpu` ns.
    pub fn add(&mut self, job: u32, cpu: f64, now: Nanos) {
        self.advance(now);
        if self.jobs.is_empty() {
            self.progress = 0.0;
            if let Some(quota) = self.quota
                && now.saturating_sub(self.period_start) >= quota.period
            {
                (self.period_start, self.used, self.is_throttled) = (now, 0.0, false);
            }
        }
        self.jobs.push(Reverse(Finish(self.progress + cpu.max(0.0), job)));
    }

    /// Takes every job out, as when the container dies.
    pub fn clear(&mut self, now: Nanos) -> Vec<u32> {
        self.advance(now);
        std::mem::take(&mut self.jobs).into_iter().map(|Reverse(finish)| finish.1).collect()
    }

    /// Takes one job out before its end.
    pub fn remove(&mut self, job: u32, now: Nanos) {
        self.advance(now);
        self.jobs.retain(|Reverse(finish)| finish.1 != job);
    }

    /// What the node gives each running thread from `now` on.
    pub fn set_speed(&mut self, speed: f64, now: Nanos) {
        self.advance(now);
        self.speed = speed;
    }

    /// Another quota from `now` on; it is full.
    pub fn set_quota(&mut self, quota: Option<Quota>, now: Nanos) {
        self.advance(now);
        (self.quota, self.used, self.period_start, self.is_throttled) = (quota, 0.0, now, false);
    }

    /// Takes out the next job that is done at `now`.
    pub fn take_done(&mut self, now: Nanos) -> Option<u32> {
        self.advance(now);
        let Reverse(Finish(at, job)) = *self.jobs.peek()?;
        (at <= self.progress + EPSILON).then(|| {
            self.jobs.pop();
            job
        })
    }

    /// Stops it when its quota is used up, lets it go on when its next period begins: due whenever [`Group::next`] says.
    pub fn turn(&mut self, now: Nanos) {
        self.advance(now);
        let (Some(quota), false) = (self.quota, self.jobs.is_empty()) else { return };
        if self.is_throttled {
            if now >= self.period_start + quota.period {
                self.period_start += (now - self.period_start) / quota.period * quota.period;
                (self.used, self.is_throttled) = (0.0, false);
            }
        } else if self.used >= quota.budget - EPSILON {
            self.is_throttled = true;
            self.throttled_periods += 1;
        }
    }

    /// Brings the books to `now`, which must not lie behind the moment [`Group::next`] named. Whether it runs stays as it is.
    fn advance(&mut self, now: Nanos) {
        let since = now.saturating_sub(self.at) as f64;
        self.at = self.at.max(now);
        if self.is_throttled || self.jobs.is_empty() {
            return;
        }
        let pace = self.speed * self.jobs.len() as f64;
        self.progress += since * self.speed;
        self.used_total += since * pace;
        let Some(quota) = self.quota else { return };
        self.used += since * pace;
        let periods = now.saturating_sub(self.period_start) / quota.period;
        if periods > 0 {
            self.period_start += periods * quota.period;
            self.used = (now - self.period_start) as f64 * pace;
        }
    }

    /// When the next job ends, the quota is used up or the container may go on again, if nothing else happens until then.
    pub fn next(&self) -> Option<Nanos> {
        let Reverse(Finish(finish, _)) = self.jobs.peek()?;
        if let (true, Some(quota)) = (self.is_throttled, self.quota) {
            return Some(self.period_start + quota.period);
        }
        let done = self.at + ceil((finish - self.progress).max(0.0) / self.speed);
        let stop = self.quota.and_then(|quota| self.stops_at(quota));
        Some(stop.map_or(done, |stop| stop.min(done)))
    }

    /// When the quota is used up at the present pace.
    fn stops_at(&self, quota: Quota) -> Option<Nanos> {
        let pace = self.speed * self.jobs.len() as f64;
        let within = self.at + ceil((quota.budget - self.used).max(0.0) / pace);
        let boundary = self.period_start + quota.period;
        if within <= boundary {
            return Some(within);
        }
        let needs_more = pace * quota.period as f64 > quota.budget + EPSILON;
        needs_more.then(|| boundary + ceil(quota.budget / pace))
    }
}

/// The first whole nanosecond at or after `ns`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times are positive and far below 2^53"
)]
fn ceil(ns: f64) -> Nanos {
    ns.ceil() as Nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::MS;

    const PERIOD: Nanos = 100 * MS;

    fn quota(millicores: f64) -> Quota {
        Quota::from_millicores(millicores, PERIOD)
    }

    /// Runs the group until it is idle; when each job ended.
    fn run(group: &mut Group) -> Vec<(u32, Nanos)> {
        let mut ends = Vec::new();
        while let Some(at) = group.next() {
            group.turn(at);
            while let Some(job) = group.take_done(at) {
                ends.push((job, at));
            }
        }
        ends
    }

    #[test]
    fn without_a_quota_threads_do_not_hinder_one_another() {
        let mut group = Group::new(None, 0);
        group.add(1, 30e6, 0);
        group.add(2, 10e6, 5 * MS);
        assert_eq!(run(&mut group), [(2, 15 * MS), (1, 30 * MS)]);
        assert!((group.used_total(31 * MS) - 40e6).abs() < 1.0);
    }

    #[test]
    fn a_short_job_runs_at_full_speed_and_the_third_waits_for_the_next_period() {
        // 200m: 20 ms in each 100 ms, and jobs of 10 ms.
        let mut group = Group::new(Some(quota(200.0)), 0);
        group.add(1, 10e6, 0);
        assert_eq!(run(&mut group), [(1, 10 * MS)]);
        for job in 2..5 {
            group.add(job, 10e6, 200 * MS);
        }
        // 20 ms are used after 6.67 ms; the remaining 3.33 ms of each run in the next period.
        let ends = run(&mut group);
        assert_eq!(
            ends.iter().map(|(job, at)| (*job, at / MS)).collect::<Vec<_>>(),
            [(2, 303), (3, 303), (4, 303)]
        );
        assert_eq!(group.throttled_periods(), 1);
    }

    #[test]
    fn a_raised_quota_lets_a_stopped_container_go_on_at_once() {
        let mut group = Group::new(Some(quota(100.0)), 0);
        group.add(1, 50e6, 0);
        group.turn(group.next().unwrap());
        assert!(group.is_throttled());
        group.set_quota(Some(quota(1000.0)), 20 * MS);
        assert_eq!(run(&mut group), [(1, 60 * MS)]);
    }

    #[test]
    fn a_slow_node_slows_the_jobs_and_the_use() {
        let mut group = Group::new(None, 0);
        group.add(1, 10e6, 0);
        group.set_speed(0.5, 4 * MS);
        assert_eq!(run(&mut group), [(1, 16 * MS)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a plain simulation in steps of 10 µs of the same rules.
        #[test]
        fn it_agrees_with_small_steps(
            jobs in proptest::collection::vec((0..300_u64, 1..40_u64), 1..5),
            millicores in 200..2500_u64,
            speed in 0.25..1.0_f64,
        ) {
            let mut arriving: Vec<_> = jobs.iter().enumerate().map(|(job, (at, cpu))| (at * MS, u32::try_from(job).unwrap(), *cpu as f64 * 1e6)).collect();
            arriving.sort_by_key(|(at, job, _)| (*at, *job));
            let mut group = Group::new(Some(quota(millicores as f64)), 0);
            group.set_speed(speed, 0);
            let mut ends = vec![0; jobs.len()];
            for (at, job, cpu) in &arriving {
                while let Some(next) = group.next().filter(|next| next <= at) {
                    group.turn(next);
                    while let Some(done) = group.take_done(next) { ends[done as usize] = next; }
                }
                group.add(*job, *cpu, *at);
            }
            for (job, at) in run(&mut group) { ends[job as usize] = at; }

            let expected = in_small_steps(&arriving, quota(millicores as f64), speed);
            let used: f64 = jobs.iter().map(|(_, cpu)| *cpu as f64 * 1e6).sum();
            prop_assert!((group.used_total(*ends.iter().max().unwrap()) - used).abs() < 1e3);
            for (job, end) in ends.iter().enumerate() {
                // A step too early or too late at a period's end costs the rest of a period, once per period at most.
                let difference = end.abs_diff(expected[job]);
                prop_assert!(difference < 2 * MS || difference % PERIOD < 3 * MS || PERIOD - difference % PERIOD < 3 * MS, "job {job}: {end} {}", expected[job]);
            }
        }
    }

    fn in_small_steps(arriving: &[(Nanos, u32, f64)], quota: Quota, speed: f64) -> Vec<Nanos> {
        const STEP: Nanos = MS / 100;
        let mut left: Vec<f64> = vec![0.0; arriving.len()];
        let mut ends = vec![0; arriving.len()];
        let (mut used, mut period_start, mut now, mut coming) =
            (0.0, 0, 0, arriving.iter().peekable());
        loop {
            let mut running = left.iter().filter(|left| **left > 0.0).count();
            while let Some((_, job, cpu)) = coming.next_if(|(at, _, _)| *at <= now) {
                if running == 0 && now - period_start >= quota.period {
                    (period_start, used) = (now, 0.0);
                }
                left[*job as usize] = *cpu;
                running += 1;
            }
            if running > 0 && now - period_start >= quota.period {
                (period_start, used) =
                    (period_start + quota.period * ((now - period_start) / quota.period), 0.0);
            }
            if used < quota.budget {
                for (job, left) in left.iter_mut().enumerate().filter(|(_, left)| **left > 0.0) {
                    *left -= STEP as f64 * speed;
                    used += STEP as f64 * speed;
                    if *left <= 0.0 {
                        ends[job] = now + STEP;
                    }
                }
            }
            now += STEP;
            if coming.peek().is_none() && left.iter().all(|left| *left <= 0.0) {
                return ends;
            }
        }
    }
}
