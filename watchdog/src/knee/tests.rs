use proptest::prelude::*;

use super::*;

/// A worker in virtual time: requests share its CPU equally, then wait for something else.
struct Worker {
    knee: Knee,
    now_us: u64,
    /// Of one CPU.
    millicores: u64,
    /// Most of it that one request can use: a thread.
    cpu_us: u64,
    wait_us: u64,
    /// Requests that want to run at once.
    demand: usize,
    running: Vec<Job>,
    served: u64,
    seed: u64,
}

struct Job {
    began_us: u64,
    cpu_left_ns: u64,
    wait_left: u64,
}

const STEP_US: u64 = 500;

impl Worker {
    fn new(millicores: u64, cpu_us: u64, wait_us: u64) -> Self {
        Self {
            knee: Knee::new(Moment::ZERO),
            now_us: 0,
            millicores,
            cpu_us,
            wait_us,
            demand: 0,
            running: Vec::new(),
            served: 0,
            seed: 7,
        }
    }

    /// Between half and one and a half of `mean`.
    fn about(&mut self, mean: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        mean / 2 + (self.seed >> 33) % mean.max(1)
    }

    fn step(&mut self) {
        let most = self.knee.limit().unwrap_or(usize::MAX).min(self.demand);
        while self.running.len() < most {
            let (cpu_us, wait_left) = (self.about(self.cpu_us), self.about(self.wait_us));
            self.running.push(Job { began_us: self.now_us, cpu_left_ns: cpu_us * 1000, wait_left });
        }
        self.now_us += STEP_US;
        let busy = self.running.iter().filter(|job| job.cpu_left_ns > 0).count() as u64;
        // In nanoseconds, so that little is lost by rounding.
        let share = (STEP_US * self.millicores / busy.max(1)).clamp(1, STEP_US * 1000);
        let mut ended = Vec::new();
        for (at, job) in self.running.iter_mut().enumerate() {
            if job.cpu_left_ns > 0 {
                job.cpu_left_ns = job.cpu_left_ns.saturating_sub(share);
            } else {
                job.wait_left = job.wait_left.saturating_sub(STEP_US);
            }
            if job.cpu_left_ns == 0 && job.wait_left == 0 {
                ended.push(at);
            }
        }
        for at in ended.into_iter().rev() {
            let in_flight = u32::try_from(self.running.len()).unwrap();
            let job = self.running.swap_remove(at);
            let time = Duration::from_micros(self.now_us - job.began_us);
            self.knee.ended(
                time,
                in_flight,
                Moment::ZERO.after(Duration::from_micros(self.now_us)),
            );
            self.served += 1;
        }
    }

    /// Runs for so many milliseconds; requests a second, and the mean of the limits, `None` counting as the demand.
    fn run(&mut self, ms: u64) -> (f64, f64) {
        let (served, steps) = (self.served, ms * 1000 / STEP_US);
        let mut limits = 0.0;
        for _ in 0..steps {
            self.step();
            limits += self.knee.limit().unwrap_or(self.demand).min(self.demand) as f64;
        }
        ((self.served - served) as f64 * 1000.0 / ms as f64, limits / steps as f64)
    }
}

#[test]
fn a_function_that_needs_cpu_is_limited_near_its_knee_and_loses_no_throughput() {
    for (millicores, cpu_us, knee) in [(1000, 5000, 1.0), (4000, 5000, 4.0), (500, 4000, 1.0)] {
        let mut worker = Worker::new(millicores, cpu_us, 0);
        worker.demand = 2;
        worker.run(2000);
        worker.demand = 100;
        worker.run(5000);
        let (rate, limit) = worker.run(20_000);
        let most = millicores as f64 * 1000.0 / cpu_us as f64;
        assert!(rate > 0.85 * most, "{rate} of {most} a second with {millicores}");
        assert!(limit < 6.0 * knee + 4.0, "limit {limit} for a knee at {knee}");
    }
}

#[test]
fn a_burst_from_nothing_is_limited_too() {
    let mut worker = Worker::new(1000, 5000, 0);
    worker.demand = 200;
    worker.run(6000);
    let (rate, limit) = worker.run(20_000);
    assert!(
        rate > 0.85 * 200.0 && limit < 20.0,
        "{rate} a second, limit {limit} {:?}",
        worker.knee
    );
}

#[test]
fn a_function_that_waits_is_not_throttled() {
    for (cpu_us, wait_us, demand) in [(0, 100_000, 400), (100, 20_000, 50), (0, 1_000_000, 900)] {
        let mut worker = Worker::new(8000, cpu_us, wait_us);
        worker.demand = demand;
        worker.run(3000);
        let (rate, _) = worker.run(60_000);
        let free = demand as f64 * 1e6 / (cpu_us + wait_us + 500) as f64;
        assert!(rate > 0.95 * free, "{rate} of {free} a second");
        worker.demand = demand / 10;
        worker.run(3000);
        worker.demand = demand;
        let (rate, _) = worker.run(3000);
        assert!(rate > 0.85 * free, "{rate} of {free} a second after a sudden rise");
    }
}

#[test]
fn a_change_of_the_quota_is_followed_within_a_second_or_so() {
    let mut worker = Worker::new(1000, 5000, 0);
    worker.demand = 2;
    worker.run(2000);
    worker.demand = 100;
    worker.run(10_000);
    worker.millicores = 4000;
    worker.run(1200);
    let (rate, _) = worker.run(2000);
    assert!(rate > 0.85 * 800.0, "{rate} of 800 a second after the rise");
    worker.run(10_000);
    worker.millicores = 500;
    worker.run(2500);
    let (rate, limit) = worker.run(2000);
    assert!(rate > 0.85 * 100.0 && limit < 20.0, "{rate} a second, limit {limit} after the fall");
}

#[test]
fn when_the_crowd_has_gone_so_has_the_limit() {
    let mut worker = Worker::new(1000, 5000, 0);
    worker.demand = 2;
    worker.run(2000);
    worker.demand = 100;
    worker.run(8000);
    assert!(worker.knee.limit().is_some());
    worker.demand = 1;
    worker.run(4000);
    assert_eq!(worker.knee.limit(), None);
}

/// A worker that needs CPU, with a limit.
fn limited() -> Worker {
    let mut worker = Worker::new(1000, 5000, 0);
    worker.demand = 2;
    worker.run(2000);
    worker.demand = 100;
    worker.run(8000);
    assert!(worker.knee.limit().is_some());
    worker
}

#[test]
fn a_limit_under_which_nothing_ends_goes_and_one_that_only_takes_its_time_stays() {
    let mut worker = limited();
    // From now on all that run are event streams: nothing ends, and somebody waits.
    let at = |us: u64| Moment::ZERO.after(Duration::from_micros(us));
    let begin = worker.now_us;
    worker.knee.held(at(begin));
    worker.knee.held(at(begin + 50_000));
    assert!(!worker.knee.gave_up(at(begin + 300_000)), "a moment without an end says nothing");
    worker.knee.ended(Duration::from_millis(5), 1, at(begin + 1_900_000));
    worker.knee.held(at(begin + 1_950_000));
    assert!(!worker.knee.gave_up(at(begin + 2_500_000)), "one has ended meanwhile");
    assert!(worker.knee.limit().is_some());
    assert!(worker.knee.gave_up(at(begin + 12_000_000)));
    assert_eq!(worker.knee.limit(), None);
}

#[test]
fn a_limit_that_holds_nobody_back_is_given_up() {
    let mut knee = Knee::new(Moment::ZERO);
    let mut limited_ms = 0;
    // Thirty streams stay in flight; ten short requests at a time come and go, without regard to any limit.
    for ms in 0..300_000 {
        let (time, now) = (Duration::from_millis(10), Moment::from_millis(ms));
        knee.ended(time, 40, now);
        limited_ms += u64::from(knee.limit().is_some());
    }
    assert!(limited_ms < 15_000, "limited for {limited_ms} of 300,000 ms, with {knee:?}");
}

proptest! {
    #[test]
    fn a_limit_is_never_below_one_whatever_happens(
        ends in proptest::collection::vec((0_u64..5_000_000, 0_u32..5000, 0_u64..400_000), 0..2000),
    ) {
        let mut knee = Knee::new(Moment::ZERO);
        let mut now = Moment::ZERO;
        for (time_us, in_flight, pause_us) in ends {
            now = now.after(Duration::from_micros(pause_us));
            knee.ended(Duration::from_micros(time_us), in_flight, now);
            prop_assert!(knee.limit().is_none_or(|limit| (1..=1_000_000).contains(&limit)));
        }
    }
}
